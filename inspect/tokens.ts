import type { Tokenizer } from "../data/tokenizer/tokenizer.ts";

/** A token of a vocabulary. */
export interface Token {
  /** Its number. */
  readonly id: number;
  /**
   * Its text inside a text. A byte that belongs to a character of several tokens is written as `\xNN`, a special token
   * by its name; an id without a token has an empty text.
   */
  readonly text: string;
  /** Its UTF-8 bytes; none for special tokens that are not text. */
  readonly bytes: readonly number[];
}

/** A token with its probability. */
export interface TokenProbability extends Token {
  /** From 0 to 1. */
  readonly probability: number;
}

/**
 * Describes a token of a vocabulary.
 *
 * @throws {RangeError} if the id is outside the vocabulary.
 *
 * @example See which bytes the tokens of a text have
 * ```ts
 * import { gpt2Tokenizer, tokenOf } from "../mod.ts";
 *
 * const tokenizer = await gpt2Tokenizer();
 * const tokens = tokenizer.encode("a 🦊").map((id) => tokenOf(tokenizer, id));
 * console.log(tokens.map(({ text }) => text)); // [ "a", " \xf0\x9f", "\xa6", "\x8a" ]
 * ```
 */
export function tokenOf(tokenizer: Tokenizer, id: number): Token {
  const bytes = tokenizer.bytes(id);
  return {
    id,
    text: bytes.length > 0 ? textOf(bytes) : tokenizer.decode([id]),
    bytes: [...bytes],
  };
}

/** `tokenOf()` that remembers the tokens of a vocabulary: a text has many of them several times. */
export function rememberedTokens(tokenizer: Tokenizer): (id: number) => Token {
  const tokens = new Map<number, Token>();
  return (id) => {
    const token = tokens.get(id) ?? tokenOf(tokenizer, id);
    tokens.set(id, token);
    return token;
  };
}

/** Bytes as text, those that belong to no whole character as `\xNN`. */
function textOf(bytes: Uint8Array): string {
  const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  let text = "";
  for (let i = 0, length = 1; i < bytes.length; i += length) {
    for (length = 1; length <= 4; length++) {
      try {
        text += utf8.decode(bytes.subarray(i, i + length));
        break;
      } catch {
        // not a whole character
      }
    }
    if (length <= 4) continue;
    text += `\\x${bytes[i]!.toString(16).padStart(2, "0")}`;
    length = 1;
  }
  return text;
}

/**
 * The tokens with the highest probabilities, in descending order; among equals the lower id comes first.
 *
 * @param probabilities [V].
 * @param options.top number of tokens, at most; 10 by default.
 */
export function likeliestTokens(
  tokenizer: Tokenizer,
  probabilities: ArrayLike<number>,
  { top = 10 }: { top?: number } = {},
): TokenProbability[] {
  return highest(probabilities, top).map((id) => (
    { ...tokenOf(tokenizer, id), probability: probabilities[id]! }
  ));
}

/** The indices of the highest values, in descending order; among equals the lower index comes first. */
export function highest(values: ArrayLike<number>, top: number): number[] {
  const best: number[] = [];
  if (top < 1) return best;
  for (let i = 0; i < values.length; i++) {
    const value = values[i]!;
    if (best.length === top) {
      if (!(value > values[best.at(-1)!]!)) continue;
      best.pop();
    }
    let place = best.length;
    while (place > 0 && value > values[best[place - 1]!]!) place--;
    best.splice(place, 0, i);
  }
  return best;
}

/**
 * The loss of every token at one position, in nats: −ln of its softmax.
 *
 * @param logits [V].
 * @returns the loss by the id of the token, and the entropy of the distribution; undefined if a logit is not finite.
 */
export function lossesOf(
  logits: Float32Array,
): { loss: (id: number) => number; entropy: number } | undefined {
  let most = -Infinity;
  for (const logit of logits) if (logit > most) most = logit;
  // sums of exp(logit − most), and of that times logit − most
  let total = 0, moment = 0;
  for (const logit of logits) {
    const weight = Math.exp(logit - most);
    total += weight;
    if (weight > 0) moment += weight * (logit - most);
  }
  if (!Number.isFinite(total)) return undefined;
  const logTotal = Math.log(total);
  return { loss: (id) => logTotal - (logits[id]! - most), entropy: logTotal - moment / total };
}
