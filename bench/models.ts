import { type GptConfig, type PresetName, PRESETS } from "../model/config.ts";

/** GPT-2's vocabulary: a preset's model in the benchmarks has the whole of it. */
const VOCABULARY_SIZE = 50257;

/** A preset with a vocabulary: GPT-2's, but that of the built-in stories for nano, as in training. */
export function benchConfig(preset: PresetName): GptConfig {
  return { vocabularySize: preset === "nano" ? 1048 : VOCABULARY_SIZE, ...PRESETS[preset] };
}
