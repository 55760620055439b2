import forward from "./forward.wgsl" with { type: "text" };
import forwardTiles from "./forward_tiles.wgsl" with { type: "text" };
import backwardDelta from "./backward_delta.wgsl" with { type: "text" };
import backwardKey from "./backward_key.wgsl" with { type: "text" };
import backwardQuery from "./backward_query.wgsl" with { type: "text" };
import backwardSum from "./backward_sum.wgsl" with { type: "text" };
import backwardTiles from "./backward_tiles.wgsl" with { type: "text" };
import rowsAlone from "./rows_alone.wgsl" with { type: "text" };
import rowsShared from "./rows_shared.wgsl" with { type: "text" };
import sizes from "./sizes.wgsl" with { type: "text" };
import heldF16 from "../held_f16.wgsl" with { type: "text" };
import heldF32 from "../held_f32.wgsl" with { type: "text" };
import tiles from "./tiles.wgsl" with { type: "text" };
import random from "./random.wgsl" with { type: "text" };
import {
  bitsOf,
  type Constants,
  type NumberedDispatch,
  type Program,
  splitWorkgroups,
} from "../program.ts";
import { dropoutUniforms } from "../random.ts";
import { assertDType, assertShape, ceilDiv, type DType, type Tensor } from "../tensor.ts";
import { recordFastest } from "../tune.ts";

const WORKGROUP_SIZE = 64;

/**
 * Most components of a head. The kernels unroll their loops over them, which keeps a head in registers: the CPU
 * adapter compiles them in 25 s for 256 components, 86 s for 512, seven minutes for 1,024 (November 2026).
 */
export const MOST_HEAD_SIZE = 256;

