import type { Command, OptionValues } from "@commander-js/extra-typings";
import { flagOf } from "../files/command_line.ts";
import { DEFAULT_SAMPLER } from "../generate/request.ts";
import { SAMPLER_RULES, type SamplerOptions } from "../kernels/sample/sample.ts";
import { realNumber, wholeNumber } from "./command.ts";

/** The options of the sampler among those of a command. */
export function samplerOf(options: SamplerOptions): SamplerOptions {
  const names = Object.keys(SAMPLER_RULES) as (keyof SamplerOptions)[];
  return Object.fromEntries(
    names.map((name) => [name, options[name]]),
  ) as unknown as SamplerOptions;
}

/** The names of the values in `--help`, and what the options mean. */
const HELP: Readonly<Record<keyof SamplerOptions, readonly [value: string, help: string]>> = {
  temperature: ["<x>", "how random the choice of a token is; 0: always the likeliest"],
  topK: ["<n>", "only the n likeliest tokens; 0: all"],
  topP: ["<p>", "only the likeliest tokens up to this probability"],
  minP: ["<p>", "only tokens at least p times as likely as the likeliest"],
  repetitionPenalty: ["<x>", "above 1: tokens of the text become less likely"],
  repetitionWindow: [
    "<n>",
    "last tokens of the text to which --repetition-penalty applies; 0: all",
  ],
  presencePenalty: ["<x>", "above 0: tokens that were drawn before become less likely"],
  frequencyPenalty: ["<x>", "above 0: tokens become less likely each time that they are drawn"],
};

/** Adds the options of the sampler to a command. */
export function withSamplerOptions<Args extends unknown[], Options extends OptionValues>(
  program: Command<Args, Options>,
): Command<Args, Options & SamplerOptions> {
  const untyped: Command = program.optionsGroup("Sampling:") as never;
  for (const [name, [value, help]] of Object.entries(HELP)) {
    const parse = value === "<n>" ? wholeNumber() : realNumber;
    const byDefault = DEFAULT_SAMPLER[name as keyof SamplerOptions];
    untyped.option(`${flagOf(name)} ${value}`, help, parse, byDefault);
  }
  return program as never;
}
