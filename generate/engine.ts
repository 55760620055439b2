import { refuseOthers } from "../files/option_names.ts";
import { UserError } from "../files/user_error.ts";
import type { SamplerOptions } from "../kernels/sample/sample.ts";
import { createDecoder } from "./decoder.ts";
import { DEFAULT_SAMPLER, resolveSampler } from "./generate.ts";
import type { LoadedModel } from "./load.ts";
import { type GenerateResult, Stream } from "./stream.ts";

/** A completion that an engine computes. */
export interface EngineRequest {
  /** The tokens to continue, one or more. */
  readonly promptIds: readonly number[];
  /** Tokens drawn, at most. */
  readonly maxNewTokens: number;
  /** Seed of the sampler: the same seed gives the same completion, whatever else the engine computes. */
  readonly seed: number;
  /** How the next token is drawn; `DEFAULT_SAMPLER` has the values that are absent. */
  readonly sampler?: Partial<SamplerOptions> | undefined;
  /** Texts that end the completion, which does not include them. */
  readonly stop?: readonly string[] | undefined;
  /** Tokens that end the completion, in addition to those of the tokenizer. */
  readonly endIds?: readonly number[] | undefined;
  /** Alternatives per token whose logprobs are wanted; 0 for those of the drawn token alone, which are absent by default. */
  readonly logprobs?: number | undefined;
  /** Ends the completion early when it aborts. */
  readonly signal?: AbortSignal | undefined;
}

/** A token and the natural logarithm of the probability that the model gives it, before the sampler changes it. */
export interface TokenLogprob {
  /** Number of the token. */
  readonly id: number;
  /** Logarithm of its probability. */
  readonly logprob: number;
}

/** The logprob of a drawn token, and the likeliest tokens in its place. */
export interface TokenLogprobs extends TokenLogprob {
  /** As many tokens as were asked for, the likeliest first. */
  readonly top: readonly TokenLogprob[];
}

/** The next text of a completion: all that was computed since the piece before it was taken. */
export interface EnginePiece {
  /** Whole characters; empty if none is complete. */
  readonly text: string;
  /** The tokens drawn, without the one that ends the text. Those of a stop text are among them. */
  readonly ids: readonly number[];
  /** Those of each of `ids`, if they were asked for. */
  readonly logprobs?: readonly TokenLogprobs[];
  /** Present in the last piece. */
  readonly result?: GenerateResult;
}

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
  /** Requests that can run at the same time; 64 by default. */
  readonly slots?: number | undefined;
  /** Tokens of the longest request, prompt and completion together; by default 32,768, or more for a longer context. */
  readonly maxTokens?: number | undefined;
}

/** Computes completions of one model, many at the same time. */
export interface Engine extends AsyncDisposable {
  /**
   * Begins a completion as soon as there is a slot for it.
   *
   * The completion ends at the next chunk of tokens after the signal aborts, or after the caller stops to iterate. The
   * pieces are those of a fast reader; for a slow one they are joined.
   *
   * @throws {UserError} at once if an option is out of range, or if the request has too many tokens; {RangeError} if an id
   * is not in the vocabulary; while iterating: {UserError} if the model's logits are not finite, {DeviceError} if the
   * device fails, after which the engine is of no use.
   */
  submit(request: EngineRequest): AsyncGenerator<EnginePiece, void>;
  /** What the engine does. */
  stats(): EngineStats;
  /** Ends all completions as if their signals aborted, then frees everything but the model. */
  close(): Promise<void>;
}

/** Alternatives per token, at most. */
export const MOST_LOGPROBS = 20;

/** Tokens of the longest request by default, or contexts, if these are more. */
const MAX_TOKENS = 32_768, MAX_CONTEXTS = 4;

/** A request that waits or runs. */
interface Job {
  readonly request: EngineRequest;
  readonly sampler: SamplerOptions;
  readonly stream: Stream;
  /** What its reader has not taken. */
  readonly output: Output;
}

/** What the reader of a request has not taken yet. */
class Output {
  #text = "";
  #ids: number[] = [];
  #result: GenerateResult | undefined;
  #failure: { error: unknown } | undefined;
  #changed = Promise.withResolvers<void>();
  /** Whether the reader has gone. */
  isAbandoned = false;

