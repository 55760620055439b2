import { UserError, type UserErrorOptions } from "../../files/user_error.ts";

/** A file of data that cannot be read: it is absent, damaged, or of an unsupported format. */
export class DataError extends UserError {
  /** Tells this error from others without `instanceof`. */
  override name = "DataError";
  /** The file and what is wrong with it: `tale.txt: there is no such file`, `tale.txt as it must be UTF-8`. */
  readonly reason: string;

  /** An error whose sentence is `Cannot read data file` and the reason. */
  constructor(reason: string, options?: UserErrorOptions) {
    super(`Cannot read data file ${reason}`, options);
    this.reason = reason;
  }
}

/** What to do with text of another encoding. */
export const TO_UTF8 = "convert text of another encoding, for example with iconv -f latin1 -t utf8";
