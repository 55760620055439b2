import step from "./adamw.wgsl" with { type: "text" };
import { dims } from "../dims.ts";
import { UPDATE } from "../prepare_step/prepare_step.ts";
import { type Program, splitWorkgroups } from "../program.ts";
import { flatSlices } from "../slices.ts";
import { ceilDiv, type Tensor } from "../tensor.ts";

/** Settings of AdamW that stay the same throughout training. */
export interface AdamwOptions {
  /** Decay of the first moment. */
  beta1: number;
  /** Decay of the second moment. */
  beta2: number;
  /** Addend of the denominator. */
  epsilon: number;
  /** Decoupled decay: each step multiplies the parameter by 1 − learning rate · weightDecay. */
  weightDecay: number;
}

/**
 * Rows of `adamwCorrections()` that hold consecutive t, and the step of t from row to row after them.
 */
const DENSE_CORRECTIONS = 1_000_000, CORRECTION_STRIDE = 1024;

/**
 * Bias corrections 1 / (1 − β1ᵗ) and 1 / √(1 − β2ᵗ) for t = 1, 2, …, [K,2]. They are computed in f64, and
 * the table ends when both are 1 in f32.
 *
 * The kernel looks them up, because only the device knows t: it decides which steps are skipped. After
 * `DENSE_CORRECTIONS` rows t grows by `CORRECTION_STRIDE` per row, because with a β2 of 0.999999 the table
 * covers 17 million steps; linear interpolation between these rows is exact in f32.
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

const WORKGROUP_SIZE = 256;

/**
 * One step of AdamW, in place. Nothing changes if `update` says that the step is skipped.
 *
 * gradient, parameter, m, v: f32 [N], of any size, N a multiple of 64; copy: f16 [N], is set to the rounded
 * parameter, for matrix products in f16; update: u32 [5] of `prepareStep()`; corrections: f32 [K,2] of
 * `adamwCorrections()`.
 *
 * @throws {RangeError | TypeError} if a tensor has another shape or element type, or N is no multiple of 64.
 */
export function adamw(
  program: Program,
  { gradient, update, corrections }: { gradient: Tensor; update: Tensor; corrections: Tensor },
  { parameter, m, v, copy }: { parameter: Tensor; m: Tensor; v: Tensor; copy?: Tensor | undefined },
  { beta1, beta2, epsilon, weightDecay }: AdamwOptions,
): void {
  dims("adamw", {
    parameter: [parameter, "N", "f32"],
    gradient: [gradient, "N", "f32"],
    m: [m, "N", "f32"],
    v: [v, "N", "f32"],
    copy: [copy, "N", "f16"],
    update: [update, "5", "u32"],
    corrections: [corrections, "K,2", "f32"],
  });
  const slices = flatSlices(program.device, parameter, { action: "adamw", input: "parameter" });
  for (const { sliceOf, N4 } of slices) {
    program.dispatch({
      shader: { "kernels/adamw/adamw.wgsl": step, ...UPDATE },
      constants: {
        BETA1: beta1,
        BETA2: beta2,
        EPSILON: epsilon,
        WEIGHT_DECAY: weightDecay,
        COPY: copy !== undefined,
        DENSE: DENSE_CORRECTIONS,
        STRIDE: CORRECTION_STRIDE,
        WORKGROUP_SIZE,
      },
      tensors: {
        gradient: sliceOf(gradient),
        update,
        corrections,
        parameter: sliceOf(parameter),
        m: sliceOf(m),
        v: sliceOf(v),
        copy: copy && sliceOf(copy),
      },
      uniforms: { N4 },
      workgroups: splitWorkgroups(ceilDiv(N4, WORKGROUP_SIZE)),
    });
  }
}
