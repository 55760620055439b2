import gradient from "./gradient.wgsl" with { type: "text" };
import step from "./step.wgsl" with { type: "text" };
import { dims } from "../dims.ts";
import { type Program, splitWorkgroups } from "../program.ts";
import { flatSlices } from "../slices.ts";
import { ceilDiv, type Tensor } from "../tensor.ts";

const WORKGROUP_SIZE = 256;

/** For messages. */
const WEIGHTS = { action: "an outer step", input: "weights" };

/**
 * weights = start − weights: the outer gradient of a rank, how far its weights have moved.
 *
 * start, weights: f32 [N], of any size, N a multiple of 64.
 *
 * @throws {RangeError | TypeError} if a tensor has another shape or element type, or N is no multiple of 64.
 */
export function outerGradient(
  program: Program,
  { start }: { start: Tensor },
  { weights }: { weights: Tensor },
): void {
  dims("outerGradient", { weights: [weights, "N", "f32"], start: [start, "N", "f32"] });
  for (const { sliceOf, N4 } of flatSlices(program.device, weights, WEIGHTS)) {
    program.dispatch({
      shader: { "kernels/outer_step/gradient.wgsl": gradient },
      constants: { WORKGROUP_SIZE },
      tensors: { start: sliceOf(start), weights: sliceOf(weights) },
      uniforms: { N4 },
      workgroups: splitWorkgroups(ceilDiv(N4, WORKGROUP_SIZE)),
    });
  }
}

/**
 * The outer step, in place: with g = weights / ranks it sets momentum = decay · momentum + g and
 * start = start − learning rate · (g + decay · momentum), and gives weights the new start.
 *
 * weights: f32 [N], at first the sum of the outer gradients of all ranks; start, momentum: f32 [N], of any size, N a
 * multiple of 64; copy: f16 [N], is set to the rounded weights, for matrix products in f16.
 *
 * @param options.ranks ranks whose outer gradients were added up.
 * @param options.outerMomentum the decay of the Nesterov momentum.
 * @throws {RangeError | TypeError} if a tensor has another shape or element type, or N is no multiple of 64.
 */
export function outerStep(
  program: Program,
  { weights, start, momentum, copy }: {
    weights: Tensor;
    start: Tensor;
    momentum: Tensor;
    copy?: Tensor | undefined;
  },
  { ranks, outerLearningRate, outerMomentum }: {
    ranks: number;
    outerLearningRate: number;
    outerMomentum: number;
  },
): void {
  dims("outerStep", {
    weights: [weights, "N", "f32"],
    start: [start, "N", "f32"],
    momentum: [momentum, "N", "f32"],
    copy: [copy, "N", "f16"],
  });
  for (const { sliceOf, N4 } of flatSlices(program.device, weights, WEIGHTS)) {
    program.dispatch({
      shader: { "kernels/outer_step/step.wgsl": step },
      constants: {
        RANK_SHARE: 1 / ranks,
        LEARNING_RATE: outerLearningRate,
        DECAY: outerMomentum,
        COPY: copy !== undefined,
        WORKGROUP_SIZE,
      },
      tensors: {
        weights: sliceOf(weights),
        start: sliceOf(start),
        momentum: sliceOf(momentum),
        copy: copy && sliceOf(copy),
      },
      uniforms: { N4 },
      workgroups: splitWorkgroups(ceilDiv(N4, WORKGROUP_SIZE)),
    });
  }
}
