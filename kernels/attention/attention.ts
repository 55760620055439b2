import forward from "./forward.wgsl" with { type: "text" };
import forwardTiles from "./forward_tiles.wgsl" with { type: "text" };
import backwardQuery from "./backward_query.wgsl" with { type: "text" };
import backwardQueryTiles from "./backward_query_tiles.wgsl" with { type: "text" };
import backwardKey from "./backward_key.wgsl" with { type: "text" };
import backwardKeyTiles from "./backward_key_tiles.wgsl" with { type: "text" };
import rowsAlone from "./rows_alone.wgsl" with { type: "text" };
import rowsShared from "./rows_shared.wgsl" with { type: "text" };
import sizes from "./sizes.wgsl" with { type: "text" };
import type { Program } from "../program.ts";
import { dropoutUniforms, withRandom } from "../random.ts";
import {
  assertDType,
  assertShape,
  bytesPerElement,
  ceilDiv,
  type DType,
  type Tensor,
} from "../tensor.ts";
import { recordFastest } from "../tune.ts";

const WORKGROUP_SIZE = 64;

/** How tokens look at each other, where it is not as in GPT-2. */
export interface AttentionScores {
  /** What scores are multiplied with; 1 / √HS unless said otherwise. */
  scale?: number;
  /** Tokens that a token sees, itself and those before it, at least 1; all unless said otherwise. */
  window?: number;
}

/** Sizes and dropout of an attention layer. */
export interface AttentionOptions extends AttentionScores {
  /** T: tokens in each sequence. */
  T: number;
  /** NH: number of heads; the head size C / NH must be a multiple of four. */
  heads: number;
  /** Share of attention probabilities that are dropped in training. */
  rate?: number;
  /** Which random numbers dropout draws: another number at every place in the model. */
  site?: number;
  /**
   * Which kernels run: `rows`, one invocation a query, or `tiles`, which share what they load, where
   * the head size allows them. By default the tuner's choice, of tiles on a GPU and rows on the CPU.
   */
  variant?: "rows" | "tiles";
}

/**
 * y = dropout(softmax(scale · q · kᵀ)) · v for every head, causal; with a window, tokens before it are not seen.
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
  record(program, FORWARD, shape, { options, random, tensors: [qkv, random ?? qkv, y, logSumExp] });
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
  record(program, BACKWARD_QUERY, shape, {
    options,
    random,
    tensors: [qkv, y, dy, logSumExp, random ?? qkv, dqkv, delta],
  });
  record(program, BACKWARD_KEY, shape, {
    options,
    random,
    tensors: [qkv, dy, logSumExp, delta, random ?? qkv, dqkv],
  });
}

/** Constants of the kernels of this folder. */
export function attentionConstants({ scale, window }: AttentionScores): Record<string, number> {
  if (window !== undefined && !(Number.isInteger(window) && window >= 1 && window <= MOST_WINDOW)) {
    throw new RangeError(
      `Cannot run attention as the window must be an integer from 1 to ${MOST_WINDOW}: ` +
        `current value is ${window}`,
    );
  }
  return {
    ...(scale === undefined ? {} : { SCALE: scale }),
    ...(window === undefined ? {} : { WINDOW: window }),
  };
}

/** Positions and windows are added and subtracted in 32 bits. */
const MOST_WINDOW = 2 ** 30;

