import type { PresetName } from "../../model/config.ts";
import { DEPTHS, sizesAtDepth } from "./plan.ts";
import { readPlan } from "./plan_file.ts";
import { SIZE_TWICE, type TrainOptions } from "../options.ts";
import { checkArchitecture, checkDimensions, sizesOf, type TrainingDefaults } from "../resolve.ts";
import { checkExcluded, OptionError, validateOptions } from "../validate.ts";

/**
 * What `--depth`, `--minutes` and `--plan` mean before the data is known.
 *
 * @module
 */

/** Whether a plan decides the size of a training. */
export function isPlanned({ depth, minutes, plan }: TrainOptions): boolean {
  return (depth ?? minutes ?? plan) !== undefined;
}

/** The values among some options that the user typed. */
export function typedAmong(options: TrainOptions, typed: readonly string[]): Partial<TrainOptions> {
  return Object.fromEntries(Object.entries(options).filter(([name]) => typed.includes(name)));
}

/** Options with those of a plan in place of what is not typed. */
export function withPlanned<Given extends TrainOptions>(
  options: Given,
  planned: Partial<TrainOptions>,
  typed: readonly string[],
): Given {
  const untyped = Object.entries(planned).filter(([name]) => !typed.includes(name));
  return { ...options, ...Object.fromEntries(untyped) };
}

/**
 * The options of a new training with those that a depth or a plan decides before the data is known.
 *
 * @throws {OptionError} if a typed option contradicts the plan.
 */
export function withSizes(options: TrainOptions, typed: readonly string[]): TrainOptions {
  const { depth, plan } = options;
  if (plan !== undefined) {
    const { options: planned } = readPlan(plan);
    if (planned.initFrom === undefined) checkExcluded("plan", "initFrom", SIZE_TWICE, options);
    const sized = withPlanned(options, planned, typed);
    // passes over this text replace the steps that were planned for another
    if (typed.includes("epochs") && !typed.includes("steps")) sized.steps = undefined;
    validateOptions(sized);
    return sized;
  }
  if (depth === undefined) return options;
  return withPlanned(options, sizesAtDepth(depth, typedAmong(options, typed)), typed);
}

/** Whether the time of a training decides how large its model is. */
export function isSizeOpen({ depth, minutes, plan, preset, initFrom }: TrainOptions): boolean {
  return minutes !== undefined && preset === "auto" &&
    (depth ?? plan ?? initFrom) === undefined;
}

/** The depths among which a time may choose: those whose sizes allow what is typed, such as three `windows`. */
export function allowedDepths(
  options: TrainOptions,
  typed: readonly string[],
  defaults: TrainingDefaults,
): number[] {
  return DEPTHS.filter((depth) => {
    try {
      checkSizes(withSizes({ ...options, depth }, typed), defaults);
      return true;
    } catch (error) {
      if (!(error instanceof OptionError)) throw error;
      return false;
    }
  });
}

/**
 * Makes sure that a new model can have the sizes and the architecture of the options.
 *
 * @throws {OptionError} naming the flags and their values.
 */
export function checkSizes(
  options: TrainOptions,
  defaults: TrainingDefaults,
  preset: PresetName | "auto" = "auto",
): void {
  const sizes = sizesOf(options, defaults);
  checkDimensions(sizes, options, preset);
  checkArchitecture(options, sizes);
}

/** The sentence that says what decides the size of a new model, if a plan does. */
export function sizeReason(options: TrainOptions): string | undefined {
  const { depth, minutes, plan } = options;
  if (plan !== undefined) return `as planned in ${plan}`;
  if (depth !== undefined) return `depth ${depth}, as asked`;
  return isSizeOpen(options)
    ? `the depth for ${minutes} min is chosen when the text is known`
    : undefined;
}
