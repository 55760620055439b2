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

/** Tokens of GPT-2's tokenizer: a preset's model in the benchmarks has all of them by default. */
export const GPT2_VOCABULARY = 50257;

/** Tokens of GPT-2's tokenizer that occur in the built-in stories, on which nano is trained. */
export const STORIES_VOCABULARY = 1048;

/** Tokens of a tokenizer trained on the text itself, with which small models are several times faster. */
export const OWN_VOCABULARY = 4096;

/** A preset with a vocabulary: by default GPT-2's, or for nano that of the built-in stories. */
export function benchConfig(
  preset: PresetName,
  vocabularySize: number = preset === "nano" ? STORIES_VOCABULARY : GPT2_VOCABULARY,
): GptConfig {
  return { vocabularySize, ...PRESETS[preset] };
}
