import type { Tokenizer } from "../data/tokenizer/tokenizer.ts";
import { checkSample, type SamplerOptions, validateSampler } from "../kernels/sample/sample.ts";
import type { Gpt } from "../model/gpt.ts";
import { createDecoder } from "./decoder.ts";
import { textsAtOnce } from "./limits.ts";
import type { LoadedModel } from "./load.ts";

export type { SamplerOptions };

/** Draws that tell varied stories; no penalty, for a story must repeat its hero's name. */
export const DEFAULT_SAMPLER: SamplerOptions = {
  temperature: 0.8,
  topK: 0,
  topP: 0.95,
  minP: 0,
  repetitionPenalty: 1,
  repetitionWindow: 64,
};

/** One text to continue. */
export interface StreamOptions {
  /** The text to continue; an empty one starts a new document. */
  prompt?: string;
  /** Seed of the draws: the same seed tells the same story. */
  seed?: number;
}

/** How to continue many texts. */
export interface BatchOptions {
  /** The texts. */
  streams: readonly StreamOptions[];
  /** Most tokens to add to each. */
  maxNewTokens?: number;
  /** How the next token is drawn; what is left out is as in `DEFAULT_SAMPLER`. */
  sampler?: Partial<SamplerOptions>;
  /** Texts that end the generation; they are not part of it. */
  stop?: readonly string[];
  /** Ends the generation early when it aborts. */
  signal?: AbortSignal;
}

/** How to continue a text. */
export type GenerateOptions = StreamOptions & Omit<BatchOptions, "streams">;

/** Why a generation ended, and how long it was. */
export interface GenerateResult {
  /** `length`: all tokens asked for; `stop`: a stop text; `end-of-text`: one of `Tokenizer.endIds`. */
  reason: "length" | "stop" | "end-of-text" | "aborted";
  /** Tokens drawn. */
  tokens: number;
}

/** News of one of many texts. */
export interface BatchPiece {
  /** Index of the text in `BatchOptions.streams`. */
  stream: number;
  /** Whole characters that continue it, or none. */
  text: string;
  /** There with the last piece of the text. */
  result?: GenerateResult;
}

/**
 * Continues a text, a piece at a time: each piece is whole characters, the prompt not among them.
 *
 * Past the context length the model sees the last half to whole context: see `windowStart()`.
 *
 * @throws {UserError} if an option is out of range, or if the model's logits are not finite.
 *
 * @example Tell a story
 * ```ts ignore
 * for await (const piece of generate(model, { prompt: "Once upon a time" })) console.log(piece);
 * ```
 */
export async function* generate(
  model: LoadedModel,
  { prompt = "", seed = 0, ...options }: GenerateOptions = {},
): AsyncGenerator<string, GenerateResult> {
  for await (
    const { text, result } of generateBatch(model, { ...options, streams: [{ prompt, seed }] })
  ) {
    if (text !== "") yield text;
    if (result) return result;
  }
  throw new Error("generateBatch() ended without a result");
}

/** Tokens come back in chunks that take about this long, so that a text appears as it is told. */
const CHUNK_MS = 100;

/** What a read-back takes beyond the device's work: Deno 2.9 sleeps 10 ms. */
const READ_BACK_MS = 10;

/** Tokens of a model's first chunk, and how many times as long each may be as the one before. */
const FIRST_CHUNK = { gpu: 16, cpu: 2 }, MOST_GROWTH = 16;

/** How long a model's next chunk should be, by the number of texts: later texts begin where these ended. */
const chunksOf = new WeakMap<Gpt, Map<number, number>>();

/**
 * Continues many texts at once, each as `generate()` would alone, up to rounding: the model is read from
 * memory once for a token of all of them.
 *
 * If the device cannot hold all texts at once (`textsAtOnce()`), the first ones are finished first.
 *
 * @throws {UserError} if an option is out of range, or if the model's logits are not finite.
 *
 * @example Tell three stories
 * ```ts ignore
 * const streams = [1, 2, 3].map((seed) => ({ prompt: "Once upon a time", seed }));
 * const stories = streams.map(({ prompt }) => prompt);
 * for await (const { stream, text } of generateBatch(model, { streams })) stories[stream] += text;
 * ```
 */
