import { UserError } from "../files/user_error.ts";
import { largestThat, misfitOf, shortageOf } from "../kernels/fit.ts";
import type { SamplerOptions } from "../kernels/sample/sample.ts";
import { createGpt, type Gpt } from "../model/gpt.ts";
import { countParameters } from "../model/parameters.ts";
import { batchSlots, mostSequences } from "./slots.ts";

/** The size of a generation. */
export interface GenerationPlan {
  /** Tokens of the longest prompt. */
  readonly promptTokens: number;
  readonly maxNewTokens: number;
  readonly completions: number;
  readonly sampler: SamplerOptions;
  /** Free bytes of memory for model and sequences on a CPU adapter; not checked by default. */
  readonly freeBytes?: number;
}

/**
 * Sequences that a device continues in one batch.
 *
 * @throws {UserError} naming the option to lower if not even one fits.
 */
export function sequencesAtOnce(
  { device, config, precision, quantize }: Pick<
    Gpt,
    "device" | "config" | "precision" | "quantize"
  >,
  { promptTokens, maxNewTokens, completions, sampler, freeBytes = Infinity }: GenerationPlan,
): number {
  const misfit = (sequences: number, tokens: number) =>
    misfitOf(device, (dry) => {
      batchSlots(createGpt(dry, config, { precision, quantize }), {
        slots: sequences,
        maxTokens: tokens,
        sampler,
        readsPrompts: true,
      });
    }, { freeBytes });
  const tokens = promptTokens + maxNewTokens;
  let sequences = Math.min(completions, mostSequences({ device, config, precision }, tokens));
  let problem = misfit(sequences, tokens);
  while (problem && sequences > 1) {
    sequences = Math.floor(sequences / 2);
    problem = misfit(sequences, tokens);
  }
  if (!problem) return sequences;
  const reason = shortageOf(problem), { name } = device;
  const most = largestThat((n) => !misfit(1, n), tokens);
  if (most > promptTokens) {
    throw new UserError(
      `Cannot generate as --max-new-tokens must be at most ${
        most - promptTokens
      } after a prompt of ` +
        `${promptTokens} token${promptTokens === 1 ? "" : "s"} on ${name}: ` +
        `current value is ${maxNewTokens} ${reason}`,
    );
  }
  if (most > 1) {
    throw new UserError(
      `Cannot generate as the prompt must have fewer than ${most} tokens on ${name}: ` +
        `current number is ${promptTokens} ${reason}`,
    );
  }
  throw new UserError(
    `Cannot generate as the model must be smaller on ${name}: ` +
      `it has ${countParameters(config)} parameters ${reason}`,
  );
}
