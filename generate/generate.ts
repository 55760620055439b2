import { refuseOthers } from "../files/option_names.ts";
import { LimitError } from "../kernels/device.ts";
import type { Gpt } from "../model/gpt.ts";
import { checkPromptIds, type CompletionPiece, type GenerateResult } from "./completion.ts";
import { BatchingEngine } from "./engine.ts";
import { sequencesAtOnce } from "./limits.ts";
import type { LoadedModel } from "./load.ts";
import { merged } from "./merged.ts";
import {
  type CompletionRequest,
  type GenerateOptions,
  MAX_NEW_TOKENS,
  promptIdsOf,
  resolveSampler,
} from "./request.ts";
import { Pace } from "./pace.ts";
import { batchSlots, mostSequences, type Slots } from "./slots.ts";

/** What to complete in batches, and how. */
export interface BatchOptions extends Omit<GenerateOptions, keyof CompletionRequest> {
  /** The prompts. */
  readonly requests: readonly CompletionRequest[];
}

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
 * @throws {UserError} if an option of the sampler is out of range, if there are more than 16 end ids, or if the model's
 * logits are not finite; {RangeError} if `maxNewTokens`, a seed or an id is out of range.
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

/**
 * Milliseconds of the device per chunk: the text appears ten times per second. With chunks of 16 ms 64 texts took seven
 * times as long natively on an H200, supposedly as its clock falls while the host waits.
 */
const CHUNK_MS = 100;

/** What was learnt of the time that models take: a call starts from what the one before measured. */
const paces = new WeakMap<Gpt, Pace>();

/**
 * Completes many prompts in batches, each as `generate()` would alone, up to rounding. A batch reads the model from
 * memory once per token, not once per token and prompt; `sequencesAtOnce()` decides its size.
 *
 * @throws {UserError} if an option of the sampler is out of range, if there are more than 16 end ids, or if the model's
 * logits are not finite; {RangeError} if `maxNewTokens`, a seed or an id is out of range.
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
  model: LoadedModel,
  { requests, maxNewTokens = MAX_NEW_TOKENS, sampler: given = {}, stop, signal, ...others }:
    BatchOptions,
): AsyncGenerator<BatchPiece, void> {
  refuseOthers("generate", "generateBatch()", others);
  for (const { prompt: _, promptIds: _1, seed: _2, endIds: _3, ...others } of requests) {
    refuseOthers("generate", "a request", others);
  }
  const sampler = resolveSampler(given), { gpt, tokenizer } = model;
  if (!Number.isInteger(maxNewTokens) || maxNewTokens < 0) {
    throw new RangeError(
      `Cannot generate as maxNewTokens must be a non-negative integer: current value is ${maxNewTokens}`,
    );
  }
  const all = requests.map(({ prompt = "", promptIds, seed = 0, endIds }) => ({
    promptIds: promptIds ?? promptIdsOf(tokenizer, prompt),
    seed: seed % 2 ** 32,
    ...{ endIds, maxNewTokens, sampler, stop, signal },
  }));
  if (all.length === 0) return;
  for (const { promptIds } of all) checkPromptIds(promptIds, gpt.config.vocabularySize);
  const pace = paces.get(gpt) ?? new Pace(gpt.device, { chunkMs: CHUNK_MS });
  paces.set(gpt, pace);
  const promptTokens = all.reduce((most, { promptIds }) => Math.max(most, promptIds.length), 0);
  const maxTokens = promptTokens + maxNewTokens, completions = all.length;
  let most = mostSequences(gpt, maxTokens);
  for (let first = 0; first < completions; first += most) {
    const slotsFor = (sequences: number) =>
      batchSlots(gpt, {
        ...{ slots: Math.min(sequences, completions - first), maxTokens, sampler },
        readsPrompts: promptTokens > 1,
      });
    let slots: Slots;
    try {
      slots = slotsFor(most); // which takes less time than to find out whether they fit
    } catch (error) {
      if (!(error instanceof LimitError)) throw error;
      most = sequencesAtOnce(gpt, { promptTokens, maxNewTokens, completions, sampler });
      slots = slotsFor(most);
    }
    await using engine = new BatchingEngine(model, slots, pace);
    const batch = all.slice(first, first + most);
    for await (const { index, piece } of merged(batch.map((request) => engine.submit(request)))) {
      yield { ...piece, index: first + index };
    }
  }
}
