import type { Tokenizer } from "../data/tokenizer/tokenizer.ts";
import { refuseOthers } from "../files/option_names.ts";
import { SAMPLER_RULES, type SamplerOptions, validateSampler } from "../kernels/sample/sample.ts";
import type { Gpt } from "../model/gpt.ts";
import { createDecoder } from "./decoder.ts";
import { sequencesAtOnce } from "./limits.ts";
import type { LoadedModel } from "./load.ts";
import { FIRST_CHUNK } from "./pace.ts";
import { type GenerateResult, Stream } from "./stream.ts";

export type { GenerateResult, SamplerOptions };

/** Settings for varied samples of small models; without a repetition penalty, as stories repeat names. */
export const DEFAULT_SAMPLER: SamplerOptions = {
  temperature: 0.8,
  topK: 0,
  topP: 0.95,
  minP: 0,
  repetitionPenalty: 1,
  repetitionWindow: 64,
  presencePenalty: 0,
  frequencyPenalty: 0,
};

/** One prompt to continue. */
export interface StreamOptions {
  /** The text to continue; if it is empty, the completion starts a new document. */
  prompt?: string | undefined;
  /** The tokens to continue, one or more, in place of `prompt`. */
  promptIds?: readonly number[] | undefined;
  /** Seed of the sampler: the same seed gives the same completion. */
  seed?: number | undefined;
  /** Tokens that end the completion, in addition to those of the tokenizer. */
  endIds?: readonly number[] | undefined;
}

/** The options of a sampler with the defaults of those that are absent, once they are checked. */
export function resolveSampler(given: Partial<SamplerOptions>): SamplerOptions {
  const unruled = Object.entries(given).filter(([name]) => !Object.hasOwn(SAMPLER_RULES, name));
  refuseOthers("sample", "a sampler", Object.fromEntries(unruled));
  const sampler = { ...DEFAULT_SAMPLER, ...given };
  validateSampler(sampler);
  return sampler;
}

/** A random seed. */
export function randomSeed(): number {
  return crypto.getRandomValues(new Uint32Array(1))[0]!;
}

/** The seeds of `count` completions: the first one, and those that follow it. */
export function seedsFrom(first: number, count: number): number[] {
  return Array.from({ length: count }, (_, i) => (first % 2 ** 32 + i) % 2 ** 32);
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
 * @throws {UserError} if an option of the sampler is out of range, or if the model's logits are not finite; {RangeError}
 * if `maxNewTokens` or a token of `promptIds` is out of range.
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
  options: GenerateOptions = {},
): AsyncGenerator<string, GenerateResult> {
  const { prompt, promptIds, seed, endIds, maxNewTokens, sampler, stop, signal, ...others } =
    options;
  refuseOthers("generate", "generate()", others);
  const streams = [{ prompt, promptIds, seed, endIds }];
  const batch = generateBatch(model, { streams, maxNewTokens, sampler, stop, signal });
  for await (const { text, result } of batch) {
    if (text !== "") yield text;
    if (result) return result;
  }
  throw new Error("generateBatch() ended without a result");
}

/** Milliseconds per chunk of tokens: each chunk is read back at once, and its text appears. */
const CHUNK_MS = 100;

/** Milliseconds that a read-back adds to the device's work: Deno 2.9 sleeps 10 ms. */
const READ_BACK_MS = 10;

/** Factor by which a chunk may be longer than the one before. */
const MOST_GROWTH = 16;

/** Tokens of a model's next chunk, by the number of streams; a call starts from what the one before measured. */
const chunksOf = new WeakMap<Gpt, Map<number, number>>();

