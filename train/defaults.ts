import type { PresetName } from "../model/config.ts";
import { PRESETS } from "../model/config.ts";
import type { Precision } from "../model/precision.ts";
import type { TrainOptions } from "./options.ts";

/** How long and how fast a preset is trained when nobody says otherwise. */
export interface PresetDefaults {
  readonly batchSize: number;
  readonly steps: number;
  readonly learningRate: number;
}

/**
 * Defaults by preset.
 *
 * Learning rates fall with width, as usual (Kaplan et al. 2020, https://arxiv.org/abs/2001.08361,
 * appendix D.6); batches fit an 8 GB card. `nano` is sized for two CPU cores and three minutes.
 */
export const PRESET_DEFAULTS: Readonly<Record<PresetName, PresetDefaults>> = {
  nano: { batchSize: 32, steps: 1000, learningRate: 4e-3 },
  mini: { batchSize: 32, steps: 2000, learningRate: 1e-3 },
  small: { batchSize: 32, steps: 5000, learningRate: 6e-4 },
  distilgpt2: { batchSize: 8, steps: 20000, learningRate: 4e-4 },
  gpt2: { batchSize: 8, steps: 50000, learningRate: 3e-4 },
};

/** Training options with every choice made, as they are shown and stored in the checkpoint. */
export interface ResolvedOptions {
  preset: PresetName;
  data: "sample" | readonly string[];
  vocabulary: "auto" | "full" | "compact";
  precision: Precision;
  steps: number;
  batchSize: number;
  contextLength: number;
  gradientAccumulation: number;
  sequence: "packed" | "padded";
  learningRate: number;
  minLearningRate: number;
  warmupSteps: number;
  weightDecay: number;
  beta1: number;
  beta2: number;
  gradientClip: number;
  dropout: number;
  labelSmoothing: number;
  seed: number;
  evalEvery: number;
  saveEvery: number;
  keep: number;
  sampleEvery: number;
  logEvery: number;
}

/**
 * Makes every choice that the user left open: from the preset, the device, and the other options.
 *
 * @param stepsPerEpoch optimizer steps in one pass over the data, for `epochs`.
 */
export function resolveOptions(
  options: TrainOptions,
  { preset, precision, stepsPerEpoch }: {
    preset: PresetName;
    precision: Precision;
    stepsPerEpoch: (batch: { batchSize: number; contextLength: number }) => number;
  },
): ResolvedOptions {
  const defaults = PRESET_DEFAULTS[preset];
  const batchSize = options.batchSize ?? defaults.batchSize;
  const contextLength = options.contextLength ?? PRESETS[preset].contextLength;
  const epochSteps = options.epochs === undefined
    ? Infinity
    : Math.ceil(options.epochs * stepsPerEpoch({ batchSize, contextLength }));
  const givenSteps = options.steps ?? (options.epochs === undefined ? defaults.steps : Infinity);
  const steps = Math.min(givenSteps, epochSteps);
  const learningRate = options.learningRate ?? defaults.learningRate;
  const tenth = Math.max(1, Math.ceil(steps / 10));
  return {
    preset,
    data: options.data === "auto" ? "sample" : options.data,
    vocabulary: options.vocabulary,
    precision,
    steps,
    batchSize,
    contextLength,
    gradientAccumulation: options.gradientAccumulation,
    sequence: options.sequence,
    learningRate,
    minLearningRate: options.minLearningRate ?? learningRate / 10,
    warmupSteps: options.warmupSteps ?? Math.min(200, Math.ceil(steps / 20)),
    weightDecay: options.weightDecay,
    beta1: options.beta1,
    beta2: options.beta2,
    gradientClip: options.gradientClip,
    dropout: options.dropout ?? 0,
    labelSmoothing: options.labelSmoothing,
    seed: options.seed,
    evalEvery: options.evalEvery ?? tenth,
    saveEvery: options.saveEvery ?? tenth,
    keep: options.keep,
    sampleEvery: options.sampleEvery ?? tenth * 2,
    logEvery: options.logEvery ?? Math.max(1, Math.ceil(steps / 100)),
  };
}
