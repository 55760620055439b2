import { UserError } from "../files/user_error.ts";
import type { ResolvedOptions } from "./options.ts";
import type { StepState } from "./step_state.ts";

/**
 * What ends a training whose steps are skipped because their gradients are not finite.
 *
 * @module
 */

/** Consecutive skipped steps that end the training. */
const MOST_SKIPS = 100;

/** Throws if too many steps in a row were skipped. */
export function checkSkips(
  { consecutiveSkips }: Pick<StepState, "consecutiveSkips">,
  options: ResolvedOptions,
): void {
  if (consecutiveSkips < MOST_SKIPS) return;
  throw new UserError(
    `Cannot continue training as ${consecutiveSkips} steps in a row had a gradient that is not ` +
      `finite: try a lower ${ratesAsFlags(options)} or --precision f32`,
  );
}

/** The error of a training of which all steps were skipped. */
export function allSkipped(first: number, options: ResolvedOptions): UserError {
  return new UserError(
    `Cannot finish training as the gradient of every step since step ${first} was not finite, ` +
      `so that none changed the model: try a lower ${ratesAsFlags(options)}, --precision f32, or ` +
      "more --steps",
  );
}

/** The highest rates as flags, for a sentence. */
function ratesAsFlags(
  { optimizer, learningRate, muonLearningRate }: ResolvedOptions,
): string {
  const ofMuon = optimizer === "muon" ? ` or --muon-learning-rate (it is ${muonLearningRate})` : "";
  return `--learning-rate (it is ${learningRate})${ofMuon}`;
}
