import type { CompletionPiece, TokenLogprobs } from "../generate/completion.ts";
import { promptIdsOf } from "../generate/request.ts";
import { predictionsOf } from "../inspect/predictions.ts";
import type { JsonObject } from "../files/json.ts";
import {
  type Answer,
  answerWith,
  type Choice,
  finishReasonOf,
  type RequestContext,
} from "./answer.ts";
import { ApiError } from "./api_error.ts";
import {
  COMMON_FIELDS,
  type CommonFields,
  completionId,
  engineRequest,
  fieldsFor,
  idFields,
  seedsOf,
} from "./common_fields.ts";
import { MOST_COMPLETION_LOGPROBS, MOST_COMPLETIONS, MOST_TOKENS } from "./limits.ts";
import type { Models } from "./models.ts";
import { BOOLEAN, checkRequest, type FieldTable, only, TEXT, whole } from "./request.ts";
import type { ServedModel } from "./served_model.ts";

/**
 * Completions in the shape of OpenAI's API (https://platform.openai.com/docs/api-reference/completions).
 *
 * @module
 */

/** A text, or its ids. */
type Prompt = string | readonly number[];

/** The fields of a request. */
interface CompletionFields extends CommonFields {
  prompt: Prompt | readonly Prompt[];
  max_tokens: number;
  logprobs: number | undefined;
  echo: boolean;
}

/** What a request may hold. */
const FIELDS: FieldTable<CompletionFields> = {
  ...COMMON_FIELDS,
  prompt: {
    must: `a text, a list of ids, or a list of 1 to ${MOST_COMPLETIONS} of them`,
    holds: (value) =>
      isPrompt(value) ||
      Array.isArray(value) && value.length > 0 && value.length <= MOST_COMPLETIONS &&
        value.every(isPrompt),
    fallback: "",
  },
  max_tokens: { ...whole(0, MOST_TOKENS), fallback: 16 },
  logprobs: { ...whole(0, MOST_COMPLETION_LOGPROBS), fallback: undefined },
  echo: BOOLEAN,
  ...{ best_of: only(1), suffix: only("") },
};

function isPrompt(value: unknown): value is Prompt {
  return TEXT.holds(value) ||
    Array.isArray(value) && value.length > 0 &&
      value.every((id) => Number.isSafeInteger(id) && id >= 0);
}

/** Logarithms of the probabilities that the model gives to tokens, before the sampler changes them. */
interface Logprobs {
  tokens: string[];
  /** Null for a first token, which follows nothing. */
  token_logprobs: (number | null)[];
  /** The likeliest tokens and the drawn one; null if none are asked for. */
  top_logprobs: (Record<string, number> | null)[] | null;
  /** Where each token begins in prompt and completion, in code points, which Python counts. */
  text_offset: number[];
}

/**
 * Answers `POST /v1/completions`.
 *
 * @returns the whole answer, or a stream of its parts as server-sent events.
 */
export async function complete(
  models: Models,
  body: JsonObject,
  context: RequestContext,
): Promise<Response> {
  const fields = checkRequest(body, fieldsFor(models, FIELDS), "complete"),
    prompts = promptsOf(fields);
  const count = fields.n * prompts.length;
  if (count > MOST_COMPLETIONS) {
    throw new ApiError(
      400,
      `Cannot complete as n times the number of prompts must be at most ${MOST_COMPLETIONS}: ` +
        `current number is ${count}`,
      { param: "n" },
    );
  }
  context.record.prompt = fields.prompt;
  return await answerWith(
    models,
    { ...fields, count },
    context,
    (model) => answerOf(model, fields),
  );
}

/** The prompts of a request; a list of ids is one. */
function promptsOf({ prompt }: CompletionFields): readonly Prompt[] {
  if (typeof prompt === "string") return [prompt];
  return typeof prompt[0] === "number" ? [prompt as readonly number[]] : prompt as Prompt[];
}

/** A prompt as the model reads it. */
interface ReadPrompt {
  readonly text: string;
  /** The tokens that the model reads. */
  readonly ids: readonly number[];
  /** The tokens of the text itself: all but the one that begins every text. */
  readonly ownIds: readonly number[];
  /** The logprobs of `ownIds`, computed once; the signal is that of the request. */
  logprobs(signal: AbortSignal): Promise<readonly TokenLogprobs[]>;
}

