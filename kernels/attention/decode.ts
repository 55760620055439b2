import decode from "./decode.wgsl" with { type: "text" };
import projecting from "./decode_projection.wgsl" with { type: "text" };
import rotating from "./decode_rotation.wgsl" with { type: "text" };
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
 * Invocations of a launch on a GPU, at most, unless workgroups of 64 are more: with small workgroups a core runs more heads at
 * the same time. With workgroups of 64 instead of 256 a token of gpt2 took 0.88 of the time for 64 texts, and 1.04 for eight
 * (H200, November 2026).
 */
const MOST_INVOCATIONS = 2 ** 15;

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
  { kernelRows, ...scores }: AttentionScores & {
    /**
     * Number of tokens for which the kernel is chosen, B·S by default. With the same number the bits of a text do not depend on
     * how many there are.
     */
    kernelRows?: number | undefined;
  } = {},
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
  const { isCpu } = program.device, { dtype } = keys;
  const EACH = elementsPerFetch(dtype, HS)!, PIECES = HS / EACH;
  const { maxComputeWorkgroupStorageSize: memory } = program.device.gpu.limits;
  const share = 2 ** Math.ceil(Math.log2(PIECES)); // invocations, at least
  const least = Math.max(isCpu ? 32 : 64, share), workgroups = NH * (kernelRows ?? B * S);
  let WORKGROUP_SIZE = isCpu ? least : memory < 2 ** 15 ? 128 : 256;
  while (WORKGROUP_SIZE > least && WORKGROUP_SIZE * workgroups > MOST_INVOCATIONS) {
    WORKGROUP_SIZE /= 2;
  }
  const TURNS = Math.min(PIECES, MOST_TURNS), SHARES = Math.floor(WORKGROUP_SIZE / PIECES);
  const TURN_FOURS = ceilDiv(TURNS, 4), KEYS = SHARES * TURNS;
  const PARTS = Math.max(1, Math.floor(WORKGROUP_SIZE / HS));
  const slices = projection ? slicesOf(projection, { C, workgroups }) : 1;
  const product = projection &&
    projectionOf(projection, { C, HS, WORKGROUP_SIZE, SLICE: C / slices });
  const EXCHANGED = Math.max(
    PIECES * (SHARES * TURN_FOURS + 1),
    SHARES * HS / 4,
    (product?.workgroupBytes ?? 0) / 16,
  );
  program.dispatch({
    shader: {
      "kernels/attention/decode.wgsl": decode,
      ...rotation ? { "kernels/attention/decode_rotation.wgsl": rotating } : {},
      ...projection ? { "kernels/attention/decode_projection.wgsl": projecting } : {},
      ...scales ? { "kernels/int8.wgsl": int8 } : {},
    },
    constants: {
      real4: `vec4<${dtype}>`,
      words: EACH * bytesPerElement(dtype) === 16 ? "vec4u" : "vec2u",
      F16: dtype === "f16",
      EACH,
      S,
      ONE: S === 1,
      NH,
      KH,
      HS,
      WORKGROUP_SIZE,
      TURNS,
      TURN_FOURS,
      PARTS,
      EXCHANGED,
      ROTATED: rotation !== undefined,
      ...rotation ? { NORM: norm !== undefined } : {},
      ...epsilon === undefined ? {} : { EPSILON: epsilon },
      ...attentionConstants(scores),
      PROJECTED: projection !== undefined,
      ...product?.constants,
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
    uniforms: { T },
    workgroups: [NH, B * S, slices],
    iterations: ceilDiv(T + S, KEYS) + ceilDiv(HS, WORKGROUP_SIZE) * (2 + SHARES) +
      (product?.iterations ?? 0),
    workgroupBytes: [rotation ? 2 * HS : 0, KEYS, SHARES, SHARES, PARTS * HS, PARTS, PARTS, HS]
      .reduce((bytes, count) => bytes + 16 * ceilDiv(count, 4), 16 * EXCHANGED),
  });
}

/**
 * Workgroups, at least, among which the columns of a projection are divided. With 12; 48; 96; 192 a token of gpt2 took
 * 1.08; 0.99; 1; 1.2 of the time on an H200 (November 2026).
 */
const ENOUGH_WORKGROUPS = 48;

/** Keys of which an invocation has a piece under way, and as many values, at most: more would need too many registers. */
const MOST_TURNS = 8;

/** Slices of the columns of a projection, so that a GPU has enough workgroups. */
function slicesOf(
  { weight, scales }: Projection,
  { C, workgroups }: Record<"C" | "workgroups", number>,
): number {
  const vectors = C / (scales ? 4 : elementsPerFetch(weight.dtype, C) ?? C);
  let slices = 1;
  while (slices < vectors && (vectors % slices !== 0 || slices * workgroups < ENOUGH_WORKGROUPS)) {
    slices++;
  }
  return slices;
}

/** How a workgroup computes what its head adds to the projection. */
function projectionOf(
  { weight, scales, bias }: Projection,
  { C, HS, WORKGROUP_SIZE, SLICE }: Record<"C" | "HS" | "WORKGROUP_SIZE" | "SLICE", number>,
) {
  const WEIGHT_EACH = elementsPerFetch(weight.dtype, scales ? HS : C);
  if (WEIGHT_EACH === undefined || C % 4 !== 0) {
    throw new RangeError(
      `Cannot run attentionDecode as rows of the projection must be whole fetches: current shape of ` +
        `"${weight.name}" is [${weight.shape}] with heads of ${HS}`,
    );
  }
  const WIDTH = scales ? 4 : WEIGHT_EACH, UNITS = scales ? HS / WEIGHT_EACH : HS;
  const rows = scales ? 4 : 1, vectors = SLICE / WIDTH;
  const OUT_LANES = Math.min(WORKGROUP_SIZE, vectors);
  const TERM_SHARES = Math.min(UNITS, Math.floor(WORKGROUP_SIZE / OUT_LANES));
  const each = ceilDiv(UNITS, TERM_SHARES), UNITS_AHEAD = Math.min(MOST_FETCHES / rows, each);
  return {
    constants: {
      BIAS: bias !== undefined,
      QUANTIZED: scales !== undefined,
      weightType: WEIGHT_EACH * bytesPerElement(weight.dtype) === 16 ? "vec4u" : "vec2u",
      WEIGHT_F16: weight.dtype === "f16",
      WEIGHT_EACH,
      OUT: C,
      SLICE,
      WIDTH,
      OUT_LANES,
      TERM_SHARES,
      UNITS,
      UNITS_AHEAD,
      FETCHES: rows * UNITS_AHEAD,
    },
    iterations: ceilDiv(vectors, OUT_LANES) *
      (ceilDiv(each, UNITS_AHEAD) + ceilDiv(OUT_LANES * WIDTH, WORKGROUP_SIZE) * TERM_SHARES),
    workgroupBytes: TERM_SHARES * OUT_LANES * WIDTH * 4,
  };
}
