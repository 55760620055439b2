import forward from "./forward.wgsl" with { type: "text" };
import backward from "./backward.wgsl" with { type: "text" };
import { dims } from "../dims.ts";
import { type Program, splitWorkgroups } from "../program.ts";
import { type Dropout, dropoutUniforms, RANDOM } from "../random.ts";
import { assertTogether, assertVectors, ceilDiv, type Tensor } from "../tensor.ts";
import {
  assertDz,
  COLUMN_SUM,
  MOST_BLOCKS,
  mostBlocks,
  parametersBackward,
  ROW_SUMS,
  rowBlocks,
  rowLanes,
} from "../rows.ts";

/** GPT-2's addition to the variance. */
export const EPSILON = 1e-5;

/**
 * y = (s − mean) / √(variance + ε) · weight + bias over each row of s (Ba et al. 2016), computed in f32.
 *
 * Without z, s is x. With z, s = x + dropout(z), which is written to `sum`: the residual addition of one
 * block and the layer-norm that follows it are one pass over memory.
 *
 * x: [M,C], f32 or f16; weight, bias: f32 [C]; z: [M,C], f32 or f16; y: [M,C], f32 or f16; statistics: f32
 * [M,2], mean and rstd of each row, for the backward pass; sum: f32 [M,C]. C is a multiple of four.
 *
 * @param options.dropout dropout of z, none by default.
 * @throws {RangeError | TypeError} if a tensor has another shape or element type or is missing.
 */
export function layernormForward(
  program: Program,
  { x, z, weight, bias }: {
    x: Tensor;
    z?: Tensor | undefined;
    weight: Tensor;
    bias: Tensor;
  },
  { sum, y, statistics }: { sum?: Tensor | undefined; y: Tensor; statistics: Tensor },
  { epsilon = EPSILON, dropout }: {
    epsilon?: number | undefined;
    dropout?: Dropout | undefined;
  } = {},
): void {
  const action = "layernormForward", random = dropout?.random;
  const { M, C } = dims(action, {
    x: [x, "M,C", "f32|f16"],
    weight: [weight, "C", "f32"],
    bias: [bias, "C", "f32"],
    y: [y, "M,C", "f32|f16"],
    statistics: [statistics, "M,2", "f32"],
    z: [z, "M,C", "f32|f16"],
    sum: [sum, "M,C", "f32"],
    random: [random, "2", "u32"],
  });
  assertTogether(action, { z, sum });
  assertVectors(action, { x });
  const lanes = rowLanes(program.device, C);
  program.dispatch({
    shader: { "kernels/layernorm/forward.wgsl": forward, ...ROW_SUMS, ...RANDOM },
    constants: {
      ...lanes,
      xType: `vec4<${x.dtype}>`,
      zType: `vec4<${z?.dtype ?? "f32"}>`,
      yType: `vec4<${y.dtype}>`,
      EPSILON: epsilon,
      RESIDUAL: z !== undefined,
      DROPOUT: z !== undefined && dropout !== undefined,
    },
    tensors: { x, z, random, weight, bias, sum, y, statistics },
    uniforms: { ...(dropout && dropoutUniforms(dropout)), M, columns4: C / 4 },
    workgroups: splitWorkgroups(ceilDiv(M, lanes.ROWS)),
    workgroupBytes: lanes.LANES * lanes.ROWS * 8,
  });
}

/**
 * Gradients of `layernormForward()`.
 *
 * x: [M,C], f32 or f16, with z its `sum`; dy: [M,C], f32 or f16; weight: f32 [C]; statistics: f32 [M,2].
 * dx: f32 [M,C], the gradient of the residual stream, is set, or with `accumulateDx` added to. dz: [M,C],
 * f32 or f16, is set to dx · dropout's mask. dweight, dbias: f32 [C], both or neither, are set, or with
 * `accumulate` added to. dzBias: f32 [C], likewise, and only beside dz: the sum of the rows of dz, which is the gradient of
 * the bias of the linear layer that computes z.
 *
 * @throws {RangeError | TypeError} if a tensor has another shape or element type or is missing.
 */
export function layernormBackward(
  program: Program,
  { x, weight, statistics, dy }: { x: Tensor; weight: Tensor; statistics: Tensor; dy: Tensor },
  { dx, dz, dweight, dbias, dzBias }: {
    dx: Tensor;
    dz?: Tensor | undefined;
    dweight?: Tensor | undefined;
    dbias?: Tensor | undefined;
    dzBias?: Tensor | undefined;
  },
  { accumulate = false, accumulateDx = false, dropout }: {
    accumulate?: boolean;
    accumulateDx?: boolean;
    dropout?: Dropout | undefined;
  } = {},
): void {
  const action = "layernormBackward", random = dropout?.random;
  const { M, C } = dims(action, {
    x: [x, "M,C", "f32|f16"],
    weight: [weight, "C", "f32"],
    statistics: [statistics, "M,2", "f32"],
    dy: [dy, "M,C", "f32|f16"],
    dx: [dx, "M,C", "f32"],
    dz: [dz, "M,C", "f32|f16"],
    dweight: [dweight, "C", "f32"],
    dbias: [dbias, "C", "f32"],
    dzBias: [dzBias, "C", "f32"],
    random: [random, "2", "u32"],
  });
  assertVectors(action, { x });
  assertTogether(action, { dweight, dbias });
  assertDz(action, { dz, dzBias });
  const { device } = program, lanes = rowLanes(device, C), { LANES, ROWS, QUADS } = lanes;
  // on a CPU adapter, too, as the blocks determine the order of the sums, and so the bits of a training of GPT-2
  const most = device.isCpu ? MOST_BLOCKS : mostBlocks(device, QUADS);
  const { P, block } = rowBlocks(M, ROWS, most);
  const sums = [...(dweight && dbias ? [dweight, dbias] : []), ...(dzBias ? [dzBias] : [])];
  const partials = sums.length > 0 ? program.scratch([P, sums.length, C]) : undefined;
  program.dispatch({
    shader: {
      "kernels/layernorm/backward.wgsl": backward,
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
