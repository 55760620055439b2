import decode from "./decode.wgsl" with { type: "text" };
import { dims } from "../dims.ts";
import type { Program } from "../program.ts";
import { elementsPerFetch } from "../matmul/launches.ts";
import { assertVectors, bytesPerElement, ceilDiv, type Tensor } from "../tensor.ts";
import type { QkNorm } from "../rope/rope.ts";
import { attentionConstants, type AttentionScores, checkHeads } from "./attention.ts";

/** Fetches of the projection's weights that an invocation has under way: more would need too many registers. */
const MOST_FETCHES = 16;

/**
 * Causal attention of S new tokens per text, over the keys and values of earlier tokens in a cache and over
 * their own, which are added to the cache.
 *
 * qkv: [B·S,(NH+2KH)·HS]; cursors: u32 [B,4], per text the index of its first new token, that of the token at
 * position 0, its slot in the cache, and its end: for tokens from this index on, nothing is computed; keys, values:
 * [slots,KH,T,HS], the cache, in which the rows of the new positions below T are set; y: [B·S,NH·HS]. All these but
 * cursors have the same type, f32 or f16. Scale and window are those of `attentionForward()`.
 *
 * Models with rotary positions store rotated keys. Either `ropeForward()` has rotated q and k in qkv, or S is 1, and
 * with `rotation` and `norm`, both as in `ropeForward()`, q and k are rotated here, while qkv stays. For one text a
 * GPU needs more time for a launch than for the rotation. For the same reason the product after attention can be
 * computed here: with `projection`, `projected` is set in place of y, to a partial sum of y · weight + bias per head.
 *
 * weight: [NH·HS,C] of the other tensors' type; bias: f32 [C]; projected: f32 [NH,B·S,C].
 *
 * @throws {RangeError | TypeError} if a tensor has another shape or element type, if KH does not divide NH, if HS is
 * not a multiple of four up to `MOST_HEAD_SIZE`, if q and k of several new tokens per text are to be rotated, or if C
 * is not a multiple of four.
 */
export function attentionDecode(
  program: Program,
  { qkv, cursors, rotation, norm, projection }: {
    qkv: Tensor;
    cursors: Tensor;
    rotation?: Tensor | undefined;
    norm?: QkNorm | undefined;
    projection?: { weight: Tensor; bias?: Tensor | undefined } | undefined;
  },
  { keys, values, y, projected }:
    & { keys: Tensor; values: Tensor }
    & ({ y: Tensor; projected?: undefined } | { y?: undefined; projected: Tensor }),
  scores: AttentionScores = {},
): void {
  const action = "attentionDecode";
  const { weight, bias } = projection ?? {};
  const { B, NH, KH, T, HS, C = 0, S } = dims(action, {
    keys: [keys, "slots,KH,T,HS", "f32|f16"],
    values: [values, "slots,KH,T,HS", keys.dtype],
    cursors: [cursors, "B,4", "u32"],
    y: [y, "B·S,NH·HS", keys.dtype],
    projected: [projected, "NH,B·S,C", "f32"],
    weight: [weight, "NH·HS,C", keys.dtype],
    projectionBias: [bias, "C", "f32"],
  });
  const { qWeight, kWeight, epsilon } = norm ?? {};
  const { maxT = T } = dims(action, {
    qkv: [qkv, "B·S,QKV·HS", keys.dtype],
    rotation: [rotation, "maxT,P,2", "f32"],
    qWeight: [qWeight, "HS", "f32"],
    kWeight: [kWeight, "HS", "f32"],
  }, { B, S, HS, P: HS / 2, QKV: NH + 2 * KH });
  checkHeads(action, { NH, KH, HS });
  if (rotation && (S > 1 || maxT < T)) {
    throw new RangeError(
      `Cannot run ${action} with a rotation as each text must have one new token, below position ` +
        `${maxT}: current numbers are ${S} new tokens and ${T} positions`,
    );
  }
  if (norm && !rotation) {
    throw new TypeError(`Cannot run ${action} as norm must be given with rotation`);
  }
  // at least one invocation per vector of a head
  const WORKGROUP_SIZE = program.device.isCpu
    ? Math.max(32, 2 ** Math.ceil(Math.log2(HS / 4)))
    : 256;
  const EACH = elementsPerFetch(keys.dtype, C) ?? 4;
  if (projection && C % EACH !== 0) assertVectors(action, { weight: projection.weight });
  const OUT_LANES = Math.min(WORKGROUP_SIZE, ceilDiv(C, EACH));
  const ROW_SHARES = Math.max(1, Math.floor(WORKGROUP_SIZE / Math.max(1, OUT_LANES)));
  const rowsEach = ceilDiv(HS, ROW_SHARES), FETCHES = Math.min(MOST_FETCHES, rowsEach);
  const keysPerIteration = Math.floor(4 * WORKGROUP_SIZE / HS) * HS / 4;
  program.dispatch({
    shader: { "kernels/attention/decode.wgsl": decode },
    constants: {
      real4: `vec4<${keys.dtype}>`,
      NH,
      KH,
      HS,
      WORKGROUP_SIZE,
      ROTATED: rotation !== undefined,
      NORM: norm !== undefined,
      ...(epsilon === undefined ? {} : { EPSILON: epsilon }),
      ...attentionConstants(scores),
      PROJECTED: projection !== undefined,
      BIAS: bias !== undefined,
      WEIGHT_F16: keys.dtype === "f16",
      weightType: EACH * bytesPerElement(keys.dtype) === 16 ? "vec4u" : "vec2u",
      ...(projection ? { EACH, OUT: C, OUT_LANES, ROW_SHARES, FETCHES } : {}),
    },
    tensors: {
      ...{ qkv, cursors, rotation, qWeight, kWeight, keys, values, y, projected },
      ...{ weight, projectionBias: bias },
    },
    uniforms: { S, T },
    workgroups: [NH, B * S],
    iterations: ceilDiv(T + S, keysPerIteration) * (1 + Math.log2(WORKGROUP_SIZE)) +
      2 * Math.log2(WORKGROUP_SIZE) +
      (projection ? ceilDiv(C, EACH * OUT_LANES) * (ceilDiv(rowsEach, FETCHES) + ROW_SHARES) : 0),
    workgroupBytes: (rotation ? 4 : 1) * HS * 4 + WORKGROUP_SIZE * 20 +
      (projection ? WORKGROUP_SIZE * EACH * 4 : 0),
  });
}
