/**
 * Errors that a user can fix, with another option, file, network or machine. Mistakes of programmers remain
 * JavaScript's errors, such as `RangeError` and `TypeError`.
 *
 * @module
 */

/** An error that the user can fix. Its message is one sentence, which commands print without a stack. */
export class UserError extends Error {
  /** Tells this error from others without `instanceof`. */
  override name = "UserError";
  /** What to type next. A caller that knows more about the task than the code that threw may set it. */
  hint: string | undefined;

  /** An error with its sentence: `Cannot <verb> <thing> as <requirement>: current value is <value>`. */
  constructor(sentence: string, { hint, ...options }: UserErrorOptions = {}) {
    super(sentence, options);
    this.hint = hint;
  }
}

/** Options of a `UserError` beside its sentence. */
export interface UserErrorOptions extends ErrorOptions {
  /** What to type next. */
  readonly hint?: string | undefined;
}
