/**
 * The errors that a user can put right, by another option, file, network or machine. Programmers' mistakes
 * stay what JavaScript throws for them, such as `RangeError` and `TypeError`.
 *
 * @module
 */

/** A failure that the user can put right: its message is one sentence, and a command prints it without a stack. */
export class UserError extends Error {
  /** Tells this error from others without `instanceof`. */
  override name = "UserError";
  /** What to type next. A caller that knows more about the work than the thrower may set it. */
  hint: string | undefined;

  /** An error with its sentence: `Cannot <verb> <thing> as <requirement>: current value is <value>`. */
  constructor(sentence: string, { hint, ...options }: UserErrorOptions = {}) {
    super(sentence, options);
    this.hint = hint;
  }
}

/** What a `UserError` may carry beside its sentence. */
export interface UserErrorOptions extends ErrorOptions {
  /** What to type next. */
  readonly hint?: string | undefined;
}
