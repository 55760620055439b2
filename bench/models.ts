import { type GptConfig, type PresetDimensions, PRESETS } from "../model/config.ts";

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

/** A model of the benchmarks: a preset, with GPT-2's architecture or that of a new model, or one that others trained. */
export type BenchModel = keyof typeof MODELS;

/**
 * SmolLM2-135M (Allal et al. 2025, https://arxiv.org/abs/2502.02737) with a context of 512 tokens; all else is a llama's
 * default.
 */
const SMOLLM2: PresetDimensions & Partial<GptConfig> = {
  family: "llama",
  width: 576,
  layers: 30,
  heads: 9,
  keyHeads: 3,
  innerWidth: 1536,
  rotaryBase: 100_000,
  contextLength: 512,
};

/** GPT-2's largest model, 1.5 billion parameters. */
const GPT2_XL: PresetDimensions = { width: 1600, layers: 48, heads: 25, contextLength: 1024 };

/** The configuration of each model without its vocabulary. */
const MODELS = {
  ...PRESETS,
  "nano-neox": { ...PRESETS.nano, family: "gpt_neox" },
  "mini-neox": { ...PRESETS.mini, family: "gpt_neox" },
  "smollm2-135m": SMOLLM2,
  "gpt2-xl": GPT2_XL,
} as const;

/** Number of tokens of each model's tokenizer. */
const VOCABULARIES: Partial<Record<BenchModel, number>> = {
  nano: STORIES_VOCABULARY,
  "nano-neox": STORIES_VOCABULARY,
  "smollm2-135m": 49152,
};

/** The configuration of a model, by default with the vocabulary of its tokenizer. */
export function benchConfig(
  model: BenchModel,
  vocabularySize: number = VOCABULARIES[model] ?? GPT2_VOCABULARY,
): GptConfig {
  return { vocabularySize, ...MODELS[model] };
}
