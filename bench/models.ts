import { type GptConfig, type PresetName, PRESETS } from "../model/config.ts";

/** What every training step of the benchmarks has, beside its sizes. */
export const STEP_OPTIONS = {
  gradientAccumulation: 1,
  dropout: 0,
  labelSmoothing: 0,
  gradientClip: 1,
  weightDecay: 0.1,
  beta1: 0.9,
  beta2: 0.95,
  seed: 0,
};

/** GPT-2's vocabulary: a preset's model in the benchmarks has the whole of it. */
const VOCABULARY_SIZE = 50257;

/** A preset with a vocabulary: GPT-2's, but that of the built-in stories for nano, as in training. */
export function benchConfig(preset: PresetName): GptConfig {
  return { vocabularySize: preset === "nano" ? 1048 : VOCABULARY_SIZE, ...PRESETS[preset] };
}
