import { isObject, type JsonObject } from "../files/json.ts";
import {
  type BatchPiece,
  DEFAULT_SAMPLER,
  generateBatch,
  type GenerateResult,
  promptIds,
  type SamplerOptions,
} from "../generate/generate.ts";
import { sequencesAtOnce } from "../generate/limits.ts";
import { SAMPLER_RULES } from "../kernels/sample/sample.ts";
import { errorBody, toApiError } from "./api_error.ts";
import type { ModelSlot, ServedModel } from "./model_slot.ts";
import { checkRequest, type Field, type FieldTable, FLAG, TEXT, whole } from "./request.ts";

/**
 * Completions in the shape of OpenAI's API (https://platform.openai.com/docs/api-reference/completions).
 *
 * @module
 */

/** Completions per request, and tokens per completion, at most. */
const MOST_COMPLETIONS = 128, MOST_TOKENS = 16_384;

/** Alternatives per token in `logprobs`, at most, as OpenAI has it. */
const MOST_LOGPROBS = 5;

/** The fields of the sampler, in the words of the API. */
interface SamplerFields {
  temperature: number;
  top_p: number;
  top_k: number;
  min_p: number;
  repetition_penalty: number;
  repetition_window: number;
}

/** The fields of a request. */
interface CompletionFields extends SamplerFields {
  model: string;
  prompt: string | readonly string[];
  max_tokens: number;
  n: number;
  seed: number | undefined;
  stop: string | readonly string[];
  stream: boolean;
  stream_options: { include_usage?: boolean };
  logprobs: number | undefined;
  /** As in vLLM: the ids of prompt and completion are part of the response. */
  return_token_ids: boolean;
  user: string;
  best_of: number;
  echo: boolean;
  frequency_penalty: number;
  logit_bias: JsonObject;
  presence_penalty: number;
  suffix: string;
}

/** Options of the sampler by their names in a request. */
const SAMPLER_OPTIONS: Readonly<Record<keyof SamplerFields, keyof SamplerOptions>> = {
  temperature: "temperature",
  top_p: "topP",
  top_k: "topK",
  min_p: "minP",
  repetition_penalty: "repetitionPenalty",
  repetition_window: "repetitionWindow",
};

/** OpenAI's defaults, where they differ from those of `deno task generate`. */
const OPENAI_DEFAULTS: Partial<SamplerOptions> = { temperature: 1, topP: 1 };

/** The fields of the sampler; absent ones are those of OpenAI, and of `deno task generate` for those that OpenAI lacks. */
export const SAMPLER_FIELDS = Object.fromEntries(
  Object.entries(SAMPLER_OPTIONS).map(([name, option]) => {
    const [must, holds] = SAMPLER_RULES[option];
    return [name, {
      must,
      holds: (value: unknown) => typeof value === "number" && holds(value),
      fallback: { ...DEFAULT_SAMPLER, ...OPENAI_DEFAULTS }[option],
    }];
  }),
) as unknown as FieldTable<SamplerFields>;

/** The sampler of a request. */
export function samplerOf(fields: SamplerFields): SamplerOptions {
  const entries = Object.entries(SAMPLER_OPTIONS)
    .map(([name, option]) => [option, fields[name as keyof SamplerFields]]);
  return Object.fromEntries(entries) as unknown as SamplerOptions;
}

/** A text or texts, at most so many. */
function texts(most: number): Omit<Field<string | readonly string[]>, "fallback"> {
  return {
    must: `a text or a list of 1 to ${most} texts`,
    holds: (value) =>
      TEXT.holds(value) ||
      Array.isArray(value) && value.length > 0 && value.length <= most && value.every(TEXT.holds),
  };
}

/** A field of OpenAI's that has no effect here and must have its default. */
function fixed<Value>(fallback: Value): Field<Value> {
  const json = JSON.stringify(fallback);
  return {
    must: `${json}, as others are not supported`,
    holds: (value) => JSON.stringify(value) === json,
    fallback,
  };
}