interface AttentionShape {
  real: DType;
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

/** One of the three kernels, in rows and in tiles. */
interface Kernel {
  /** Path without its ending: the kernel in rows; the one in tiles ends in `_tiles`. */
  name: string;
  rows: string;
  tiles: string;
  /** A workgroup has some rows of the sequence and walks the others. */
  own: "QUERIES" | "KEYS";
  walked: "QUERIES" | "KEYS";
  /** Rows that a workgroup has and walks; the first that fit the device are preferred. */
  sizes: readonly (readonly [own: number, walked: number])[];
  /** Sums that an invocation keeps for each of its rows, in heads. */
  sums: number;
  /** Bytes of workgroup memory for tiles of so many rows; rowBytes are those of a row of q. */
  bytes: (own: number, walked: number, rowBytes: number) => number;
}

/** Bytes of one f32 for every pair of rows. */
const pairBytes = (own: number, walked: number) =>
  own * ceilDiv(walked, WORKGROUP_X) * (WORKGROUP_X + 1) * 4;

const FORWARD: Kernel = {
  name: "kernels/attention/forward",
  rows: forward,
  tiles: forwardTiles,
  own: "QUERIES",
  walked: "KEYS",
  sizes: [[64, 32], [128, 32], [32, 32], [16, 32], [8, 32]],
  sums: 1, // y
  bytes: (own, walked, rowBytes) =>
    (own + walked) * rowBytes + pairBytes(own, walked) + own * WORKGROUP_X * 4,
};

const BACKWARD_QUERY: Kernel = {
  name: "kernels/attention/backward_query",
  rows: backwardQuery,
  tiles: backwardQueryTiles,
  own: "QUERIES",
  walked: "KEYS",
  sizes: [[32, 32], [64, 32], [16, 32], [8, 32]],
  sums: 1, // dq
  bytes: (own, walked, rowBytes) => 2 * (own + walked) * rowBytes + pairBytes(own, walked),
};

const BACKWARD_KEY: Kernel = {
  name: "kernels/attention/backward_key",
  rows: backwardKey,
  tiles: backwardKeyTiles,
  own: "KEYS",
  walked: "QUERIES",
  sizes: [[64, 32], [32, 32], [16, 32], [8, 32]],
  sums: 2, // dk, dv
  bytes: (own, walked, rowBytes) => 2 * (own + walked) * rowBytes + 2 * pairBytes(own, walked),
};

/** Records one kernel as the tuner found it to be the fastest. */
function record(
  program: Program,
  kernel: Kernel,
  shape: AttentionShape,
  { options, random, tensors }: {
    options: AttentionOptions;
    random: Tensor | undefined;
    tensors: readonly Tensor[];
  },
): void {
  const { real, BNH, T, NH, HS } = shape;
  const { rate = 0, site = 0, variant } = options;
  if (rate > 0 && !random) {
    throw new TypeError(
      `Cannot run attention with dropout ${rate} as it needs the tensor "random"`,
    );
  }
  const constants = { real, NH, HS, DROPOUT: rate > 0, ...attentionConstants(options) };
  const uniforms = [...dropoutUniforms({ rate, site }), 0, T, HS / 4, WORKGROUP_X];
  const variants = new Map<string, (program: Program) => void>();
  for (const [name, tile] of tilesOf(program, kernel, shape)) {
    variants.set(name, (program) =>
      program.dispatch({
        label: `${kernel.name}_tiles.wgsl`,
        source: `${withRandom(kernel.tiles)}\n${sizes}`,
        constants: { ...constants, ...tile.constants },
        tensors,
        uniforms,
        workgroups: [ceilDiv(T, tile.own), BNH],
        iterations: ceilDiv(T, tile.walked) * (1 + 2 * HS / 4 + WORKGROUP_X),
        workgroupBytes: tile.workgroupBytes,
      }));
  }
  const [tiles] = variants.keys(); // the first is preferred
  const { subgroupSize: LANES } = program.device;
  variants.set("rows", (program) =>
    program.dispatch({
      label: `${kernel.name}.wgsl`,
      source: [withRandom(kernel.rows), sizes, LANES ? rowsShared : rowsAlone].join("\n"),
      constants: {
        ...constants,
        WORKGROUP_SIZE,
        ...(LANES ? { LANES, PARTS: ceilDiv(HS / 4, LANES) } : {}),
      },
      tensors,
      uniforms,
      workgroups: [ceilDiv(T, WORKGROUP_SIZE), BNH],
      iterations: T,
    }));
  if (variant === "tiles" && !tiles) {
    const maxBytes = program.device.gpu.limits.maxComputeWorkgroupStorageSize;
    throw new RangeError(
      `Cannot run ${kernel.name} in tiles as head sizes must be multiples of ` +
        `${4 * WORKGROUP_X} and fit ${maxBytes} bytes of workgroup memory: ` +
        `current head size is ${HS} in ${real}`,
    );
  }
  if (variant) {
    variants.get(variant === "rows" ? "rows" : tiles!)!(program);
    return;
  }
  if (!program.device.isCpu && tiles) variants.delete("rows"); // hopeless
  recordFastest(program, {
    key: `${kernel.name.slice("kernels/".length)} ${real} [${BNH},${T},${HS}]` +
      (options.window === undefined ? "" : ` window ${options.window}`),
    variants: [...variants.keys()],
    preferred: program.device.isCpu ? "rows" : tiles ?? "rows",
    record: (program, variant) => variants.get(variant)!(program),
  });
}

/** So many sizes are worth a try. */
const MOST_TILES = 2;

/** Most sums of f32 that an invocation keeps in registers over all tiles that it walks. */
const MOST_SUMS = 64;

/** Sizes of a kernel in tiles. */
interface Tile {
  own: number;
  walked: number;
  workgroupBytes: number;
  constants: Record<string, number>;
}

/** The tiles that fit the device, by a name that gives their rows. */
function tilesOf(
  { device }: Program,
  kernel: Kernel,
  { real, HS }: AttentionShape,
): Map<string, Tile> {
  // an invocation's part of a row is a number of vectors of four
  if (HS % (4 * WORKGROUP_X) !== 0) return new Map();
  const maxBytes = device.gpu.limits.maxComputeWorkgroupStorageSize;
  const rowBytes = (HS + 4) * bytesPerElement(real); // with a vector of padding
  const sizes = kernel.sizes
    .map(([own, walked]) => ({ own, walked, workgroupBytes: kernel.bytes(own, walked, rowBytes) }))
    .filter(({ workgroupBytes }) => workgroupBytes <= maxBytes)
    .slice(0, MOST_TILES);
  return new Map(sizes.map((size) => {
    const { own, walked } = size;
    let rows = Math.min(8, own / 8);
    while (rows > 1 && rows * HS * kernel.sums / WORKGROUP_X > MOST_SUMS) rows /= 2;
    const constants = {
      [kernel.own]: own,
      [kernel.walked]: walked,
      WORKGROUP_X,
      WORKGROUP_Y: own / rows,
    };
    return [`${own}x${walked}`, { ...size, constants }];
  }));
}
