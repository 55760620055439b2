import type { CompletionPiece } from "../generate/completion.ts";
import type { EngineRequest } from "../generate/request.ts";
import { merged } from "../generate/merged.ts";
import { DeviceError } from "../kernels/device.ts";
import { LinkedAbort, unlessAborted } from "./abort.ts";
import { apiErrorOf, errorBody, toApiError } from "./api_error.ts";
import type { Models } from "./models.ts";
import type { RequestRecord } from "./request_record.ts";
import type { ServedModel } from "./served_model.ts";
import { textStream } from "./text_stream.ts";

/**
 * Answers of several choices: each is a text that the engine continues, whole or piece by piece.
 *
 * @module
 */

/** What an answer to a request needs beside its body. */
export interface RequestContext {
  /** Aborts when the client leaves, or when the answer takes too long. */
  readonly signal: AbortSignal;
  /** Where it is noted what becomes of the request. */
  readonly record: RequestRecord;
}

/** One of the choices of an answer. */
export interface Choice {
  /** What the engine is asked for; `maxNewTokens` may be 0. */
  readonly request: EngineRequest;
  /** What comes before the first piece that the engine draws, such as the prompt. */
  before?(signal: AbortSignal): Promise<CompletionPiece>;
  /** A piece as part of a stream. */
  part(piece: CompletionPiece, isFirst: boolean): object;
  /** All pieces, joined. */
  whole(piece: CompletionPiece): object;
}

/** An answer in the shape of one of OpenAI's APIs. */
export interface Answer {
  readonly choices: readonly Choice[];
  /** Tokens of the prompts, each counted once. */
  readonly promptTokens: number;
  /** Fields of the answer, whole or in each part of a stream. */
  readonly head: { readonly id: string; readonly created: number; readonly model: string };
  /** The field `object` of a whole answer. */
  readonly object: string;
  /** The field `object` of a part of a stream. */
  readonly objectOfParts: string;
}

/** The model and the form of an answer. */
export interface AnswerOptions {
  readonly model: string;
  readonly stream: boolean;
  readonly stream_options: { readonly include_usage?: boolean };
  /** Number of its choices, which the model must admit before their prompts are read. */
  readonly count: number;
}

/** Why a completion ends with a piece, as OpenAI names it; null if more pieces follow. */
export function finishReasonOf({ result }: CompletionPiece): "length" | "stop" | null {
  if (!result) return null;
  return result.reason === "length" ? "length" : "stop"; // one that was aborted has no reader
}

/**
 * Milliseconds for which a response waits for its first text, so that an error has a status. Then it begins in any case:
 * Deno 2.9 does not notice that a client leaves before that, if the headers of its request but not its whole body have
 * come with the first 512 bytes.
 */
const HELD_MS = 100;

/**
 * Answers a request with a model: with JSON, or with a stream of parts as server-sent events. The body of an answer that
 * fails later is, or ends with, the error.
 *
 * @param make makes the answer of a model.
 */
export async function answerWith(
  models: Models,
  { model: name, count, stream, stream_options }: AnswerOptions,
  { signal, record }: RequestContext,
  make: (model: ServedModel) => Answer | Promise<Answer>,
): Promise<Response> {
  const left = new LinkedAbort(signal); // aborts when the reader of the response leaves, too
  const answered = Promise.withResolvers<Response>();
  const [type, frame] = stream
    ? ["text/event-stream", (json: string) => `data: ${json}\n\n`] as const
    : ["application/json", (json: string) => json] as const;
  const body = models.use(name, left.signal, async (model, signal) => {
    using _admitted = model.admit(count);
    const answer = await make(model), { choices, promptTokens } = answer;
    using _kept = model.keepLogprobs(logprobsOf(choices));
    record.model = model.name;
    record.promptTokens = promptTokens;
    const pieces = piecesOf(model, choices, { signal, record });
    const texts = stream ? partsOf(answer, pieces, stream_options) : wholeOf(answer, pieces);
    const first = texts.next();
    await atMost(HELD_MS, unlessAborted(first, signal));
    const { readable, ended } = textStream(
      framed({ first, rest: texts }, frame, record),
      () => left.abort(new DOMException("The reader has left", "AbortError")),
    );
    answered.resolve(new Response(readable, { headers: { "content-type": type } }));
    await ended;
    signal.throwIfAborted();
    if (record.error) throw record.error; // `use()` must learn that the device is lost
  }).catch((error) => {
    record.fail(error);
    answered.reject(error);
  }).finally(() => left[Symbol.dispose]());
  const response = await answered.promise;
  record.body = body;
  return response;
}

/** Logprobs that choices may have, at most, with those of alternatives and of prompts that come before. */
function logprobsOf(choices: readonly Choice[]): number {
  return choices.reduce((sum, { request, before }) => {
    const { promptIds = [], maxNewTokens = 0, logprobs } = request;
    if (logprobs === undefined) return sum;
    return sum + (maxNewTokens + (before ? promptIds.length : 0)) * (1 + logprobs);
  }, 0);
}

