import type { Command, OptionValues } from "@commander-js/extra-typings";
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

/** Adds the options of the sampler to a command. */
export function withSamplerOptions<Args extends unknown[], Options extends OptionValues>(
  program: Command<Args, Options>,
): Command<Args, Options & SamplerOptions> {
  // the types of a chain of options take minutes to check if those before it are a parameter
  const untyped: Command = program as never;
  untyped.optionsGroup("Sampling:")
    .option(
      "--temperature <x>",
      "0 draws the likeliest token every time",
      realNumber,
      DEFAULT_SAMPLER.temperature,
    )
    .option(
      "--top-k <n>",
      "only the n likeliest tokens; 0: all",
      wholeNumber(),
      DEFAULT_SAMPLER.topK,
    )
    .option(
      "--top-p <p>",
      "only the likeliest tokens up to this probability",
      realNumber,
      DEFAULT_SAMPLER.topP,
    )
    .option(
      "--min-p <p>",
      "only tokens p times as likely as the likeliest",
      realNumber,
      DEFAULT_SAMPLER.minP,
    )
    .option(
      "--repetition-penalty <x>",
      "above 1: tokens that the text has are less likely",
      realNumber,
      DEFAULT_SAMPLER.repetitionPenalty,
    )
    .option(
      "--repetition-window <n>",
      "that penalty applies to this many last tokens; 0: to all",
      wholeNumber(),
      DEFAULT_SAMPLER.repetitionWindow,
    )
    .option(
      "--presence-penalty <x>",
      "above 0: tokens that were drawn before are less likely",
      realNumber,
      DEFAULT_SAMPLER.presencePenalty,
    )
    .option(
      "--frequency-penalty <x>",
      "the same for each time that they were drawn",
      realNumber,
      DEFAULT_SAMPLER.frequencyPenalty,
    );
  return program as never;
}