/**
 * Completes many prompts in batches, each as `generate()` would alone, up to rounding. A batch reads the model from
 * memory once per token, not once per token and prompt; `sequencesAtOnce()` decides its size.
 *
 * @throws {UserError} if an option of the sampler is out of range, or if the model's logits are not finite; {RangeError}
 * if `maxNewTokens` or a token of `promptIds` is out of range.
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
  for (const { prompt: _, promptIds: _1, seed: _2, endIds: _3, ...others } of streams) {
    refuseOthers("generate", "a stream", others);
  }
  const sampler = resolveSampler(given);
  if (!Number.isInteger(maxNewTokens) || maxNewTokens < 0) {
    throw new RangeError(
      `Cannot generate as maxNewTokens must be a non-negative integer: current value is ${maxNewTokens}`,
    );
  }
  const open = streams.map(({ prompt = "", promptIds: ids, seed = 0, endIds }, index): Row => ({
    index,
    seed,
    stream: new Stream(tokenizer, {
      promptIds: ids ?? promptIdsOf(tokenizer, prompt),
      endIds,
      stop,
    }),
  }));
  if (open.length === 0) return;
  const most = sequencesAtOnce(gpt, {
    promptTokens: open.reduce((most, { stream }) => Math.max(most, stream.promptIds.length), 0),
    maxNewTokens,
    samples: open.length,
    sampler,
  });
  for (let first = 0; first < open.length; first += most) {
    const group = open.slice(first, first + most);
    yield* decodeStreams(gpt, group, { maxNewTokens, sampler, signal });
  }
}

/** A row of a batch. */
interface Row {
  /** Index of its prompt in `BatchOptions.streams`. */
  readonly index: number;
  readonly seed: number;
  readonly stream: Stream;
}

/** Decodes a batch of streams, chunk by chunk, until all are done. */
async function* decodeStreams(
  gpt: Gpt,
  rows: readonly Row[],
  { maxNewTokens, sampler, signal }: {
    maxNewTokens: number;
    sampler: SamplerOptions;
    signal: AbortSignal | undefined;
  },
): AsyncGenerator<BatchPiece, void> {
  const decoder = createDecoder(gpt, {
    prompts: rows.map(({ stream }) => stream.promptIds),
    seeds: rows.map(({ seed }) => seed),
    maxNewTokens,
    sampler,
  });
  const isDone = ({ stream: { result } }: Row) => result !== undefined;
  const piece = ({ index, stream }: Row, text: string): BatchPiece => {
    const { result } = stream;
    return { stream: index, text, ids: stream.takeIds(), ...(result ? { result } : {}) };
  };
  const chunks = chunksOf.get(gpt) ?? new Map<number, number>();
  chunksOf.set(gpt, chunks);
  let drawn = 0;
  try {
    while (drawn < maxNewTokens && !signal?.aborted && !rows.every(isDone)) {
      const chunk = chunks.get(rows.length) ?? FIRST_CHUNK[gpt.device.isCpu ? "cpu" : "gpu"];
      const rest = maxNewTokens - drawn;
      // a last chunk of few tokens is joined to this one: its read-back would take longer than its tokens
      const count = rest < 1.5 * chunk ? rest : chunk;
      const since = performance.now();
      const tokens = await decoder.next(count);
      const elapsedMs = Math.max(1, performance.now() - since - READ_BACK_MS);
      const factor = Math.min(MOST_GROWTH, CHUNK_MS / elapsedMs);
      chunks.set(rows.length, Math.ceil(count * factor));
      for (const [b, row] of rows.entries()) {
        if (isDone(row)) continue;
        const text = row.stream.push(tokens[b]!);
        if (isDone(row) || text !== "") yield piece(row, text);
      }
      drawn += count;
    }
    const reason = drawn < maxNewTokens ? "aborted" : "length";
    for (const row of rows) {
      if (!isDone(row)) yield piece(row, row.stream.end(reason));
    }
  } finally {
    decoder.destroy();
  }
}

/**
 * The tokens that a model reads of a prompt: the token that begins every text, if there is one, and the prompt. Without
 * such a token it reads of an empty prompt the token after which every document begins.
 */
export function promptIdsOf(tokenizer: Tokenizer, prompt: string): number[] {
  const { beginOfText, endOfText } = tokenizer;
  if (beginOfText !== undefined) return [beginOfText, ...tokenizer.encode(prompt)];
  return prompt === "" ? [endOfText] : tokenizer.encode(prompt);
}
