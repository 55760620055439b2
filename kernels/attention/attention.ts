import forward from "./forward.wgsl" with { type: "text" };
import forwardTiles from "./forward_tiles.wgsl" with { type: "text" };
import backwardQuery from "./backward_query.wgsl" with { type: "text" };
import backwardQueryTiles from "./backward_query_tiles.wgsl" with { type: "text" };
import backwardKey from "./backward_key.wgsl" with { type: "text" };
import backwardKeyTiles from "./backward_key_tiles.wgsl" with { type: "text" };
import rowsAlone from "./rows_alone.wgsl" with { type: "text" };
import rowsShared from "./rows_shared.wgsl" with { type: "text" };
import sizes from "./sizes.wgsl" with { type: "text" };
import heldF16 from "../held_f16.wgsl" with { type: "text" };
import heldF32 from "../held_f32.wgsl" with { type: "text" };
import tiles from "./tiles.wgsl" with { type: "text" };
import type { Program } from "../program.ts";
import { dropoutUniforms, withRandom } from "../random.ts";
import { assertDType, assertShape, ceilDiv, type DType, type Tensor } from "../tensor.ts";
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

/** Checked sizes. */
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

/** Invocations along the tokens that a workgroup walks, and along the components of a head. */
const X = 8;

/** Components, or tokens, that are multiplied between two barriers. */
const TERMS = 16;

/** Part of a head's matrix of scores: tokens of a workgroup by those that it walks at a time. */
interface Tile {
  /** Invocations along the workgroup's own tokens. */
  Y: number;
  /** Own tokens of an invocation, in vectors of four. */
  ROWS: number;
  /** Walked tokens of an invocation, in vectors of four. */
  COLUMNS: number;
}

/** The tiles that are worth a try: the first for long sequences, the last for short ones. */
const LARGE: Tile = { Y: 16, ROWS: 1, COLUMNS: 2 }, MIDDLE: Tile = { Y: 16, ROWS: 1, COLUMNS: 1 };
const SMALL: Tile = { Y: 8, ROWS: 1, COLUMNS: 1 };

/** Longest sequence for which the smallest tile is preferred. */
const SHORT = 256;

/** One of the three kernels, in rows and in tiles. */
interface Kernel {
  /** Path without its ending: the kernel in rows; the one in tiles ends in `_tiles`. */
  name: string;
  rows: string;
  tiles: string;
  /** From the largest to the smallest. */
  sizes: readonly Tile[];
  /** Sums that an invocation keeps for each of its rows, in heads. */
  sums: number;
}

const FORWARD: Kernel = {
  name: "kernels/attention/forward",
  rows: forward,
  tiles: forwardTiles,
  sizes: [LARGE, SMALL],
  sums: 1, // y
};

const BACKWARD_QUERY: Kernel = {
  name: "kernels/attention/backward_query",
  rows: backwardQuery,
  tiles: backwardQueryTiles,
  sizes: [LARGE, SMALL],
  sums: 1, // dq
};

const BACKWARD_KEY: Kernel = {
  name: "kernels/attention/backward_key",
  rows: backwardKey,
  tiles: backwardKeyTiles,
  sizes: [LARGE, MIDDLE, SMALL],
  sums: 2, // dk, dv
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
  const uniforms = [...dropoutUniforms({ rate, site }), 0, T];
  const variants = new Map<string, (program: Program) => void>();
  for (const [name, tile] of tilesOf(kernel, shape)) {
    variants.set(name, (program) =>
      program.dispatch({
        label: `${kernel.name}_tiles.wgsl`,
        source: [withRandom(kernel.tiles), sizes, tiles, real === "f16" ? heldF16 : heldF32].join(
          "\n",
        ),
        constants: {
          ...constants,
          ...tile,
          PAIR_TURNS: ceilDiv(ownOf(tile) + walkedOf(tile), X * tile.Y),
          SUM_TURNS: ceilDiv(HS, X * tile.Y),
        },
        tensors,
        uniforms,
        workgroups: [ceilDiv(T, ownOf(tile)), BNH],
        iterations: ceilDiv(T, walkedOf(tile)) * (3 + 2 * HS / TERMS + 4 * tile.COLUMNS),
        workgroupBytes: bytesOf(tile, HS),
      }));
  }
  const [firstTile] = variants.keys(); // the preferred one
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
  if (variant === "tiles" && !firstTile) {
    throw new RangeError(
      `Cannot run ${kernel.name} in tiles as head sizes must be multiples of ${4 * X} up to ` +
        `${MOST_SUMS * X / 4 / kernel.sums}: current head size is ${HS}`,
    );
  }
  if (variant) {
    variants.get(variant === "rows" ? "rows" : firstTile!)!(program);
    return;
  }
  if (!program.device.isCpu && firstTile) variants.delete("rows"); // hopeless
  recordFastest(program, {
    key: `${kernel.name.slice("kernels/".length)} ${real} [${BNH},${T},${HS}]` +
      (options.window === undefined ? "" : ` window ${options.window}`),
    variants: [...variants.keys()],
    preferred: program.device.isCpu ? "rows" : firstTile ?? "rows",
    record: (program, variant) => variants.get(variant)!(program),
  });
}

/** Most sums of f32 that an invocation keeps in registers over all tiles that it walks. */
const MOST_SUMS = 128;

/** The tiles that a kernel can take, by a name that gives their tokens; the preferred first. */
function tilesOf({ sizes, sums }: Kernel, { T, HS }: AttentionShape): Map<string, Tile> {
  // an invocation's part of a row is a number of vectors of four
  if (HS % (4 * X) !== 0) return new Map();
  const fitting = sizes.filter(({ ROWS }) => sums * 4 * ROWS * HS / X <= MOST_SUMS);
  return new Map(
    (T > SHORT ? fitting : fitting.toReversed())
      .map((tile) => [`${ownOf(tile)}x${walkedOf(tile)} of ${X * tile.Y}`, tile]),
  );
}

function ownOf({ Y, ROWS }: Tile): number {
  return 4 * Y * ROWS;
}

function walkedOf({ COLUMNS }: Tile): number {
  return 4 * X * COLUMNS;
}

/** Bytes of workgroup memory: both operands of a step in f32, with a vector of padding. */
function bytesOf(tile: Tile, HS: number): number {
  return TERMS * (ownOf(tile) + Math.max(walkedOf(tile), HS) + 8) * 4;
}
