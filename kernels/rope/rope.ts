/**
 * Rotary positions: every head of q and k is rotated by an angle that grows with the position of its token, so that
 * the score of a query and a key depends on their distance (Su et al. 2021, https://arxiv.org/abs/2104.09864).
 * Component i of a head and component i + HS/2 form a pair, as in transformers' `rotate_half()`.
 *
 * Some models first divide each head by the root of the mean of its squares and multiply it by a weight (QK-norm,
 * Henry et al. 2020, https://arxiv.org/abs/2010.04245, as in Qwen3). The same kernels do both, since each passes over
 * q and k once.
 *
 * @module
 */
import forward from "./forward.wgsl" with { type: "text" };
import backward from "./backward.wgsl" with { type: "text" };
import { dims } from "../dims.ts";
import { POSITIONS } from "../positions.ts";
import { checkLength } from "../embedding/embedding.ts";
import {
  COLUMN_SUM,
  mostBlocks,
  parametersBackward,
  ROW_SUMS,
  rowBlocks,
  rowLanes,
} from "../rows.ts";
import { type Program, splitWorkgroups } from "../program.ts";
import { assertTogether, assertVectors, ceilDiv, type Tensor } from "../tensor.ts";

/** The weights with which q and k are normalised. */
export interface QkNorm {
  /** f32 [HS]: the weight of every head of q. */
  qWeight: Tensor;
  /** f32 [HS]: the weight of every head of k. */
  kWeight: Tensor;
  /** What is added to the mean of the squares. */
  epsilon: number;
}

/** Sizes of q and k. */
export interface RopeOptions {
  /** T: rows of each text. */
  T: number;
  /** NH: heads of q. */
  heads: number;
  /** KH: heads of k, and of v; as many as those of q by default. */
  keyHeads?: number | undefined;
}

/**
 * Rotates q and k in place by the position of their token. With `norm` it rotates x / √(mean of x² + ε) · weight of
 * each head. All is computed in f32 and rounded once.
 *
 * rotation: f32 [maxT,HS/2,2], from `rotationTable()`; positions: u32 [M], each below T, m % T by default; cursors: u32
 * [B,4], with which there are no positions: per text the index of its first token in qkv, that of the token at position
 * 0, and two numbers that are not read.
 * qkv: [M,(NH+2KH)·HS], f32 or f16, a row of which holds q, k and v, each with its heads in order; v stays.
 * qk: [M,(NH+KH)·HS] in the type of qkv, is set to q and k as they were, which `ropeBackward()` needs with `norm`.
 * HS is even, and without cursors T ≤ maxT.
 *
 * @throws {RangeError | TypeError} if a tensor has another shape or element type, or if T is above maxT.
 */
export function ropeForward(
  program: Program,
  { rotation, positions, cursors, norm }: {
    rotation: Tensor;
    positions?: Tensor | undefined;
    cursors?: Tensor | undefined;
    norm?: QkNorm | undefined;
  },
  { qkv, qk }: { qkv: Tensor; qk?: Tensor | undefined },
  options: RopeOptions,
): void {
  const action = "ropeForward", { T, heads: NH, keyHeads: KH = NH } = options;
  const { qWeight, kWeight, epsilon } = norm ?? {};
  const { B, P, maxT } = dims(action, {
    rotation: [rotation, "maxT,P,2", "f32"],
    cursors: [cursors, "B,4", "u32"],
    qWeight: [qWeight, "2P", "f32"],
    kWeight: [kWeight, "2P", "f32"],
    qkv: [qkv, "B·T,2QKV·P", "f32|f16"],
    positions: [positions, "B·T", "u32"],
    qk: [qk, "B·T,2QK·P", qkv.dtype],
  }, { T, NH, KH, QK: NH + KH, QKV: NH + 2 * KH });
  if (!cursors) checkLength(action, T, rotation);
  const M = B * T, HS = 2 * P, lanes = rowLanes(program.device, HS), { LANES, ROWS } = lanes;
  program.dispatch({
    shader: { "kernels/rope/forward.wgsl": forward, ...ROW_SUMS, ...POSITIONS },
    constants: {
      ...lanes,
      real: qkv.dtype,
      NH,
      KH,
      HS,
      PAIRS: ceilDiv(P, LANES),
      NORM: norm !== undefined,
      KEEP_QK: qk !== undefined,
      APART: positions !== undefined,
      CACHED: cursors !== undefined,
      ...(epsilon === undefined ? {} : { EPSILON: epsilon }),
    },
    tensors: { rotation, positions, cursors, qWeight, kWeight, qkv, qk },
    uniforms: { M, T, maxT },
    workgroups: splitWorkgroups(ceilDiv(M * (NH + KH), ROWS)),
    workgroupBytes: LANES * ROWS * 8,
  });
}

