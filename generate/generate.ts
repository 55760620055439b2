import type { Tokenizer } from "../data/tokenizer/tokenizer.ts";
import { refuseOthers } from "../files/option_names.ts";
import {
  checkSample,
  SAMPLER_RULES,
  type SamplerOptions,
  validateSampler,
} from "../kernels/sample/sample.ts";
import type { Gpt } from "../model/gpt.ts";
import { createDecoder } from "./decoder.ts";
import { sequencesAtOnce } from "./limits.ts";
import type { LoadedModel } from "./load.ts";

export type { SamplerOptions };

/** Settings for varied samples of small models; without a repetition penalty, as stories repeat names. */
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
  /** The text to continue; if it is empty, the completion starts a new document. */
  prompt?: string;
  /** Seed of the sampler: the same seed gives the same completion. */
  seed?: number;
}

/** Streams of prompts, each with the next seed; the first is random by default. */
export function seededStreams(
  prompts: readonly string[],
  firstSeed: number = crypto.getRandomValues(new Uint32Array(1))[0]!,
): { prompt: string; seed: number }[] {
  return prompts.map((prompt, i) => ({ prompt, seed: (firstSeed + i) % 2 ** 32 }));
}

/** How to continue many prompts. */
export interface BatchOptions {
  /** The prompts. */
  streams: readonly StreamOptions[];
  /** Tokens added to each prompt, at most. */
  maxNewTokens?: number | undefined;
  /** How the next token is drawn; `DEFAULT_SAMPLER` has the values that are absent. */
  sampler?: Partial<SamplerOptions> | undefined;
  /** Texts that end a completion, which does not include them. */
  stop?: readonly string[] | undefined;
  /** Ends the generation early when it aborts. */
  signal?: AbortSignal | undefined;
}

/** How to continue a prompt. */
export type GenerateOptions = StreamOptions & Omit<BatchOptions, "streams">;

/** Why a completion ended, and its length. */
export interface GenerateResult {
  /** `length`: at `maxNewTokens`; `stop`: at a stop text; `end-of-text`: at one of `Tokenizer.endIds`. */
  reason: "length" | "stop" | "end-of-text" | "aborted";
  /** Tokens drawn. */
  tokens: number;
}

/** The next text of one of several completions. */
export interface BatchPiece {
  /** Index of its prompt in `BatchOptions.streams`. */
  stream: number;
  /** Whole characters; empty if none is complete. */
  text: string;
  /** The tokens drawn since the piece before, without the one that ends the text. Those of a stop text are among them. */
  ids: readonly number[];
  /** Present in the last piece. */
  result?: GenerateResult;
}

/**
 * Streams the completion of a prompt, piece by piece: each piece is whole characters. A last character of which not all
 * bytes were drawn is left out.
 *
 * Beyond the context length the model sees between half and all of its context: see `windowStart()`.
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
  { prompt = "", seed = 0, maxNewTokens, sampler, stop, signal, ...others }: GenerateOptions = {},
): AsyncGenerator<string, GenerateResult> {
  refuseOthers("generate", "generate()", others);
  const options = { maxNewTokens, sampler, stop, signal, streams: [{ prompt, seed }] };
  for await (const { text, result } of generateBatch(model, options)) {
    if (text !== "") yield text;
    if (result) return result;
  }
  throw new Error("generateBatch() ended without a result");
}

/** Milliseconds per chunk of tokens: each chunk is read back at once, and its text appears. */
const CHUNK_MS = 100;

/** Milliseconds that a read-back adds to the device's work: Deno 2.9 sleeps 10 ms. */
const READ_BACK_MS = 10;

/** Tokens of a model's first chunk, and the factor by which a chunk may be longer than the one before. */
const FIRST_CHUNK = { gpu: 16, cpu: 2 }, MOST_GROWTH = 16;

/** Tokens of a model's next chunk, by the number of streams; a call starts from what the one before measured. */
const chunksOf = new WeakMap<Gpt, Map<number, number>>();

