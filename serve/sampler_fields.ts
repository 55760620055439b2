import { DEFAULT_SAMPLER } from "../generate/request.ts";
import { SAMPLER_RULES, type SamplerOptions } from "../kernels/sample/sample.ts";
import type { FieldTable } from "./request.ts";

/**
 * The options of the sampler as fields of a request.
 *
 * @module
 */

/** The fields of the sampler, in the words of the API. */
export interface SamplerFields {
  temperature: number;
  top_p: number;
  top_k: number;
  min_p: number;
  repetition_penalty: number;
  repetition_window: number;
  presence_penalty: number;
  frequency_penalty: number;
}

/** Options of the sampler by their names in a request. */
const SAMPLER_OPTIONS: Readonly<Record<keyof SamplerFields, keyof SamplerOptions>> = {
  temperature: "temperature",
  top_p: "topP",
  top_k: "topK",
  min_p: "minP",
  repetition_penalty: "repetitionPenalty",
  repetition_window: "repetitionWindow",
  presence_penalty: "presencePenalty",
  frequency_penalty: "frequencyPenalty",
};

/** OpenAI's defaults, where they differ from those of `deno task generate`. */
const OPENAI_DEFAULTS: Partial<SamplerOptions> = { temperature: 1, topP: 1 };

/** The fields of the sampler, with OpenAI's defaults; those that OpenAI lacks have the defaults of `deno task generate`. */
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

/** The defaults of `deno task generate` for the sampler, and what each value must be, by their names in requests. */
export function samplerDefaults(): Record<string, { value: number; must: string }> {
  return Object.fromEntries(
    Object.entries(SAMPLER_OPTIONS).map(([name, option]) => [name, {
      value: DEFAULT_SAMPLER[option],
      must: SAMPLER_FIELDS[name as keyof SamplerFields].must,
    }]),
  );
}
