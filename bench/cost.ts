import type { Roofline } from "./harness.ts";
import type { TrainStepBench } from "./train_step.ts";
import { bytesPerElement } from "../kernels/tensor.ts";
import { countParameters } from "../model/parameters.ts";
import { dtypesOf } from "../model/precision.ts";

/**
 * How long a training step should take, from its dimensions and three figures of the device. Where
 * more time is measured, kernels are short of the roofline or move more than they need.
 *
 * @module
 */

/** What a step has to do, however its kernels do it. */
export interface StepCost {
  /** Operations of matrix products and attention; a product and a sum count as two. */
  readonly flops: number;
  /** Bytes moved where every op reads each input once and writes each output once. */
  readonly bytes: number;
}

/** What a device can do: the roofline, and what a launch costs that does next to nothing. */
export interface Machine extends Roofline {
  /** Milliseconds of a tiny launch that waits for the one before it. */
  readonly launchMs: number;
}

/**
 * Milliseconds by the model: operations / rate + bytes / bandwidth + launches · launch time.
 *
 * A plain sum, as launches run one after the other and seldom overlap the one with the other.
 */
export function modelledMs(
  { flops, bytes, launches }: StepCost & { readonly launches: number },
  { flopsPerSecond, bytesPerSecond, launchMs }: Machine,
): number {
  return 1e3 * (flops / flopsPerSecond + bytes / bytesPerSecond) + launches * launchMs;
}

/**
 * Elements that a linear layer from `from` to `to` reads and writes for each row: forward x and y;
 * backward dy and dx, x and dy for dweight, dy for dbias.
 */
const linear = (from: number, to: number) => (from + to) + (2 * from + 3 * to);

/**
 * Elements that the ops of a block move for each of the M · C elements of the residual stream, forward
 * + backward: of the f32 stream, and of the branches, which have the type of matrix products.
 */
const BLOCK_TRAFFIC: readonly [op: string, count: number, stream: number, branch: number][] = [
  // x and z, sum and y; then sum, dy and dx, dx and dz
  ["residual and layernorm", 2, 2 + 3, 2 + 2],
  ["linear qkv", 1, 0, linear(1, 3)],
  ["attention", 1, 0, (3 + 1) + (3 + 1 + 1 + 3)], // qkv, y; then qkv, y, dy, dqkv
  ["linear projection", 1, 0, linear(1, 1)],
  ["linear hidden and gelu", 1, 0, linear(1, 4) + 4], // two outputs
  ["linear out", 1, 0, linear(4, 1) + 4], // dx reads hidden for the slope of gelu
];

/**
 * Operations and bytes of one training step without dropout or accumulation.  M = B · T
 *
 * - Products: 6 operations a token and element of a matrix, 2 forward and 4 backward, the tied head
 *   included.
 * - Attention, causal: 2 · T · C a token and layer forward, 2.5 times that backward.
 * - Activations: BLOCK_TRAFFIC; embedding, first layer-norm and head likewise.
 * - Logits: written, read for the loss and written as their gradient, read for dx and dweight.
 * - Matrices: read forward and for dx, their gradient written.
 * - Optimizer, a parameter: gradient norm 4 bytes; AdamW reads four f32, writes three, and the f16 copy.
 */
export function stepCost(
  { config, batchSize, sequenceLength: T, precision }: Pick<
    TrainStepBench,
    "config" | "batchSize" | "sequenceLength" | "precision"
  >,
): StepCost {
  const { vocabularySize: V, width: C, layers } = config;
  const M = batchSize * T, matrices = 12 * C * C * layers + V * C;
  const F32 = 4, matrix = bytesPerElement(dtypesOf(precision).matrix);
  const copy = precision === "f16" ? matrix : 0;

  let stream = 2 + 3 /* embedding */ + 1 + 3 /* first layernorm */;
  let branch = 1 + 1 /* first layernorm */ + 3 /* head: x, x, dx */;
  for (const [, count, ofStream, ofBranch] of BLOCK_TRAFFIC) {
    stream += layers * count * ofStream;
    branch += layers * count * ofBranch;
  }
  return {
    flops: 6 * M * matrices + 7 * M * T * C * layers,
    bytes: M * C * (stream * F32 + branch * matrix) + 5 * M * V * matrix +
      matrices * (2 * matrix + F32) + countParameters(config) * (F32 + 7 * F32 + copy),
  };
}