export async function* generateBatch(
  { gpt, tokenizer }: LoadedModel,
  { streams, maxNewTokens = 256, sampler: given, stop = [], signal }: BatchOptions,
): AsyncGenerator<BatchPiece, void> {
  if (!Number.isInteger(maxNewTokens) || maxNewTokens < 0) {
    throw new RangeError(
      `Cannot generate as maxNewTokens must be a non-negative integer: current value is ${maxNewTokens}`,
    );
  }
  const sampler = { ...DEFAULT_SAMPLER, ...given };
  validateSampler(sampler);
  const stops = stop.filter((text) => text !== "");
  const stories = streams.map((options, stream) =>
    new Story(tokenizer, { ...options, stream, stops })
  );
  if (stories.length === 0) return;
  const most = textsAtOnce(gpt, {
    promptTokens: stories.reduce((most, { prompt }) => Math.max(most, prompt.length), 0),
    maxNewTokens,
    samples: stories.length,
    sampler,
  });
  for (let first = 0; first < stories.length; first += most) {
    const group = stories.slice(first, first + most);
    yield* tell(gpt, group, { maxNewTokens, sampler, signal });
  }
}

/** Tells stories side by side, chunk after chunk of their tokens, until all have ended. */
async function* tell(
  gpt: Gpt,
  stories: readonly Story[],
  { maxNewTokens, sampler, signal }: {
    maxNewTokens: number;
    sampler: SamplerOptions;
    signal: AbortSignal | undefined;
  },
): AsyncGenerator<BatchPiece, void> {
  const decoder = createDecoder(gpt, {
    texts: stories.map(({ prompt }) => prompt),
    seeds: stories.map(({ seed }) => seed),
    maxNewTokens,
    sampler,
  });
  const told = (story: Story) => story.result !== undefined;
  const chunks = chunksOf.get(gpt) ?? new Map<number, number>();
  chunksOf.set(gpt, chunks);
  let drawn = 0;
  try {
    while (drawn < maxNewTokens && !signal?.aborted && !stories.every(told)) {
      const chunk = chunks.get(stories.length) ?? FIRST_CHUNK[gpt.device.isCpu ? "cpu" : "gpu"];
      const rest = maxNewTokens - drawn;
      // no chunk of a few tokens is left for the end: its read-back would take longer than they do
      const count = rest < 1.5 * chunk ? rest : chunk;
      const since = performance.now();
      const texts = await decoder.next(count);
      const elapsedMs = Math.max(1, performance.now() - since - READ_BACK_MS);
      const factor = Math.min(MOST_GROWTH, CHUNK_MS / elapsedMs);
      chunks.set(stories.length, Math.ceil(count * factor));
      for (const [b, story] of stories.entries()) {
        if (told(story)) continue;
        const text = story.push(texts[b]!);
        const { stream, result } = story;
        if (result) yield { stream, text, result };
        else if (text !== "") yield { stream, text };
      }
      drawn += count;
    }
    const reason = drawn < maxNewTokens ? "aborted" : "length";
    for (const story of stories) {
      if (told(story)) continue;
      const text = story.end(reason);
      yield { stream: story.stream, text, result: story.result! };
    }
  } finally {
    decoder.destroy();
  }
}

/** One stream: its tokens become text, of which it knows when it has ended. */
class Story {
  /** Index of the stream. */
  readonly stream: number;
  /** Tokens of the text that is continued. */
  readonly prompt: readonly number[];
  readonly seed: number;
  /** There once the story has ended. */
  result: GenerateResult | undefined;
  readonly #tokenizer: Tokenizer;
  readonly #text: { push(id: number): string; end(): string };
  readonly #stops: readonly string[];
  #tokens = 0;
  #held = ""; // text that may turn out to begin a stop text

  constructor(
    tokenizer: Tokenizer,
    { stream, prompt = "", seed = 0, stops }: StreamOptions & {
      stream: number;
      stops: readonly string[];
    },
  ) {
    this.stream = stream;
    // an empty prompt begins where every document begins: after the end of another
    this.prompt = prompt === "" ? [tokenizer.endOfText] : tokenizer.encode(prompt);
    this.seed = seed;
    this.#tokenizer = tokenizer;
    this.#text = tokenizer.decoder(this.prompt);
    this.#stops = stops;
  }

  /** Text that the next tokens make certain; those past the end are left alone. */
  push(tokens: Iterable<number>): string {
    const { endOfText, endIds = [endOfText], vocabularySize } = this.#tokenizer;
    let certain = "";
    for (const id of tokens) {
      checkSample(id, vocabularySize);
      this.#tokens++;
      if (endIds.includes(id)) return certain + this.end("end-of-text");
      this.#held += this.#text.push(id);
      const found = earliest(this.#held, this.#stops);
      if (found !== undefined) {
        this.result = { reason: "stop", tokens: this.#tokens };
        return certain + this.#held.slice(0, found);
      }
      const length = this.#held.length - longestBeginning(this.#held, this.#stops);
      certain += this.#held.slice(0, length);
      this.#held = this.#held.slice(length);
    }
    return certain;
  }

  /** Ends the story; text that was held back. */
  end(reason: GenerateResult["reason"]): string {
    this.result = { reason, tokens: this.#tokens };
    return this.#held + this.#text.end();
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
