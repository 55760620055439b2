import forward from "./forward.wgsl" with { type: "text" };
import backward from "./backward.wgsl" with { type: "text" };
import { dims } from "../dims.ts";
import { EPSILON } from "../layernorm/layernorm.ts";
import {
  assertDz,
  COLUMN_SUM,
  mostBlocks,
  parametersBackward,
  ROW_SUMS,
  rowBlocks,
  rowLanes,
} from "../rows.ts";
import { type Program, splitWorkgroups } from "../program.ts";
import { type Dropout, dropoutUniforms, RANDOM } from "../random.ts";
import { assertTogether, assertVectors, ceilDiv, type Tensor } from "../tensor.ts";

/**
 * y = s / √(mean(s²) + ε) · weight over each row of s (Zhang and Sennrich 2019, https://arxiv.org/abs/1910.07467),
 * computed in f32; without a weight y = s / √(mean(s²) + ε).
 *
 * Without z, s is x. With z, s = x + dropout(z), which is written to `sum`, as in `layernormForward()`.
 *
 * x: [M,C], f32 or f16; weight: f32 [C]; z: [M,C], f32 or f16; y: [M,C], f32 or f16; statistics: f32 [M,1], rstd
 * of each row, for the backward pass; sum: f32 [M,C]. C is a multiple of four.
 *
 * @param options.epsilon addend of the mean of squares, 1e-5 by default.
 * @param options.dropout dropout of z, none by default.
 * @throws {RangeError | TypeError} if a tensor has another shape or element type or is missing.
 */
export function rmsnormForward(
  program: Program,
  { x, z, weight }: { x: Tensor; z?: Tensor | undefined; weight?: Tensor | undefined },
  { sum, y, statistics }: { sum?: Tensor | undefined; y: Tensor; statistics: Tensor },
  { epsilon = EPSILON, dropout }: {
    epsilon?: number | undefined;
    dropout?: Dropout | undefined;
  } = {},
): void {
  const action = "rmsnormForward", random = dropout?.random;
  const { M, C } = dims(action, {
    x: [x, "M,C", "f32|f16"],
    weight: [weight, "C", "f32"],
    y: [y, "M,C", "f32|f16"],
    statistics: [statistics, "M,1", "f32"],
    z: [z, "M,C", "f32|f16"],
    sum: [sum, "M,C", "f32"],
    random: [random, "2", "u32"],
  });
  assertTogether(action, { z, sum });
  assertVectors(action, { x });
  const lanes = rowLanes(program.device, C);
  program.dispatch({
    shader: { "kernels/rmsnorm/forward.wgsl": forward, ...ROW_SUMS, ...RANDOM },
    constants: {
      ...lanes,
      xType: `vec4<${x.dtype}>`,
      zType: `vec4<${z?.dtype ?? "f32"}>`,
      yType: `vec4<${y.dtype}>`,
      EPSILON: epsilon,
      RESIDUAL: z !== undefined,
      WEIGHT: weight !== undefined,
      DROPOUT: z !== undefined && dropout !== undefined,
    },
    tensors: { x, z, random, weight, sum, y, statistics },
    uniforms: { ...(dropout && dropoutUniforms(dropout)), M, columns4: C / 4 },
    workgroups: splitWorkgroups(ceilDiv(M, lanes.ROWS)),
    workgroupBytes: lanes.LANES * lanes.ROWS * 8,
  });
}

/**
 * Gradients of `rmsnormForward()`.
 *
 * x: [M,C], f32 or f16, with z its `sum`; dy: [M,C], f32 or f16; weight: f32 [C]; statistics: f32 [M,1].
 * dx: f32 [M,C], the gradient of the residual stream, is set, or with `accumulateDx` added to. dz: [M,C],
 * f32 or f16, is set to dx · dropout's mask. dweight: f32 [C] is set, or with `accumulate` added to. dzBias: f32 [C],
 * likewise, and only beside dz, as in `layernormBackward()`.
 *
 * @throws {RangeError | TypeError} if a tensor has another shape or element type or is missing.
 */
export function rmsnormBackward(
  program: Program,
  { x, weight, statistics, dy }: {
    x: Tensor;
    weight?: Tensor | undefined;
    statistics: Tensor;
    dy: Tensor;
  },
  { dx, dz, dweight, dzBias }: {
    dx: Tensor;
    dz?: Tensor | undefined;
    dweight?: Tensor | undefined;
    dzBias?: Tensor | undefined;
  },
  { accumulate = false, accumulateDx = false, dropout }: {
    accumulate?: boolean;
    accumulateDx?: boolean;
    dropout?: Dropout | undefined;
  } = {},
): void {
  const action = "rmsnormBackward", random = dropout?.random;
  const { M, C } = dims(action, {
    x: [x, "M,C", "f32|f16"],
    weight: [weight, "C", "f32"],
    statistics: [statistics, "M,1", "f32"],
    dy: [dy, "M,C", "f32|f16"],
    dx: [dx, "M,C", "f32"],
    dz: [dz, "M,C", "f32|f16"],
    dweight: [dweight, "C", "f32"],
    dzBias: [dzBias, "C", "f32"],
    random: [random, "2", "u32"],
  });
  assertVectors(action, { x });
  assertDz(action, { dz, dzBias });
  const lanes = rowLanes(program.device, C), { LANES, ROWS } = lanes;
  const { P, block } = rowBlocks(M, ROWS, mostBlocks(program.device, lanes.QUADS));
  const sums = [dweight, dzBias].filter((sum) => sum !== undefined);
  const partials = sums.length > 0 ? program.scratch([P, sums.length, C]) : undefined;
  program.dispatch({
    shader: {
      "kernels/rmsnorm/backward.wgsl": backward,
      ...ROW_SUMS,
      ...COLUMN_SUM,
      ...RANDOM,
    },
    constants: {
      ...lanes,
      xType: `vec4<${x.dtype}>`,
      dyType: `vec4<${dy.dtype}>`,
      zType: `vec4<${dz?.dtype ?? "f32"}>`,
      ACCUMULATE: accumulateDx,
      RESIDUAL: dz !== undefined,
      WEIGHT: weight !== undefined,
      PARAMETERS: dweight !== undefined,
      Z_BIAS: dzBias !== undefined,
      PARTIALS: partials !== undefined,
      DROPOUT: dz !== undefined && dropout !== undefined,
    },
    tensors: { x, weight, statistics, dy, random, dx, dz, partials },
    uniforms: { ...(dropout && dropoutUniforms(dropout)), M, columns4: C / 4, block },
    workgroups: [P],
    iterations: block / ROWS,
    workgroupBytes: LANES * ROWS * (8 + 16),
  });
  if (partials) parametersBackward(program, { partials }, { sums }, { accumulate });
}