/** The completions of a request: `n` of each prompt. */
function answerOf(model: ServedModel, fields: CompletionFields): Answer {
  const prompts = promptsOf(fields).map((prompt) => readPrompt(model, prompt, fields));
  const choices = prompts.flatMap((prompt) => Array<ReadPrompt>(fields.n).fill(prompt));
  const seeds = seedsOf(fields, choices.length);
  return {
    choices: choices.map((prompt, i) => choiceOf(model, fields, { prompt, seed: seeds[i]! })),
    promptTokens: prompts.reduce((sum, { ids }) => sum + ids.length, 0),
    head: completionId("cmpl", model),
    object: "text_completion",
    objectOfParts: "text_completion",
  };
}

function readPrompt(
  model: ServedModel,
  prompt: Prompt,
  { logprobs: top = 0 }: CompletionFields,
): ReadPrompt {
  const { tokenizer } = model, isText = typeof prompt === "string";
  if (!isText) model.checkIds(prompt, "prompt");
  const ids = isText ? promptIdsOf(tokenizer, prompt) : prompt;
  const hasFirst = isText && (prompt === "" || tokenizer.beginOfText !== undefined);
  const ownIds = hasFirst ? ids.slice(1) : ids;
  let computed: Promise<readonly TokenLogprobs[]> | undefined;
  const logprobs = async (signal: AbortSignal) => {
    const all = await promptLogprobs(model, ids, { top, signal });
    return all.slice(ids.length - ownIds.length);
  };
  return {
    text: isText ? prompt : tokenizer.decode(prompt),
    ids,
    ownIds,
    logprobs: (signal) => computed ??= logprobs(signal),
  };
}

/** A completion of a prompt. */
function choiceOf(
  model: ServedModel,
  fields: CompletionFields,
  { prompt, seed }: { prompt: ReadPrompt; seed: number },
): Choice {
  const { max_tokens: maxNewTokens, echo, logprobs: top } = fields, { ids: promptIds } = prompt;
  const logprobs = top === undefined ? undefined : logprobsWriter(model, {
    top,
    before: echo ? [] : promptIds,
    offset: echo ? 0 : codePoints(prompt.text),
  });
  const part = (piece: CompletionPiece, isFirst: boolean) => ({
    text: piece.text,
    logprobs: logprobs ? logprobs(piece) : null,
    finish_reason: finishReasonOf(piece),
    ...idFields(fields, { ids: piece.ids, promptIds, isFirst }),
  });
  const echoed = async (signal: AbortSignal): Promise<CompletionPiece> => ({
    text: prompt.text,
    ids: prompt.ownIds,
    ...(top === undefined ? {} : { logprobs: await prompt.logprobs(signal) }),
  });
  return {
    request: engineRequest(fields, { promptIds, maxNewTokens, seed, logprobs: top }),
    ...(echo ? { before: echoed } : {}),
    part,
    whole: (piece) => part(piece, true),
  };
}

/**
 * Writes the logprobs of a text's tokens in OpenAI's shape, piece by piece.
 *
 * @param options.top number of likeliest tokens per token.
 * @param options.before the tokens before those of the first piece.
 * @param options.offset where the first token begins, in code points.
 */
function logprobsWriter(
  { tokenizer, token }: ServedModel,
  { top, before, offset }: { top: number; before: readonly number[]; offset: number },
): (piece: CompletionPiece) => Logprobs {
  const decoder = tokenizer.decoder(before), textOf = (id: number) => token(id).text;
  const offsetOf = (id: number) => {
    const begin = offset;
    offset += codePoints(decoder.push(id));
    return begin;
  };
  return ({ ids, logprobs = [] }) => ({
    tokens: ids.map(textOf),
    token_logprobs: logprobs.map(({ logprob }) => Number.isNaN(logprob) ? null : logprob),
    top_logprobs: top === 0 ? null : logprobs.map(({ id, logprob, top }) => (
      Number.isNaN(logprob) ? null : Object.fromEntries(
        [...top, { id, logprob }].map(({ id, logprob }) => [textOf(id), logprob]),
      )
    )),
    text_offset: ids.map(offsetOf),
  });
}

function codePoints(text: string): number {
  return [...text].length;
}

/** The logprobs of the tokens of a prompt; NaN for the first one, which follows nothing. */
async function promptLogprobs(
  model: ServedModel,
  ids: readonly number[],
  { top, signal }: { top: number; signal: AbortSignal },
): Promise<TokenLogprobs[]> {
  using _ = await model.passes.acquire(signal);
  const { predictions } = await predictionsOf(model, ids, { top, signal });
  const first = { id: ids[0]!, logprob: NaN, top: [] };
  return [
    first,
    ...predictions.slice(0, -1).map(({ top, next }) => ({
      id: next!.id,
      logprob: -next!.loss,
      top: top.map(({ id, probability }) => ({ id, logprob: Math.log(probability) })),
    })),
  ];
}
