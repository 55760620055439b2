import type { Token, TokenProbability } from "../../inspect/tokens.ts";

/** The texts of some tokens: special, with a blank, of no whole character, a line feed. */
export const WORDS = ["<|endoftext|>", " time", " \\xf0\\x9f", "\n"];

/** The tokens. */
export const tokens: Token[] = WORDS.map((text, id) => ({ id, text, bytes: [] }));

/** One of them with a probability. */
export function likely(id: number, probability: number): TokenProbability {
  return { ...tokens[id]!, probability };
}
