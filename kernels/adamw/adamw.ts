import step from "./adamw.wgsl" with { type: "text" };
import master from "./master.wgsl" with { type: "text" };
import withCopy from "./with_copy.wgsl" with { type: "text" };
import { type Program, splitWorkgroups } from "../program.ts";
import { rowSlices } from "../slices.ts";
import { assertDType, assertShape, ceilDiv, type Tensor, viewTensor } from "../tensor.ts";

/** Settings of AdamW that stay the same over the training. */
export interface AdamwOptions {
  beta1: number;
  beta2: number;
  epsilon: number;
  /** Decoupled decay: the parameter shrinks by learning rate · weightDecay each step. */
  weightDecay: number;
}

/** Rows of `adamwCorrections()` for consecutive t, and the distance in t between later rows. */
export const DENSE_CORRECTIONS = 1_000_000, CORRECTION_STRIDE = 1024;

/**
 * Bias corrections 1 / (1 − β1ᵗ) and 1 / √(1 − β2ᵗ) for t = 1, 2, …, [K,2], formed in f64, as long
 * as they differ from 1 in f32: the device, which alone knows how many steps were skipped, looks its
 * t up here. After `DENSE_CORRECTIONS` rows t grows by `CORRECTION_STRIDE`: a β2 of 0.999999 takes 17
 * million steps, over which lines between these rows are exact in f32.
 */
export function adamwCorrections(beta1: number, beta2: number): Float32Array<ArrayBuffer> {
  const table: number[] = [];
  for (let t = 1; t < 2 ** 32; t += t < DENSE_CORRECTIONS ? 1 : CORRECTION_STRIDE) {
    const correction1 = Math.fround(1 / (1 - beta1 ** t));
    const correction2 = Math.fround(1 / Math.sqrt(1 - beta2 ** t));
    table.push(correction1, correction2);
    if (correction1 === 1 && correction2 === 1) break;
  }
  return Float32Array.from(table);
}

/** Elements in one row of the flat tensors, for slicing them by the binding limit. */
const ROW = 64;
const WORKGROUP_SIZE = 256;

/**
 * One step of AdamW, unless `update` says that the step is skipped; then nothing changes.
 *
 * gradient, parameter, m, v: f32 [N], of any size, N a multiple of 64; copy: f16 [N], the parameter
 * rounded, where matrix products read f16. update: f32 [4] of `lossScaleUpdate()`; stepInputs:
 * f32 [4], the learning rate first.
 */
export function adamw(
  program: Program,
  { gradient, update, stepInputs }: { gradient: Tensor; update: Tensor; stepInputs: Tensor },
  { parameter, m, v, copy }: { parameter: Tensor; m: Tensor; v: Tensor; copy?: Tensor },
  { beta1, beta2, epsilon, weightDecay }: AdamwOptions,
): void {
  const [N] = parameter.shape as [number];
  for (const t of [gradient, parameter, m, v]) {
    assertShape("adamw", t, [N]);
    assertDType("adamw", t, "f32");
  }
  if (copy) {
    assertShape("adamw", copy, [N]);
    assertDType("adamw", copy, "f16");
  }
  assertShape("adamw", update, [4]);
  assertShape("adamw", stepInputs, [4]);
  if (N % ROW !== 0) {
    throw new RangeError(
      `Cannot run adamw as "${parameter.name}" must have a multiple of ${ROW} elements: ` +
        `current number is ${N}`,
    );
  }
  const table = viewTensor(parameter, { offset: 0, shape: [N / ROW, ROW] });
  for (const { first, rows, part } of rowSlices(program.device, table)) {
    const sliceOf = (t: Tensor) => viewTensor(t, { offset: first * ROW, shape: [rows * ROW] });
    program.dispatch({
      label: "kernels/adamw/adamw.wgsl",
      source: `${step}\n${copy ? withCopy : master}`,
      constants: {
        N: rows * ROW / 4,
        BETA1: beta1,
        BETA2: beta2,
        EPSILON: epsilon,
        WEIGHT_DECAY: weightDecay,
        WORKGROUP_SIZE,
      },
      tensors: [
        sliceOf(gradient),
        update,
        stepInputs,
        part,
        sliceOf(m),
        sliceOf(v),
        ...(copy ? [sliceOf(copy)] : []),
      ],
      workgroups: splitWorkgroups(ceilDiv(rows * ROW / 4, WORKGROUP_SIZE)),
    });
  }
}
