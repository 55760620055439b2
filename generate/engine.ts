import { refuseOthers } from "../files/option_names.ts";
import { UserError } from "../files/user_error.ts";
import { DeviceError } from "../kernels/device.ts";
import { MOST_LOGPROBS, samplerSettings } from "../kernels/sample/sample.ts";
import { download, type Tensor } from "../kernels/tensor.ts";
import { intervalOf, PassTimer } from "../kernels/timing.ts";
import {
  checkEndIds,
  checkPromptIds,
  Completion,
  type CompletionPiece,
  type TokenLogprob,
  type TokenLogprobs,
} from "./completion.ts";
import { type EngineRequest, MAX_NEW_TOKENS, promptIdsOf, resolveSampler } from "./request.ts";
import type { LoadedModel } from "./load.ts";
import { Output } from "./output.ts";
import { Pace, type Work } from "./pace.ts";
import { mostSequences, type Sequence, type SequenceSpan, Slots } from "./slots.ts";

/**
 * Continuous batching: requests wait for a slot, and those that have one are computed together, chunk by chunk.
 *
 *     EngineRequest → Job → Slots (tokens on the device) → Chunk → Completion (text) → Output → pieces
 *
 * @module
 */

/** What an engine does, and has done since it was created. */
export interface EngineStats {
  /** Requests that can run at the same time. */
  readonly slots: number;
  /** Requests that run. */
  readonly running: number;
  /** Requests that wait for a slot. */
  readonly waiting: number;
  /** Requests that have ended, whatever the reason. */
  readonly ended: number;
  /** Tokens drawn for requests. */
  readonly tokensDrawn: number;
  /** Tokens of prompts that were read. */
  readonly promptTokensRead: number;
}

/** The size of an engine. */
export interface EngineOptions {
  /**
   * Requests that can run at the same time; by default 64, on a CPU 8, or fewer if the device cannot hold the caches of so
   * many. On a GPU one request takes the least time with one slot, more with up to eight, and the most with more.
   */
  readonly slots?: number | undefined;
  /** Tokens of the longest request, prompt and completion together; by default 32,768, or more for a longer context. */
  readonly maxTokens?: number | undefined;
}

/** Computes completions of one model, many at the same time. */
export interface Engine extends AsyncDisposable {
  /**
   * Begins a completion as soon as there is a slot for it.
   *
   * The completion ends at the next chunk of tokens after the signal aborts, or after the caller stops iterating. A
   * caller that is slower than the engine gets the text of several chunks as one piece.
   *
   * @throws {UserError} at once if an option of the sampler is out of range, or if there are too many tokens or end ids;
   * {RangeError} if another number is out of range or an id is not in the vocabulary; {TypeError} if the engine is closed;
   * while iterating: {UserError} if the model's logits are not finite, {DeviceError} if the device fails. Unless the
   * error is of kind `invalid`, the engine then refuses all further requests.
   */
  submit(request: EngineRequest): AsyncGenerator<CompletionPiece, void>;
  /** What the engine does. */
  stats(): EngineStats;
  /** Ends all completions as if their signals aborted, then frees everything but the model. */
  close(): Promise<void>;
}

/** Tokens of the longest request by default, or contexts, if these are more. */
const MAX_TOKENS = 32_768, MAX_CONTEXTS = 4;

/** Requests that can run at the same time by default, if their caches fit the device: more make no CPU faster. */
export const DEFAULT_SLOTS = { gpu: 64, cpu: 8 };

/** Prompts that one pass prefills, at most. */
const MOST_PREFILLED = 8;

/** A request that waits or runs. */
interface Job {
  readonly request: EngineRequest;
  /** Its tokens once all are drawn, with those of its prompt. */
  readonly maxLength: number;
  /** Those of `samplerSettings()`. */
  readonly settings: Uint32Array<ArrayBuffer>;
  readonly completion: Completion;
  /** The part of its completion that its reader has not taken. */
  readonly output: Output;
  /** Its tokens on the device, while it has a slot. */
  sequence?: Sequence | undefined;
}

/** Tokens that a chunk draws for a job, on the device. */
interface DrawnTokens {
  readonly job: Job;
  /** Whether they are the last ones. */
  readonly isLast: boolean;
  readonly tokens: Tensor;
  /** The logprobs of the tokens in several parts; none unless they were asked for. */
  readonly logprobs: readonly Tensor[];
}

/** What was submitted to the device at once. */
interface Chunk extends Work {
  readonly drawn: readonly DrawnTokens[];
  /** When the device began and ended the passes that prefill, and the steps, if it can tell. */
  readonly ticks: { readonly prefills: Tensor | undefined; readonly steps: Tensor | undefined };
}

