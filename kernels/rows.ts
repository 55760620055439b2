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

/** Lanes of a row that first add up the values of all; `rowLanes()` returns multiples of it, or whole subgroups. */
const LEADERS = 8;

/** The function columnSum(); it needs `ROW_SUMS`. */
export const COLUMN_SUM: Shader = { "kernels/column_sums.wgsl": columnSums };

/**
 * Vectors of four per lane above which a row gets twice as many lanes. The backward pass of rows of 256 features takes 0.84
 * of the time if a lane has two of them instead of four (H200, November 2026).
 */
const QUADS_PER_LANE = { gpu: 3, cpu: 4 };

/**
 * The constants of row_sums.wgsl, for rows of C features. On a GPU a workgroup has 256 invocations, and a row at
 * least 16 of them, half a warp. On a CPU adapter a workgroup has 64, and a row one subgroup, or 8 without
 * subgroups.
 */
export function rowLanes(
  { isCpu, subgroupSize }: Device,
  C: number,
): { LANES: number; ROWS: number; QUADS: number; LEADERS: number; SUBGROUPS: boolean } {
  const [least, most] = isCpu ? [subgroupSize ?? 8, 64] : [16, 256];
  const quads = QUADS_PER_LANE[isCpu ? "cpu" : "gpu"];
  let LANES = least;
  while (LANES < most && C / 4 > LANES * quads) LANES *= 2;
  return {
    LANES,
    ROWS: most / LANES,
    QUADS: ceilDiv(C / 4, LANES),
    LEADERS,
    SUBGROUPS: LANES === subgroupSize,
  };
}

/** Most blocks of rows, each with partial gradients of the parameters: they fill a large GPU several times. */
export const MOST_BLOCKS = 512;

/**
 * Most blocks of rows if a lane keeps QUADS vectors. With three or more a core of a GPU has registers for two workgroups:
 * half of the blocks run all at the same time on a large GPU. A CPU adapter has few blocks, as the sums at the end of each
 * need expensive barriers.
 */
export function mostBlocks({ isCpu }: Device, QUADS = 1): number {
  return isCpu ? 32 : QUADS < 3 ? MOST_BLOCKS : MOST_BLOCKS / 2;
}

/**
 * The number of blocks into which M rows are split, one per workgroup of ROWS rows at a time, and the rows of each.
 * Their number decides the order in which gradients of parameters are summed.
 */
export function rowBlocks(
  M: number,
  ROWS: number,
  most: number,
): { P: number; block: number } {
  const P = Math.min(most, ceilDiv(M, ROWS));
  return { P, block: ceilDiv(ceilDiv(M, P), ROWS) * ROWS };
}

/** Throws a TypeError if dzBias, the sum of the rows of dz, is given without dz. */
export function assertDz(
  action: string,
  { dz, dzBias }: { dz: Tensor | undefined; dzBias: Tensor | undefined },
): void {
  if (!dzBias || dz) return;
  throw new TypeError(`Cannot run ${action} as dzBias needs dz: current dz is undefined`);
}

/**
 * Gradients of parameters: sums of the partial sums of all blocks; set, or with `accumulate` added to.
 *
 * partials: f32 [P,S,C], S sums per block; sums: S tensors f32 [C], one to three.
 */
export function parametersBackward(
  program: Program,
  { partials }: { partials: Tensor },
  { sums }: { sums: readonly Tensor[] },
  { accumulate }: { accumulate: boolean },
): void {
  const [first, second, third] = sums, S = sums.length;
  const { P, C } = dims("parametersBackward", {
    partials: [partials, `P,${S},C`, "f32"],
    first: [first!, "C", "f32"],
    second: [second, "C", "f32"],
    third: [third, "C", "f32"],
  });
  const COLUMNS = 8, SHARES = program.device.isCpu ? 4 : 32;
  program.dispatch({
    shader: { "kernels/parameters_backward.wgsl": parameters },
    constants: { ACCUMULATE: accumulate, SECOND: S > 1, THIRD: S > 2, COLUMNS, SHARES },
    tensors: { partials, first, second, third },
    uniforms: { P, columns4: C / 4 },
    workgroups: [ceilDiv(S * C / 4, COLUMNS)],
    iterations: ceilDiv(P, SHARES) + Math.log2(SHARES),
    workgroupBytes: COLUMNS * SHARES * 16,
  });
}
