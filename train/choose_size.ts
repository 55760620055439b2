import type { Corpus } from "../data/tokens/corpus.ts";
import { Batches } from "../data/tokens/batches.ts";
import { flagOf } from "../files/command_line.ts";
import { UserError } from "../files/user_error.ts";
import type { RecomputeMode } from "../model/activations.ts";
import type { GptConfig } from "../model/config.ts";
import { createGpt } from "../model/gpt.ts";
import { countBlockParameters } from "../model/parameters.ts";
import {
  type BudgetPlan,
  describePlan,
  type Measurement,
  optionsAtDepth,
  planForDepth,
  planForSeconds,
  planOf,
  readPlan,
} from "./budget.ts";
import { newModel } from "./architecture.ts";
import { timeSteps } from "./estimate.ts";
import { reporting, type TrainEvent } from "./events.ts";
import { checkTraining } from "./limits.ts";
import type { OptionName, TrainOptions } from "./options.ts";
import type { Plan, Workplace } from "./plan.ts";
import { sizesOf } from "./resolve.ts";
import { isPlanned, typedAmong, withPlanned } from "./size.ts";
import { createTrainStep } from "./step.ts";

/**
 * How the text, the time and this machine decide the size of a training.
 *
 * @module
 */

/** Share of the time for steps; the rest is for evaluations, samples, checkpoints, and a machine that becomes slower. */
const STEPS_SHARE = 0.88;

/**
 * Decides the options of a new training that a plan decides and that are not typed.
 *
 * @param secondsLeft time until the training must end, if it is limited.
 */
export async function* chooseSize(
  place: Workplace,
  plan: Plan,
  corpus: Corpus,
  secondsLeft: (() => number) | undefined,
): AsyncGenerator<TrainEvent, Plan> {
  const { given, typed, resumed, initial } = plan;
  if (resumed || !isPlanned(given)) return plan;
  const text = { trainingTokens: corpus.training.length };
  const fixed = typedAmong(given, typed), { gradientAccumulation } = given;
  const sizesWith = (sizes: Partial<TrainOptions>) =>
    sizesOf({ ...given, ...sizes }, plan.defaults);
  const configOf = (sizes: Partial<TrainOptions>): GptConfig =>
    plan.config ??
      newModel({
        ...{ ...given, ...sizesWith(sizes) },
        vocabularySize: corpus.tokenizer.vocabularySize,
      });
  const blockParametersOf = (sizes: Partial<TrainOptions>) => countBlockParameters(configOf(sizes));

  let budget: BudgetPlan;
  if (given.plan !== undefined) {
    const { depth } = readPlan(given.plan), { batchSize, contextLength } = sizesWith({});
    const options = { ...readPlan(given.plan).options, batchSize, contextLength };
    budget = {
      ...planOf({ ...options, steps: given.steps ?? 1 }, {
        ...{ given, blockParameters: blockParametersOf({}), ...text },
      }),
      ...(depth === undefined ? {} : { depth }),
    };
  } else if (secondsLeft === undefined) {
    budget = planForDepth(given.depth!, { given: fixed, ...text, blockParametersOf });
  } else {
    const seconds = () => STEPS_SHARE * secondsLeft();
    const measured = (sizes: Partial<TrainOptions>, signal: AbortSignal) =>
      measure(place, plan, corpus, { ...sizesWith(sizes), config: configOf(sizes), signal });
    const isSized = given.preset !== "auto" || initial !== undefined;
    budget = yield* reporting(async ({ signal, onNotice }) => {
      if (isSized) {
        const found = await measured({}, signal);
        const { batchSize, contextLength } = sizesWith({});
        const tokens = seconds() * (found?.tokensPerSecond ?? 0);
        const steps = given.steps ??
          Math.max(1, Math.floor(tokens / (batchSize * contextLength * gradientAccumulation)));
        const schedule = fixed.schedule ?? "wsd";
        const sizes = { batchSize, contextLength, steps };
        return {
          ...planOf(sizes, { given, blockParameters: blockParametersOf({}), ...text }),
          options: { steps, schedule },
        };
      }
      return await planForSeconds(seconds(), {
        given: fixed,
        ...text,
        ...(given.depth === undefined ? {} : { depths: [given.depth] }),
        async measure(sizes, depth) {
          onNotice(`measuring the speed at depth ${depth}`);
          return await measured(sizes, signal);
        },
      });
    }, place.signal);
  }
  yield { kind: "notice", message: describePlan(budget) };
  const { depth, options, candidates, blockParameters } = budget;
  const tokens = candidates?.find((tried) => tried.depth === depth)?.tokens;
  const dial = given.plan !== undefined
    ? readPlan(given.plan).options
    : depth === undefined
    ? options
    : tokens === undefined
    ? planForDepth(depth, { ...text, blockParametersOf }).options
    : optionsAtDepth(depth, { given: { schedule: "wsd" }, tokens, blockParameters, ...text });
  const other = (Object.entries(dial) as [OptionName, unknown][])
    .filter(([name, value]) => typed.includes(name) && given[name] !== value)
    .map(([name, value]) => `${flagOf(name)} ${given[name]} in place of ${value}`);
  if (other.length > 0) yield { kind: "notice", message: `as given: ${other.join(", ")}` };
  return {
    ...plan,
    given: { ...withPlanned(given, options, typed), depth },
    budget,
  };
}

/** Measures a training of a model with random parameters; undefined if it does not fit the device or the text. */
async function measure(
  { device }: Workplace,
  { given, precision }: Plan,
  corpus: Corpus,
  { config, signal, batchSize, contextLength }: {
    config: GptConfig;
    signal: AbortSignal;
    batchSize: number;
    contextLength: number;
  },
): Promise<Measurement | undefined> {
  const { seed, sequence, gradientAccumulation, freeze = "" } = given;
  const shape = { batchSize, contextLength };
  let batches: Batches, recompute: RecomputeMode;
  try {
    batches = new Batches(corpus.training, {
      ...{ ...shape, sequence, seed },
      padding: corpus.tokenizer.endOfText,
    });
    const sized = { ...given, ...shape, config, precision, isResumed: false };
    ({ recompute } = checkTraining(device, sized));
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    return undefined;
  }
  using gpt = createGpt(device, config, { precision, freeze });
  using trainStep = createTrainStep(gpt, {
    ...given,
    batchSize,
    sequenceLength: contextLength,
    recompute,
  });
  const timed = await timeSteps({ options: given, batches, signal }, { gpt, trainStep });
  if (!timed) throw signal.reason;
  const tokens = batchSize * contextLength * gradientAccumulation;
  return {
    blockParameters: countBlockParameters(config),
    tokensPerSecond: tokens / timed.secondsPerStep,
  };
}
