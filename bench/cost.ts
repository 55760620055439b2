import type { Device } from "../kernels/device.ts";
import { muonDtype } from "../kernels/muon/muon.ts";
import { bytesPerElement, type DType, size } from "../kernels/tensor.ts";
import type { RecomputeMode } from "../model/activations.ts";
import { attentionOf, type GptConfig, withDefaults } from "../model/config.ts";
import { headName } from "../model/gpt.ts";
import { blockMatrices, blockOf, parameterTable } from "../model/parameters.ts";
import { dtypesOf, type Precision } from "../model/precision.ts";
import { type OptimizerName, OPTIMIZERS } from "../train/optimizer.ts";
import type { Roofline } from "./harness.ts";

/**
 * A model of the time of a training step, from its dimensions and three figures of the device. If a step
 * takes longer, its kernels do not reach the roofline or move more bytes than they need.
 *
 * @module
 */

/** What the cost of a training step depends on. */
export interface CostedStep {
  readonly config: GptConfig;
  readonly batchSize: number;
  readonly sequenceLength: number;
  readonly precision: Precision;
  /** AdamW by default. */
  readonly optimizer?: OptimizerName;
  /** What the backward pass computes again, nothing by default. */
  readonly recompute?: RecomputeMode;
}

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
 * - Attention, causal, of rows whose documents are joined, as those of the benchmarks: 4 · NH · HS operations per pair
 * of query and key forward, 2.5 times as many backward.
 * - Activations: each op reads its inputs and writes its outputs once, forward and backward.
 * - Logits: written, read for the loss and written as their gradient, read for dx and dweight.
 * - Matrices: read forward and for dx, their gradient written.
 * - With `recompute`, the forward pass of the inner part of each MLP, or of each block up to there, once more for all
 * blocks but the last.
 * - Optimizer, per trained parameter: gradient norm 4 bytes; AdamW reads four f32, writes three and the f16 copy. Muon's
 * matrices: see `muonCost()`.
 *
 * @param options.matrixShapes those of the device; none by default.
 */