/** What was read back of tensors. */
type Arrays = ReadonlyMap<Tensor, Uint32Array<ArrayBuffer>>;

/**
 * Creates an engine: requests of any length and sampler join and leave the running batch.
 *
 * A request's completion is, to the bit, what it would be alone in the same engine.
 *
 * @throws {RangeError} if an option is no positive integer; {LimitError} if the device cannot hold so many slots.
 *
 * @example Two completions at the same time
 * ```ts
 * import { createEngine, loadModel, openDevice } from "../mod.ts";
 *
 * const model = await loadModel(await openDevice(), { run: "runs/default" });
 * await using engine = createEngine(model, { slots: 8 });
 * const complete = async (prompt: string, seed: number) => {
 *   let text = prompt;
 *   for await (const piece of engine.submit({ prompt, seed, maxNewTokens: 100 })) {
 *     text += piece.text;
 *   }
 *   return text;
 * };
 * console.log(await Promise.all([complete("Once upon a time", 1), complete("One day", 2)]));
 * ```
 */
export function createEngine(model: LoadedModel, options: EngineOptions = {}): Engine {
  const { device, config: { contextLength } } = model.gpt;
  const {
    slots = Math.min(
      DEFAULT_SLOTS[device.isCpu ? "cpu" : "gpu"],
      mostSequences(model.gpt, contextLength),
    ),
    maxTokens = Math.max(MAX_TOKENS, MAX_CONTEXTS * contextLength),
    ...others
  } = options;
  refuseOthers("create an engine", "createEngine()", others);
  for (const [name, value] of Object.entries({ slots, maxTokens })) {
    if (Number.isInteger(value) && value > 0) continue;
    throw new RangeError(
      `Cannot create an engine as ${name} must be a positive integer: current value is ${value}`,
    );
  }
  const allocated = new Slots(model.gpt, {
    slots,
    maxTokens,
    readsPrompts: true,
    batchInvariant: slots > 1, // one slot has one row
    penalties: true,
    logprobs: true,
    drawRows: rowCounts(slots),
    prefillRows: rowCounts(Math.min(slots, MOST_PREFILLED)),
  });
  return new BatchingEngine(model, allocated, new Pace(device));
}

/** Numbers of rows for which passes are recorded: few requests do not pay for the rows of many. */
function rowCounts(most: number): number[] {
  const counts = [1];
  for (let rows = 8; rows < most; rows *= 2) counts.push(rows);
  return [...counts.filter((rows) => rows < most), most];
}

/** The engine of `createEngine()` and `generateBatch()`, which differ in the sizes of their slots and in their pace. */
export class BatchingEngine implements Engine {
  readonly #model: LoadedModel;
  readonly #slots: Slots;
  readonly #pace: Pace;
  readonly #prefillTimer: PassTimer;
  readonly #stepTimer: PassTimer;
  readonly #waiting: Job[] = [];
  readonly #running: Set<Job> = new Set();
  #work: Promise<void> | undefined;
  #ended = 0;
  #tokensDrawn = 0;
  #promptTokensRead = 0;
  #isClosed = false;
  #failure: { error: unknown } | undefined;

  /** Makes an engine on slots, which it frees when it is closed. */
  constructor(model: LoadedModel, slots: Slots, pace: Pace) {
    this.#model = model;
    this.#slots = slots;
    this.#pace = pace;
    this.#prefillTimer = new PassTimer(model.gpt.device);
    this.#stepTimer = new PassTimer(model.gpt.device);
  }

  submit(request: EngineRequest): AsyncGenerator<CompletionPiece, void> {
    const job = this.#jobOf(request);
    if (job.maxLength === job.completion.promptIds.length) { // needs no slot
      job.output.add(job.completion.end("length"), []);
      this.#end(job);
    } else {
      this.#waiting.push(job);
      this.#work ??= this.#run();
    }
    return job.output.pieces();
  }

