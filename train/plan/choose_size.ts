import type { Corpus } from "../../data/tokens/corpus.ts";
import type { Batches } from "../../data/tokens/batches.ts";
import { flagOf } from "../../files/command_line.ts";
import { shortDuration } from "../../files/units.ts";
import { UserError } from "../../files/user_error.ts";
import type { RecomputeMode } from "../../model/activations.ts";
import type { GptConfig } from "../../model/config.ts";
import { createGpt } from "../../model/gpt.ts";
import { countBlockParameters } from "../../model/parameters.ts";
import {
  type DepthSizes,
  type Measurement,
  optionsAtDepth,
  type Plan,
  planForDepth,
  planForSeconds,
  type PlannedOptions,
  withFigures,
} from "./plan.ts";
import { readPlan } from "./plan_file.ts";
import { newModel } from "../architecture.ts";
import { timeSteps } from "../estimate.ts";
import { type Callbacks, notice, reporting, type TrainEvent } from "../events.ts";
import { checkTraining } from "../limits.ts";
import { type OptionName, tokensPerStepOf, type TrainOptions } from "../options.ts";
import type { Setup, Workplace } from "../run.ts";
import { sizesOf } from "../resolve.ts";
import { allowedDepths, isPlanned, isSizeOpen, typedAmong, withPlanned } from "./size.ts";
import { createTrainStep } from "../step.ts";
import { batchesOf } from "../training_data.ts";

/**
 * How the text, the time and this machine decide the size of a training.
 *
 * @module
 */

/** Share of the time for steps; the rest is for evaluations, samples, checkpoints, and a machine that becomes slower. */
const STEPS_SHARE = 0.88;

/** What is known of a training before its size. */
interface Unsized extends Pick<Workplace, "device"> {
  readonly setup: Setup;
  readonly corpus: Corpus;
  readonly ranks: number;
}

/** A plan, and the options that it would have without those that are typed. */
interface Planned {
  readonly plan: Plan;
  readonly untyped: Partial<TrainOptions>;
}

/**
 * Decides the options of a new training that a plan decides and that are not typed.
 *
 * @param secondsLeft time until the training must end, if it is limited.
 */
export async function* chooseSize(
  place: Workplace,
  setup: Setup,
  corpus: Corpus,
  secondsLeft: (() => number) | undefined,
): AsyncGenerator<TrainEvent, Setup> {
  const { given, typed, resumed } = setup, { device, transport } = place;
  const known = { device, setup, corpus, ranks: transport.size };
  if (resumed || !isPlanned(given)) return setup;
  const { plan, untyped } = given.plan !== undefined
    ? repeatPlan(given.plan, known)
    : secondsLeft === undefined
    ? planAtDepth(given.depth!, known)
    : yield* reporting(
      (callbacks) => planInTime(() => STEPS_SHARE * secondsLeft(), known, callbacks),
      place.signal,
    );
  const replaced = (Object.entries(untyped) as [OptionName, unknown][])
    .filter(([name, value]) => typed.includes(name) && given[name] !== value)
    .map(([name, value]) => `${flagOf(name)} ${given[name]} in place of ${value}`);
  if (replaced.length > 0) yield notice(`as given: ${replaced.join(", ")}`);
  const planned = { ...withPlanned(given, plan.options, typed), depth: plan.depth };
  // without a clock, --epochs alone decides the steps, to the last row of the text
  if (given.epochs !== undefined && secondsLeft === undefined) planned.steps = given.steps;
  return { ...setup, given: planned, plan };
}

/** The plan of another run, whose options are given already. */
function repeatPlan(path: string, known: Unsized): Planned {
  const saved = readPlan(path), { given, defaults } = known.setup, { options } = saved;
  const sizes = { ...sizesOf(given, defaults), steps: given.steps ?? options.steps! };
  const blockParameters = countBlockParameters(configAt({}, known));
  const figures = withFigures(sizes, { given, blockParameters, ...factsOf(known) });
  // the text may need other documents than those of the plan, see fittingTo()
  const { documents } = given, plan = { ...figures, ...saved, options: { ...options, documents } };
  return { plan, untyped: options };
}

/** The plan of a training at a depth, however long it takes. */
function planAtDepth(depth: number, known: Unsized): Planned {
  const options = {
    ...factsOf(known),
    blockParametersOf: (sizes: DepthSizes) => countBlockParameters(configAt(sizes, known)),
  };
  const given = typedAmong(known.setup.given, known.setup.typed);
  return {
    plan: planForDepth(depth, { ...options, given }),
    untyped: planForDepth(depth, options).options,
  };
}

/** The plan of a training that ends in time: its steps, and its depth unless the size of the model is given. */
async function planInTime(
  seconds: () => number,
  known: Unsized,
  callbacks: Callbacks,
): Promise<Planned> {
  const { given } = known.setup;
  const isSized = given.depth === undefined && !isSizeOpen(given);
  const { secondsPerStep, ...planned } = isSized
    ? await planSteps(seconds, known, callbacks)
    : await planDepth(seconds, known, callbacks);
  const left = Math.max(0, seconds());
  if (secondsPerStep > left) {
    callbacks.onNotice(
      `a step takes ${shortDuration(secondsPerStep)}, and there are ${shortDuration(left)} for ` +
        "steps: the training does one step and ends late",
    );
  }
  return planned;
}

