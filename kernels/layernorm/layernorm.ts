import forward from "./forward.wgsl" with { type: "text" };
import backward from "./backward.wgsl" with { type: "text" };
import backwardPartials from "./backward_partials.wgsl" with { type: "text" };
import backwardParameters from "./backward_parameters.wgsl" with { type: "text" };
import { type Program, splitWorkgroups } from "../program.ts";
import { assertDType, assertShape, ceilDiv, type Tensor } from "../tensor.ts";

// Invocations a row and rows a workgroup. Forward, [2048,64] and [2048,256]: 0.9 and 2.4 ms with 8
// lanes, 1.3 and 3.0 with 16, whether 4 to 32 rows; 1.1 and 3.2 with 4 lanes and 16 rows (lavapipe, two
// cores, November 2026; medians). Not measured on a GPU.
const LANES = 8, ROWS = 8;

/** Rows whose parameter gradients are summed by one invocation. */
const BLOCK = 64;

/** GPT-2's addition to the variance. */
const EPSILON = 1e-5;

/**
 * y = (x − mean) / √(variance + ε) · weight + bias over each row (Ba et al. 2016), in f32.
 *
 * x, y: [M,C], f32 or f16 each; weight, bias: f32 [C]; mean, rstd: f32 [M], kept for the backward.
 *
 * @throws {RangeError | TypeError} if a tensor has another shape or element type.
 */
export function layernormForward(
  program: Program,
  { x, weight, bias }: { x: Tensor; weight: Tensor; bias: Tensor },
  { y, mean, rstd }: { y: Tensor; mean: Tensor; rstd: Tensor },
  { epsilon = EPSILON }: { epsilon?: number } = {},
): void {
  const action = "layernormForward";
  const [M, C] = checkRows(action, { x, weight, mean, rstd });
  assertShape(action, bias, [C]);
  assertDType(action, bias, "f32");
  assertShape(action, y, [M, C]);
  assertDType(action, y, "f32", "f16");
  program.dispatch({
    label: "kernels/layernorm/forward.wgsl",
    source: forward,
    constants: { xType: x.dtype, yType: y.dtype, M, C, EPSILON: epsilon, LANES, ROWS },
    tensors: [x, weight, bias, y, mean, rstd],
    workgroups: splitWorkgroups(ceilDiv(M, ROWS)),
    iterations: 3 * ceilDiv(C, LANES) + 2 * LANES,
    workgroupBytes: LANES * ROWS * 4,
  });
}

/** Shape of the scratch tensor `partials` of `layernormBackward()`. */
export function layernormPartialsShape(M: number, C: number): number[] {
  return [ceilDiv(M, BLOCK), 2, C];
}

/**
 * Gradients of `layernormForward()`.
 *
 * x, dy: [M,C], f32 or f16 each; weight: f32 [C]; mean, rstd: f32 [M]; partials: f32 scratch of
 * `layernormPartialsShape(M, C)`. dx: f32 [M,C], is set, or with `accumulateDx` added to: it is the
 * gradient of the residual stream. dweight, dbias: f32 [C], are set, or with `accumulate` added to.
 *
 * @throws {RangeError | TypeError} if a tensor has another shape or element type.
 */
export function layernormBackward(
  program: Program,
  { x, weight, mean, rstd, dy }: {
    x: Tensor;
    weight: Tensor;
    mean: Tensor;
    rstd: Tensor;
    dy: Tensor;
  },
  { dx, dweight, dbias, partials }: {
    dx: Tensor;
    dweight: Tensor;
    dbias: Tensor;
    partials: Tensor;
  },
  { accumulate = false, accumulateDx = false }: {
    accumulate?: boolean;
    accumulateDx?: boolean;
  } = {},
): void {
  const action = "layernormBackward";
  const [M, C] = checkRows(action, { x, weight, mean, rstd });
  assertDType(action, dy, "f32", "f16");
  assertShape(action, dy, [M, C]);
  assertShape(action, dx, [M, C]);
  assertShape(action, partials, layernormPartialsShape(M, C));
  for (const t of [dweight, dbias]) assertShape(action, t, [C]);
  for (const t of [dx, partials, dweight, dbias]) assertDType(action, t, "f32");
  const types = { xType: x.dtype, dyType: dy.dtype };
  program.dispatch({
    label: "kernels/layernorm/backward.wgsl",
    source: backward,
    constants: { ...types, M, C, ACCUMULATE: accumulateDx, LANES, ROWS },
    tensors: [x, weight, mean, rstd, dy, dx],
    workgroups: splitWorkgroups(ceilDiv(M, ROWS)),
    iterations: 2 * ceilDiv(C, LANES) + LANES,
    workgroupBytes: LANES * ROWS * 8,
  });
  const P = partials.shape[0]!, WORKGROUP_SIZE = 64;
  program.dispatch({
    label: "kernels/layernorm/backward_partials.wgsl",
    source: backwardPartials,
    constants: { ...types, M, C, BLOCK, WORKGROUP_SIZE },
    tensors: [x, mean, rstd, dy, partials],
    workgroups: [ceilDiv(C, WORKGROUP_SIZE), P],
    iterations: BLOCK,
  });
  program.dispatch({
    label: "kernels/layernorm/backward_parameters.wgsl",
    source: backwardParameters,
    constants: { P, C, ACCUMULATE: accumulate, WORKGROUP_SIZE },
    tensors: [partials, dweight, dbias],
    workgroups: [ceilDiv(C, WORKGROUP_SIZE)],
    iterations: P,
  });
}

function checkRows(
  action: string,
  { x, weight, mean, rstd }: { x: Tensor; weight: Tensor; mean: Tensor; rstd: Tensor },
): [M: number, C: number] {
  const [M, C] = x.shape as [number, number];
  assertDType(action, x, "f32", "f16");
  assertShape(action, x, [M, C]);
  assertShape(action, weight, [C]);
  for (const t of [mean, rstd]) assertShape(action, t, [M]);
  for (const t of [weight, mean, rstd]) assertDType(action, t, "f32");
  return [M, C];
}