/** How tokens look at each other, where it is not as in GPT-2. */
export interface AttentionScores {
  /** What scores are multiplied with; 1 / √HS by default. */
  scale?: number;
  /** Tokens that a token sees, itself and those before it, at least 1; all by default. */
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
   * the head size allows them. By default rows on a CPU, on a GPU the tuner's choice of tiles.
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
  const attention = checkAttention("attentionForward", {
    ...{ qkv, logSumExp, random, options },
    likeY: [y],
  });
  const tensors = [qkv, random ?? qkv, y, logSumExp];
  recordVariants(program, attention, {
    name: "forward",
    sums: 1, // y
    rows: (program) => dispatchRows(program, attention, "forward.wgsl", forward, tensors),
    tiles(program, tile) {
      const { T, BNH, HS } = attention, walks = ceilDiv(T, tokensOf(tile));
      dispatchTiles(program, attention, tile, {
        label: "kernels/attention/forward_tiles.wgsl",
        source: forwardTiles,
        tensors,
        workgroups: [walks, BNH],
        iterations: walks * (HS + tokensOf(tile)) / TERMS,
      });
    },
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
  const attention = checkAttention("attentionBackward", {
    ...{ qkv, logSumExp, random, options },
    likeY: [y, dy],
  });
  assertShape("attentionBackward", dqkv, qkv.shape);
  assertDType("attentionBackward", dqkv, qkv.dtype);
  assertShape("attentionBackward", delta, logSumExp.shape);
  const drawn = random ?? qkv;
  recordVariants(program, attention, {
    name: "backward",
    sums: 2, // dk, dv
    rows(program) {
      const ofQueries = [qkv, y, dy, logSumExp, drawn, dqkv, delta];
      dispatchRows(program, attention, "backward_query.wgsl", backwardQuery, ofQueries);
      const ofKeys = [qkv, dy, logSumExp, delta, drawn, dqkv];
      dispatchRows(program, attention, "backward_key.wgsl", backwardKey, ofKeys);
    },
    tiles(program, tile) {
      const { real, T, BNH, NH, HS } = attention, C = NH * HS, rows = BNH / NH * T;
      const blocks = ceilDiv(T, tokensOf(tile));
      const shown = Math.floor(program.device.maxBindingBytes / (rows * C * 4));
      const P = Math.max(1, Math.min(blocks, MOST_PARTIALS, shown));
      const partials = program.scratch([P, rows, C]);
      program.dispatch({
        label: "kernels/attention/backward_delta.wgsl",
        source: `${backwardDelta}\n${heldOf(real)}`,
        constants: { NH, HS, WORKGROUP_SIZE },
        tensors: [y, dy, delta],
        uniforms: [T, rows * NH],
        workgroups: splitWorkgroups(ceilDiv(rows * NH, WORKGROUP_SIZE)),
      });
      dispatchTiles(program, attention, tile, {
        label: "kernels/attention/backward_tiles.wgsl",
        source: backwardTiles,
        tensors: [qkv, dy, logSumExp, delta, drawn, dqkv, partials],
        workgroups: [BNH, P],
        iterations: ceilDiv(blocks, P) * blocks * (2 * HS + 3 * tokensOf(tile)) / TERMS,
      });
      program.dispatch({
        label: "kernels/attention/backward_sum.wgsl",
        source: backwardSum,
        constants: {
          ...{ real, NH, HS, P, WORKGROUP_SIZE, TOKENS: tokensOf(tile) },
          ...attentionConstants(options),
        },
        tensors: [partials, dqkv],
        uniforms: [T, rows * C / 4],
        workgroups: splitWorkgroups(ceilDiv(rows * C / 4, WORKGROUP_SIZE)),
        iterations: P,
      });
    },
  });
}

/** Most partial sums of dq: so many workgroups of a head run side by side, however long its sequence. */
const MOST_PARTIALS = 8;

/** Constants of the kernels of this folder. */
export function attentionConstants({ scale, window }: AttentionScores): Record<string, number> {
  if (window !== undefined && !(Number.isInteger(window) && window >= 1)) {
    throw new RangeError(
      `Cannot run attention as the window must be a positive integer: current value is ${window}`,
    );
  }
  return {
    ...(scale === undefined ? {} : { SCALE: scale }),
    ...(window === undefined ? {} : { WINDOW: Math.min(window, MOST_WINDOW) }),
  };
}

/** Positions and windows are added and subtracted in 32 bits; no text is as long. */
const MOST_WINDOW = 2 ** 30;

/** Checked sizes and options. */
interface Attention {
  real: DType;
  BNH: number;
  T: number;
  NH: number;
  HS: number;
  /** What all kernels are specialised by, and told. */
  constants: Constants;
  uniforms: readonly number[];
  window: number | undefined;
  variant: AttentionOptions["variant"];
}

function checkAttention(
  action: string,
  { qkv, logSumExp, likeY, random, options }: {
    qkv: Tensor;
    logSumExp: Tensor;
    likeY: readonly Tensor[];
    random: Tensor | undefined;
    options: AttentionOptions;
  },
): Attention {
  const { T, heads: NH, rate = 0, site = 0, window, variant } = options;
  const [rows, columns] = qkv.shape as [number, number];
  const C = columns / 3, HS = C / NH, B = rows / T;
  if (!Number.isInteger(B) || !Number.isInteger(HS) || HS % 4 !== 0 || HS > MOST_HEAD_SIZE) {
    throw new RangeError(
      `Cannot run ${action} as "${qkv.name}" must be [B·T, 3·NH·HS] with HS a multiple of 4 up to ` +
        `${MOST_HEAD_SIZE}: ` +
        `current shape is [${qkv.shape}] with T ${T}, NH ${NH}`,
    );
  }
  assertDType(action, qkv, "f32", "f16");
  for (const t of likeY) {
    assertShape(action, t, [rows, C]);
    assertDType(action, t, qkv.dtype);
  }
  assertShape(action, logSumExp, [B, NH, T]);
  if (rate > 0 && !random) {
    throw new TypeError(
      `Cannot run ${action} with dropout ${rate} as it needs the tensor "random"`,
    );
  }
  const real = qkv.dtype, dropout = dropoutUniforms({ rate, site });
  return {
    ...{ real, BNH: B * NH, T, NH, HS, window, variant },
    constants: { real, NH, HS, DROPOUT: rate > 0, ...attentionConstants(options) },
    uniforms: [dropout.site, dropout.threshold, bitsOf(dropout.scale), 0, T],
  };
}

/** Invocations along the tokens that a workgroup walks, and along the components of a head. */
const X = 8;

/** Components, or tokens, that are multiplied between two barriers. */
const TERMS = 16;

/** Part of a head's matrix of scores: as many tokens of a workgroup as it walks at a time. */
interface Tile {
  /** Invocations along the workgroup's own tokens, four tokens of each. */
  Y: number;
  /** Walked tokens of an invocation, in vectors of four. */
  COLUMNS: number;
}

/** The tiles that are worth a try, from the largest to the smallest. */
const TILES: readonly Tile[] = [{ Y: 16, COLUMNS: 2 }, { Y: 8, COLUMNS: 1 }];

/** Longest sequence for which the smallest tile is preferred. */
const SHORT = 256;

/** What an op records, one of these ways. */
interface Variants {
  name: string;
  /** Sums that an invocation keeps for each of its rows, in heads. */
  sums: number;
  rows(program: Program): void;
  tiles(program: Program, tile: Tile): void;
}

/** Records an op the way that was asked for, or that the tuner found to be the fastest. */
function recordVariants(program: Program, attention: Attention, op: Variants): void {
  const { real, BNH, T, HS, window, variant } = attention;
  const tiles = new Map<string, (program: Program) => void>();
  for (const tile of tilesOf(op, attention)) {
    const tokens = tokensOf(tile);
    const name = `${tokens}x${tokens} of ${X * tile.Y}`;
    tiles.set(name, (program) => op.tiles(program, tile));
  }
  const [preferred] = tiles.keys();
  if (variant === "tiles" && !preferred) {
    throw new RangeError(
      `Cannot run attention's ${op.name} in tiles as head sizes must be multiples of ${4 * X} up ` +
        `to ${MOST_SUMS * X / 4 / op.sums}: current head size is ${HS}`,
    );
  }
  // rows are hopeless on a GPU, tiles on a CPU
  if (!preferred || (variant ?? (program.device.isCpu ? "rows" : "tiles")) === "rows") {
    op.rows(program);
  } else if (variant) {
    tiles.get(preferred)!(program);
  } else {
    recordFastest(program, {
      key: `attention/${op.name} ${real} [${BNH},${T},${HS}]` +
        (window === undefined ? "" : ` window ${window}`),
      variants: [...tiles.keys()],
      preferred,
      record: (program, variant) => tiles.get(variant)!(program),
    });
  }
}

/** Most sums of f32 that an invocation keeps in registers over all tiles that it walks. */
const MOST_SUMS = 128;

/** The tiles that an op can take, the preferred first. */
function tilesOf({ sums }: Variants, { T, HS }: Attention): readonly Tile[] {
  // an invocation's part of a row is a number of vectors of four
  if (HS % (4 * X) !== 0 || sums * 4 * HS / X > MOST_SUMS) return [];
  return T > SHORT ? TILES : TILES.toReversed();
}

/** Tokens of a tile, either way. */
function tokensOf({ Y }: Tile): number {
  return 4 * Y;
}

function dispatchRows(
  program: Program,
  { BNH, T, HS, constants, uniforms }: Attention,
  name: string,
  source: string,
  tensors: readonly Tensor[],
): void {
  const { subgroupSize: LANES } = program.device;
  program.dispatch({
    label: `kernels/attention/${name}`,
    source: [source, random, sizes, LANES ? rowsShared : rowsAlone].join("\n"),
    constants: {
      ...constants,
      WORKGROUP_SIZE,
      ...(LANES ? { LANES, PARTS: ceilDiv(HS / 4, LANES) } : {}),
    },
    tensors,
    uniforms,
    workgroups: [ceilDiv(T, WORKGROUP_SIZE), BNH],
    iterations: T,
  });
}

function dispatchTiles(
  program: Program,
  { real, HS, constants, uniforms }: Attention,
  tile: Tile,
  { source, iterations, ...launch }:
    & Pick<NumberedDispatch, "label" | "source" | "tensors" | "workgroups">
    & { iterations: number },
): void {
  const SIZE = X * tile.Y, tokens = tokensOf(tile);
  program.dispatch({
    ...launch,
    source: [source, random, sizes, tiles, heldOf(real)].join("\n"),
    constants: {
      ...constants,
      ...tile,
      PAIR_TURNS: ceilDiv(2 * tokens, SIZE),
      SUM_TURNS: ceilDiv(HS, SIZE),
    },
    uniforms,
    iterations: Math.ceil(2 * iterations), // loops within loops count too
    workgroupBytes: 4 * TERMS * (tokens + Math.max(tokens, HS) + 12), // 8 and 4 of them unused
  });
}

/** How four elements are held. */
function heldOf(real: DType): string {
  return real === "f16" ? heldF16 : heldF32;
}