/**
 * Gradients of `ropeForward()` without cursors.
 *
 * rotation, positions, norm: as in `ropeForward()`; qk: what it set, needed with `norm`; dqkv: [M,(NH+2KH)·HS], f32 or f16,
 * the gradients of the rotated q and k, which are replaced by those of q and k; that of v stays. dqWeight, dkWeight:
 * f32 [HS], both or neither, are set, or with `accumulate` added to.
 *
 * @throws {RangeError | TypeError} if a tensor is missing or has another shape or element type, if T is above maxT, or
 * if the weights' gradients are to be computed and HS is no multiple of four.
 */
export function ropeBackward(
  program: Program,
  { rotation, positions, norm, qk }: {
    rotation: Tensor;
    positions?: Tensor | undefined;
    norm?: QkNorm | undefined;
    qk?: Tensor | undefined;
  },
  { dqkv, dqWeight, dkWeight }: {
    dqkv: Tensor;
    dqWeight?: Tensor | undefined;
    dkWeight?: Tensor | undefined;
  },
  { accumulate = false, ...options }: RopeOptions & { accumulate?: boolean },
): void {
  const action = "ropeBackward", { T, heads: NH, keyHeads: KH = NH } = options;
  const { qWeight, kWeight, epsilon } = norm ?? {};
  const { B, P } = dims(action, {
    rotation: [rotation, "maxT,P,2", "f32"],
    qWeight: [qWeight, "2P", "f32"],
    kWeight: [kWeight, "2P", "f32"],
    dqkv: [dqkv, "B·T,2QKV·P", "f32|f16"],
    positions: [positions, "B·T", "u32"],
    qk: [qk, "B·T,2QK·P", dqkv.dtype],
    dqWeight: [dqWeight, "2P", "f32"],
    dkWeight: [dkWeight, "2P", "f32"],
  }, { T, NH, KH, QK: NH + KH, QKV: NH + 2 * KH });
  checkLength(action, T, rotation);
  assertTogether(action, { dqWeight, dkWeight });
  if (dqWeight) assertVectors(action, { dqWeight });
  const M = B * T, HS = 2 * P, lanes = rowLanes(program.device, HS), { LANES, ROWS } = lanes;
  const PAIRS = ceilDiv(P, LANES),
    { P: blocks, block } = rowBlocks(M * NH, ROWS, mostBlocks(program.device));
  const partials = norm && program.scratch([blocks, 2, HS]);
  program.dispatch({
    shader: {
      "kernels/rope/backward.wgsl": backward,
      ...ROW_SUMS,
      ...COLUMN_SUM,
      ...POSITIONS,
    },
    constants: {
      ...lanes,
      real: dqkv.dtype,
      NH,
      KH,
      HS,
      PAIRS,
      NORM: norm !== undefined,
      APART: positions !== undefined,
      ...(epsilon === undefined ? {} : { EPSILON: epsilon }),
    },
    tensors: { rotation, positions, qk, qWeight, kWeight, dqkv, partials },
    uniforms: { M, T, qBlock: block, kBlock: ceilDiv(ceilDiv(M * KH, blocks), ROWS) * ROWS },
    workgroups: [blocks, 2],
    iterations: block / ROWS,
    workgroupBytes: LANES * ROWS * (8 + 16),
  });
  if (!partials || !dqWeight || !dkWeight) return;
  parametersBackward(program, { partials }, { sums: [dqWeight, dkWeight] }, { accumulate });
}
