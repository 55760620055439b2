import { type GptConfig, type PresetName, PRESETS } from "../model/config.ts";

/** Options of every training step in the benchmarks, without its sizes. */
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

/** Number of tokens of GPT-2's tokenizer, the vocabulary of most models in the benchmarks. */
export const GPT2_VOCABULARY = 50257;

/** Number of GPT-2's tokens that occur in the built-in stories, on which nano is trained. */
export const STORIES_VOCABULARY = 1048;

/**
 * Number of tokens of a tokenizer trained on the text, with which small models are several times faster.
 */
export const OWN_VOCABULARY = 4096;

/** A preset with a vocabulary, by default GPT-2's, or that of the built-in stories for nano. */
export function benchConfig(
  preset: PresetName,
  vocabularySize: number = preset === "nano" ? STORIES_VOCABULARY : GPT2_VOCABULARY,
): GptConfig {
  return { vocabularySize, ...PRESETS[preset] };
}
