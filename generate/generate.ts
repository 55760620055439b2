import { Random } from "../data/random.ts";
import { createDecoder } from "./decoder.ts";
import type { LoadedModel } from "./load.ts";
import { DEFAULT_SAMPLER, type SamplerOptions, sampleToken, validateSampler } from "./sampler.ts";

/** How to continue a text. */
export interface GenerateOptions {
  /** The text to continue; an empty one starts a new document. */
  prompt?: string;
  /** Most tokens to add. */
  maxNewTokens?: number;
  /** How the next token is drawn; what is left out is as in `DEFAULT_SAMPLER`. */
  sampler?: Partial<SamplerOptions>;
  /** Texts that end the generation; they are not part of it. */
  stop?: readonly string[];
  /** Seed of the draws: the same seed tells the same story. */
  seed?: number;
  /** Ends the generation early when it aborts. */
  signal?: AbortSignal;
}

/** Why a generation ended, and how long it was. */
export interface GenerateResult {
  /** `length`: all tokens asked for; `stop`: a stop text; `end-of-text`: the document's end. */
  reason: "length" | "stop" | "end-of-text" | "aborted";
  /** Tokens drawn. */
  tokens: number;
}

/**
 * Continues a text, a piece at a time: each piece is whole characters, the prompt not among them.
 *
 * Past the context length the model sees the last half to whole context: see `windowStart()`.
 *
 * @throws {RangeError} if an option is out of range.
 *
 * @example Tell a story
 * ```ts ignore
 * for await (const piece of generate(model, { prompt: "Once upon a time" })) console.log(piece);
 * ```
 */
export async function* generate(
  { gpt, tokenizer }: LoadedModel,
  { prompt = "", maxNewTokens = 256, sampler, stop = [], seed = 0, signal }: GenerateOptions = {},
): AsyncGenerator<string, GenerateResult> {
  if (!Number.isInteger(maxNewTokens) || maxNewTokens < 0) {
    throw new RangeError(
      `Cannot generate as maxNewTokens must be a non-negative integer: current value is ${maxNewTokens}`,
    );
  }
  const options = { ...DEFAULT_SAMPLER, ...sampler };
  validateSampler(options);
  const stops = stop.filter((text) => text !== "");

  // an empty prompt begins where every document begins: after the end of another
  const history = prompt === "" ? [tokenizer.endOfText] : tokenizer.encode(prompt);
  const random = new Random(seed);
  const text = tokenizer.decoder();
  const decoder = createDecoder(gpt);
  let held = ""; // text that may turn out to begin a stop text
  try {
    let fresh: readonly number[] = history;
    for (let tokens = 0; tokens < maxNewTokens; tokens++) {
      if (signal?.aborted) return { reason: "aborted", tokens };
      const logits = await decoder.next(fresh);
      const id = sampleToken(logits, { ...options, history, random: () => random.uniform() });
      if (id === tokenizer.endOfText) {
        const rest = held + text.end();
        if (rest) yield rest;
        return { reason: "end-of-text", tokens: tokens + 1 };
      }
      history.push(id);
      fresh = [id];
      held += text.push(id);
      const found = earliest(held, stops);
      if (found !== undefined) {
        if (found > 0) yield held.slice(0, found);
        return { reason: "stop", tokens: tokens + 1 };
      }
      const safe = held.length - longestBeginning(held, stops);
      if (safe > 0) yield held.slice(0, safe);
      held = held.slice(safe);
    }
    const rest = held + text.end();
    if (rest) yield rest;
    return { reason: "length", tokens: maxNewTokens };
  } finally {
    decoder.destroy();
  }
}

/** Where the first of the stop texts begins, if one is there. */
function earliest(text: string, stops: readonly string[]): number | undefined {
  const found = stops.map((stop) => text.indexOf(stop)).filter((i) => i >= 0);
  return found.length > 0 ? Math.min(...found) : undefined;
}

/** Length of the longest end of `text` that begins a stop text. */
function longestBeginning(text: string, stops: readonly string[]): number {
  let longest = 0;
  for (const stop of stops) {
    for (let length = Math.min(stop.length - 1, text.length); length > longest; length--) {
      if (stop.startsWith(text.slice(text.length - length))) longest = length;
    }
  }
  return longest;
}
