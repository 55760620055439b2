import type { Tokenizer } from "../data/tokenizer/tokenizer.ts";
import { checkSample } from "../kernels/sample/sample.ts";

/** Why a completion ended, and its length. */
export interface GenerateResult {
  /** `length`: at `maxNewTokens`; `stop`: at a stop text; `end-of-text`: at a token that ends the text. */
  reason: "length" | "stop" | "end-of-text" | "aborted";
  /** Tokens drawn. */
  tokens: number;
}

/** A token and the natural logarithm of the probability that the model gives it, before the sampler changes it. */
export interface TokenLogprob {
  /** Number of the token. */
  readonly id: number;
  /** Logarithm of its probability. */
  readonly logprob: number;
}

/** The logprob of a drawn token, and the likeliest tokens in its place. */
export interface TokenLogprobs extends TokenLogprob {
  /** As many tokens as were asked for, the likeliest first. */
  readonly top: readonly TokenLogprob[];
}

/** The next text of a completion: all that was computed since the piece before it. */
export interface CompletionPiece {
  /** Whole characters; empty if none is complete. */
  readonly text: string;
  /** The tokens drawn, without the one that ends the text. Those of a stop text are among them. */
  readonly ids: readonly number[];
  /** Those of each of `ids`, if they were asked for. */
  readonly logprobs?: readonly TokenLogprobs[];
  /** Present in the last piece. */
  readonly result?: GenerateResult;
}

/**
 * Checks the tokens of a prompt.
 *
 * @throws {RangeError} if there are none, or if one is no integer from 0 to vocabularySize − 1.
 */
export function checkPromptIds(ids: readonly number[], vocabularySize: number): void {
  const unknown = unknownOf(ids, vocabularySize);
  if (unknown === undefined && ids.length > 0) return;
  throw new RangeError(
    `Cannot generate as the prompt must be one or more ids below ${vocabularySize}: ` +
      `current ${unknown === undefined ? "prompt is empty" : `id is ${unknown}`}`,
  );
}

/**
 * Checks the tokens that end a completion.
 *
 * @throws {RangeError} if one is no integer from 0 to vocabularySize − 1.
 */
export function checkEndIds(ids: readonly number[], vocabularySize: number): void {
  const unknown = unknownOf(ids, vocabularySize);
  if (unknown === undefined) return;
  throw new RangeError(
    `Cannot generate as endIds must be ids below ${vocabularySize}: current id is ${unknown}`,
  );
}

/** The first id that is no integer from 0 to vocabularySize − 1; undefined if there is none. */
function unknownOf(ids: readonly number[], vocabularySize: number): number | undefined {
  return ids.find((id) => !Number.isInteger(id) || id < 0 || id >= vocabularySize);
}

/** What a `Completion` continues, and where it ends. */
export interface CompletionStart {
  /** Tokens of the prompt, one or more. */
  readonly promptIds: readonly number[];
  /** Tokens that end the completion, in addition to those of the tokenizer. */
  readonly endIds?: readonly number[] | undefined;
  /** Texts that end the completion, which does not include them. */
  readonly stop?: readonly string[] | undefined;
}

/** Turns the tokens that are drawn after a prompt into text, and finds where it ends. */
export class Completion {
  /** Tokens of the prompt. */
  readonly promptIds: readonly number[];
  /** Tokens that end the completion. */
  readonly endIds: readonly number[];
  /** Present once it is done. */
  result: GenerateResult | undefined;
  readonly #vocabularySize: number;
  readonly #decoder: ReturnType<Tokenizer["decoder"]>;
  readonly #stops: readonly string[];
  /** Tokens drawn, the one that ends the text among them. */
  tokens = 0;
  #ids: number[] = []; // drawn since they were last taken
  #held = ""; // the end of the text, if a stop text may begin there

  /** Begins after the prompt. */
  constructor(tokenizer: Tokenizer, { promptIds, endIds = [], stop = [] }: CompletionStart) {
    this.promptIds = promptIds;
    this.endIds = [...new Set([...tokenizer.endIds ?? [tokenizer.endOfText], ...endIds])];
    this.#vocabularySize = tokenizer.vocabularySize;
    this.#decoder = tokenizer.decoder(promptIds);
    this.#stops = stop.filter((text) => text !== "" && text.isWellFormed()); // half a character ends no text
  }

  /**
   * Decodes the next tokens; returns the text before the place where a stop text may begin.
   *
   * @throws {UserError} if the model's logits were not finite.
   */
  push(tokens: Iterable<number>): string {
    if (this.#stops.length === 0) return this.#append([...tokens]);
    let certain = "";
    for (const id of tokens) { // which token completes a stop text decides where the completion ends
      certain += this.#append([id]);
      if (this.result) break;
    }
    return certain;
  }

  /** Decodes tokens at once. */
  #append(tokens: readonly number[]): string {
    const end = tokens.findIndex((id) => this.endIds.includes(id));
    const ids = end < 0 ? tokens : tokens.slice(0, end);
    for (const id of ids) checkSample(id, this.#vocabularySize);
    this.tokens += ids.length;
    this.#ids.push(...ids);
    this.#held += this.#decoder.push(...ids);
    if (end >= 0) {
      this.tokens++;
      return this.end("end-of-text");
    }
    const found = earliest(this.#held, this.#stops);
    if (found !== undefined) {
      this.result = { reason: "stop", tokens: this.tokens };
      return this.#held.slice(0, found);
    }
    const length = this.#held.length - longestBeginning(this.#held, this.#stops);
    const certain = this.#held.slice(0, length);
    this.#held = this.#held.slice(length);
    return certain;
  }

  /**
   * Ends the completion; returns the text that was held back, without the first bytes of a character whose others were not
   * drawn.
   */
  end(reason: GenerateResult["reason"]): string {
    this.result = { reason, tokens: this.tokens };
    return this.#held;
  }

  /**
   * The tokens drawn since the last call, without the one that ends the text. Those of a stop text are among them.
   */
  takeIds(): readonly number[] {
    const ids = this.#ids;
    this.#ids = [];
    return ids;
  }
}

/** Index of the first stop text, if there is one. */
function earliest(text: string, stops: readonly string[]): number | undefined {
  const found = stops.map((stop) => text.indexOf(stop)).filter((i) => i >= 0);
  return found.length > 0 ? Math.min(...found) : undefined;
}

/** Length of the longest end of `text` with which a stop text begins. */
function longestBeginning(text: string, stops: readonly string[]): number {
  let longest = 0;
  for (const stop of stops) {
    for (let length = Math.min(stop.length - 1, text.length); length > longest; length--) {
      if (stop.startsWith(text.slice(text.length - length))) longest = length;
    }
  }
  return longest;
}
