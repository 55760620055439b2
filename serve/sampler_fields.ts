import { flagOf } from "../files/command_line.ts";
import { DEFAULT_SAMPLER } from "../generate/request.ts";
import { SAMPLER_RULES, type SamplerOptions } from "../kernels/sample/sample.ts";
import { fieldOf } from "./api_error.ts";
import type { FieldTable } from "./request.ts";

/**
 * The options of the sampler as fields of a request.
 *
 * @module
 */

/** The name of an option in a request: `top_k` for `topK`. */
type FieldName<Option extends string> = Option extends `${infer Letter}${infer Rest}`
  ? `${Letter extends Lowercase<Letter> ? Letter : `_${Lowercase<Letter>}`}${FieldName<Rest>}`
  : Option;

/** The options of the sampler by their names in requests. */
export type SamplerFields = {
  [Option in keyof SamplerOptions as FieldName<Option>]: SamplerOptions[Option];
};

/** Each option with its name in requests. */
const NAMES = (Object.keys(SAMPLER_RULES) as (keyof SamplerOptions)[])
  .map((option) => [option, fieldOf(flagOf(option)) as keyof SamplerFields] as const);

/** Defaults of OpenAI that differ from those of `deno task generate`. */
const OPENAI_DEFAULTS: Partial<SamplerOptions> = { temperature: 1, topP: 1 };

/** The fields of the sampler, with OpenAI's defaults; those that OpenAI lacks have the defaults of `deno task generate`. */
export const SAMPLER_FIELDS = Object.fromEntries(
  NAMES.map(([option, name]) => {
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
  const entries = NAMES.map(([option, name]) => [option, fields[name]]);
  return Object.fromEntries(entries) as unknown as SamplerOptions;
}

/** The defaults of `deno task generate` for the sampler, and what each value must be, by their names in requests. */
export function samplerDefaults(): Record<string, { value: number; must: string }> {
  return Object.fromEntries(
    NAMES.map(([option, name]) => [name, {
      value: DEFAULT_SAMPLER[option],
      must: SAMPLER_FIELDS[name].must,
    }]),
  );
}
