import update from "./update.wgsl" with { type: "text" };
import { CORRECTION_STRIDE, DENSE_CORRECTIONS } from "../adamw/adamw.ts";
import type { Program } from "../program.ts";
import { assertDType, assertShape, ceilDiv, type Tensor } from "../tensor.ts";

/** How the loss scale moves and gradients are clipped. */
export interface LossScaleOptions {
  /** Largest norm of the unscaled gradient; Infinity clips nothing. */
  gradientClip: number;
  /** What the scale is multiplied with after `growthInterval` good steps in a row. */
  growthFactor?: number;
  /** What the scale is multiplied with after a step with a non-finite gradient. */
  backoffFactor?: number;
  growthInterval?: number;
}

/** Tensors that `lossScaleUpdate()` reads. */
export interface LossScaleInputs {
  /** f32 [blocks,2] of `gradientNorm()`. */
  partials: Tensor;
  /** f32 [4]: learning rate, 1 / number of targets, 0, 0. */
  stepInputs: Tensor;
  /** f32 [N]: sums of the losses of targets, which together are those of all. */
  lossSums: Tensor;
  /** f32 [K,2] of `adamwCorrections()`. */
  corrections: Tensor;
}

/** Tensors that `lossScaleUpdate()` changes. */
export interface LossScaleOutputs {
  /** f32 [1]. */
  lossScale: Tensor;
  /** u32 [5]: growth tracker, steps applied, skipped, skipped in a row, reported. */
  counters: Tensor;
  /** f32 [4] for AdamW: gradient factor, both bias corrections, 1 if the step is skipped. */
  update: Tensor;
  /**
   * u32 [R,8]: a ring of reports, the next in row reported % R: loss, gradient norm before clipping, loss scale,
   * each as the bits of an f32; skipped, growth tracker, skips in a row, skips in all, 0.
   */
  reports: Tensor;
}

/**
 * Decides about one step on the device: skips it if the gradient is not finite, clips by the global
 * norm, moves the loss scale as torch.amp.GradScaler does, and reports.
 *
 * The clip coefficient is min(1, gradientClip / (norm + 1e-6)), as torch.nn.utils.clip_grad_norm_.
 */
export function lossScaleUpdate(
  program: Program,
  { partials, stepInputs, lossSums, corrections }: LossScaleInputs,
  { lossScale, counters, update: update_, reports }: LossScaleOutputs,
  { gradientClip, growthFactor = 2, backoffFactor = 0.5, growthInterval = 2000 }: LossScaleOptions,
): void {
  const action = "lossScaleUpdate";
  const [blocks] = partials.shape as [number];
  const [K] = corrections.shape as [number];
  const [R] = reports.shape as [number];
  assertShape(action, partials, [blocks, 2]);
  assertShape(action, stepInputs, [4]);
  const [N] = lossSums.shape as [number];
  assertShape(action, lossSums, [N]);
  assertShape(action, corrections, [K, 2]);
  assertShape(action, lossScale, [1]);
  assertShape(action, counters, [5]);
  assertShape(action, update_, [4]);
  assertShape(action, reports, [R, 8]);
  for (const t of [counters, reports]) assertDType(action, t, "u32");
  const WORKGROUP_SIZE = 256;
  program.dispatch({
    label: "kernels/loss_scale/update.wgsl",
    source: update,
    constants: {
      // WGSL has no infinite literal; no f32 norm is larger than this
      GRADIENT_CLIP: Math.min(gradientClip, 3e38),
      GROWTH_FACTOR: growthFactor,
      BACKOFF_FACTOR: backoffFactor,
      GROWTH_INTERVAL: growthInterval,
      DENSE: DENSE_CORRECTIONS,
      STRIDE: CORRECTION_STRIDE,
      WORKGROUP_SIZE,
    },
    tensors: [
      partials,
      stepInputs,
      lossSums,
      corrections,
      lossScale,
      counters,
      update_,
      reports,
    ],
    workgroups: [1],
    iterations: ceilDiv(blocks, WORKGROUP_SIZE) + ceilDiv(N, WORKGROUP_SIZE) +
      Math.log2(WORKGROUP_SIZE),
    workgroupBytes: WORKGROUP_SIZE * 16,
  });
}
