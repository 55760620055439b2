import type { Tokenizer } from "../data/tokenizer/tokenizer.ts";
import { checkSample, type SamplerOptions, validateSampler } from "../kernels/sample/sample.ts";
import type { Gpt } from "../model/gpt.ts";
import { createDecoder } from "./decoder.ts";
import { textsAtOnce } from "./limits.ts";
import type { LoadedModel } from "./load.ts";

export type { SamplerOptions };

/** Varied samples of small models; without a penalty, as a story must repeat the names in it. */
export const DEFAULT_SAMPLER: SamplerOptions = {
  temperature: 0.8,
  topK: 0,
  topP: 0.95,
  minP: 0,
  repetitionPenalty: 1,
  repetitionWindow: 64,
};

/** One prompt to continue. */
export interface StreamOptions {
  /** The text to continue; an empty one starts a new document. */
  prompt?: string;
  /** Seed of the sampler: the same seed gives the same completion. */
  seed?: number;
}

/** How to continue many prompts. */
export interface BatchOptions {
  /** The prompts. */
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

/** How to continue a prompt. */
export type GenerateOptions = StreamOptions & Omit<BatchOptions, "streams">;

/** Why a generation ended, and how long it was. */
export interface GenerateResult {
  /** `length`: all tokens asked for; `stop`: a stop text; `end-of-text`: one of `Tokenizer.endIds`. */
  reason: "length" | "stop" | "end-of-text" | "aborted";
  /** Tokens drawn. */
  tokens: number;
}

/** What has been decoded of one of many completions. */
export interface BatchPiece {
  /** Index of its prompt in `BatchOptions.streams`. */
  stream: number;
  /** Whole characters that continue it, or none. */
  text: string;
  /** Present with the last piece. */
  result?: GenerateResult;
}

/**
 * Streams the completion of a prompt, piece by piece: each piece is whole characters.
 *
 * Past the context length the model sees the last half to whole context: see `windowStart()`.
 *
 * @throws {UserError} if an option is out of range, or if the model's logits are not finite.
 *
 * @example Stream a completion
 * ```ts
 * import { generate, loadModel, openDevice } from "../mod.ts";
 *
 * const model = await loadModel(await openDevice(), { run: "runs/default" });
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

/** Tokens come back in chunks that take about this long, so that text appears while it is generated. */
const CHUNK_MS = 100;

/** What a read-back takes beyond the device's work: Deno 2.9 sleeps 10 ms. */
const READ_BACK_MS = 10;

/** Tokens of a model's first chunk, and how many times as long each may be as the one before. */
const FIRST_CHUNK = { gpu: 16, cpu: 2 }, MOST_GROWTH = 16;

/** Tokens of a model's next chunk, by the number of streams; the next call starts from what this one measured. */
const chunksOf = new WeakMap<Gpt, Map<number, number>>();

/**
 * Completes many prompts at once, each as `generate()` would alone, up to rounding: the model is read from
 * memory once per token of all of them.
 *
 * If the device cannot hold all of them at once (`textsAtOnce()`), they are completed group by group.
 *
 * @throws {UserError} if an option is out of range, or if the model's logits are not finite.
 *
 * @example Draw three samples
 * ```ts
 * import { generateBatch, loadModel, openDevice } from "../mod.ts";
 *
 * const model = await loadModel(await openDevice(), { run: "runs/default" });
 * const streams = [1, 2, 3].map((seed) => ({ prompt: "Once upon a time", seed }));
 * const texts = streams.map(({ prompt }) => prompt);
 * for await (const { stream, text } of generateBatch(model, { streams })) texts[stream] += text;
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
  const open = streams.map((options, index) => new Stream(tokenizer, { ...options, index, stops }));
  if (open.length === 0) return;
  const most = textsAtOnce(gpt, {
    promptTokens: open.reduce((most, { prompt }) => Math.max(most, prompt.length), 0),
    maxNewTokens,
    samples: open.length,
    sampler,
  });
  for (let first = 0; first < open.length; first += most) {
    const group = open.slice(first, first + most);
    yield* decodeStreams(gpt, group, { maxNewTokens, sampler, signal });
  }
}

/** Decodes streams side by side, chunk after chunk of their tokens, until all are done. */
async function* decodeStreams(
  gpt: Gpt,
  streams: readonly Stream[],
  { maxNewTokens, sampler, signal }: {
    maxNewTokens: number;
    sampler: SamplerOptions;
    signal: AbortSignal | undefined;
  },
): AsyncGenerator<BatchPiece, void> {
  const decoder = createDecoder(gpt, {
    texts: streams.map(({ prompt }) => prompt),
    seeds: streams.map(({ seed }) => seed),
    maxNewTokens,
    sampler,
  });
  const isDone = ({ result }: Stream) => result !== undefined;
  const chunks = chunksOf.get(gpt) ?? new Map<number, number>();
  chunksOf.set(gpt, chunks);
  let drawn = 0;
  try {
    while (drawn < maxNewTokens && !signal?.aborted && !streams.every(isDone)) {
      const chunk = chunks.get(streams.length) ?? FIRST_CHUNK[gpt.device.isCpu ? "cpu" : "gpu"];
      const rest = maxNewTokens - drawn;
      // no chunk of a few tokens is left for the end: its read-back would take longer than they do
      const count = rest < 1.5 * chunk ? rest : chunk;
      const since = performance.now();
      const texts = await decoder.next(count);
      const elapsedMs = Math.max(1, performance.now() - since - READ_BACK_MS);
      const factor = Math.min(MOST_GROWTH, CHUNK_MS / elapsedMs);
      chunks.set(streams.length, Math.ceil(count * factor));
      for (const [b, stream] of streams.entries()) {
        if (isDone(stream)) continue;
        const text = stream.push(texts[b]!);
        const { index, result } = stream;
        if (result) yield { stream: index, text, result };
        else if (text !== "") yield { stream: index, text };
      }
      drawn += count;
    }
    const reason = drawn < maxNewTokens ? "aborted" : "length";
    for (const stream of streams) {
      if (isDone(stream)) continue;
      const text = stream.end(reason);
      yield { stream: stream.index, text, result: stream.result! };
    }
  } finally {
    decoder.destroy();
  }
}

/** A completion while it is decoded: turns tokens into text and finds where it ends. */
class Stream {
  /** Index of its prompt. */
  readonly index: number;
  /** Tokens of the prompt. */
  readonly prompt: readonly number[];
  readonly seed: number;
  /** Present once it is done. */
  result: GenerateResult | undefined;
  readonly #tokenizer: Tokenizer;
  readonly #decoder: { push(id: number): string; end(): string };
  readonly #stops: readonly string[];
  #tokens = 0;
  #held = ""; // text that may turn out to begin a stop text

  constructor(
    tokenizer: Tokenizer,
    { index, prompt = "", seed = 0, stops }: StreamOptions & {
      index: number;
      stops: readonly string[];
    },
  ) {
    this.index = index;
    // an empty prompt begins where every document begins: after the end of another
    this.prompt = prompt === "" ? [tokenizer.endOfText] : tokenizer.encode(prompt);
    this.seed = seed;
    this.#tokenizer = tokenizer;
    this.#decoder = tokenizer.decoder(this.prompt);
    this.#stops = stops;
  }

  /** Decodes the next tokens up to its end; returns the text that no stop text can begin in. */
  push(tokens: Iterable<number>): string {
    const { endOfText, endIds = [endOfText], vocabularySize } = this.#tokenizer;
    let certain = "";
    for (const id of tokens) {
      checkSample(id, vocabularySize);
      this.#tokens++;
      if (endIds.includes(id)) return certain + this.end("end-of-text");
      this.#held += this.#decoder.push(id);
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

  /** Ends the stream; returns the text that was held back. */
  end(reason: GenerateResult["reason"]): string {
    this.result = { reason, tokens: this.#tokens };
    return this.#held + this.#decoder.end();
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
