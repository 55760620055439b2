import {
  type Conversation,
  MalformedMessage,
  type Message,
  readMessage,
} from "../data/text/conversations.ts";
import { isObject, type JsonObject } from "../files/json.ts";
import { printable, quoted } from "../files/printable.ts";
import type { CompletionPiece } from "../generate/completion.ts";
import { MOST_LOGPROBS } from "../kernels/sample/sample.ts";
import {
  type Answer,
  answerWith,
  type Choice,
  finishReasonOf,
  type RequestContext,
} from "./answer.ts";
import { ApiError, toApiError } from "./api_error.ts";
import {
  COMMON_FIELDS,
  type CommonFields,
  completionId,
  engineRequest,
  fieldsFor,
  idFields,
  seedsOf,
} from "./common_fields.ts";
import { MOST_TOKENS } from "./limits.ts";
import type { Models } from "./models.ts";
import {
  BOOLEAN,
  checkRequest,
  type FieldTable,
  only,
  TEXT,
  unsupported,
  whole,
} from "./request.ts";
import type { ServedModel } from "./served_model.ts";

/**
 * Answers in a conversation, in the shape of OpenAI's API (https://platform.openai.com/docs/api-reference/chat).
 *
 * @module
 */

/** The fields of a request. */
interface ChatFields extends CommonFields {
  messages: readonly unknown[];
  max_tokens: number | undefined;
  max_completion_tokens: number | undefined;
  logprobs: boolean;
  top_logprobs: number | undefined;
}

/** What a request may hold. */
const FIELDS: FieldTable<ChatFields> = {
  ...COMMON_FIELDS,
  messages: {
    must: "a list of one or more messages",
    holds: (value) => Array.isArray(value) && value.length > 0,
  },
  max_tokens: { ...whole(1, MOST_TOKENS), fallback: undefined },
  max_completion_tokens: { ...whole(1, MOST_TOKENS), fallback: undefined },
  logprobs: BOOLEAN,
  top_logprobs: { ...whole(0, MOST_LOGPROBS), fallback: undefined },
  // of OpenAI's, without effect here
  ...{
    tools: unsupported("tools"),
    tool_choice: only("none", "auto"),
    parallel_tool_calls: only(true, false),
    functions: unsupported("functions"),
    function_call: only("none", "auto"),
    response_format: only({ type: "text" }),
    modalities: only(["text"]),
    audio: unsupported("audio"),
    prediction: unsupported("predicted outputs"),
    reasoning_effort: unsupported("reasoning"),
    verbosity: unsupported("verbosity"),
    web_search_options: unsupported("web search"),
    store: only(false),
    metadata: { must: "an object", holds: isObject, fallback: {} },
    service_tier: only("auto", "default"),
    safety_identifier: { ...TEXT, fallback: "" },
    prompt_cache_key: { ...TEXT, fallback: "" },
  },
};

/** Fields of a message that clients send back as they came, empty. */
const EMPTY_FIELDS = ["refusal", "annotations", "audio", "function_call", "tool_calls"];

/**
 * Answers `POST /v1/chat/completions`.
 *
 * @returns the whole answer, or a stream of its parts as server-sent events.
 */
export async function chat(
  models: Models,
  body: JsonObject,
  context: RequestContext,
): Promise<Response> {
  const fields = checkRequest(body, fieldsFor(models, FIELDS), "chat"),
    messages = fields.messages.map(messageOf);
  const { max_tokens, max_completion_tokens, logprobs, top_logprobs } = fields;
  if (max_tokens !== undefined && max_completion_tokens !== undefined) {
    throw new ApiError(
      400,
      "Cannot chat as max_tokens must be absent beside max_completion_tokens, its new name",
      { param: "max_tokens" },
    );
  }
  if (top_logprobs !== undefined && !logprobs) {
    throw new ApiError(400, "Cannot chat as logprobs must be true if top_logprobs is given", {
      param: "top_logprobs",
    });
  }
  context.record.prompt = messages;
  return await answerWith(
    models,
    { ...fields, count: fields.n },
    context,
    (model) => answerOf(model, fields, messages),
  );
}