  stats(): EngineStats {
    const { slots } = this.#slots.options;
    return {
      slots,
      running: slots - this.#slots.free,
      waiting: this.#waiting.length,
      ended: this.#ended,
      tokensDrawn: this.#tokensDrawn,
      promptTokensRead: this.#promptTokensRead,
    };
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#work;
    for (const owned of [this.#slots, this.#prefillTimer, this.#stepTimer]) owned[Symbol.dispose]();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** Checks a request, and makes its job. */
  #jobOf(request: EngineRequest): Job {
    const { tokenizer, gpt: { config: { vocabularySize } } } = this.#model;
    const { prompt = "", promptIds = promptIdsOf(tokenizer, prompt), ...settings } = request;
    const { maxNewTokens = MAX_NEW_TOKENS, seed = 0, sampler = {}, ...ends } = settings;
    const { stop, endIds, logprobs, signal: _, ...others } = ends;
    refuseOthers("generate", "submit()", others);
    if (this.#failure) throw this.#failure.error;
    if (this.#isClosed) throw new TypeError("Cannot generate as the engine is closed");
    checkPromptIds(promptIds, vocabularySize);
    checkEndIds(endIds ?? [], vocabularySize);
    const counts = [
      ["maxNewTokens", maxNewTokens, Number.MAX_SAFE_INTEGER],
      ["seed", seed, 2 ** 32 - 1],
      ["logprobs", logprobs ?? 0, MOST_LOGPROBS],
    ] as const;
    for (const [name, value, most] of counts) {
      if (Number.isInteger(value) && value >= 0 && value <= most) continue;
      throw new RangeError(
        `Cannot generate as ${name} must be an integer from 0 to ${most}: current value is ${value}`,
      );
    }
    const maxLength = promptIds.length + maxNewTokens, { maxTokens } = this.#slots.options;
    if (maxLength > maxTokens) {
      throw new UserError(
        `Cannot generate as prompt and completion may have at most ${maxTokens} tokens: ` +
          `current number is ${promptIds.length} + ${maxNewTokens}`,
      );
    }
    const completion = new Completion(tokenizer, { promptIds, endIds, stop });
    return {
      request,
      maxLength,
      settings: samplerSettings({
        sampler: resolveSampler(sampler),
        seed,
        logprobs,
        firstDrawn: promptIds.length,
        endIds: completion.endIds,
      }),
      completion,
      output: new Output(request),
    };
  }

  /** Computes until no request is left. While the results of a chunk are read back, the device computes the next one. */
  async #run(): Promise<void> {
    try {
      await this.#slots.compiling();
      for (let chunk = this.#submitChunk(); chunk;) {
        const results = this.#readBack(chunk);
        results.catch(() => {}); // submitChunk() may throw before they are awaited
        const next = this.#submitChunk();
        this.#deliver(chunk, await results);
        if (next) await this.#pace.pause(next);
        chunk = next ?? this.#submitChunk();
      }
    } catch (error) {
      const isUsable = error instanceof DeviceError && error.kind === "invalid"; // as `Device.check()` says
      if (!isUsable) this.#failure = { error };
      this.#slots.forgetPrefixes(); // passes may have stored nothing
      for (const job of [...this.#running, ...this.#waiting.splice(0)]) this.#fail(job, error);
    }
    this.#work = undefined; // at once, as the next request would otherwise wait for work that has ended
  }

  /** Submits the next chunk; undefined if there is nothing to compute. */
  #submitChunk(): Chunk | undefined {
    const sinceMs = performance.now();
    this.#freeSlots();
    this.#fillSlots();
    const jobs = new Map(
      [...this.#running].flatMap((job) => job.sequence ? [[job.sequence, job]] : []),
    );
    const sequences = [...jobs.keys()], rows = sequences.length;
    if (rows === 0) return undefined;
    const prefills = this.#prefill(sequences);
    const isFirst = [...jobs].every(([{ length }, { completion: { promptIds } }]) =>
      length === promptIds.length
    );
    const logprobs = [...jobs.values()].some(({ request }) => request.logprobs !== undefined);
    const left = Math.max(...sequences.map((sequence) => this.#slots.drawable(sequence)));
    const most = this.#pace.steps(rows, { isFirst, logprobs, left });
    const spans = this.#slots.draw(most, this.#stepTimer);
    return {
      drawn: spans.map((span) => this.#drawnTokens(jobs.get(span.sequence)!, span)),
      steps: Math.max(0, ...spans.map(({ count }) => count)),
      rows,
      prefills,
      isFirst,
      ticks: { prefills: this.#prefillTimer.stop(), steps: this.#stepTimer.stop() },
      sinceMs,
    };
  }

  /** Ends the requests that nobody reads any more, and frees the slots of those whose tokens are all submitted. */
  #freeSlots(): void {
    for (const job of [...this.#running, ...this.#waiting]) {
      const { request: { signal }, completion, output, maxLength } = job;
      if (signal?.aborted || output.isAbandoned || this.#isClosed) {
        output.add(completion.end("aborted"), []);
        this.#end(job);
      } else if (job.sequence?.length === maxLength) this.#freeSlotOf(job);
    }
  }

  /** Gives free slots to the requests that wait. */
  #fillSlots(): void {
    while (this.#waiting.length > 0 && this.#slots.free > 0) {
      const job = this.#waiting.shift()!, { maxLength, settings, completion: { promptIds } } = job;
      this.#running.add(job);
      job.sequence = this.#slots.add(promptIds, { maxLength, settings });
      this.#promptTokensRead += this.#slots.unread(job.sequence) + 1; // the last one is read with the first step
    }
  }

  /** Prefills sequences, piece by piece; returns the number of passes. */
  #prefill(sequences: readonly Sequence[]): number {
    const slots = this.#slots, unread = (sequence: Sequence) => slots.unread(sequence);
    const most = this.#pace.prefills(sequences.some((sequence) => slots.drawable(sequence) > 0));
    for (let passes = 0; passes < most; passes++) {
      const [oldest, ...others] = sequences.filter((sequence) => unread(sequence) > 0);
      if (!oldest) return passes;
      // the shortest first, so that they wait for no long prompt, and the oldest, so that it waits for no short ones
      others.sort((a, b) => unread(a) - unread(b));
      slots.prefill([oldest, ...others.slice(0, slots.mostPrefilled - 1)], this.#prefillTimer);
    }
    return most;
  }

  #drawnTokens(job: Job, span: SequenceSpan): DrawnTokens {
    return {
      job,
      isLast: span.first + span.count === job.maxLength,
      tokens: this.#slots.tokensOf(span),
      logprobs: job.request.logprobs === undefined ? [] : this.#slots.logprobsOf(span),
    };
  }

  /** Reads the results of a chunk back, which the next chunk may overwrite. */
  async #readBack({ drawn, ticks: { prefills, steps } }: Chunk): Promise<Arrays> {
    const results = drawn.flatMap(({ tokens, logprobs }) => [tokens, ...logprobs]);
    for (const ticks of [prefills, steps]) if (ticks) results.push(ticks);
    const tensors = results.length > 0 ? results : [this.#slots.anyTensor]; // to wait for the device
    const arrays = await download(this.#model.gpt.device, ...tensors);
    return new Map(tensors.map((tensor, i) => [tensor, arrays[i] as Uint32Array<ArrayBuffer>]));
  }

  /** Adds the results of a chunk to the outputs, and its times to what the pace knows. */
  #deliver(chunk: Chunk, arrays: Arrays): void {
    for (const { job, isLast, tokens, logprobs } of chunk.drawn) {
      const { request, completion, output } = job;
      if (output.isComplete) continue; // it has ended since the chunk was submitted
      try {
        const before = completion.tokens, text = completion.push(arrays.get(tokens)!);
        const ids = completion.takeIds();
        this.#tokensDrawn += completion.tokens - before;
        const parts = logprobs.map((part) => logprobsOf(arrays.get(part)!, request));
        output.add(text, ids, parts.flat().slice(0, ids.length));
      } catch (error) {
        this.#fail(job, error);
        continue;
      }
      if (isLast && !completion.result) output.add(completion.end("length"), []);
      if (completion.result) this.#end(job);
    }
    const { prefills, steps } = chunk.ticks;
    this.#pace.observe(chunk, {
      prefills: prefills && intervalOf(arrays.get(prefills)!),
      steps: steps && intervalOf(arrays.get(steps)!),
    });
  }

  #end(job: Job): void {
    job.output.end(job.completion.result!);
    this.#drop(job);
  }

  #fail(job: Job, error: unknown): void {
    job.output.fail(error);
    this.#drop(job);
  }

  #drop(job: Job): void {
    this.#freeSlotOf(job);
    this.#running.delete(job);
    const i = this.#waiting.indexOf(job);
    if (i >= 0) this.#waiting.splice(i, 1);
    this.#ended++;
  }

  #freeSlotOf(job: Job): void {
    if (job.sequence) this.#slots.remove(job.sequence);
    job.sequence = undefined;
  }
}

/** The logprobs of tokens, from what `sample()` stored, [tokens,1+MOST_LOGPROBS,2]: ids and the bits of their logprobs. */
function logprobsOf(
  words: Uint32Array<ArrayBuffer>,
  { logprobs = 0 }: EngineRequest,
): TokenLogprobs[] {
  const reals = new Float32Array(words.buffer), each = 1 + MOST_LOGPROBS;
  const at = (i: number): TokenLogprob => ({ id: words[2 * i]!, logprob: reals[2 * i + 1]! });
  return Array.from({ length: words.length / 2 / each }, (_, t) => ({
    ...at(t * each),
    top: Array.from({ length: logprobs }, (_, k) => at(t * each + 1 + k)),
  }));
}
