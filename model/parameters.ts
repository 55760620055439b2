import type { GptConfig } from "./config.ts";

/** One parameter of the model: a row of the table that `parameterTable()` returns. */
export interface ParameterSpec {
  /** Hugging Face's GPT-2 name, without the prefix `transformer.`. */
  readonly name: string;
  /** Dimensions; linear weights are [inputs, outputs], as in Hugging Face's Conv1D. */
  readonly shape: readonly number[];
  /** Initial values: normally distributed, or all the mean where the deviation is 0. */
  readonly initial: { readonly mean: number; readonly deviation: number };
  /** Whether AdamW's weight decay applies: matrices and embeddings, not biases and layer-norms. */
  readonly decayed: boolean;
}

/**
 * Standard deviation of GPT-2's initial weights (Radford et al. 2019, openai/gpt-2), which are 768
 * wide. Narrower models start larger, so that what a matrix gives out is as large as there: with 0.02
 * at width 64 all attention scores begin near zero, and heads that copy form late or never.
 */
function initialDeviation(width: number): number {
  return 0.02 * Math.sqrt(768 / width);
}

/**
 * All parameters of a model, the decayed ones first, so that each group is one stretch of an arena.
 *
 * Projections onto the residual stream start smaller by 1/√(2 · layers), so that its variance does
 * not grow with depth (Radford et al. 2019, section 2.3).
 */
export function parameterTable(config: GptConfig): ParameterSpec[] {
  const { vocabularySize: V, contextLength: L, width: C, layers } = config;
  const deviation = initialDeviation(C);
  const normal = { mean: 0, deviation };
  const residual = { mean: 0, deviation: deviation / Math.sqrt(2 * layers) };

  const matrix = (name: string, shape: number[], initial = normal): ParameterSpec => (
    { name, shape, initial, decayed: true }
  );
  const vector = (name: string, length: number, mean = 0): ParameterSpec => (
    { name, shape: [length], initial: { mean, deviation: 0 }, decayed: false }
  );

  const table = [matrix("wte.weight", [V, C]), matrix("wpe.weight", [L, C])];
  for (let i = 0; i < layers; i++) {
    table.push(
      vector(`h.${i}.ln_1.weight`, C, 1),
      vector(`h.${i}.ln_1.bias`, C),
      matrix(`h.${i}.attn.c_attn.weight`, [C, 3 * C]),
      vector(`h.${i}.attn.c_attn.bias`, 3 * C),
      matrix(`h.${i}.attn.c_proj.weight`, [C, C], residual),
      vector(`h.${i}.attn.c_proj.bias`, C),
      vector(`h.${i}.ln_2.weight`, C, 1),
      vector(`h.${i}.ln_2.bias`, C),
      matrix(`h.${i}.mlp.c_fc.weight`, [C, 4 * C]),
      vector(`h.${i}.mlp.c_fc.bias`, 4 * C),
      matrix(`h.${i}.mlp.c_proj.weight`, [4 * C, C], residual),
      vector(`h.${i}.mlp.c_proj.bias`, C),
    );
  }
  table.push(vector("ln_f.weight", C, 1), vector("ln_f.bias", C));
  return [...table.filter((p) => p.decayed), ...table.filter((p) => !p.decayed)];
}

/** Number of trained values of a model. */
export function countParameters(config: GptConfig): number {
  let count = 0;
  for (const { shape } of parameterTable(config)) count += shape.reduce((a, b) => a * b, 1);
  return count;
}
