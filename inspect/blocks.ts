import type { Tensor } from "../kernels/tensor.ts";
import type { Gpt } from "../model/gpt.ts";
import { oneRow, prepareBackward } from "./pass.ts";

/** Norms of a block on one text: of its changes of the residual stream, and of its gradients. */
export interface BlockNorms {
  /** Norm of the residual stream after the block over that before it, the median over positions. */
  readonly growth: number;
  /** Norm of what attention adds to the residual stream over that of the stream, the median over positions. */
  readonly attention: number;
  /** Norm of what the MLP adds to the residual stream over that of the stream before it, the median over positions. */
  readonly mlp: number;
  /** Norm of the gradient of the block's parameters. */
  readonly gradientNorm: number;
}

/** The norms of all blocks, and how small the gradients are that reach the first one. */
export interface ModelNorms {
  readonly blocks: readonly BlockNorms[];
  /** Share of the gradients of the first block's activations, without zeros, that are below 2⁻²⁴ with the loss scale. */
  readonly belowF16: number;
}

/** The least positive number of f16. */
const LEAST_F16 = 2 ** -24;

/** The gradients of activations that f16 holds; after the backward pass they are those of the first block. */
const GRADIENTS = ["dprojected", "dhidden", "dattention", "dqkv", "dln"];

/**
 * Measures the blocks of a model on one text, in f32 whatever the precision of the model. Gradients of the model's
 * size are allocated on the device.
 *
 * @param ids 2 to T + 1 tokens.
 * @param options.targetsPerStep targets of a training step, over which the loss is a mean.
 * @param options.lossScale loss scale of the training.
 */
export async function normsOf(
  model: Gpt,
  ids: readonly number[],
  { targetsPerStep, lossScale }: { targetsPerStep: number; lossScale: number },
): Promise<ModelNorms> {
  const gpt = wholeInF32(model), { layers, width: C } = gpt.config;
  using pass = prepareBackward(gpt, oneRow(ids), { lossScale, targets: targetsPerStep });
  const { activations: { at }, gradients, run } = pass;
  let [stream] = await run(pass.record, at("x"));
  const read = async (...tensors: Tensor[]) => await run(() => {}, ...tensors);
  const blocks: BlockNorms[] = [];
  for (let i = 0; i < layers; i++) {
    const [middle, out] = await read(at("middle", i), at("out", i));
    const before = rowNorms(stream!, C), between = rowNorms(middle!, C), after = rowNorms(out!, C);
    const added = (from: Float32Array, to: Float32Array) =>
      rowNorms(to.map((value, j) => value - from[j]!), C);
    let squares = 0;
    for (const [name, tensor] of gradients.tensors) {
      if (!name.startsWith(`h.${i}.`)) continue;
      const [gradient] = await read(tensor);
      squares += gradient!.reduce((sum, value) => sum + value * value, 0);
    }
    blocks.push({
      growth: medianRatio(after, before),
      attention: medianRatio(added(stream!, middle!), before),
      mlp: medianRatio(added(middle!, out!), between),
      gradientNorm: Math.sqrt(squares) / lossScale,
    });
    stream = out;
  }
  let below = 0, counted = 0;
  for (const gradient of await read(...GRADIENTS.map((name) => at(name)))) {
    for (const value of gradient) {
      if (value === 0) continue; // of what the mask hides
      counted++;
      if (Math.abs(value) < LEAST_F16) below++;
    }
  }
  return { blocks, belowF16: counted === 0 ? 1 : below / counted };
}

/** A view of a model that computes in f32 and trains all parameters. */
export function wholeInF32({ copies: _, ...model }: Gpt): Gpt {
  const table = model.table.map((parameter) => ({ ...parameter, trained: true }));
  return { ...model, table, precision: "f32" };
}

/** Norm of every row of [T,C]. */
function rowNorms(values: Float32Array, C: number): number[] {
  return Array.from({ length: values.length / C }, (_, t) => {
    const row = values.subarray(t * C, (t + 1) * C);
    return Math.sqrt(row.reduce((sum, value) => sum + value * value, 0));
  });
}

/** The median of the ratios of two lists; a ratio that is NaN counts as infinite. */
function medianRatio(a: readonly number[], b: readonly number[]): number {
  const ratios = a.map((value, i) => value / b[i]!).map((r) => Number.isNaN(r) ? Infinity : r);
  return ratios.sort((x, y) => x - y)[Math.floor(ratios.length / 2)]!;
}
