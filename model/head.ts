import {
  crossEntropyBackward,
  crossEntropyForward,
} from "../kernels/cross_entropy/cross_entropy.ts";
import { matmul } from "../kernels/matmul/matmul.ts";
import type { Program } from "../kernels/program.ts";
import { bytesPerElement, type Tensor, viewTensor } from "../kernels/tensor.ts";

/** What the loss needs beside the head: see `headLossForward()`. */
export interface HeadInputs {
  /** Output of the last layer-norm, [M,C]. */
  x: Tensor;
  /** Token embedding, tied to the head, [V,C], of x's type. */
  wte: Tensor;
  /** Next tokens, u32 [M]; 0xffffffff is ignored. */
  targets: Tensor;
}

/** What the loss writes. */
export interface HeadOutputs {
  /** Scratch for one chunk of logits, [R,V], of x's type; R divides the work into chunks. */
  logits: Tensor;
  /** f32 [M]. */
  logSumExp: Tensor;
  /** f32 [M]: the loss of each position, 0 where ignored. */
  losses: Tensor;
}

/** logits = x · wteᵀ.  x: [M,C]; wte: [V,C]; logits: [M,V]; all of one type */
export function headLogits(
  program: Program,
  { x, wte }: { x: Tensor; wte: Tensor },
  { logits }: { logits: Tensor },
): void {
  for (const { first, rows } of vocabularySlices(program, wte)) {
    matmul(program, { a: x, b: rowsOf(wte, first, rows) }, { y: logits }, {
      transposeB: true,
      firstColumnOfY: first,
    });
  }
}

/**
 * The loss of every position, one chunk of rows after the other: logits, softmax, loss.
 *
 * The [M,V] logits never exist whole; for GPT-2 they would be larger than everything else together.
 */
export function headLossForward(
  program: Program,
  { x, wte, targets }: HeadInputs,
  { logits, logSumExp, losses }: HeadOutputs,
  { labelSmoothing = 0 }: { labelSmoothing?: number } = {},
): void {
  for (const { first, rows } of chunks(x, logits)) {
    const chunk = viewTensor(logits, { offset: 0, shape: [rows, logits.shape[1]!] });
    headLogits(program, { x: rowsOf(x, first, rows), wte }, { logits: chunk });
    crossEntropyForward(program, { logits: chunk, targets: rowsOf(targets, first, rows) }, {
      losses: rowsOf(losses, first, rows),
      logSumExp: rowsOf(logSumExp, first, rows),
    }, { labelSmoothing });
  }
}

/**
 * The loss of every position and its gradients, one chunk of rows after the other: logits, softmax,
 * loss, dlogits in place of the logits, dx and dwte.
 *
 * dx: [M,C] of x's type, is set. dwte: f32 [V,C], is set, or with `accumulate` added to. `stepInputs`
 * and `lossScale` are those of `crossEntropyBackward()`.
 */
export function headLossBackward(
  program: Program,
  { x, wte, targets, stepInputs, lossScale }: HeadInputs & {
    stepInputs: Tensor;
    lossScale: Tensor;
  },
  { logits, logSumExp, losses, dx, dwte }: HeadOutputs & { dx: Tensor; dwte: Tensor },
  { labelSmoothing = 0, accumulate = false }: { labelSmoothing?: number; accumulate?: boolean } =
    {},
): void {
  for (const { first, rows } of chunks(x, logits)) {
    const part = (tensor: Tensor) => rowsOf(tensor, first, rows);
    const chunk = viewTensor(logits, { offset: 0, shape: [rows, logits.shape[1]!] });
    const saved = { losses: part(losses), logSumExp: part(logSumExp) };
    headLogits(program, { x: part(x), wte }, { logits: chunk });
    crossEntropyForward(program, { logits: chunk, targets: part(targets) }, saved, {
      labelSmoothing,
    });
    crossEntropyBackward(
      program,
      { targets: part(targets), logSumExp: saved.logSumExp, stepInputs, lossScale },
      { dlogits: chunk },
      { labelSmoothing },
    );
    for (const slice of vocabularySlices(program, dwte)) {
      const columnsOfA = { start: slice.first, count: slice.rows };
      matmul(
        program,
        { a: chunk, b: rowsOf(wte, slice.first, slice.rows) },
        { y: part(dx) },
        { columnsOfA, accumulate: slice.first > 0 },
      );
      matmul(
        program,
        { a: chunk, b: part(x) },
        { y: rowsOf(dwte, slice.first, slice.rows) },
        { columnsOfA, transposeA: true, accumulate: accumulate || first > 0 },
      );
    }
  }
}

/** Chunks of rows of x, each as long as the logits have rows; the last may be shorter. */
function chunks(x: Tensor, logits: Tensor): { first: number; rows: number }[] {
  return ranges(x.shape[0]!, logits.shape[0]!);
}

/** Slices of the vocabulary such that each slice of `wte` fits into one binding. */
function vocabularySlices(program: Program, wte: Tensor): { first: number; rows: number }[] {
  const [V, C] = wte.shape as [number, number];
  const fitting = Math.floor(program.device.maxBindingBytes / (C * bytesPerElement(wte.dtype)));
  return ranges(V, V <= fitting ? V : Math.floor(fitting / SLICE_ROWS) * SLICE_ROWS);
}

/** Rows in a slice of the vocabulary are multiples of this, so that slices are aligned bindings. */
const SLICE_ROWS = 128;

function ranges(length: number, step: number): { first: number; rows: number }[] {
  const list = [];
  for (let first = 0; first < length; first += step) {
    list.push({ first, rows: Math.min(step, length - first) });
  }
  return list;
}

function rowsOf(tensor: Tensor, first: number, rows: number): Tensor {
  const rest = tensor.shape.slice(1);
  const rowLength = rest.reduce((product, dim) => product * dim, 1);
  return viewTensor(tensor, { offset: first * rowLength, shape: [rows, ...rest] });
}
