import { createGpt, type Gpt } from "../model/gpt.ts";
import { OuterStep } from "./diloco.ts";
import { createEvaluator, type Evaluator } from "./evaluate.ts";
import type { Run } from "./run.ts";
import { createTrainStep, type TrainStep } from "./step.ts";

/**
 * What each rank of a training allocates. Ranks that exchange numbers must all have the same, so that rank 0 and those that
 * follow it allocate it here.
 *
 * @module
 */

/** A rank's part of a training. */
export interface RankTraining {
  readonly gpt: Gpt;
  readonly trainStep: TrainStep;
  /** The outer step, if the ranks train by DiLoCo. */
  readonly outer?: OuterStep | undefined;
}

/** Allocates the model. */
export function createModel(
  { device, options: { precision, freeze = "" }, config }: Pick<
    Run,
    "device" | "options" | "config"
  >,
): Gpt {
  return createGpt(device, config, { precision, freeze });
}

/** Records the step. */
export function createStep(
  { options, recompute, transport }: Pick<Run, "options" | "recompute" | "transport">,
  gpt: Gpt,
): TrainStep {
  const { contextLength: sequenceLength } = options;
  return createTrainStep(gpt, { ...options, sequenceLength, recompute, transport });
}

/** Allocates the outer step; undefined if the ranks add up their gradients. */
export function createOuterStep(
  { options, transport }: Pick<Run, "options" | "transport">,
  training: Pick<RankTraining, "gpt" | "trainStep">,
): OuterStep | undefined {
  return options.syncEvery > 1 ? new OuterStep(transport, training, options) : undefined;
}

/** Records the evaluation of the model on held-out text. */
export function createEvaluation(
  { options, corpus, transport }: Pick<Run, "options" | "corpus" | "transport">,
  gpt: Gpt,
): Evaluator {
  const { batchSize, contextLength: sequenceLength, evalTokens } = options;
  return createEvaluator(gpt, corpus.tokenizer, corpus.validation, {
    batchSize,
    sequenceLength,
    maxTokens: evalTokens || Infinity,
    transport,
  });
}
