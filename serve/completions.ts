import { isObject, type JsonObject } from "../files/json.ts";
import {
  type BatchPiece,
  generateBatch,
  type GenerateResult,
  promptIds,
  seededStreams,
} from "../generate/generate.ts";
import { sequencesAtOnce } from "../generate/limits.ts";
import { predictionsOf } from "../inspect/predictions.ts";
import { ApiError, errorBody, toApiError } from "./api_error.ts";
import type { ModelSlot, ServedModel } from "./model_slot.ts";
import { BOOLEAN, checkRequest, type Field, type FieldTable, TEXT, whole } from "./request.ts";
import { SAMPLER_FIELDS, type SamplerFields, samplerOf } from "./sampler_fields.ts";

/**
 * Completions in the shape of OpenAI's API (https://platform.openai.com/docs/api-reference/completions).
 *
 * @module
 */

/** Completions per request, and tokens per completion, at most. */
const MOST_COMPLETIONS = 128, MOST_TOKENS = 16_384;

/** Alternatives per token in `logprobs`, at most, as OpenAI has it. */
const MOST_LOGPROBS = 5;

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

/** A text, or a list of texts. */
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
  stream: BOOLEAN,
  stream_options: {
    must: "an object with include_usage, true or false, at most",
    holds: (value) =>
      isObject(value) &&
      Object.entries(value).every(([name, option]) =>
        name === "include_usage" && BOOLEAN.holds(option)
      ),
    fallback: {},
  },
  logprobs: { ...whole(0, MOST_LOGPROBS), fallback: undefined },
  return_token_ids: BOOLEAN,
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

/** Logarithms of the probabilities that the model gives to tokens, before the sampler changes them. */
interface Logprobs {
  tokens: string[];
  token_logprobs: number[];
  /** The likeliest tokens and the drawn one; null if none are asked for. */
  top_logprobs: Record<string, number>[] | null;
  /** Where each token begins in prompt and completion. */
  text_offset: number[];
}

/** A completion, or the next part of one. */
interface Choice {
  text: string;
  index: number;
  logprobs: Logprobs | null;
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
  const request = checkRequest(body, FIELDS, "complete"), count = countOf(request);
  if (count > MOST_COMPLETIONS) {
    throw new ApiError(
      400,
      `Cannot complete as n times the number of prompts must be at most ${MOST_COMPLETIONS}: ` +
        `current number is ${count}`,
      { param: "n" },
    );
  }
  const reader = new AbortController(); // aborts when the reader of a stream goes away
  const answered = Promise.withResolvers<Response>();
  const work = slot.use(
    request.model,
    AbortSignal.any([signal, reader.signal]),
    async (model, signal) => {
      const completions = new Completions(model, request);
      completions.check(slot.freeBytes());
      if (!request.stream) return answered.resolve(Response.json(await completions.whole(signal)));
      const stream = eventStream(() => reader.abort());
      const headers = { "content-type": "text/event-stream" };
      answered.resolve(new Response(stream.readable, { headers }));
      await sendChunks(stream, completions.chunks(signal), signal);
    },
  );
  work.catch(answered.reject);
  return await answered.promise;
}

/** Completions of a request: n per prompt. */
function countOf({ prompt, n }: CompletionFields): number {
  return n * [prompt].flat().length;
}

/** Sends chunks as they come, then the end of the answer or the error. */
async function sendChunks(
  { send, close, fail }: ReturnType<typeof eventStream>,
  chunks: AsyncIterable<object>,
  signal: AbortSignal,
): Promise<void> {
  try {
    for await (const chunk of chunks) send(JSON.stringify(chunk));
    signal.throwIfAborted();
    send("[DONE]");
    close();
  } catch (error) {
    try {
      send(JSON.stringify(errorBody(toApiError(error, 503))));
      close();
    } catch (mistake) {
      fail(mistake);
    }
    throw error; // the slot must know of a device that is lost
  }
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
    fail: (error: unknown) => {
      if (isOpen) controller.error(error);
      isOpen = false;
    },
  };
}

/** One of the completions of a request: its tokens so far, of which logprobs may be asked for. */
class Completion {
  readonly promptIds: readonly number[];
  readonly #model: ServedModel;
  readonly #top: number | undefined;
  readonly #decoder: { push(id: number): string };
  #ids: readonly number[]; // of prompt and completion
  #offset: number;

  constructor(
    model: ServedModel,
    { prompt, promptIds, top }: {
      prompt: string;
      promptIds: readonly number[];
      top: number | undefined;
    },
  ) {
    this.#model = model;
    this.promptIds = this.#ids = promptIds;
    this.#top = top;
    this.#decoder = model.tokenizer.decoder(promptIds);
    this.#offset = prompt.length;
  }