  add(text: string, stream: Stream): void {
    this.#text += text;
    this.#ids.push(...stream.takeIds());
    this.#result = stream.result;
    if (this.#text !== "" || this.#result) this.#changed.resolve();
  }

  fail(error: unknown): void {
    this.#failure = { error };
    this.#changed.resolve();
  }

  /** The pieces, each as soon as there is one. */
  async *pieces(): AsyncGenerator<EnginePiece, void> {
    try {
      for (;;) {
        await this.#changed.promise;
        this.#changed = Promise.withResolvers();
        if (this.#failure) throw this.#failure.error;
        const result = this.#result;
        const piece = { text: this.#text, ids: this.#ids, ...(result ? { result } : {}) };
        this.#text = "";
        this.#ids = [];
        yield piece;
        if (result) return;
      }
    } finally {
      this.isAbandoned = true;
    }
  }
}

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
 *   const promptIds = model.tokenizer.encode(prompt);
 *   let text = prompt;
 *   for await (const piece of engine.submit({ promptIds, seed, maxNewTokens: 100 })) {
 *     text += piece.text;
 *   }
 *   return text;
 * };
 * console.log(await Promise.all([complete("Once upon a time", 1), complete("One day", 2)]));
 * ```
 */
export function createEngine(model: LoadedModel, options: EngineOptions = {}): Engine {
  const { contextLength } = model.gpt.config;
  const {
    slots = 64,
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
  return new SerialEngine(model, { slots, maxTokens });
}

/** An engine that computes one request after the other. */
class SerialEngine implements Engine {
  readonly #model: LoadedModel;
  readonly #slots: number;
  readonly #maxTokens: number;
  readonly #waiting: Job[] = [];
  #work: Promise<void> | undefined;
  #running = 0;
  #ended = 0;
  #tokensDrawn = 0;
  #promptTokensRead = 0;
  #isClosed = false;
  #failure: { error: unknown } | undefined;

  constructor(model: LoadedModel, { slots, maxTokens }: { slots: number; maxTokens: number }) {
    this.#model = model;
    this.#slots = slots;
    this.#maxTokens = maxTokens;
  }

  submit(request: EngineRequest): AsyncGenerator<EnginePiece, void> {
    const job = this.#check(request);
    this.#waiting.push(job);
    this.#work ??= this.#run().finally(() => this.#work = undefined);
    return job.output.pieces();
  }

  stats(): EngineStats {
    return {
      slots: this.#slots,
      running: this.#running,
      waiting: this.#waiting.length,
      ended: this.#ended,
      tokensDrawn: this.#tokensDrawn,
      promptTokensRead: this.#promptTokensRead,
    };
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#work;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** The job of a request that the engine can compute. */
  #check(request: EngineRequest): Job {
    const { promptIds, maxNewTokens, seed, sampler, stop, endIds, logprobs, signal: _, ...others } =
      request;
    refuseOthers("generate", "submit()", others);
    if (this.#failure) throw this.#failure.error;
    if (this.#isClosed) throw new TypeError("Cannot generate as the engine is closed");
    const { gpt: { config: { vocabularySize: V } }, tokenizer } = this.#model;
    const unknown = promptIds.find((id) => !Number.isInteger(id) || id < 0 || id >= V);
    if (unknown !== undefined || promptIds.length === 0) {
      throw new RangeError(
        `Cannot generate as promptIds must be one or more ids below ${V}: ` +
          `current ${unknown === undefined ? "prompt is empty" : `id is ${unknown}`}`,
      );
    }
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
    const tokens = promptIds.length + maxNewTokens;
    if (tokens > this.#maxTokens) {
      throw new UserError(
        `Cannot generate as prompt and completion may have at most ${this.#maxTokens} tokens: ` +
          `current number is ${promptIds.length} + ${maxNewTokens}`,
      );
    }
    return {
      request,
      sampler: resolveSampler(sampler ?? DEFAULT_SAMPLER),
      stream: new Stream(tokenizer, { promptIds, endIds, stop }),
      output: new Output(),
    };
  }

  async #run(): Promise<void> {
    for (let job = this.#waiting.shift(); job; job = this.#waiting.shift()) {
      this.#running++;
      try {
        await this.#complete(job);
      } catch (error) {
        job.output.fail(error);
      } finally {
        this.#running--;
        this.#ended++;
      }
    }
  }

  async #complete({ request, sampler, stream, output }: Job): Promise<void> {
    const { promptIds, maxNewTokens, seed, signal } = request;
    const isEnded = () => signal?.aborted || output.isAbandoned || this.#isClosed;
    using decoder = createDecoder(this.#model.gpt, {
      ...{ prompts: [promptIds], seeds: [seed], maxNewTokens, sampler },
    });
    this.#promptTokensRead += promptIds.length;
    for (let drawn = 0; drawn < maxNewTokens && !stream.result && !isEnded();) {
      const count = Math.min(16, maxNewTokens - drawn);
      const [tokens] = await decoder.next(count);
      output.add(stream.push(tokens!), stream);
      drawn += count;
      this.#tokensDrawn += count;
    }
    if (!stream.result) output.add(stream.end(isEnded() ? "aborted" : "length"), stream);
  }
}
