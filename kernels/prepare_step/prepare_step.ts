import shader from "./prepare_step.wgsl" with { type: "text" };
import update from "./update.wgsl" with { type: "text" };
import { dims } from "../dims.ts";
import type { Program } from "../program.ts";
import type { Shader } from "../shader.ts";
import { ceilDiv, type Tensor } from "../tensor.ts";

/** The struct Update, which `prepareStep()` sets and optimizers read. */
export const UPDATE: Shader = { "kernels/prepare_step/update.wgsl": update };

/** How gradients are clipped and how the loss scale changes. */
export interface PrepareStepOptions {
  /** Largest norm of the unscaled gradient; Infinity clips nothing. */
  gradientClip: number;
  /** Factor of the loss scale after `growthInterval` good steps in a row; 2 by default. */
  growthFactor?: number;
  /** Factor of the loss scale after a step with a non-finite gradient; 0.5 by default. */
  backoffFactor?: number;
  /** Good steps in a row after which the loss scale grows; 2000 by default. */
  growthInterval?: number;
}

/** Tensors that `prepareStep()` reads. */
export interface PrepareStepInputs {
  /** f32 [blocks,2] of `gradientNorm()`. */
  partials: Tensor;
  /** f32 [3]: learning rate, 1 / number of targets, Muon's learning rate. */
  stepInputs: Tensor;
  /** f32 [N]: the sum of the losses of each micro-batch. */
  lossSums: Tensor;
}

/** Tensors that `prepareStep()` changes. */
export interface PrepareStepOutputs {
  /** f32 [1]. */
  lossScale: Tensor;
  /** u32 [5]: growth tracker, steps applied, skipped, skipped in a row, reported. */
  counters: Tensor;
  /**
   * u32 [5], what the optimizer reads: learning rate and gradient factor as the bits of an f32; the number of
   * this step among those applied, from 1; 1 if the step is skipped; Muon's learning rate as the bits of an f32.
   */
  update: Tensor;
  /**
   * u32 [R,8]: a ring of reports, of which the next is written to row reported % R: loss, gradient norm
   * before clipping, loss scale, each as the bits of an f32; skipped, growth tracker, skips in a row, skips
   * in all, 0.
   */
  reports: Tensor;
}

/**
 * Prepares one step of the optimizer on the device: skips it if the gradient is not finite, clips by the
 * global norm, updates the loss scale as torch.amp.GradScaler does, and writes a report.
 *
 * The clip coefficient is min(1, gradientClip / (norm + 1e-6)), as torch.nn.utils.clip_grad_norm_.
 *
 * @throws {RangeError | TypeError} if a tensor has another shape or element type.
 */
export function prepareStep(
  program: Program,
  { partials, stepInputs, lossSums }: PrepareStepInputs,
  { lossScale, counters, update, reports }: PrepareStepOutputs,
  { gradientClip, growthFactor = 2, backoffFactor = 0.5, growthInterval = 2000 }:
    PrepareStepOptions,
): void {
  const { blocks, N } = dims("prepareStep", {
    partials: [partials, "blocks,2", "f32"],
    stepInputs: [stepInputs, "3", "f32"],
    lossSums: [lossSums, "N", "f32"],
    lossScale: [lossScale, "1", "f32"],
    counters: [counters, "5", "u32"],
    update: [update, "5", "u32"],
    reports: [reports, "R,8", "u32"],
  });
  const WORKGROUP_SIZE = 256;
  program.dispatch({
    shader: { "kernels/prepare_step/prepare_step.wgsl": shader, ...UPDATE },
    constants: {
      // WGSL has no infinite literal; no f32 norm is larger than this
      GRADIENT_CLIP: Math.min(gradientClip, 3e38),
      GROWTH_FACTOR: growthFactor,
      BACKOFF_FACTOR: backoffFactor,
      GROWTH_INTERVAL: growthInterval,
      WORKGROUP_SIZE,
    },
    tensors: { partials, stepInputs, lossSums, lossScale, counters, update, reports },
    workgroups: [1],
    iterations: ceilDiv(blocks, WORKGROUP_SIZE) + ceilDiv(N, WORKGROUP_SIZE) +
      Math.log2(WORKGROUP_SIZE),
    workgroupBytes: WORKGROUP_SIZE * 16,
  });
}
