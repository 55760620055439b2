import {
  crossEntropyBackward,
  crossEntropyForward,
} from "../kernels/cross_entropy/cross_entropy.ts";
import type { Device } from "../kernels/device.ts";
import { matmul, type MatmulOptions } from "../kernels/matmul/matmul.ts";
import { maxIterationsOf, type Program } from "../kernels/program.ts";
import { type RowSlice, rowSlice, rowSlices } from "../kernels/slices.ts";
import type { Tensor } from "../kernels/tensor.ts";

/** What `headLossForward()` reads. */
export interface HeadInputs {
  /** Output of the last norm, [M,C]. */
  x: Tensor;
  /** The head's matrix, [V,C], of x's type, or i8. */
  weight: Tensor;
  /** f32 [V], the factors of its rows, if it is i8; only forward. */
  scales?: Tensor | undefined;
  /** Next tokens, u32 [M]; 0xffffffff is ignored. */
  targets: Tensor;
}

/** What `headLossForward()` writes. */
export interface HeadOutputs {
  /** Scratch for one chunk of logits, [R,≥V], of x's type; R is the number of rows per chunk. */
  logits: Tensor;
  /** f32 [M]: the loss of each position, 0 if it is ignored. */
  losses: Tensor;
}

/**
 * Elements per vector: slices of the vocabulary are columns of the logits, which products read and write in
 * vectors.
 */
const VECTOR = 4;

/** Scales of whose multiples a slice may start, 256 bytes. */
const ALIGNED_SCALES = 64;

/**
 * logits = x · weightᵀ.  x: [M,C]; weight: [V,C]; logits: [M,≥V]; each f32 or f16, or weight i8 with
 * scales: f32 [V]. With `normalize` a few rows x are normalised first.
 *
 * If rows of logits are a multiple of four long, as `logitsColumns()` makes them, GPUs write vectors.
 */
export function headLogits(
  program: Program,
  { x, weight, scales }: { x: Tensor; weight: Tensor; scales?: Tensor | undefined },
  { logits }: { logits: Tensor },
  options: Pick<MatmulOptions, "normalize" | "kernelRows"> = {},
): void {
  const multipleOf = scales ? ALIGNED_SCALES : VECTOR;
  for (const { first, rows, view } of rowSlices(program.device, weight, { multipleOf })) {
    matmul(program, { a: x, b: view }, { y: logits }, {
      ...options,
      scales: scales && rowSlice(scales, { first, rows }).view,
      transposeB: true,
      firstColumnOfY: first,
    });
  }
}

/**
 * The loss of every position, one chunk of rows after the other: logits, softmax, loss.
 *
 * Only `logitsRows()` rows of the [M,V] logits exist at a time, so that their buffer has a bound for any
 * number of rows.
 */
export function headLossForward(
  program: Program,
  { x, weight, scales, targets }: HeadInputs,
  { logits, losses }: HeadOutputs,
  { labelSmoothing = 0 }: { labelSmoothing?: number } = {},
): void {
  for (const chunk of chunks(x, logits)) {
    const rowsOf = (tensor: Tensor) => rowSlice(tensor, chunk).view;
    const chunkLogits = rowSlice(logits, { first: 0, rows: chunk.rows }).view;
    headLogits(program, { x: rowsOf(x), weight, scales }, { logits: chunkLogits });
    crossEntropyForward(
      program,
      { logits: chunkLogits, targets },
      { losses },
      { vocabularySize: weight.shape[0]!, labelSmoothing, firstRow: chunk.first },
    );
  }
}

/**
 * The loss of every position and its gradients, one chunk of rows after the other: logits, softmax, loss,
 * dlogits in place of the logits, dx and, if it is given, dweight.
 *
 * dx: [M,C] of x's type, is set. dweight: f32 [V,C], is set, or with `accumulate` added to. `stepInputs`
 * and `lossScale` are those of `crossEntropyBackward()`.
 */
export function headLossBackward(
  program: Program,
  { x, weight, targets, stepInputs, lossScale }: HeadInputs & {
    stepInputs: Tensor;
    lossScale: Tensor;
  },
  { logits, losses, dx, dweight }: HeadOutputs & { dx: Tensor; dweight: Tensor | undefined },
  { labelSmoothing = 0, accumulate = false }: { labelSmoothing?: number; accumulate?: boolean } =
    {},
): void {
  for (const chunk of chunks(x, logits)) {
    const rowsOf = (tensor: Tensor) => rowSlice(tensor, chunk).view;
    const chunkLogits = rowSlice(logits, { first: 0, rows: chunk.rows }).view;
    headLogits(program, { x: rowsOf(x), weight }, { logits: chunkLogits });
    const dlogits = chunkLogits; // in place
    crossEntropyBackward(
      program,
      { targets, stepInputs, lossScale },
      { losses, dlogits },
      { vocabularySize: weight.shape[0]!, labelSmoothing, firstRow: chunk.first },
    );
    for (const slice of headSlices(program.device, dweight ?? weight)) {
      const columnsOfA = { start: slice.first, count: slice.rows };
      matmul(
        program,
        { a: dlogits, b: rowSlice(weight, slice).view },
        { y: rowsOf(dx) },
        { columnsOfA, accumulate: slice.first > 0 },
      );
      if (!dweight) continue;
      matmul(
        program,
        { a: dlogits, b: rowsOf(x) },
        { y: rowSlice(dweight, slice).view },
        { columnsOfA, transposeA: true, accumulate: accumulate || chunk.first > 0 },
      );
    }
  }
}

/**
 * Slices of the gradient of the head's matrix. The product for dx sums over the rows of a slice, on a CPU
 * adapter in one loop, whose iterations are bounded.
 */
export function headSlices(device: Device, dweight: Tensor): RowSlice[] {
  return rowSlices(device, dweight, { maxRows: maxIterationsOf(device), multipleOf: VECTOR });
}

/** Chunks of rows of x, each as long as the logits have rows; the last may be shorter. */
function chunks(x: Tensor, logits: Tensor): { first: number; rows: number }[] {
  const list = [];
  for (let first = 0; first < x.shape[0]!; first += logits.shape[0]!) {
    list.push({ first, rows: Math.min(logits.shape[0]!, x.shape[0]! - first) });
  }
  return list;
}
