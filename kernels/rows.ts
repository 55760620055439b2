/**
 * What layernorm, rmsnorm and rope share: the layout of rows over invocations, and the sums over rows that are the
 * gradients of the parameters.
 *
 * @module
 */

import parameters from "./parameters_backward.wgsl" with { type: "text" };
import columnSums from "./column_sums.wgsl" with { type: "text" };
import rowSums from "./row_sums.wgsl" with { type: "text" };
import type { Device } from "./device.ts";
import { dims } from "./dims.ts";
import type { Program } from "./program.ts";
import type { Shader } from "./shader.ts";
import { ceilDiv, type Tensor } from "./tensor.ts";

/** The function rowSums(), and the constants of `rowLanes()`. */
export const ROW_SUMS: Shader = { "kernels/row_sums.wgsl": rowSums };

/** The function columnSum(); it needs `ROW_SUMS`. */
export const COLUMN_SUM: Shader = { "kernels/column_sums.wgsl": columnSums };

/** Vectors of four per lane above which a row gets twice as many lanes. */
const QUADS_PER_LANE = 4;

/**
 * The constants of row_sums.wgsl, for rows of C features. On a GPU a workgroup has 256 invocations, and a row at
 * least 16 of them, half a warp. On a CPU adapter a workgroup has 64, and a row one subgroup, or 8 without
 * subgroups.
 */
export function rowLanes(
  { isCpu, subgroupSize }: Device,
  C: number,
): { LANES: number; ROWS: number; QUADS: number; SUBGROUPS: boolean } {
  const [least, most] = isCpu ? [subgroupSize ?? 8, 64] : [16, 256];
  let LANES = least;
  while (LANES < most && C / 4 > LANES * QUADS_PER_LANE) LANES *= 2;
  return {
    LANES,
    ROWS: most / LANES,
    QUADS: ceilDiv(C / 4, LANES),
    SUBGROUPS: LANES === subgroupSize,
  };
}

/**
 * Most blocks of rows, each with partial gradients of the parameters: they fill a large GPU several times. On a CPU
 * adapter, too, layernorm's blocks determine the order of its sums, and so the results of GPT-2.
 */
const MOST_BLOCKS = 512;

/** Most blocks of rows of other ops: a CPU adapter has few, as the sums at the end of a block need expensive barriers. */
export function mostBlocks({ isCpu }: Device): number {
  return isCpu ? 32 : MOST_BLOCKS;
}

/**
 * The number of blocks into which M rows are split, one per workgroup of ROWS rows at a time, and the rows of each.
 * Their number decides the order in which gradients of parameters are summed.
 */
export function rowBlocks(
  M: number,
  ROWS: number,
  most: number = MOST_BLOCKS,
): { P: number; block: number } {
  const P = Math.min(most, ceilDiv(M, ROWS));
  return { P, block: ceilDiv(ceilDiv(M, P), ROWS) * ROWS };
}

/**
 * dweight, dbias = sums of the partial sums of all blocks; set, or with `accumulate` added to.
 *
 * partials: f32 [P,2,C], or [P,1,C] without dbias; dweight, dbias: f32 [C].
 */
export function parametersBackward(
  program: Program,
  { partials }: { partials: Tensor },
  { dweight, dbias }: { dweight: Tensor; dbias?: Tensor | undefined },
  { accumulate }: { accumulate: boolean },
): void {
  const { P, C } = dims("parametersBackward", {
    partials: [partials, dbias ? "P,2,C" : "P,1,C", "f32"],
    dweight: [dweight, "C", "f32"],
    dbias: [dbias, "C", "f32"],
  });
  const COLUMNS = 8, SHARES = program.device.isCpu ? 4 : 32, vectors = (dbias ? 2 : 1) * C / 4;
  program.dispatch({
    shader: { "kernels/parameters_backward.wgsl": parameters },
    constants: { ACCUMULATE: accumulate, BIAS: dbias !== undefined, COLUMNS, SHARES },
    tensors: { partials, dweight, dbias },
    uniforms: { P, columns4: C / 4 },
    workgroups: [ceilDiv(vectors, COLUMNS)],
    iterations: ceilDiv(P, SHARES) + Math.log2(SHARES),
    workgroupBytes: COLUMNS * SHARES * 16,
  });
}
