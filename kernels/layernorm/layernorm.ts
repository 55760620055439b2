import forward from "./forward.wgsl" with { type: "text" };
import plain from "./plain.wgsl" with { type: "text" };
import residual from "./residual.wgsl" with { type: "text" };
import backward from "./backward.wgsl" with { type: "text" };
import stream from "./stream.wgsl" with { type: "text" };
import mask from "./mask.wgsl" with { type: "text" };
import rows from "./rows.wgsl" with { type: "text" };
import sumsTree from "./sums_tree.wgsl" with { type: "text" };
import sumsSubgroup from "./sums_subgroup.wgsl" with { type: "text" };
import backwardParameters from "./backward_parameters.wgsl" with { type: "text" };
import type { Device } from "../device.ts";
import { type Program, splitWorkgroups } from "../program.ts";
import { type DropoutSite, dropoutUniforms, withRandom } from "../random.ts";
import { assertDType, assertShape, ceilDiv, type Tensor } from "../tensor.ts";

/** GPT-2's addition to the variance. */
export const EPSILON = 1e-5;

/** Dropout of what is added to the residual stream. */
const NO_DROPOUT: DropoutSite = { rate: 0, site: 0 };

/**
 * y = (s − mean) / √(variance + ε) · weight + bias over each row (Ba et al. 2016), in f32, of s = x, or
 * where there is a z of s = x + dropout(z), which is written to sum: what a block adds to the residual
 * stream, and the layer-norm that begins the next one, in one pass over memory.
 *
 * x: [M,C], f32 or f16; weight, bias: f32 [C]; z: [M,C], f32 or f16; random: u32 [seed, counter], needed
 * if the rate is above 0. y: [M,C], f32 or f16; statistics: f32 [M,2], mean and rstd of each row, kept
 * for the backward; sum: f32 [M,C]. C is a multiple of four.
 *
 * @throws {RangeError | TypeError} if a tensor has another shape or element type or is missing.
 */
export function layernormForward(
  program: Program,
  { x, z, random, weight, bias }: {
    x: Tensor;
    z?: Tensor;
    random?: Tensor;
    weight: Tensor;
    bias: Tensor;
  },
  { sum, y, statistics }: { sum?: Tensor; y: Tensor; statistics: Tensor },
  { epsilon = EPSILON, ...site }: { epsilon?: number } & Partial<DropoutSite> = {},
): void {
  const action = "layernormForward";
  const shape = checkRows(action, { x, weight, statistics });
  assertShape(action, bias, weight.shape);
  assertDType(action, bias, "f32");
  assertShape(action, y, x.shape);
  assertDType(action, y, "f32", "f16");
  if ((z === undefined) !== (sum === undefined)) {
    throw new TypeError(
      `Cannot run ${action} as z and sum must be there together: ` +
        `current is ${z ? "z" : "sum"} alone`,
    );
  }
  const dropout = checkBranch(action, { x, z, stream: sum, random }, site);
  const lanes = lanesOf(program.device, shape), sums = sumsOf(program.device, lanes);
  const extra = z && sum ? [z, random ?? z, sum] : [];
  const tensors = [x, weight, bias, y, statistics, ...extra];
  program.dispatch({
    label: "kernels/layernorm/forward.wgsl",
    source: withRandom([forward, z ? residual : plain, rows, sums].join("\n")),
    constants: {
      ...lanes,
      xType: `vec4<${x.dtype}>`,
      yType: `vec4<${y.dtype}>`,
      EPSILON: epsilon,
      UNIFORM: tensors.length,
      ...(z ? { zType: `vec4<${z.dtype}>`, DROPOUT: dropout.rate > 0 } : {}),
    },
    tensors,
    uniforms: [...dropoutUniforms(dropout), 0, shape.M, shape.C / 4],
    workgroups: splitWorkgroups(ceilDiv(shape.M, lanes.ROWS)),
    iterations: 2 * Math.log2(lanes.LANES),
    workgroupBytes: lanes.LANES * lanes.ROWS * 8,
  });
}

/**
 * Gradients of `layernormForward()`.
 *
 * x, the sum where there was one: [M,C], f32 or f16; dy: [M,C], f32 or f16; weight: f32 [C]; statistics:
 * f32 [M,2]. dx: f32 [M,C], is set, or with `accumulateDx` added to: the gradient of the residual stream.
 * dz: [M,C], f32 or f16, is set to dropout's mask over dx. dweight, dbias: f32 [C], both or neither, are
 * set, or with `accumulate` added to.
 *
 * @throws {RangeError | TypeError} if a tensor has another shape or element type or is missing.
 */
