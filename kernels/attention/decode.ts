import decode from "./decode.wgsl" with { type: "text" };
import int8 from "../int8.wgsl" with { type: "text" };
import { dims } from "../dims.ts";
import type { Program } from "../program.ts";
import { elementsPerFetch } from "../matmul/launches.ts";
import { bytesPerElement, ceilDiv, type Tensor } from "../tensor.ts";
import type { QkNorm } from "../rope/rope.ts";
import { attentionConstants, type AttentionScores, checkHeads } from "./attention.ts";

/** The product after attention; `attentionDecode()` has the shapes. */
export interface Projection {
  /** Its matrix. */
  readonly weight: Tensor;
  /** Factors of the rows of an i8 matrix. */
  readonly scales?: Tensor | undefined;
  /** What is added. */
  readonly bias?: Tensor | undefined;
}

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
 * weight: [NH·HS,C] of the other tensors' type, or i8 [C,NH·HS] with scales: f32 [C], the factors of its rows; bias: f32
 * [C]; projected: f32 [NH,B·S,C].
 *
 * @throws {RangeError | TypeError} if a tensor has another shape or element type, if KH does not divide NH, if HS is
 * not a multiple of four up to `MOST_HEAD_SIZE`, or for an i8 weight of eight, if q and k of several new tokens per
 * text are to be rotated, or if C is not a multiple of four.
 */
export function attentionDecode(
  program: Program,
  { qkv, cursors, rotation, norm, projection }: {
    qkv: Tensor;
    cursors: Tensor;
    rotation?: Tensor | undefined;
    norm?: QkNorm | undefined;
    projection?: Projection | undefined;
  },
  { keys, values, y, projected }:
    & { keys: Tensor; values: Tensor }
    & ({ y: Tensor; projected?: undefined } | { y?: undefined; projected: Tensor }),
  scores: AttentionScores = {},
): void {
  const action = "attentionDecode";
  const { weight, scales, bias } = projection ?? {};
  const { B, NH, KH, T, HS, C = 0, S } = dims(action, {
    keys: [keys, "slots,KH,T,HS", "f32|f16"],
    values: [values, "slots,KH,T,HS", keys.dtype],
    cursors: [cursors, "B,4", "u32"],
    y: [y, "B·S,NH·HS", keys.dtype],
    projected: [projected, "NH,B·S,C", "f32"],
    weight: [weight, scales ? "C,NH·HS" : "NH·HS,C", scales ? "i8" : keys.dtype],
    scales: [scales, "C", "f32"],
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
  const projecting = projection && projectionOf(projection, { C, HS, WORKGROUP_SIZE });
  const keysPerIteration = Math.floor(4 * WORKGROUP_SIZE / HS) * HS / 4;
  program.dispatch({
    shader: {
      "kernels/attention/decode.wgsl": decode,
      ...(scales ? { "kernels/int8.wgsl": int8 } : {}),
    },
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
      ...projecting?.constants,
    },
    tensors: {
      qkv,
      cursors,
      rotation,
      qWeight,
      kWeight,
      keys,
      values,
      y,
      projected,
      weight,
      scales,
      projectionBias: bias,
    },
    uniforms: { S, T },
    workgroups: [NH, B * S],
    iterations: ceilDiv(T + S, keysPerIteration) * (1 + Math.log2(WORKGROUP_SIZE)) +
      2 * Math.log2(WORKGROUP_SIZE) +
      (projecting?.iterations ?? 0),
    workgroupBytes: (rotation ? 4 : 1) * HS * 4 + WORKGROUP_SIZE * 20 +
      (projecting?.workgroupBytes ?? 0),
  });
}

/** How a workgroup computes what its head adds to the projection. */
function projectionOf(
  { weight, scales }: Projection,
  { C, HS, WORKGROUP_SIZE }: Record<"C" | "HS" | "WORKGROUP_SIZE", number>,
) {
  const EACH = elementsPerFetch(weight.dtype, scales ? HS : C);
  if (EACH === undefined || C % 4 !== 0) {
    throw new RangeError(
      `Cannot run attentionDecode as rows of the projection must be whole fetches: current shape of ` +
        `"${weight.name}" is [${weight.shape}] with heads of ${HS}`,
    );
  }
  const WIDTH = scales ? 4 : EACH, UNITS = scales ? HS / EACH : HS, rows = scales ? 4 : 1;
  const OUT_LANES = Math.min(WORKGROUP_SIZE, C / WIDTH);
  const TERM_SHARES = Math.floor(WORKGROUP_SIZE / OUT_LANES), each = ceilDiv(UNITS, TERM_SHARES);
  const UNITS_AHEAD = Math.min(MOST_FETCHES / rows, each);
  return {
    constants: {
      QUANTIZED: scales !== undefined,
      weightType: EACH * bytesPerElement(weight.dtype) === 16 ? "vec4u" : "vec2u",
      WEIGHT_F16: weight.dtype === "f16",
      EACH,
      OUT: C,
      WIDTH,
      OUT_LANES,
      TERM_SHARES,
      UNITS,
      UNITS_AHEAD,
      FETCHES: rows * UNITS_AHEAD,
    },
    iterations: ceilDiv(C / WIDTH, OUT_LANES) * (ceilDiv(each, UNITS_AHEAD) + TERM_SHARES),
    workgroupBytes: WORKGROUP_SIZE * WIDTH * 4,
  };
}