/** What a request may hold. */
const FIELDS: FieldTable<CompletionFields> = {
  model: TEXT,
  prompt: { ...texts(MOST_COMPLETIONS), fallback: "" },
  max_tokens: { ...whole(1, MOST_TOKENS), fallback: 16 },
  ...SAMPLER_FIELDS,
  n: { ...whole(1, MOST_COMPLETIONS), fallback: 1 },
  seed: { ...whole(0, Number.MAX_SAFE_INTEGER), fallback: undefined },
  stop: { ...texts(4), fallback: [] },
  stream: FLAG,
  stream_options: {
    must: "an object with include_usage, true or false, at most",
    holds: (value) =>
      isObject(value) &&
      Object.entries(value).every(([name, option]) =>
        name === "include_usage" && FLAG.holds(option)
      ),
    fallback: {},
  },
  logprobs: { ...whole(0, MOST_LOGPROBS), fallback: undefined },
  return_token_ids: FLAG,
  user: { ...TEXT, fallback: "" },
  best_of: fixed(1),
  echo: fixed(false),
  frequency_penalty: fixed(0),
  logit_bias: fixed({}),
  presence_penalty: fixed(0),
  suffix: fixed(""),
};

/** Why a completion ended, in OpenAI's words; one that was aborted has no reader. */
const FINISH_REASONS: Readonly<Record<GenerateResult["reason"], "length" | "stop">> = {
  length: "length",
  stop: "stop",
  "end-of-text": "stop",
  aborted: "stop",
};

/** A completion, or the next part of one. */
interface Choice {
  text: string;
  index: number;
  logprobs: null;
  finish_reason: "length" | "stop" | null;
  /** Present if `return_token_ids` is true. */
  token_ids?: readonly number[];
  prompt_token_ids?: readonly number[];
}

/**
 * Answers `POST /v1/completions`.
 *
 * @returns the whole answer, or a stream of its parts as server-sent events.
 */
export async function complete(
  slot: ModelSlot,
  body: JsonObject,
  signal: AbortSignal,
): Promise<Response> {
  const request = checkRequest(body, FIELDS, "complete");
  const reader = new AbortController(); // aborts when the reader of a stream goes away
  const answered = Promise.withResolvers<Response>();
  const work = slot.use(
    request.model,
    AbortSignal.any([signal, reader.signal]),
    async (model, signal) => {
      const completion = new Completion(model, request);
      completion.check(slot.freeBytes());
      if (!request.stream) return answered.resolve(Response.json(await completion.whole(signal)));
      const { readable, send, close } = eventStream(() => reader.abort());
      answered.resolve(
        new Response(readable, { headers: { "content-type": "text/event-stream" } }),
      );
      try {
        for await (const chunk of completion.chunks(signal)) send(JSON.stringify(chunk));
        send("[DONE]");
      } catch (error) {
        send(JSON.stringify(errorBody(toApiError(error, 503))));
        throw error;
      } finally {
        close();
      }
    },
  );
  work.catch(answered.reject);
  return await answered.promise;
}

/**
 * A stream of server-sent events. Events wait in memory for a slow reader, so that it does not hold up others; there
 * are never more than the tokens of one request.
 */
function eventStream(onCancel: () => void) {
  const utf8 = new TextEncoder();
  let controller: ReadableStreamDefaultController<Uint8Array>, isOpen = true;
  const readable = new ReadableStream<Uint8Array>({
    start: (started) => {
      controller = started;
    },
    cancel() {
      isOpen = false;
      onCancel();
    },
  });
  return {
    readable,
    send: (data: string) => {
      if (isOpen) controller.enqueue(utf8.encode(`data: ${data}\n\n`));
    },
    close: () => {
      if (isOpen) controller.close();
      isOpen = false;
    },
  };
}

/** What is generated for a request: `n` completions of each prompt. */
class Completion {
  readonly #model: ServedModel;
  readonly #request: CompletionFields;
  readonly #prompts: readonly string[]; // by choice
  readonly #promptIds: readonly (readonly number[])[]; // by choice
  readonly #firstSeed: number;
  readonly #head: { id: string; object: "text_completion"; created: number; model: string };