/**
 * Completes many prompts in batches, each as `generate()` would alone, up to rounding. A batch reads the model from
 * memory once per token, not once per token and prompt; `sequencesAtOnce()` decides its size.
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
  { streams, maxNewTokens = 256, sampler: given = {}, stop = [], signal, ...others }: BatchOptions,
): AsyncGenerator<BatchPiece, void> {
  refuseOthers("generate", "generateBatch()", others);
  for (const { prompt: _, seed: __, ...others } of streams) {
    refuseOthers("generate", "a stream", others);
  }
  const unruled = Object.entries(given).filter(([name]) => !Object.hasOwn(SAMPLER_RULES, name));
  refuseOthers("sample", "a sampler", Object.fromEntries(unruled));
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
  const most = sequencesAtOnce(gpt, {
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

/** Decodes a batch of streams, chunk by chunk, until all are done. */
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
    prompts: streams.map(({ prompt }) => prompt),
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
      // a last chunk of few tokens is joined to this one: its read-back would take longer than its tokens
      const count = rest < 1.5 * chunk ? rest : chunk;
      const since = performance.now();
      const tokens = await decoder.next(count);
      const elapsedMs = Math.max(1, performance.now() - since - READ_BACK_MS);
      const factor = Math.min(MOST_GROWTH, CHUNK_MS / elapsedMs);
      chunks.set(streams.length, Math.ceil(count * factor));
      for (const [b, stream] of streams.entries()) {
        if (isDone(stream)) continue;
        const text = stream.push(tokens[b]!);
        if (stream.result || text !== "") yield stream.piece(text);
      }
      drawn += count;
    }
    const reason = drawn < maxNewTokens ? "aborted" : "length";
    for (const stream of streams) {
      if (isDone(stream)) continue;
      yield stream.piece(stream.end(reason));
    }
  } finally {
    decoder.destroy();
  }
}

/**
 * The tokens that a model reads of a prompt: the token that begins every text, if there is one, and the prompt. Without
 * such a token it reads of an empty prompt the token after which every document begins.
 */
export function promptIds(tokenizer: Tokenizer, prompt: string): number[] {
  const { beginOfText, endOfText } = tokenizer;
  if (beginOfText !== undefined) return [beginOfText, ...tokenizer.encode(prompt)];
  return prompt === "" ? [endOfText] : tokenizer.encode(prompt);
}

/** A completion: turns tokens into text and finds where it ends. */
class Stream {
  /** Index of its prompt. */
  readonly index: number;
  /** Tokens of the prompt. */
  readonly prompt: readonly number[];
  readonly seed: number;
  /** Present once it is done. */
  result: GenerateResult | undefined;
  readonly #tokenizer: Tokenizer;
  readonly #decoder: { push(id: number): string };
  readonly #stops: readonly string[];
  #tokens = 0;
  #ids: number[] = []; // drawn since the last piece
  #held = ""; // the end of the text, if a stop text may begin there

  constructor(
    tokenizer: Tokenizer,
    { index, prompt = "", seed = 0, stops }: StreamOptions & {
      index: number;
      stops: readonly string[];
    },
  ) {
    this.index = index;
    this.prompt = promptIds(tokenizer, prompt);
    this.seed = seed;
    this.#tokenizer = tokenizer;
    this.#decoder = tokenizer.decoder(this.prompt);
    this.#stops = stops;
  }

  /** Decodes the next tokens; returns the text before the place where a stop text may begin. */
  push(tokens: Iterable<number>): string {
    const { endOfText, endIds = [endOfText], vocabularySize } = this.#tokenizer;
    let certain = "";
    for (const id of tokens) {
      checkSample(id, vocabularySize);
      this.#tokens++;
      if (endIds.includes(id)) return certain + this.end("end-of-text");
      this.#ids.push(id);
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

  /**
   * Ends the stream; returns the text that was held back, without the first bytes of a character whose others were not
   * drawn.
   */
  end(reason: GenerateResult["reason"]): string {
    this.result = { reason, tokens: this.#tokens };
    return this.#held;
  }

  /** The next piece, of this text. */
  piece(text: string): BatchPiece {
    const { index, result } = this, ids = this.#ids;
    this.#ids = [];
    return { stream: index, text, ids, ...(result ? { result } : {}) };
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