export function layernormBackward(
  program: Program,
  { x, weight, statistics, dy, random }: {
    x: Tensor;
    weight: Tensor;
    statistics: Tensor;
    dy: Tensor;
    random?: Tensor;
  },
  { dx, dz, dweight, dbias }: {
    dx: Tensor;
    dz?: Tensor;
    dweight?: Tensor | undefined;
    dbias?: Tensor | undefined;
  },
  { accumulate = false, accumulateDx = false, ...site }: {
    accumulate?: boolean;
    accumulateDx?: boolean;
  } & Partial<DropoutSite> = {},
): void {
  const action = "layernormBackward";
  const shape = checkRows(action, { x, weight, statistics });
  const { M, C } = shape;
  assertDType(action, dy, "f32", "f16");
  assertShape(action, dy, [M, C]);
  for (const t of [dweight, dbias]) {
    if (!t) continue;
    assertShape(action, t, [C]);
    assertDType(action, t, "f32");
  }
  const dropout = checkBranch(action, { x, z: dz, stream: dx, random }, site);
  const lanes = lanesOf(program.device, shape), sums = sumsOf(program.device, lanes);
  const { LANES, ROWS } = lanes;
  const P = Math.min(MOST_BLOCKS, ceilDiv(M, ROWS));
  const block = ceilDiv(ceilDiv(M, P), ROWS) * ROWS;
  const partials = program.scratch([P, 2, C]);
  const tensors = [
    ...[x, weight, statistics, dy, dx, partials],
    ...(dz ? [random ?? x, dz] : []),
  ];
  program.dispatch({
    label: "kernels/layernorm/backward.wgsl",
    source: withRandom([backward, dz ? mask : stream, rows, sums].join("\n")),
    constants: {
      ...lanes,
      xType: `vec4<${x.dtype}>`,
      dyType: `vec4<${dy.dtype}>`,
      ACCUMULATE: accumulateDx,
      UNIFORM: tensors.length,
      ...(dz ? { zType: `vec4<${dz.dtype}>`, DROPOUT: dropout.rate > 0 } : {}),
    },
    tensors,
    uniforms: [...dropoutUniforms(dropout), 0, M, C / 4, block],
    workgroups: [P],
    iterations: block / ROWS * (1 + Math.log2(LANES)) + 2 * C / 4 / LANES * ROWS,
    workgroupBytes: LANES * ROWS * (8 + 16),
  });
  if (!dweight || !dbias) return;
  const COLUMNS = 8, SHARES = program.device.isCpu ? 4 : 32;
  program.dispatch({
    label: "kernels/layernorm/backward_parameters.wgsl",
    source: backwardParameters,
    constants: { ACCUMULATE: accumulate, COLUMNS, SHARES },
    tensors: [partials, dweight, dbias],
    uniforms: [P, C / 4],
    workgroups: [ceilDiv(2 * C / 4, COLUMNS)],
    iterations: ceilDiv(P, SHARES) + Math.log2(SHARES),
    workgroupBytes: COLUMNS * SHARES * 16,
  });
}

/** Blocks of rows with partial parameter gradients: enough to fill a large GPU several times. */
const MOST_BLOCKS = 512;

/** A lane holds about so many vectors of four of its row. */
const QUADS_PER_LANE = 4;

/**
 * How rows are shared out: rows.wgsl says who has what. On a GPU a workgroup has 256 invocations, and a
 * row at least half a warp of them; on a CPU 64, and a row a subgroup, or where there is none 8.
 */
function lanesOf(
  { isCpu, subgroupSize }: Device,
  { C }: { C: number },
): { LANES: number; ROWS: number; QUADS: number } {
  const [least, most] = isCpu ? [subgroupSize ?? 8, 64] : [16, 256];
  let LANES = least;
  while (LANES < most && C / 4 > LANES * QUADS_PER_LANE) LANES *= 2;
  return { LANES, ROWS: most / LANES, QUADS: ceilDiv(C / 4, LANES) };
}

/** How the lanes of a row add up. */
function sumsOf({ subgroupSize }: Device, { LANES }: { LANES: number }): string {
  return LANES === subgroupSize ? sumsSubgroup : sumsTree;
}

function checkRows(
  action: string,
  { x, weight, statistics }: { x: Tensor; weight: Tensor; statistics: Tensor },
): { M: number; C: number } {
  const [M, C] = x.shape as [number, number];
  assertDType(action, x, "f32", "f16");
  assertShape(action, x, [M, C]);
  assertShape(action, weight, [C]);
  assertShape(action, statistics, [M, 2]);
  for (const t of [weight, statistics]) assertDType(action, t, "f32");
  if (C % 4 !== 0) {
    throw new RangeError(
      `Cannot run ${action} as rows must be a multiple of four: ` +
        `current shape of "${x.name}" is [${x.shape}]`,
    );
  }
  return { M, C };
}

/** Checks what is added to the stream, or what of the stream's gradient goes there. */
function checkBranch(
  action: string,
  { x, z, stream, random }: {
    x: Tensor;
    z: Tensor | undefined;
    stream: Tensor | undefined;
    random: Tensor | undefined;
  },
  site: Partial<DropoutSite>,
): DropoutSite {
  const dropout = { ...NO_DROPOUT, ...site };
  for (const t of [z, stream]) if (t) assertShape(action, t, x.shape);
  if (z) assertDType(action, z, "f32", "f16");
  if (stream) assertDType(action, stream, "f32");
  if (dropout.rate > 0 && !random) {
    throw new TypeError(
      `Cannot run ${action} as dropout needs the tensor "random": current rate is ${dropout.rate}`,
    );
  }
  if (random) {
    assertDType(action, random, "u32");
    assertShape(action, random, [2]);
  }
  return dropout;
}
