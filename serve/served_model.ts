import { type ChatFormat, createChatFormat } from "../data/tokenizer/chat_format.ts";
import { createEngine, type Engine, type EngineOptions } from "../generate/engine.ts";
import type { LoadedModel } from "../generate/load.ts";
import type { ModelSource } from "../generate/source.ts";
import { rememberedTokens, type Token } from "../inspect/tokens.ts";
import type { DryDevice } from "../kernels/dry_device.ts";
import { createActivations } from "../model/activations.ts";
import { createGpt, type Quantization } from "../model/gpt.ts";
import { resolvePrecision } from "../model/precision.ts";
import { ApiError } from "./api_error.ts";
import { MOST_KEPT_LOGPROBS, MOST_RETRY_SECONDS, QUEUE } from "./limits.ts";
import { Mutex } from "./mutex.ts";

/** How many completions a model continues at once, and how many requests wait. */
export interface ServedModelOptions extends EngineOptions {
  /** Completions that wait for a slot of the engine, at most. */
  readonly queue?: number | undefined;
}

/** Weight of the last request in the mean of the times that requests stay. */
const LAST_WEIGHT = 0.1;

/** So many of something, of which requests take some until they are answered. */
class Supply {
  /** All of them. */
  readonly most: number;
  #taken = 0;

  constructor(most: number) {
    this.most = most;
  }

  /** Takes some, which are returned when the result is disposed; undefined if too few are left. */
  take(count: number): DisposableStack | undefined {
    if (this.#taken + count > this.most) return undefined;
    this.#taken += count;
    const taken = new DisposableStack();
    taken.defer(() => this.#taken -= count);
    return taken;
  }
}

/** A model that is loaded, its name, and the engine that continues texts with it. */
export class ServedModel implements LoadedModel {
  /** The name by which requests ask for it. */
  readonly name: string;
  readonly gpt: LoadedModel["gpt"];
  readonly tokenizer: LoadedModel["tokenizer"];
  /** Describes a token of its vocabulary. */
  readonly token: (id: number) => Token;
  /** Continues texts side by side. */
  readonly engine: Engine;
  /** Seconds since 1970 when it was loaded. */
  readonly created = Math.floor(Date.now() / 1000);
  /** Held during a pass outside the engine, as there is memory for one such pass. */
  readonly passes = new Mutex();
  readonly #places: Supply; // of completions that run or wait
  readonly #logprobs = new Supply(MOST_KEPT_LOGPROBS);
  #chatFormat: Promise<ChatFormat> | undefined;
  #day = ""; // on which it was made
  #meanSeconds = 0; // that a request stays

  constructor(
    name: string,
    { gpt, tokenizer }: LoadedModel,
    { queue = QUEUE, ...options }: ServedModelOptions = {},
  ) {
    this.name = name;
    this.gpt = gpt;
    this.tokenizer = tokenizer;
    this.token = rememberedTokens(tokenizer);
    this.engine = createEngine({ gpt, tokenizer }, options);
    this.#places = new Supply(this.engine.stats().slots + queue);
  }

  /** @throws {ApiError} if a field of a request has ids that the model does not know. */
  checkIds(ids: readonly number[], param: string): void {
    const { vocabularySize } = this.gpt.config;
    const unknown = ids.find((id) => id >= vocabularySize);
    if (unknown === undefined) return;
    throw new ApiError(
      400,
      `Cannot answer as ids must be below ${vocabularySize}: current id of ${param} is ${unknown}`,
      { param },
    );
  }

  /**
   * Admits completions of one request, which leave when they are disposed.
   *
   * @throws {ApiError} 400 if they are more than the model ever admits, 429 if others occupy the places.
   */
  admit(completions: number): Disposable {
    const { most } = this.#places;
    if (completions > most) {
      throw new ApiError(
        400,
        `Cannot complete as n times the number of prompts must be at most ${most}: ` +
          `current number is ${completions}`,
        { param: "n" },
      );
    }
    const admitted = this.#places.take(completions);
    if (!admitted) throw this.#full(`at most ${most} completions may run or wait`);
    const since = performance.now();
    admitted.defer(() => {
      const seconds = (performance.now() - since) / 1000;
      this.#meanSeconds += LAST_WEIGHT * (seconds - this.#meanSeconds);
    });
    return admitted;
  }

  /**
   * Takes room for the logprobs that an answer keeps, which is free again when the result is disposed.
   *
   * @throws {ApiError} 400 if they are more than any answer may keep, 429 if others occupy the room.
   */
  keepLogprobs(count: number): Disposable {
    const { most } = this.#logprobs;
    if (count > most) {
      throw new ApiError(
        400,
        `Cannot answer as the tokens of all completions, each with its alternatives, must be at most ${most} ` +
          `if logprobs are asked for: current number is ${count}`,
        { param: "logprobs" },
      );
    }
    const kept = this.#logprobs.take(count);
    if (!kept) throw this.#full(`answers may keep at most ${most} logprobs at the same time`);
    return kept;
  }

  /** The error of a request that may be answered later. */
  #full(reason: string): ApiError {
    return new ApiError(429, `Cannot answer as ${reason}: try again later`, {
      code: "rate_limit_exceeded",
      retryAfterSeconds: Math.min(Math.max(1, Math.ceil(this.#meanSeconds)), MOST_RETRY_SECONDS),
    });
  }

  /**
   * Its chat format, which is made when it is first needed on a day, as templates may write the date.
   *
   * @throws {UserError} if the chat template is not Jinja; clients may not learn in which file it is.
   */
  chatFormat(): Promise<ChatFormat> {
    const now = new Date(), day = now.toDateString();
    if (day !== this.#day) {
      const { chatTemplateFile: _, ...tokenizer } = this.tokenizer;
      this.#chatFormat = createChatFormat(tokenizer, { now });
      this.#day = day;
    }
    return this.#chatFormat!;
  }
}

/** Records a model with its engine, and a pass over a text as long as its context, to find out whether they fit. */
export function recordServedModel(
  dry: DryDevice,
  { config, tokenizer }: Pick<ModelSource, "config" | "tokenizer">,
  { quantize, ...options }: EngineOptions & { quantize?: Quantization | undefined },
): void {
  const precision = resolvePrecision(dry, "auto");
  const gpt = createGpt(dry, config, { precision, quantize });
  createEngine({ gpt, tokenizer }, options);
  const batch = { batchSize: 1, sequenceLength: config.contextLength };
  createActivations(dry, config, { batch, precision, purpose: "evaluation" });
}
