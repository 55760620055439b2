import { isObject } from "../files/json.ts";
import type { EngineRequest } from "../generate/request.ts";
import { randomSeed, seedsFrom } from "../generate/request.ts";
import { MOST_COMPLETIONS, MOST_STOP_UNITS, MOST_STOPS } from "./limits.ts";
import type { Models } from "./models.ts";
import { BOOLEAN, type Field, type FieldTable, only, TEXT, whole } from "./request.ts";
import { SAMPLER_FIELDS, type SamplerFields, samplerOf } from "./sampler_fields.ts";
import type { ServedModel } from "./served_model.ts";

/**
 * What requests for completions and for chats have in common.
 *
 * @module
 */

/** The fields that both have. */
export interface CommonFields extends SamplerFields {
  model: string;
  n: number;
  seed: number | undefined;
  stop: string | readonly string[];
  stream: boolean;
  stream_options: { include_usage?: boolean };
  /** As in vLLM: the ids of prompt and completion are part of the response. */
  return_token_ids: boolean;
}

/** A text that may end a completion: of whole characters, as no piece of a completion ends within one. */
const isStop = (value: unknown): value is string =>
  typeof value === "string" && value !== "" && value.length <= MOST_STOP_UNITS &&
  value.isWellFormed();

/** A field that says nothing about the completion. */
const ANY_TEXT: Field<string> = { ...TEXT, fallback: "" };

/** The fields that both have, and others of OpenAI's that have no effect here. */
export const COMMON_FIELDS: FieldTable<CommonFields> = {
  model: TEXT,
  ...SAMPLER_FIELDS,
  n: { ...whole(1, MOST_COMPLETIONS), fallback: 1 },
  seed: { ...whole(0), fallback: undefined },
  stop: {
    must:
      `a well-formed text of 1 to ${MOST_STOP_UNITS} characters or a list of at most ${MOST_STOPS}`,
    holds: (value) =>
      isStop(value) ||
      Array.isArray(value) && value.length <= MOST_STOPS && value.every(isStop),
    fallback: [],
  },
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
  return_token_ids: BOOLEAN,
  ...{ user: ANY_TEXT, logit_bias: only({}) },
};

/** The fields of a request, whose `model` must be one of these. */
export function fieldsFor<Values extends CommonFields>(
  { must }: Models,
  table: FieldTable<Values>,
): FieldTable<Values> {
  return { ...table, model: { ...TEXT, must } };
}

/** The seeds of the choices of a request: the one that is given, or a random one, and those that follow it. */
export function seedsOf(
  { seed = randomSeed() }: CommonFields,
  count: number,
): number[] {
  return seedsFrom(seed, count);
}

/** What the engine is asked for by a request. */
export function engineRequest(
  { stop, ...fields }: SamplerFields & Pick<CommonFields, "stop">,
  request: Pick<EngineRequest, "promptIds" | "maxNewTokens" | "seed" | "endIds" | "logprobs">,
): EngineRequest {
  return { ...request, sampler: samplerOf(fields), stop: [stop].flat() };
}

/** The fields of a choice that hold ids, if they are asked for. */
export function idFields(
  { return_token_ids }: Pick<CommonFields, "return_token_ids">,
  { ids, promptIds, isFirst }: {
    ids: readonly number[];
    promptIds: readonly number[];
    isFirst: boolean;
  },
): object {
  if (!return_token_ids) return {};
  return { token_ids: ids, ...isFirst ? { prompt_token_ids: promptIds } : {} };
}

/** The fields by which an answer is identified. */
export function completionId(
  prefix: string,
  { name }: ServedModel,
): { id: string; created: number; model: string } {
  return {
    id: `${prefix}-${crypto.randomUUID()}`,
    created: Math.floor(Date.now() / 1000),
    model: name,
  };
}