/** Waits for a promise, but not longer than some time. */
async function atMost(milliseconds: number, promise: Promise<unknown>): Promise<void> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<void>((resolve) => timer = setTimeout(resolve, milliseconds));
  try {
    await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** A piece of one of the choices. */
type ChoicePiece = CompletionPiece & { readonly index: number };

/** The pieces of all choices, as they are drawn, whose times and tokens are noted. */
async function* piecesOf(
  { engine }: ServedModel,
  choices: readonly Choice[],
  { signal, record }: RequestContext,
): AsyncGenerator<ChoicePiece, void> {
  using over = new LinkedAbort(signal); // aborts when one of the choices fails, too
  const pieces = merged(choices.map((choice) => choicePieces(engine, choice, over)));
  for await (const { index, piece } of pieces) {
    const choicePiece = { ...piece, index };
    record.add(choicePiece);
    yield choicePiece;
  }
  signal.throwIfAborted(); // the engine ends without an error
}

/** The pieces of a choice: what comes before it, and what the engine draws. */
async function* choicePieces(
  engine: ServedModel["engine"],
  { request, before }: Choice,
  over: LinkedAbort,
): AsyncGenerator<CompletionPiece, void> {
  const { signal } = over;
  let drawn: AsyncGenerator<CompletionPiece, void> | undefined;
  try {
    drawn = submitted(engine, { ...request, signal }); // refuses a prompt that is too long before it is read
    if (before) yield await before(signal);
    yield* drawn;
  } catch (error) {
    over.abort(undefined);
    throw error;
  } finally {
    await drawn?.return();
  }
}

/** The pieces of a request of the engine, which refuses it if it can never be completed, or if the device has failed. */
function submitted(engine: ServedModel["engine"], request: EngineRequest) {
  try {
    return engine.submit(request);
  } catch (error) {
    throw error instanceof DeviceError ? error : toApiError(error, 400);
  }
}

/** Two pieces as one. */
function joined(before: CompletionPiece | undefined, next: CompletionPiece): CompletionPiece {
  if (!before) return next;
  const logprobs = before.logprobs && next.logprobs && [...before.logprobs, ...next.logprobs];
  return {
    text: before.text + next.text,
    ids: [...before.ids, ...next.ids],
    ...(logprobs ? { logprobs } : {}),
    ...(next.result ? { result: next.result } : {}),
  };
}

function usageOf({ promptTokens }: Answer, completionTokens: number): object {
  return {
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    total_tokens: promptTokens + completionTokens,
  };
}

/** The whole answer as JSON, choice by choice: one with logprobs has megabytes, and other requests are answered between. */
async function* wholeOf(
  answer: Answer,
  pieces: AsyncIterable<ChoicePiece>,
): AsyncGenerator<readonly string[], void> {
  const { head, object, choices } = answer, whole: CompletionPiece[] = [];
  for await (const piece of pieces) whole[piece.index] = joined(whole[piece.index], piece);
  const tokens = whole.reduce((sum, { result }) => sum + (result?.tokens ?? 0), 0);
  const usage = usageOf(answer, tokens), beginning = JSON.stringify({ ...head, object, usage });
  let text = `${beginning.slice(0, -1)},"choices":[`;
  for (const [index, choice] of choices.entries()) {
    if (index > 0) {
      yield [text];
      text = ",";
    }
    text += JSON.stringify({ index, ...choice.whole(whole[index]!) });
  }
  yield [`${text}]}`];
}

/** The parts of a stream, as JSON; those of its end with the last piece, as each write costs some 50 µs. */
async function* partsOf(
  answer: Answer,
  pieces: AsyncIterable<ChoicePiece>,
  { include_usage = false }: AnswerOptions["stream_options"],
): AsyncGenerator<readonly string[], void> {
  const { objectOfParts: object, choices } = answer, begun = new Set<number>();
  const part = (choices: readonly object[], usage: object | null) =>
    JSON.stringify({ ...answer.head, object, choices, ...(include_usage ? { usage } : {}) });
  let tokens = 0, unended = choices.length;
  for await (const { index, ...piece } of pieces) {
    const choice = choices[index]!.part(piece, !begun.has(index)), { result } = piece;
    begun.add(index);
    tokens += result?.tokens ?? 0;
    if (result && result.reason !== "aborted") unended--; // what is aborted ends with an error
    const end = unended > 0
      ? []
      : [...include_usage ? [part([], usageOf(answer, tokens))] : [], "[DONE]"];
    yield [part([{ index, ...choice }], null), ...end];
  }
}

/** The texts of a body: those of `first` and `rest`, and the error that ends them, if there is one. */
async function* framed(
  { first, rest }: {
    first: Promise<IteratorResult<readonly string[], void>>;
    rest: AsyncGenerator<readonly string[], void>;
  },
  frame: (json: string) => string,
  record: RequestRecord,
): AsyncGenerator<string, void> {
  try {
    for (let next = await first; !next.done; next = await rest.next()) {
      yield next.value.map(frame).join("");
    }
  } catch (error) {
    record.fail(error);
    yield frame(JSON.stringify(errorBody(apiErrorOf(error, 503))));
  } finally {
    await rest.return();
  }
}
