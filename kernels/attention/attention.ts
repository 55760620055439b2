import forward from "./forward.wgsl" with { type: "text" };
import forwardTiles from "./forward_tiles.wgsl" with { type: "text" };
import backwardQuery from "./backward_query.wgsl" with { type: "text" };
import backwardKey from "./backward_key.wgsl" with { type: "text" };
import decode from "./decode.wgsl" with { type: "text" };
import type { Program } from "../program.ts";
import { dropoutUniforms, withRandom } from "../random.ts";
import { assertDType, assertShape, ceilDiv, type Tensor } from "../tensor.ts";

const WORKGROUP_SIZE = 64;

/** Sizes and dropout of an attention layer. */
export interface AttentionOptions {
  /** T: tokens in each sequence. */
  T: number;
  /** NH: number of heads; the head size C / NH must be a multiple of four. */
  heads: number;
  /** Share of attention probabilities that are dropped in training. */
  rate?: number;
  /** Which random numbers dropout draws: another number at every place in the model. */
  site?: number;
  /**
   * Which kernels run: `rows`, one invocation a query, or `tiles`, which share what they load. By
   * default tiles on a GPU where the head size allows them, and rows on the CPU.
   */
  variant?: "rows" | "tiles";
}

/**
 * y = dropout(softmax(q · kᵀ / √HS)) · v for every head, causal.
 *
 * qkv: [B·T,3C], q, k and v side by side, heads side by side in each; y: [B·T,C]; both f32 or f16.
 * logSumExp: f32 [B,NH,T], of the scaled scores. random: u32 [seed, counter], read if rate > 0.
 */
export function attentionForward(
  program: Program,
  { qkv, random }: { qkv: Tensor; random?: Tensor },
  { y, logSumExp }: { y: Tensor; logSumExp: Tensor },
  options: AttentionOptions,
): void {
  const shape = attentionShape("attentionForward", { qkv, logSumExp, likeY: [y] }, options);
  const tile = chooseTile(program, "attentionForward", shape, { ...options, tileOf: forwardTile });
  if (tile) {
    program.dispatch({
      ...tileLaunch(shape, options, random, tile),
      label: "kernels/attention/forward_tiles.wgsl",
      source: withRandom(forwardTiles),
      tensors: [qkv, random ?? qkv, y, logSumExp],
    });
    return;
  }
  program.dispatch({
    ...rowsLaunch(shape, options, random),
    label: "kernels/attention/forward.wgsl",
    source: withRandom(forward),
    tensors: [qkv, random ?? qkv, y, logSumExp],
  });
}

/**
 * dqkv of `attentionForward()`; the probabilities are computed again from logSumExp.
 *
 * y, dy: [B·T,C]; dqkv: [B·T,3C]; delta: f32 [B,NH,T], scratch. dqkv is set.
 */
export function attentionBackward(
  program: Program,
  { qkv, y, dy, logSumExp, random }: {
    qkv: Tensor;
    y: Tensor;
    dy: Tensor;
    logSumExp: Tensor;
    random?: Tensor;
  },
  { dqkv, delta }: { dqkv: Tensor; delta: Tensor },
  options: AttentionOptions,
): void {
  const shape = attentionShape("attentionBackward", { qkv, logSumExp, likeY: [y, dy] }, options);
  assertShape("attentionBackward", dqkv, qkv.shape);
  assertDType("attentionBackward", dqkv, qkv.dtype);
  assertShape("attentionBackward", delta, logSumExp.shape);
  program.dispatch({
    ...rowsLaunch(shape, options, random),
    label: "kernels/attention/backward_query.wgsl",
    source: withRandom(backwardQuery),
    tensors: [qkv, y, dy, logSumExp, random ?? qkv, dqkv, delta],
  });
  program.dispatch({
    ...rowsLaunch(shape, options, random),
    label: "kernels/attention/backward_key.wgsl",
    source: withRandom(backwardKey),
    tensors: [qkv, dy, logSumExp, delta, random ?? qkv, dqkv],
  });
}

/**
 * Attention of one new token over the keys and values of the tokens before it, which it joins.
 *
 * qkv: [1,3C]; cursor: u32 [token, position]; keys, values: [NH,L,HS], their rows at `position` are
 * set; y: [1,C]. All but cursor have one type, f32 or f16.
 *
 * @throws {RangeError} if L scores do not fit into the device's workgroup memory.
 */
export function attentionDecode(
  program: Program,
  { qkv, cursor }: { qkv: Tensor; cursor: Tensor },
  { keys, values, y }: { keys: Tensor; values: Tensor; y: Tensor },
): void {
  const [NH, L, HS] = keys.shape as [number, number, number];
  assertShape("attentionDecode", qkv, [1, 3 * NH * HS]);
  assertShape("attentionDecode", y, [1, NH * HS]);
  assertShape("attentionDecode", values, keys.shape);
  assertDType("attentionDecode", cursor, "u32");
  assertDType("attentionDecode", qkv, "f32", "f16");
  for (const t of [keys, values, y]) assertDType("attentionDecode", t, qkv.dtype);
  program.dispatch({
    label: "kernels/attention/decode.wgsl",
    source: decode,
    constants: { real: qkv.dtype, L, NH, HS, WORKGROUP_SIZE },
    tensors: [qkv, cursor, keys, values, y],
    workgroups: [NH],
    iterations: ceilDiv(L, WORKGROUP_SIZE) * HS + WORKGROUP_SIZE + L +
      L * ceilDiv(HS, WORKGROUP_SIZE),
    workgroupBytes: (L + WORKGROUP_SIZE) * 4,
  });
}

