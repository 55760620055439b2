import { bytesPerElement, size } from "../kernels/tensor.ts";
import { attentionOf, withDefaults } from "../model/config.ts";
import { headName } from "../model/gpt.ts";
import { parameterTable } from "../model/parameters.ts";
import { dtypesOf } from "../model/precision.ts";
import type { Roofline } from "./harness.ts";
import type { TrainStepBench } from "./train_step.ts";

/**
 * A model of the time of a training step, from its dimensions and three figures of the device. If a step
 * takes longer, its kernels do not reach the roofline or move more bytes than they need.
 *
 * @module
 */

/** Work that a step needs at least. */
export interface StepCost {
  /** Operations of matrix products and attention; a multiply-add counts as two. */
  readonly flops: number;
  /** Bytes that are moved if every op reads each input once and writes each output once. */
  readonly bytes: number;
}

/** Figures of a device: its roofline, and the time of a launch. */
export interface Machine extends Roofline {
  /** Milliseconds of a tiny launch that waits for the one before it. */
  readonly launchMs: number;
}

/**
 * Milliseconds by the model: operations / rate + bytes / bandwidth + launches · launch time.
 *
 * The terms are added because launches run one after the other, and computation and memory traffic seldom
 * overlap.
 */
export function modelledMs(
  { flops, bytes, launches }: StepCost & { readonly launches: number },
  { flopsPerSecond, bytesPerSecond, launchMs }: Machine,
): number {
  return 1e3 * (flops / flopsPerSecond + bytes / bytesPerSecond) + launches * launchMs;
}

/**
 * Operations and bytes of one training step without dropout or accumulation, from the table of parameters.
 * M = B · T
 *
 * - Products: 2 operations per token and element of a matrix forward, 2 for dx, and 2 for dweight if it is
 * trained; this holds for adapters, too. The head counts as a product even if it shares its matrix.
 * - Attention, causal: 4 · NH · HS operations per pair of query and key forward, 2.5 times as many backward.
 * - Activations: each op reads its inputs and writes its outputs once, forward and backward.
 * - Logits: written, read for the loss and written as their gradient, read for dx and dweight.
 * - Matrices: read forward and for dx, their gradient written.
 * - Optimizer, per trained parameter: gradient norm 4 bytes; AdamW reads four f32, writes three and the f16 copy.
 */
export function stepCost(
  { config, batchSize, sequenceLength: T, precision }: Pick<
    TrainStepBench,
    "config" | "batchSize" | "sequenceLength" | "precision"
  >,
): StepCost {
  const complete = withDefaults(config), { vocabularySize: V, width: C, layers } = complete;
  const { innerWidth: F, heads: NH, keyHeads: KH, headSize: HS } = complete;
  const isRotated = complete.positions === "rotary" || complete.qkNorm;
  const M = batchSize * T, table = parameterTable(config);
  const F32 = 4, matrix = bytesPerElement(dtypesOf(precision).matrix);
  const trained = new Set(table.filter(({ trained }) => trained).map(({ name }) => name));

  let flops = 0, bytes = 0;
  /**
   * Adds the bytes of activations: elements per token in the residual stream, and in its branches.
   */
  const move = (stream: number, branch: number) => bytes += M * (stream * F32 + branch * matrix);
  /** Adds the products with a matrix, and the bytes of the matrix and of its gradient. */
  const product = (name: string, elements: number) => {
    const isTrained = trained.has(name);
    flops += M * elements * (isTrained ? 6 : 4);
    bytes += elements * (2 * matrix + (isTrained ? F32 : 0));
  };

  for (const { name, shape: [inputs, outputs] } of table) {
    if (outputs === undefined || !name.endsWith(".weight") || !name.startsWith("h.")) continue;
    product(name, inputs! * outputs);
    if (name.endsWith(".lora_A.weight")) move(0, 3 * (inputs! + outputs) + outputs); // dx is added to
    else if (name.endsWith(".lora_B.weight")) move(0, 3 * (inputs! + outputs) + inputs!); // so is y
    else {
      move(0, 2 * (inputs! + outputs)); // x and y; dy and dx
      if (trained.has(name)) move(0, inputs! + outputs); // x and dy
      if (trained.has(name.replace(/weight$/, "bias"))) move(0, outputs); // dy
    }
  }
  const head = headName({ config });
  product(head, V * C);
  move(0, 2 * C + (trained.has(head) ? C : 0)); // x and dx; x
  bytes += (trained.has(head) ? 5 : 4) * M * V * matrix;

  for (let i = 0; i < layers; i++) {
    const window = Math.min(attentionOf(config, i).window ?? T, T);
    flops += 14 * batchSize * NH * HS * (window * T - window ** 2 / 2);
    const qkv = (NH + 2 * KH) * HS, y = NH * HS;
    move(0, qkv + y + (2 * qkv + 2 * y)); // qkv and y; these, dy and dqkv
    const rotated = isRotated ? (NH + KH) * HS : 0;
    move(0, (4 + (complete.qkNorm ? 2 : 0)) * rotated); // in place forward and backward; kept and read
    // the activation beside hidden, and hidden for its derivative; also gate, which is read, read and has a gradient
    move(0, complete.gatedMlp ? 5 * F + C : 2 * F);
  }
  const norms = 2 * layers + 1;
  move((1 + 3) * C, 2 * C); // x and y; x, dy, and dx, which is added to
  // x, z, sum and y; sum, dy, dz, and dx, which is added to
  move((norms - 1) * (2 + 3) * C, (norms - 1) * (2 + 2) * C);
  move((2 + (trained.has("wte.weight") ? 3 : 0)) * C, 0); // embedding

  const copy = precision === "f16" ? matrix : 0;
  for (const { shape, trained } of table) {
    if (trained) bytes += size(shape) * (F32 + 7 * F32 + copy);
  }
  return { flops, bytes };
}
