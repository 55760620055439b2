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

/** Lanes of row_sums.wgsl that first add up the values of all lanes of a row. */
const LEADERS = 8;

/** Values that an invocation adds up, at most, for the sum over a row of so many lanes. */
export function termsOfRowSum(LANES: number): number {
  return LANES / LEADERS + LEADERS;
}

/** The function columnSum(); it needs `ROW_SUMS`. */
export const COLUMN_SUM: Shader = { "kernels/column_sums.wgsl": columnSums };

/** Vectors of four per lane above which a row gets twice as many lanes. */
const QUADS_PER_LANE = { gpu: 3, cpu: 4 };

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
  const quads = QUADS_PER_LANE[isCpu ? "cpu" : "gpu"];
  let LANES = least;
  while (LANES < most && C / 4 > LANES * quads) LANES *= 2;
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

/**
 * Most blocks of rows of other ops, and of layernorm on a GPU, for lanes that keep so many vectors. A CPU adapter has few
 * blocks, as the sums at the end of each need expensive barriers. A GPU has half as many if its lanes need many registers:
 * all of them run at the same time then, two per core of a large GPU.
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
  most: number = MOST_BLOCKS,
): { P: number; block: number } {
  const P = Math.min(most, ceilDiv(M, ROWS));
  return { P, block: ceilDiv(ceilDiv(M, P), ROWS) * ROWS };
}

/** @throws {TypeError} if the sum of the rows of dz is wanted without dz. */
export function assertBeside(
  action: string,
  { dz, dzSum }: { dz: Tensor | undefined; dzSum: Tensor | undefined },
): void {
  if (!dzSum || dz) return;
  throw new TypeError(`Cannot run ${action} as dzSum needs dz: current dz is undefined`);
}

/**
 * Gradients of parameters: sums of the partial sums of all blocks; set, or with `accumulate` added to.
 *
 * partials: f32 [P,S,C], S of each block; sums: S of f32 [C], one to three.
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