  /** Adds the next tokens, and returns their logprobs if they are asked for. */
  async add(ids: readonly number[]): Promise<Logprobs | null> {
    const from = this.#ids.length - 1, top = this.#top;
    if (top === undefined) return null;
    this.#ids = [...this.#ids, ...ids];
    const { predictions } = await predictionsOf(this.#model, this.#ids, { top, from });
    const logprobs: Logprobs = {
      tokens: [],
      token_logprobs: [],
      top_logprobs: top === 0 ? null : [],
      text_offset: [],
    };
    for (const { next, top: likeliest } of predictions) {
      if (!next) break;
      logprobs.tokens.push(next.text);
      logprobs.token_logprobs.push(-next.loss);
      logprobs.top_logprobs?.push(Object.fromEntries(
        [...likeliest, next].map(({ text, probability }) => [text, Math.log(probability)]),
      ));
      logprobs.text_offset.push(this.#offset);
      this.#offset += this.#decoder.push(next.id).length;
    }
    return logprobs;
  }
}

/** A choice, and its next part behind it. */
function joined(before: Choice, next: Choice): Choice {
  return {
    ...before,
    text: before.text + next.text,
    finish_reason: next.finish_reason,
    logprobs: before.logprobs && next.logprobs && {
      tokens: [...before.logprobs.tokens, ...next.logprobs.tokens],
      token_logprobs: [...before.logprobs.token_logprobs, ...next.logprobs.token_logprobs],
      top_logprobs: before.logprobs.top_logprobs &&
        [...before.logprobs.top_logprobs, ...next.logprobs.top_logprobs!],
      text_offset: [...before.logprobs.text_offset, ...next.logprobs.text_offset],
    },
    ...(before.token_ids ? { token_ids: [...before.token_ids, ...next.token_ids!] } : {}),
  };
}

/** The completions of a request: `n` of each prompt. */
class Completions {
  readonly #model: ServedModel;
  readonly #request: CompletionFields;
  readonly #streams: ReturnType<typeof seededStreams>; // by choice
  readonly #completions: readonly Completion[]; // by choice
  readonly #head: { id: string; object: "text_completion"; created: number; model: string };

  constructor(model: ServedModel, request: CompletionFields) {
    const { prompt, n, seed } = request, { tokenizer, name } = model;
    this.#model = model;
    this.#request = request;
    const prompts = [prompt].flat();
    const choices = prompts.flatMap((prompt) => Array<string>(n).fill(prompt));
    this.#streams = seededStreams(choices, seed);
    const ids = new Map(prompts.map((prompt) => [prompt, promptIds(tokenizer, prompt)]));
    this.#completions = choices.map((prompt) =>
      new Completion(model, { prompt, promptIds: ids.get(prompt)!, top: request.logprobs })
    );
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
        promptTokens: Math.max(...this.#completions.map(({ promptIds }) => promptIds.length)),
        maxNewTokens: this.#request.max_tokens,
        samples: this.#streams.length,
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
      streams: this.#streams,
      maxNewTokens: max_tokens,
      stop: [stop].flat(),
      sampler: samplerOf(this.#request),
      signal,
    });
  }

  /** The choice that a piece continues. */
  async #choice(
    { stream: index, text, ids, result }: BatchPiece,
    isFirst: boolean,
  ): Promise<Choice> {
    const { return_token_ids } = this.#request, completion = this.#completions[index]!;
    return {
      text,
      index,
      logprobs: await completion.add(ids),
      finish_reason: result ? FINISH_REASONS[result.reason] : null,
      ...(return_token_ids ? { token_ids: ids } : {}),
      ...(return_token_ids && isFirst ? { prompt_token_ids: completion.promptIds } : {}),
    };
  }

  #usage(completionTokens: number): object {
    const { n } = this.#request;
    const promptTokens =
      this.#completions.reduce((sum, { promptIds }) => sum + promptIds.length, 0) / n;
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
      yield { ...this.#head, choices: [await this.#choice(piece, !begun.has(piece.stream))] };
      begun.add(piece.stream);
      tokens += piece.result?.tokens ?? 0;
    }
    if (this.#request.stream_options.include_usage) {
      yield { ...this.#head, choices: [], usage: this.#usage(tokens) };
    }
  }

  /** All choices, complete. */
  async whole(signal: AbortSignal): Promise<object> {
    const choices: Choice[] = [];
    let tokens = 0;
    for await (const piece of this.#pieces(signal)) {
      const before = choices[piece.stream];
      const choice = await this.#choice(piece, before === undefined);
      choices[piece.stream] = before === undefined ? choice : joined(before, choice);
      tokens += piece.result?.tokens ?? 0;
    }
    signal.throwIfAborted();
    return { ...this.#head, choices, usage: this.#usage(tokens) };
  }
}