  constructor(model: ServedModel, request: CompletionFields) {
    const { prompt, n, seed } = request, { tokenizer, name } = model;
    this.#model = model;
    this.#request = request;
    const prompts = [prompt].flat();
    this.#prompts = prompts.flatMap((prompt) => Array<string>(n).fill(prompt));
    const ids = new Map(prompts.map((prompt) => [prompt, promptIds(tokenizer, prompt)]));
    this.#promptIds = this.#prompts.map((prompt) => ids.get(prompt)!);
    this.#firstSeed = seed ?? crypto.getRandomValues(new Uint32Array(1))[0]!;
    this.#head = {
      id: `cmpl-${crypto.randomUUID()}`,
      object: "text_completion",
      created: Math.floor(Date.now() / 1000),
      model: name,
    };
  }

  /**
   * Makes sure that the completions fit the device and the free memory.
   *
   * @throws {ApiError} naming the field to lower.
   */
  check(freeBytes: number): void {
    const { gpt } = this.#model;
    try {
      sequencesAtOnce(gpt, {
        promptTokens: Math.max(...this.#promptIds.map(({ length }) => length)),
        maxNewTokens: this.#request.max_tokens,
        samples: this.#prompts.length,
        sampler: samplerOf(this.#request),
        freeBytes: freeBytes + gpt.bytes, // the model is among the bytes that are counted
      });
    } catch (error) {
      throw toApiError(error, 400);
    }
  }

  #pieces(signal: AbortSignal): AsyncGenerator<BatchPiece, void> {
    const { max_tokens, stop } = this.#request;
    return generateBatch(this.#model, {
      streams: this.#prompts.map((prompt, i) => ({
        prompt,
        seed: (this.#firstSeed + i) % 2 ** 32,
      })),
      maxNewTokens: max_tokens,
      stop: [stop].flat(),
      sampler: samplerOf(this.#request),
      signal,
    });
  }

  /** The choice that a piece continues. */
  #choice({ stream: index, text, ids, result }: BatchPiece, isFirst: boolean): Choice {
    const shown = this.#request.return_token_ids;
    return {
      text,
      index,
      logprobs: null,
      finish_reason: result ? FINISH_REASONS[result.reason] : null,
      ...(shown ? { token_ids: ids } : {}),
      ...(shown && isFirst ? { prompt_token_ids: this.#promptIds[index]! } : {}),
    };
  }

  #usage(completionTokens: number): object {
    const { n } = this.#request;
    const promptTokens = this.#promptIds.reduce((sum, { length }) => sum + length, 0) / n;
    return {
      prompt_tokens: promptTokens,
      completion_tokens: completionTokens,
      total_tokens: promptTokens + completionTokens,
    };
  }

  /** The parts of the choices, as they are drawn. */
  async *chunks(signal: AbortSignal): AsyncGenerator<object, void> {
    const begun = new Set<number>();
    let tokens = 0;
    for await (const piece of this.#pieces(signal)) {
      yield { ...this.#head, choices: [this.#choice(piece, !begun.has(piece.stream))] };
      begun.add(piece.stream);
      tokens += piece.result?.tokens ?? 0;
    }
    if (this.#request.stream_options.include_usage) {
      yield { ...this.#head, choices: [], usage: this.#usage(tokens) };
    }
  }

  /** All choices, complete. */
  async whole(signal: AbortSignal): Promise<object> {
    const choices: Choice[] = this.#prompts.map((_, stream) =>
      this.#choice({ stream, text: "", ids: [] }, true)
    );
    let tokens = 0;
    for await (const piece of this.#pieces(signal)) {
      const choice = choices[piece.stream]!;
      const { text, finish_reason, token_ids } = this.#choice(piece, false);
      choice.text += text;
      choice.finish_reason = finish_reason;
      if (token_ids) choice.token_ids = [...choice.token_ids!, ...token_ids];
      tokens += piece.result?.tokens ?? 0;
    }
    signal.throwIfAborted();
    return { ...this.#head, choices, usage: this.#usage(tokens) };
  }
}
