import type { Tokenizer } from "../data/tokenizer/tokenizer.ts";
import { refuseOthers } from "../files/option_names.ts";
import { SAMPLER_RULES, type SamplerOptions, validateSampler } from "../kernels/sample/sample.ts";
import type { Gpt } from "../model/gpt.ts";
import { createDecoder } from "./decoder.ts";
import { sequencesAtOnce } from "./limits.ts";
import type { LoadedModel } from "./load.ts";
import { FIRST_CHUNK } from "./pace.ts";
import { Completion, type CompletionPiece, type GenerateResult } from "./completion.ts";

export type { CompletionPiece, GenerateResult, SamplerOptions };

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

/** What to complete. */
export interface CompletionRequest {
  /** The text to continue; if it is empty, the completion starts a new document. */
  readonly prompt?: string | undefined;
  /** The tokens to continue, one or more, in place of `prompt`. */
  readonly promptIds?: readonly number[] | undefined;
  /** Seed of the sampler, 0 by default: the same seed gives the same completion. */
  readonly seed?: number | undefined;
  /** Tokens that end the completion, in addition to those of the tokenizer. */
  readonly endIds?: readonly number[] | undefined;
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

/** What to complete in batches, and how. */
export interface BatchOptions {
  /** The prompts. */
  readonly requests: readonly CompletionRequest[];
  /** Tokens added to each prompt, at most; 256 by default. */
  readonly maxNewTokens?: number | undefined;
  /** How the next token is drawn; `DEFAULT_SAMPLER` has the values that are absent. */
  readonly sampler?: Partial<SamplerOptions> | undefined;
  /** Texts that end a completion, which does not include them. */
  readonly stop?: readonly string[] | undefined;
  /** Ends the generation early when it aborts. */
  readonly signal?: AbortSignal | undefined;
}

/** What to complete, and how. */
export type GenerateOptions = CompletionRequest & Omit<BatchOptions, "requests">;

/** Tokens that are added to a prompt by default, at most. */
export const MAX_NEW_TOKENS = 256;

/** The next text of one of several completions. */
export interface BatchPiece extends CompletionPiece {
  /** Index of its request in `BatchOptions.requests`. */
  readonly index: number;
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
  const requests = [{ prompt, promptIds, seed, endIds }];
  const batch = generateBatch(model, { requests, maxNewTokens, sampler, stop, signal });
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

/** Tokens of a model's next chunk, by the number of completions; a call starts from what the one before measured. */
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
 * const requests = [1, 2, 3].map((seed) => ({ prompt: "Once upon a time", seed }));
 * const texts = requests.map(({ prompt }) => prompt);
 * for await (const { index, text } of generateBatch(model, { requests })) texts[index] += text;
 * ```
 */
export async function* generateBatch(
  { gpt, tokenizer }: LoadedModel,
  { requests, maxNewTokens = MAX_NEW_TOKENS, sampler: given = {}, stop, signal, ...others }:
    BatchOptions,
): AsyncGenerator<BatchPiece, void> {
  refuseOthers("generate", "generateBatch()", others);
  for (const { prompt: _, promptIds: _1, seed: _2, endIds: _3, ...others } of requests) {
    refuseOthers("generate", "a request", others);
  }
  const sampler = resolveSampler(given);
  if (!Number.isInteger(maxNewTokens) || maxNewTokens < 0) {
    throw new RangeError(
      `Cannot generate as maxNewTokens must be a non-negative integer: current value is ${maxNewTokens}`,
    );
  }
  const rows = requests.map(({ prompt = "", promptIds: ids, seed = 0, endIds }, index): Row => {
    const promptIds = ids ?? promptIdsOf(tokenizer, prompt);
    return { index, seed, completion: new Completion(tokenizer, { promptIds, endIds, stop }) };
  });
  if (rows.length === 0) return;
  const most = sequencesAtOnce(gpt, {
    promptTokens: Math.max(...rows.map(({ completion }) => completion.promptIds.length)),
    maxNewTokens,
    completions: rows.length,
    sampler,
  });
  for (let first = 0; first < rows.length; first += most) {
    yield* decode(gpt, rows.slice(first, first + most), { maxNewTokens, sampler, signal });
  }
}

/** A row of a batch. */
interface Row {
  /** Index of its request in `BatchOptions.requests`. */
  readonly index: number;
  readonly seed: number;
  readonly completion: Completion;
}

/** Completes a batch, chunk by chunk, until all rows are done. */
async function* decode(
  gpt: Gpt,
  rows: readonly Row[],
  { maxNewTokens, sampler, signal }: {
    maxNewTokens: number;
    sampler: SamplerOptions;
    signal: AbortSignal | undefined;
  },
): AsyncGenerator<BatchPiece, void> {
  const decoder = createDecoder(gpt, {
    prompts: rows.map(({ completion }) => completion.promptIds),
    seeds: rows.map(({ seed }) => seed),
    maxNewTokens,
    sampler,
  });
  const isDone = ({ completion: { result } }: Row) => result !== undefined;
  const piece = ({ index, completion }: Row, text: string): BatchPiece => {
    const { result } = completion;
    return { index, text, ids: completion.takeIds(), ...(result ? { result } : {}) };
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
        const text = row.completion.push(tokens[b]!);
        if (isDone(row) || text !== "") yield piece(row, text);
      }
      drawn += count;
    }
    const reason = drawn < maxNewTokens ? "aborted" : "length";
    for (const row of rows) {
      if (!isDone(row)) yield piece(row, row.completion.end(reason));
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
