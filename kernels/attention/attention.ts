import forward from "./forward.wgsl" with { type: "text" };
import forwardTiles from "./forward_tiles.wgsl" with { type: "text" };
import backwardQuery from "./backward_query.wgsl" with { type: "text" };
import backwardQueryTiles from "./backward_query_tiles.wgsl" with { type: "text" };
import backwardKey from "./backward_key.wgsl" with { type: "text" };
import backwardKeyTiles from "./backward_key_tiles.wgsl" with { type: "text" };
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
 *
 * @throws {RangeError} if the shapes do not fit together, or tiles are asked for and none fits.
 */
export function attentionForward(
  program: Program,
  { qkv, random }: { qkv: Tensor; random?: Tensor },
  { y, logSumExp }: { y: Tensor; logSumExp: Tensor },
  options: AttentionOptions,
): void {
  const shape = attentionShape("attentionForward", { qkv, logSumExp, likeY: [y] }, options);
  const tile = chooseTile(program, FORWARD_TILES, shape, options);
  program.dispatch({
    ...launch(tile, shape, options, random),
    label: `kernels/attention/forward${tile ? "_tiles" : ""}.wgsl`,
    source: withRandom(tile ? forwardTiles : forward),
    tensors: [qkv, random ?? qkv, y, logSumExp],
  });
}

/**
 * dqkv of `attentionForward()`; the probabilities are computed again from logSumExp.
 *
 * y, dy: [B·T,C]; dqkv: [B·T,3C]; delta: f32 [B,NH,T], scratch. dqkv is set.
 *
 * @throws {RangeError} as attentionForward().
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
  const queryTile = chooseTile(program, BACKWARD_QUERY_TILES, shape, options);
  program.dispatch({
    ...launch(queryTile, shape, options, random),
    label: `kernels/attention/backward_query${queryTile ? "_tiles" : ""}.wgsl`,
    source: withRandom(queryTile ? backwardQueryTiles : backwardQuery),
    tensors: [qkv, y, dy, logSumExp, random ?? qkv, dqkv, delta],
  });
  const keyTile = chooseTile(program, BACKWARD_KEY_TILES, shape, options);
  program.dispatch({
    ...launch(keyTile, shape, options, random),
    label: `kernels/attention/backward_key${keyTile ? "_tiles" : ""}.wgsl`,
    source: withRandom(keyTile ? backwardKeyTiles : backwardKey),
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

/** Neighbouring invocations that share the rows of a tile. */
const WORKGROUP_X = 8;

/** One of the kernels in tiles: a workgroup has some rows of the sequence and walks the others. */
interface TileKernel {
  action: string;
  own: "QUERIES" | "KEYS";
  walked: "QUERIES" | "KEYS";
  /** Rows a workgroup has, and those it walks at a time, from the most to the least. */
  sizes: readonly (readonly [own: number, walked: number])[];
  /** Sums that an invocation keeps for each of its rows, in heads. */
  sums: number;
  /** Workgroup memory; rowBytes are those of a row of q. */
  bytes: (own: number, walked: number, rowBytes: number) => number;
}

/** Bytes of one f32 for every pair of rows. */
const pairBytes = (own: number, walked: number) =>
  own * ceilDiv(walked, WORKGROUP_X) * (WORKGROUP_X + 1) * 4;

const FORWARD_TILES: TileKernel = {
  action: "attentionForward",
  own: "QUERIES",
  walked: "KEYS",
  sizes: [[64, 64], [64, 32], [32, 32], [16, 32], [8, 32]],
  sums: 1, // y
  bytes: (own, walked, rowBytes) =>
    (own + walked) * rowBytes + pairBytes(own, walked) + own * WORKGROUP_X * 4,
};

const BACKWARD_QUERY_TILES: TileKernel = {
  action: "attentionBackward",
  own: "QUERIES",
  walked: "KEYS",
  sizes: [[64, 32], [32, 32], [16, 32], [8, 32]],
  sums: 1, // dq
  bytes: (own, walked, rowBytes) => 2 * (own + walked) * rowBytes + pairBytes(own, walked),
};

const BACKWARD_KEY_TILES: TileKernel = {
  action: "attentionBackward",
  own: "KEYS",
  walked: "QUERIES",
  sizes: [[64, 32], [32, 32], [16, 32], [8, 32]],
  sums: 2, // dk, dv
  bytes: (own, walked, rowBytes) => 2 * (own + walked) * rowBytes + 2 * pairBytes(own, walked),
};

/** Most sums of f32 that an invocation keeps in registers over all tiles that it walks. */
const MOST_SUMS = 64;

/** Sizes of a kernel in tiles, chosen for a device and a head size. */
interface Tile {
  own: number;
  walked: number;
  workgroupBytes: number;
  constants: Record<string, number>;
}

/** The largest tile that fits the device, or undefined for the kernels in rows. */
function chooseTile(
  { device }: Program,
  kernel: TileKernel,
  { real, HS }: AttentionShape,
  { variant = device.isCpu ? "rows" : undefined }: AttentionOptions,
): Tile | undefined {
  if (variant === "rows") return undefined;
  const maxBytes = device.gpu.limits.maxComputeWorkgroupStorageSize;
  const rowBytes = (HS + 4) * (real === "f16" ? 2 : 4); // with a vector of padding
  const bytes = ([own, walked]: readonly [number, number]) => kernel.bytes(own, walked, rowBytes);
  // an invocation's part of a row is a number of vectors of four
  const size = HS % (4 * WORKGROUP_X) === 0
    ? kernel.sizes.find((size) => bytes(size) <= maxBytes)
    : undefined;
  if (!size) {
    if (!variant) return undefined;
    throw new RangeError(
      `Cannot run ${kernel.action} in tiles as head sizes must be multiples of ` +
        `${4 * WORKGROUP_X} and fit ${maxBytes} bytes of workgroup memory: ` +
        `current head size is ${HS} in ${real}`,
    );
  }
  const [own, walked] = size;
  let rows = own / 8;
  while (rows > 1 && rows * HS * kernel.sums / WORKGROUP_X > MOST_SUMS) rows /= 2;
  return {
    own,
    walked,
    workgroupBytes: bytes(size),
    constants: {
      [kernel.own]: own,
      [kernel.walked]: walked,
      WORKGROUP_X,
      WORKGROUP_Y: own / rows,
    },
  };
}

/** What all launches have in common: a workgroup a tile, or an invocation a row, of every head. */
function launch(
  tile: Tile | undefined,
  { real, BNH, T, NH, HS }: AttentionShape,
  { rate = 0, site = 0 }: AttentionOptions,
  random: Tensor | undefined,
) {
  if (rate > 0 && !random) {
    throw new TypeError(
      `Cannot run attention with dropout ${rate} as it needs the tensor "random"`,
    );
  }
  const constants = { real, T, NH, HS, DROPOUT: rate > 0 };
  const uniforms = dropoutUniforms({ rate, site });
  if (!tile) {
    return {
      constants: { ...constants, WORKGROUP_SIZE },
      uniforms,
      workgroups: [ceilDiv(T, WORKGROUP_SIZE), BNH] as const,
      iterations: T,
    };
  }
  return {
    constants: { ...constants, ...tile.constants, held: real },
    uniforms,
    workgroups: [ceilDiv(T, tile.own), BNH] as const,
    iterations: ceilDiv(T, tile.walked) * (1 + 2 * HS / 4 + WORKGROUP_X),
    workgroupBytes: tile.workgroupBytes,
  };
}
