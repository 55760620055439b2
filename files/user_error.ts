import { propertyOf } from "./command_line.ts";

/**
 * Errors that a user can fix, with another option, file, network or machine. Mistakes of programmers remain
 * JavaScript's errors, such as `RangeError` and `TypeError`.
 *
 * @module
 */

/**
 * An error that the user can fix. Its message is one sentence, which names options as a program does, `batchSize`.
 * Commands print the same sentence with flags, `--batch-size`, and without a stack.
 */
export class UserError extends Error {
  /** Tells this error from others without `instanceof`. */
  override name = "UserError";
  /** What to type next. A caller that knows more about the task than the code that threw may set it. */
  hint: string | undefined;
  #sentence: string;

  /**
   * An error with its sentence: `Cannot <verb> <thing> as <requirement>: current value is <value>`.
   *
   * @param sentence names options as flags.
   */
  constructor(sentence: string, { hint, ...options }: UserErrorOptions = {}) {
    super(sentence.replace(FLAG, propertyOf), options);
    this.hint = hint;
    this.#sentence = sentence;
  }

  /** The message with options as flags. */
  get sentence(): string {
    return this.#sentence;
  }

  /** Puts a text in front of the sentence and the message. */
  precede(text: string): void {
    this.message = text + this.message;
    this.#sentence = text + this.#sentence;
  }
}

/** An error that several ranks of a training throw: the first of them alone prints it. */
export class CommonError extends UserError {}

/** The sentence of an error for another sentence. */
export function sentenceOf(error: Error): string {
  return error instanceof UserError ? error.sentence : error.message;
}

/** A flag of a command in a sentence, but no permission of Deno. */
export const FLAG = /(?<![^\s(])--(?!allow-)[a-z][a-z0-9]*(?:-[a-z0-9]+)*(?![^\s,:;)])/g;

/** Options of a `UserError` beside its sentence. */
export interface UserErrorOptions extends ErrorOptions {
  /** What to type next. */
  readonly hint?: string | undefined;
}