/** A plan that was made from measurements. */
interface Measured extends Planned {
  /** Time of a step of the plan. */
  readonly secondsPerStep: number;
}

/** The plan of a model whose size is given: as many steps as fit the time. */
async function planSteps(
  seconds: () => number,
  known: Unsized,
  { signal }: Callbacks,
): Promise<Measured> {
  const { ranks, setup: { given, typed, defaults } } = known;
  const { batchSize, contextLength } = sizesOf(given, defaults);
  const { tokensPerSecond } = (await measure({}, known, { signal, mustFit: true }))!;
  const secondsPerStep = tokensPerStepOf({ ...given, batchSize, contextLength, ranks }) /
    tokensPerSecond;
  const steps = given.steps ?? Math.max(1, Math.floor(seconds() / secondsPerStep));
  const schedule = typedAmong(given, typed).schedule ?? "wsd";
  const blockParameters = countBlockParameters(configAt({}, known));
  const sizes = { batchSize, contextLength, steps };
  const figures = withFigures(sizes, { given, blockParameters, ...factsOf(known) });
  const untyped = { steps, schedule };
  return { plan: { ...figures, options: untyped }, untyped, secondsPerStep };
}

/** The plan of a model whose size the time decides, or the depth that is given. */
async function planDepth(
  seconds: () => number,
  known: Unsized,
  { signal, onNotice }: Callbacks,
): Promise<Measured> {
  const { ranks, setup: { given, typed, defaults } } = known, facts = factsOf(known);
  let mustFit = true; // the smallest model, as nothing else can be planned
  const plan = await planForSeconds(seconds(), {
    given: typedAmong(given, typed),
    ...facts,
    depths: given.depth === undefined ? allowedDepths(given, typed, defaults) : [given.depth],
    async measure(sizes, depth) {
      onNotice(`measuring the speed at depth ${depth}`);
      const found = await measure(sizes, known, { signal, mustFit });
      mustFit = false;
      return found;
    },
  });
  const { depth, options } = plan;
  const { tokens, tokensPerSecond } = plan.candidates!.find((tried) => tried.depth === depth)!;
  const { batchSize, contextLength } = options as Required<PlannedOptions>;
  const untyped = optionsAtDepth(depth!, { given: { schedule: "wsd" }, tokens, ...facts });
  const tokensPerStep = tokensPerStepOf({ ...given, batchSize, contextLength, ranks });
  return { plan, untyped, secondsPerStep: tokensPerStep / tokensPerSecond };
}

/** What a plan knows beside the options. */
function factsOf({ corpus: { training }, ranks }: Unsized): {
  trainingTokens: number;
  ranks: number;
} {
  return { trainingTokens: training.length, ranks };
}

/** The configuration of a model whose sizes replace those of the options; that of the initial model, if there is one. */
function configAt(
  sizes: Partial<TrainOptions>,
  { setup: { given, defaults, config }, corpus }: Unsized,
): GptConfig {
  const options = { ...given, ...sizes }, { vocabularySize } = corpus.tokenizer;
  return config ?? newModel({ ...options, ...sizesOf(options, defaults), vocabularySize });
}

/**
 * Measures a training of a model with random parameters, whose sizes replace those of the options; undefined if it does
 * not fit the device or the text. Other ranks are taken to be as fast, and the exchange with them to take no time: a
 * training that turns out to be slower ends after fewer steps.
 *
 * @throws {UserError} that says why it does not fit, if it must.
 */
async function measure(
  sizes: Partial<TrainOptions>,
  known: Unsized,
  { signal, mustFit = false }: { signal: AbortSignal; mustFit?: boolean },
): Promise<Measurement | undefined> {
  const { device, setup: { given, precision, defaults }, corpus, ranks } = known;
  const config = configAt(sizes, known);
  const { batchSize, contextLength } = sizesOf({ ...given, ...sizes }, defaults);
  const shape = { batchSize, contextLength };
  let batches: Batches, recompute: RecomputeMode;
  try {
    batches = batchesOf(corpus, { ...given, ...shape });
    const sized = { ...given, ...shape, config, precision, isResumed: false };
    ({ recompute } = checkTraining(device, sized));
  } catch (error) {
    if (mustFit || !(error instanceof UserError)) throw error;
    return undefined;
  }
  using gpt = createGpt(device, config, { precision, freeze: given.freeze ?? "" });
  using trainStep = createTrainStep(gpt, {
    ...given,
    batchSize,
    sequenceLength: contextLength,
    recompute,
  });
  const timed = await timeSteps({ options: given, batches, signal }, { gpt, trainStep });
  if (!timed) throw signal.reason;
  const tokens = tokensPerStepOf({ ...given, ...shape, ranks });
  return {
    blockParameters: countBlockParameters(config),
    tokensPerSecond: tokens / timed.secondsPerStep,
  };
}