interface AttentionShape {
  real: Tensor["dtype"];
  BNH: number;
  T: number;
  NH: number;
  HS: number;
}

function attentionShape(
  action: string,
  { qkv, logSumExp, likeY }: { qkv: Tensor; logSumExp: Tensor; likeY: readonly Tensor[] },
  { T, heads: NH }: AttentionOptions,
): AttentionShape {
  const [rows, columns] = qkv.shape as [number, number];
  const C = columns / 3, HS = C / NH, B = rows / T;
  if (!Number.isInteger(B) || !Number.isInteger(HS) || HS % 4 !== 0) {
    throw new RangeError(
      `Cannot run ${action} as "${qkv.name}" must be [B·T, 3·NH·HS] with HS a multiple of 4: ` +
        `current shape is [${qkv.shape}] with T ${T}, NH ${NH}`,
    );
  }
  assertDType(action, qkv, "f32", "f16");
  for (const t of likeY) {
    assertShape(action, t, [rows, C]);
    assertDType(action, t, qkv.dtype);
  }
  assertShape(action, logSumExp, [B, NH, T]);
  return { real: qkv.dtype, BNH: B * NH, T, NH, HS };
}

/** Constants of a kernel in tiles, and the workgroup memory that they need. */
interface Tile {
  constants: { QUERIES: number; KEYS: number; WORKGROUP_X: number; WORKGROUP_Y: number };
  /** Rows of the sequence that a workgroup has, and those that it walks at a time. */
  own: number;
  walked: number;
  workgroupBytes: number;
}

/** Neighbouring invocations that share the rows of a tile. */
const WORKGROUP_X = 8;

/** The largest tile of forward_tiles.wgsl that fits; undefined where none does. */
function forwardTile({ real, HS }: AttentionShape, maxBytes: number): Tile | undefined {
  const bytes = real === "f16" ? 2 : 4;
  for (const [QUERIES, KEYS] of [[64, 64], [64, 32], [32, 32], [16, 32]] as const) {
    // at most 64 sums of y an invocation
    const rows = Math.min(QUERIES / 8, HS <= 64 ? 8 : HS <= 128 ? 4 : 2);
    const workgroupBytes = (QUERIES + KEYS) * (HS + 4) * bytes + // q; k or v
      QUERIES * (KEYS / WORKGROUP_X) * (WORKGROUP_X + 1) * 4 + // p
      QUERIES * WORKGROUP_X * 4;
    if (workgroupBytes > maxBytes) continue;
    const constants = { QUERIES, KEYS, WORKGROUP_X, WORKGROUP_Y: QUERIES / rows };
    return { constants, own: QUERIES, walked: KEYS, workgroupBytes };
  }
  return undefined;
}

/** The tile to compute in, or undefined for the kernels of one row an invocation. */
function chooseTile(
  program: Program,
  action: string,
  shape: AttentionShape,
  { variant, tileOf }: {
    variant?: AttentionOptions["variant"];
    tileOf: (shape: AttentionShape, maxBytes: number) => Tile | undefined;
  },
): Tile | undefined {
  if (variant === "rows" || (!variant && program.device.isCpu)) return undefined;
  // an invocation's part of a row is a number of vectors of four
  const maxBytes = program.device.gpu.limits.maxComputeWorkgroupStorageSize;
  const tile = shape.HS % (4 * WORKGROUP_X) === 0 ? tileOf(shape, maxBytes) : undefined;
  if (variant === "tiles" && !tile) {
    throw new RangeError(
      `Cannot run ${action} in tiles as head sizes must be multiples of ${4 * WORKGROUP_X} and ` +
        `fit ${maxBytes} bytes of workgroup memory: current head size is ${shape.HS}`,
    );
  }
  return tile;
}

/** What the launches of the kernels in tiles have in common: one workgroup a tile of every head. */
function tileLaunch(
  shape: AttentionShape,
  options: AttentionOptions,
  random: Tensor | undefined,
  { constants, own, walked, workgroupBytes }: Tile,
) {
  const { real, BNH, T, NH, HS } = shape;
  const { DROPOUT, uniforms } = dropoutOf(options, random);
  return {
    constants: { real, held: real, T, NH, HS, DROPOUT, ...constants },
    uniforms,
    workgroups: [ceilDiv(T, own), BNH] as const,
    iterations: ceilDiv(T, walked) * (1 + HS / 4 + WORKGROUP_X),
    workgroupBytes,
  };
}

/** What the launches of the kernels in rows have in common: one invocation a query or key. */
function rowsLaunch(
  { real, BNH, T, NH, HS }: AttentionShape,
  options: AttentionOptions,
  random: Tensor | undefined,
) {
  const { DROPOUT, uniforms } = dropoutOf(options, random);
  return {
    constants: { real, T, NH, HS, DROPOUT, WORKGROUP_SIZE },
    uniforms,
    workgroups: [ceilDiv(T, WORKGROUP_SIZE), BNH] as const,
    iterations: T,
  };
}

function dropoutOf({ rate = 0, site = 0 }: AttentionOptions, random: Tensor | undefined) {
  if (rate > 0 && !random) {
    throw new TypeError(
      `Cannot run attention with dropout ${rate} as it needs the tensor "random"`,
    );
  }
  return { DROPOUT: rate > 0, uniforms: dropoutUniforms({ rate, site }) };
}