export function stepCost(
  { config, batchSize, sequenceLength: T, precision, optimizer = "adamw", recompute = "none" }:
    CostedStep,
  { matrixShapes = [] }: Partial<Pick<Device, "matrixShapes">> = {},
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

  const isLast = (layer: number) => layer === layers - 1; // what it has computed is still there
  /** Whether the backward pass computes a linear layer of a block again. */
  const isRecomputed = (name: string) => {
    const [, layer, part] = /^h\.(\d+)\.(.*)$/.exec(name)!;
    if (recompute === "none" || isLast(Number(layer)) || /^mlp\.(c|down)_proj/.test(part!)) {
      return false;
    }
    return recompute === "block" || part!.startsWith("mlp.");
  };

  /** Whether the norm after a linear layer computes the gradient of the layer's bias. */
  const isBeforeNorm = (name: string) => name.endsWith(".c_proj.weight");
  for (const { name, shape: [inputs, outputs] } of table) {
    if (outputs === undefined || !name.endsWith(".weight") || !name.startsWith("h.")) continue;
    product(name, inputs! * outputs);
    if (isRecomputed(name)) {
      flops += 2 * M * inputs! * outputs;
      bytes += inputs! * outputs * matrix;
      move(0, inputs! + outputs + (name.endsWith(".lora_B.weight") ? inputs! : 0));
    }
    if (name.endsWith(".lora_A.weight")) move(0, 3 * (inputs! + outputs) + outputs); // dx is added to
    else if (name.endsWith(".lora_B.weight")) move(0, 3 * (inputs! + outputs) + inputs!); // so is y
    else {
      move(0, 2 * (inputs! + outputs)); // x and y; dy and dx
      if (trained.has(name)) move(0, inputs! + outputs); // x and dy
      const bias = name.replace(/weight$/, "bias");
      if (trained.has(bias) && !isBeforeNorm(name)) move(0, outputs); // dy
    }
  }
  const head = headName({ config });
  product(head, V * C);
  move(0, 2 * C + (trained.has(head) ? C : 0)); // x and dx; x
  bytes += (trained.has(head) ? 5 : 4) * M * V * matrix;

  for (let i = 0; i < layers; i++) {
    const window = Math.min(attentionOf(config, i).window ?? T, T);
    const attended = batchSize * NH * HS * (window * T - window ** 2 / 2);
    flops += 14 * attended;
    const qkv = (NH + 2 * KH) * HS, y = NH * HS;
    move(0, qkv + y + (2 * qkv + 2 * y)); // qkv and y; these, dy and dqkv
    const rotated = isRotated ? (NH + KH) * HS : 0;
    move(0, (4 + (complete.qkNorm ? 2 : 0)) * rotated); // in place forward and backward; kept and read
    // the activation beside hidden, and hidden for its derivative; also gate, which is read, read and has a gradient
    move(0, complete.gatedMlp ? 5 * F + C : 2 * F);
    if (recompute === "none" || isLast(i)) continue;
    move(0, complete.gatedMlp ? 2 * F : F); // activated, and the gate; hidden is in the product
    if (recompute === "mlp") move(C, C); // x and y of its norm
    else {
      flops += 4 * attended;
      move(0, qkv + y + (2 + (complete.qkNorm ? 1 : 0)) * rotated);
      move((1 + 2) * C, (1 + 2) * C); // x and y; x, z, sum and y
    }
  }
  const norms = 2 * layers + 1;
  move((1 + 3) * C, 2 * C); // x and y; x, dy, and dx, which is added to
  // x, z, sum and y; sum, dy, dz, and dx, which is added to
  move((norms - 1) * (2 + 3) * C, (norms - 1) * (2 + 2) * C);
  move((2 + (trained.has("wte.weight") ? 3 : 0)) * C, 0); // embedding

  const copy = precision === "f16" ? matrix : 0, blocks = new Set<number>(); // that Muon updates
  for (const parameter of table.filter(({ trained }) => trained)) {
    const isAdamws = optimizer === "adamw" || !OPTIMIZERS[optimizer].updates(parameter);
    bytes += size(parameter.shape) * (F32 + (isAdamws ? 7 * F32 : 0) + copy);
    if (!isAdamws) blocks.add(blockOf(parameter.name)!);
  }
  for (const matrix of blockMatrices(config)) {
    const cost = muonCost(
      matrix,
      precision === "f16" ? muonDtype({ matrixShapes }, matrix) : "f32",
    );
    flops += blocks.size * cost.flops;
    bytes += blocks.size * cost.bytes;
  }
  return { flops, bytes };
}

/** Operations of a step of Muon for all matrices of a model's blocks. */
export function muonFlops(config: GptConfig): number {
  const matrices = blockMatrices(config);
  return config.layers * matrices.reduce((sum, matrix) => sum + muonCost(matrix).flops, 0);
}

/**
 * Operations and bytes of a step of Muon for a matrix of m × n, m ≤ n, without its f16 copy: in each of five rounds
 * x · xᵀ and P · x take 2 · m² · n operations and A · A 2 · m³. Tensor cores need fewer, as they compute half of symmetric
 * products, and rounds in groups.
 *
 * @param dtype element type of the rounds, see `muonDtype()`.
 */
export function muonCost(
  { inputs, outputs }: { inputs: number; outputs: number },
  dtype: DType = "f32",
): StepCost {
  const m = Math.min(inputs, outputs), n = Math.max(inputs, outputs);
  const ahead = 5 * m * n; // gradient and momentum, momentum and the look-ahead; the look-ahead
  const round = m * n + m * m + 2 * m * m + m * m + 2 * m * n; // x, A; A, P; P, x, the next x
  const update = 2 * m * n; // the parameter, the parameter
  return {
    flops: 5 * (4 * m * m * n + 2 * m ** 3),
    // x is written before the rounds and read after them
    bytes: 4 * (ahead + update) + bytesPerElement(dtype) * (2 * m * n + 5 * round),
  };
}