/**
 * A message of a request.
 *
 * @throws {ApiError} naming the field that is wrong.
 */
function messageOf(message: unknown, index: number): Message {
  const at = `messages[${index}]`;
  try {
    const { role: _, content: _1, ...others } = isObject(message) ? message : {};
    for (const [name, value] of Object.entries(others)) {
      const isEmpty = value === null || Array.isArray(value) && value.length === 0;
      if (EMPTY_FIELDS.includes(name) && isEmpty) continue;
      const field = `${at}.${printable(name)}`;
      throw new MalformedMessage(field, "absent, as it is not supported", value);
    }
    return readMessage(message, at);
  } catch (error) {
    if (!(error instanceof MalformedMessage)) throw error;
    const { place: param, must, value } = error;
    throw new ApiError(
      400,
      `Cannot chat as ${param} must be ${must}: current value is ${quoted(value)}`,
      { param },
    );
  }
}

/** The answers of a request: `n` of them. */
async function answerOf(
  model: ServedModel,
  fields: ChatFields,
  messages: Conversation,
): Promise<Answer> {
  const { n, max_tokens, max_completion_tokens = max_tokens, logprobs, top_logprobs = 0 } = fields;
  const { contextLength } = model.gpt.config;
  const { promptIds, endIds } = await encoded(model, messages);
  if (promptIds.length >= contextLength) {
    throw new ApiError(
      400,
      `Cannot chat as the messages must have fewer tokens than the model's context, which has ` +
        `${contextLength}: current number is ${promptIds.length}`,
      { param: "messages", code: "context_length_exceeded" },
    );
  }
  const maxNewTokens = max_completion_tokens ??
    Math.min(MOST_TOKENS, contextLength - promptIds.length);
  const others = (piece: CompletionPiece, isFirst: boolean) => ({
    logprobs: piece.logprobs ? { content: contentLogprobs(model, piece), refusal: null } : null,
    finish_reason: finishReasonOf(piece),
    ...idFields(fields, { ids: piece.ids, promptIds, isFirst }),
  });
  return {
    choices: seedsOf(fields, n).map((seed): Choice => ({
      request: engineRequest(fields, {
        ...{ promptIds, endIds, maxNewTokens, seed },
        logprobs: logprobs ? top_logprobs : undefined,
      }),
      part: (piece, isFirst) => ({
        delta: { ...(isFirst ? { role: "assistant" } : {}), content: piece.text },
        ...others(piece, isFirst),
      }),
      whole: (piece) => ({
        message: { role: "assistant", content: piece.text, refusal: null },
        ...others(piece, true),
      }),
    })),
    promptTokens: promptIds.length,
    head: completionId("chatcmpl", model),
    object: "chat.completion",
    objectOfParts: "chat.completion.chunk",
  };
}

/** The ids of a conversation up to where the answer begins, and the ids that end it. */
async function encoded(model: ServedModel, messages: Conversation) {
  try {
    const { promptIds, endIds } = await model.chatFormat();
    return { promptIds: promptIds(messages), endIds };
  } catch (error) {
    const { status, message } = toApiError(error, 400); // the template refuses the messages, or is not Jinja
    throw new ApiError(status, message, { param: "messages", cause: error });
  }
}

/** Logarithms of the probabilities that the model gives to tokens, before the sampler changes them. */
function contentLogprobs({ token }: ServedModel, { logprobs = [] }: CompletionPiece): object[] {
  const described = ({ id, logprob }: { id: number; logprob: number }) => {
    const { text, bytes } = token(id);
    return { token: text, logprob, bytes };
  };
  return logprobs.map(({ top, ...drawn }) => ({
    ...described(drawn),
    top_logprobs: top.map(described),
  }));
}
