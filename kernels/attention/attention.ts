/**
 * Causal self-attention. Every head of every sequence computes, for its queries t and the keys s ≤ t:
 *
 *     score[t,s]   = SCALE · q[t] · k[s]
 *     logSumExp[t] = log Σₛ exp(score[t,s])                    kept for the backward pass
 *     p[t,s]       = exp(score[t,s] − logSumExp[t])            = softmax of the scores
 *     y[t]         = Σₛ f[t,s] · p[t,s] · v[s]                 f: dropout's factor, 0 or 1 / (1 − rate)
 *
 * and backward, from dy to dq, dk and dv:
 *
 *     delta[t]     = dy[t] · y[t]                              = Σₛ p[t,s] · dp[t,s], the mean of dp under p
 *     dv[s]        = Σₜ f[t,s] · p[t,s] · dy[t]
 *     dp[t,s]      = f[t,s] · dy[t] · v[s]
 *     ds[t,s]      = p[t,s] · (dp[t,s] − delta[t])             p is computed again from logSumExp
 *     dq[t]        = SCALE · Σₛ ds[t,s] · k[s]
 *     dk[s]        = SCALE · Σₜ ds[t,s] · q[t]
 *
 * If there are fewer heads of k and v than of q, each of them is read by a group of heads of q, over which dk and dv
 * are summed, too (grouped-query attention, Ainslie et al. 2023, https://arxiv.org/abs/2305.13245).
 *
 * Given logSumExp and delta, the addends of a pair (t,s) do not depend on other pairs, so that no tensor of size [T,T]
 * need be stored (Dao et al. 2022, https://arxiv.org/abs/2205.14135). reference.ts computes both forms, by the softmax
 * and pair by pair.
 *
 * There are three sets of kernels:
 *
 * | kernels | for | forward | backward |
 * | --- | --- | --- | --- |
 * | by rows | CPUs | `forward.wgsl` | `backward_query.wgsl`, `backward_key.wgsl` |
 * | by tiles | GPUs | `forward_tiles.wgsl` | `backward_delta.wgsl`, `backward_scores.wgsl`, `backward_products.wgsl` |
 * | by matrices | tensor cores | `forward_matrices.wgsl` | `backward_delta.wgsl`, `…_matrices.wgsl`, `…_sum.wgsl` |
 *
 * By rows, an invocation keeps one query or one key in registers and loops over the others. A GPU computes sixteen
 * multiply-adds in the time of one load, so by tiles a workgroup computes a tile of scores and shares the queries and
 * keys that it loads; forward_tiles.wgsl has a picture. The backward pass by tiles stores f · p and ds, of as many heads
 * at a time as fit some memory: dq, dk and dv are then plain products, whose sums have an invocation's registers to
 * themselves. By matrices, tensor cores compute such tiles and nothing of the size [T,T] is stored; qkv must be f16 and
 * the device have subgroup matrices. variants.ts has the tiles of both. decode.ts has the attention of generation.
 *
 * @module
 */
import forward from "./forward.wgsl" with { type: "text" };
import backwardQuery from "./backward_query.wgsl" with { type: "text" };
import backwardKey from "./backward_key.wgsl" with { type: "text" };
import rows from "./rows.wgsl" with { type: "text" };
import tiles from "./tiles.wgsl" with { type: "text" };
import forwardTiles from "./forward_tiles.wgsl" with { type: "text" };
import backwardDelta from "./backward_delta.wgsl" with { type: "text" };
import scoreTiles from "./score_tiles.wgsl" with { type: "text" };
import backwardScores from "./backward_scores.wgsl" with { type: "text" };
import backwardProducts from "./backward_products.wgsl" with { type: "text" };
import backwardSum from "./backward_sum.wgsl" with { type: "text" };
import window from "./window.wgsl" with { type: "text" };
import forwardMatrices from "./forward_matrices.wgsl" with { type: "text" };
import backwardMatrices from "./backward_matrices.wgsl" with { type: "text" };
import type { Device } from "../device.ts";
import { dims } from "../dims.ts";
import { hasMatrices } from "../matrices.ts";
import { packedOf } from "../packed.ts";
import { POSITIONS } from "../positions.ts";
import { type Constants, type Dispatch, type Program, splitWorkgroups } from "../program.ts";
import { type Dropout, dropoutUniforms, RANDOM } from "../random.ts";
import type { Shader } from "../shader.ts";
import { ceilDiv, type DType, type Tensor } from "../tensor.ts";
import { recordFastest } from "../tune.ts";
import {
  BACKWARD_TOKENS,
  backwardMatrixVariants,
  type BackwardTileVariant,
  backwardTileVariants,
  forwardMatrixVariants,
  forwardTileVariants,
  isWithin,
  type MatrixVariant,
  SCORE_COLUMNS,
  stepBytes,
  TERMS,
  TILE_COMPONENTS,
} from "./variants.ts";

const WORKGROUP_SIZE = 64;

/** Invocations per workgroup of the kernels of delta and of the sum of partial sums, which wait for memory. */
const LARGE_WORKGROUP = 256;

/** The function seenBy(). */
const WINDOW: Shader = { "kernels/attention/window.wgsl": window, ...POSITIONS };

/** What the kernels by matrices need. */
const MATRICES: Shader = { ...packedOf("f16"), ...WINDOW, ...RANDOM };

/**
 * Most components of a head. The kernels unroll their loops over the components, to keep a head in registers. The
 * CPU adapter needs 25 s to compile them for 256 components, 86 s for 512, seven minutes for 1,024 (November 2026).
 */
export const MOST_HEAD_SIZE = 256;

/** The least and the largest factor of scores: kernels for GPUs multiply that of a key that is not seen, −1e38, too. */
export const LEAST_SCALE = 1e-6, MOST_SCALE = 1e6;

/** How scores are computed, if not as in GPT-2. */
export interface AttentionScores {
  /** Factor of the scores, from 1e-6 to 1e6; 1 / √HS by default. */
  scale?: number;
  /** Most tokens that a query sees: itself and tokens before it. At least 1; all by default. */
  window?: number;
}

/** Sizes and dropout of an attention layer. */
export interface AttentionOptions extends AttentionScores {
  /** T: tokens in each sequence. */
  T: number;
  /** NH: heads of q; the head size must be a multiple of four. */
  heads: number;
  /** KH: heads of k and v, a divisor of NH; query head h reads key head ⌊h / (NH / KH)⌋. NH by default. */
  keyHeads?: number | undefined;
  /** Dropout of the attention probabilities; none by default. */
  dropout?: Dropout | undefined;
  /**
   * The kernels to use. By default those by rows on a CPU; on a GPU the tiles or matrices that the tuner found to be
   * the fastest, or the kernels by rows if no tile fits the head size, the length of the sequences or the dropout rate.
   */
  variant?: "rows" | "tiles";
}

/**
 * y = dropout(softmax(scale · q · kᵀ)) · v for every head. A query sees the keys up to its own, with a window only the
 * last ones, with positions only those of its document.
 *
 * qkv: [B·T,(NH+2KH)·HS], a row of which holds q, k and v, each with its heads in order; y: [B·T,NH·HS]; both f32
 * or f16.
 * positions: u32 [B·T], of each token in its document; in a sequence a document takes up consecutive tokens, with the
 * positions 0, 1, 2, … Without positions a sequence is one document.
 * logSumExp: f32 [B,NH,T], of the scaled scores.
 *
 * @throws {RangeError | TypeError} if a tensor has another shape or element type, if KH does not divide NH, if HS is not
 * a multiple of four up to `MOST_HEAD_SIZE`, or with tiles as `variant` of 32, or if the window is no positive integer.
 */
export function attentionForward(
  program: Program,
  { qkv, positions }: { qkv: Tensor; positions?: Tensor | undefined },
  { y, logSumExp }: { y: Tensor; logSumExp: Tensor },
  options: AttentionOptions,
): void {
  const action = "attentionForward", random = options.dropout?.random;
  const { B, HS } = dims(action, {
    qkv: [qkv, "B·T,QKV·HS", "f32|f16"],
    positions: [positions, "B·T", "u32"],
    y: [y, "B·T,NH·HS", qkv.dtype],
    logSumExp: [logSumExp, "B,NH,T", "f32"],
    random: [random, "2", "u32"],
  }, headsOf(options));
  const layer = layerOf(action, { B, HS, real: qkv.dtype, positions }, options);
  const { T, NH } = layer, tensors = { qkv, positions, random, y, logSumExp };
  recordVariant(program, layer, {
    action,
    name: "forward",
    rows(program) {
      const query = { "kernels/attention/forward.wgsl": forward };
      dispatchRows(program, layer, query, tensors);
    },
    tileVariants: forwardTileVariants({ T, HS }),
    tiles(program, { TOKENS, constants, bytes }) {
      const blocks = ceilDiv(T, TOKENS);
      program.dispatch({
        shader: {
          "kernels/attention/forward_tiles.wgsl": forwardTiles,
          ...tilesOf(layer),
          ...RANDOM,
        },
        constants: { real4: layer.real4, ...layer.constants, ...constants },
        tensors,
        uniforms: layer.uniforms,
        workgroups: [B * NH, blocks],
        iterations: Math.ceil(2 * blocks * (HS + TOKENS) / TERMS), // twice, because the outer loop counts too
        workgroupBytes: bytes,
      });
    },
    matrixVariants: forwardMatrixVariants({ T, HS }),
    matrices(program, { QUERIES, KEYS, constants, bytes }) {
      const workgroups = ceilDiv(T, QUERIES);
      program.dispatch({
        shader: { "kernels/attention/forward_matrices.wgsl": forwardMatrices, ...MATRICES },
        constants: { ...layer.constants, ...constants },
        tensors,
        uniforms: layer.uniforms,
        workgroups: [B * NH, workgroups],
        iterations: 2 * (1 + ceilDiv(workgroups * QUERIES, KEYS)), // twice, because a workgroup may start again
        workgroupBytes: bytes,
      });
    },
  });
}

/**
 * Gradient of `attentionForward()`. The probabilities are computed again from logSumExp.
 *
 * qkv, positions, y, logSumExp: as in `attentionForward()`; dy, dqkv: like y and qkv; delta: f32 [B,NH,T], dy · y of each
 * head. dqkv and delta are set.
 *
 * @throws {RangeError | TypeError} as `attentionForward()` does.
 */
export function attentionBackward(
  program: Program,
  { qkv, positions, y, dy, logSumExp }: {
    qkv: Tensor;
    positions?: Tensor | undefined;
    y: Tensor;
    dy: Tensor;
    logSumExp: Tensor;
  },
  { dqkv, delta }: { dqkv: Tensor; delta: Tensor },
  options: AttentionOptions,
): void {
  const action = "attentionBackward", random = options.dropout?.random;
  const { B, HS } = dims(action, {
    qkv: [qkv, "B·T,QKV·HS", "f32|f16"],
    positions: [positions, "B·T", "u32"],
    y: [y, "B·T,NH·HS", qkv.dtype],
    dy: [dy, "B·T,NH·HS", qkv.dtype],
    logSumExp: [logSumExp, "B,NH,T", "f32"],
    random: [random, "2", "u32"],
    dqkv: [dqkv, "B·T,QKV·HS", qkv.dtype],
    delta: [delta, "B,NH,T", "f32"],
  }, headsOf(options));
  const layer = layerOf(action, { B, HS, real: qkv.dtype, positions }, options);
  const { T, NH, KH } = layer, SINGLE = NH === KH;
  const tensors = { qkv, positions, dy, logSumExp, delta, random, dqkv };
  recordVariant(program, layer, {
    action,
    name: "backward",
    rows(program) {
      const query = { "kernels/attention/backward_query.wgsl": backwardQuery };
      dispatchRows(program, layer, query, { ...tensors, y });
      const key = { "kernels/attention/backward_key.wgsl": backwardKey };
      dispatchRows(program, layer, key, tensors, { SINGLE });
    },
    tileVariants: holdsDropout(layer) ? backwardTileVariants(layer, program.device) : [],
    tiles(program, tile) {
      dispatchDelta(program, layer, { y, dy, delta });
      dispatchBackwardTiles(program, layer, tile, tensors);
    },
    matrixVariants: backwardMatrixVariants({ T, HS }),
    matrices(program, { QUERIES, KEYS, constants, bytes }) {
      const sums = partialsOf(program, layer, { QUERIES, KEYS });
      const { partials, P, blocks, rows } = sums, tiles = rows / QUERIES;
      dispatchDelta(program, layer, { y, dy, delta });
      program.dispatch({
        shader: { "kernels/attention/backward_matrices.wgsl": backwardMatrices, ...MATRICES },
        constants: { ...layer.constants, SINGLE, ...constants },
        tensors: { ...tensors, partials },
        uniforms: { ...layer.uniforms, rows },
        workgroups: [B * KH, P],
        iterations: ceilDiv(blocks, P) * (1 + NH / KH * (1 + tiles)),
        workgroupBytes: bytes,
      });
      dispatchSum(program, layer, sums, { positions, dqkv });
    },
  });
}

/**
 * Most partial sums of dq. A workgroup has a head of k and a partial sum of each head of q that reads it; more of them
 * have more equal shares of the work, and a partial sum is added to less often.
 */
const MOST_PARTIALS = 8;

/** The partial sums of dq: a workgroup adds blocks of KEYS keys to one of them. */
interface PartialSums {
  /** Queries, and keys, per tile. */
  readonly QUERIES: number;
  readonly KEYS: number;
  /** Tokens of a sequence in a partial sum: T, rounded up to whole tiles. */
  readonly rows: number;
  /** Blocks of keys. */
  readonly blocks: number;
  /** Partial sums. */
  readonly P: number;
  /** [P,B·rows,C]. */
  readonly partials: Tensor;
}

function partialsOf(
  program: Program,
  { B, T, NH, KH, HS }: Layer,
  { QUERIES, KEYS }: Pick<PartialSums, "QUERIES" | "KEYS">,
): PartialSums {
  const blocks = ceilDiv(T, KEYS), rows = ceilDiv(T, QUERIES) * QUERIES, C = NH * HS;
  const fitting = Math.floor(program.device.maxBindingBytes / (B * rows * C * 4));
  const P = Math.max(1, Math.min(blocks, MOST_PARTIALS * NH / KH, fitting));
  return { QUERIES, KEYS, rows, blocks, P, partials: program.scratch([P, B * rows, C]) };
}

/** Records delta = dy · y of each head. */
function dispatchDelta(
  program: Program,
  { real4, B, T, NH, HS }: Layer,
  tensors: { y: Tensor; dy: Tensor; delta: Tensor },
): void {
  const rows = B * T * NH, lanes = HS / 8, ROWS = Math.floor(LARGE_WORKGROUP / lanes);
  program.dispatch({
    shader: { "kernels/attention/backward_delta.wgsl": backwardDelta },
    constants: { real4, NH, HS, ROWS },
    tensors,
    uniforms: { T, rows },
    workgroups: splitWorkgroups(ceilDiv(rows, ROWS)),
    workgroupBytes: 4 * ROWS * lanes,
  });
}

/** Records the sum of the partial sums of dq. */
function dispatchSum(
  program: Program,
  { B, T, NH, KH, HS, APART, scoreConstants }: Layer,
  { QUERIES, KEYS, rows, P, partials }: PartialSums,
  tensors: { positions: Tensor | undefined; dqkv: Tensor },
): void {
  const vectors = B * T * NH * HS / 4;
  program.dispatch({
    shader: { "kernels/attention/backward_sum.wgsl": backwardSum, ...WINDOW },
    constants: {
      ...{ NH, KH, HS, P, WORKGROUP_SIZE: LARGE_WORKGROUP, QUERIES, KEYS, APART },
      ...scoreConstants,
    },
    tensors: { ...tensors, partials },
    uniforms: { T, rows, vectors },
    workgroups: splitWorkgroups(ceilDiv(vectors, LARGE_WORKGROUP)),
    iterations: P,
  });
}

/**
 * The constants SCALE and WINDOW of the kernels in this folder, without those whose defaults in WGSL hold.
 *
 * @throws {RangeError} if the window is no positive integer, or the scale out of its range.
 */
export function attentionConstants({ scale, window }: AttentionScores): Record<string, number> {
  if (scale !== undefined && !(scale >= LEAST_SCALE && scale <= MOST_SCALE)) {
    throw new RangeError(
      `Cannot run attention as the scale must be from ${LEAST_SCALE} to ${MOST_SCALE}: ` +
        `current value is ${scale}`,
    );
  }
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

/** @throws {RangeError} if the kernels of this folder cannot compute these heads. */
export function checkHeads(
  action: string,
  { NH, KH, HS }: { NH: number; KH: number; HS: number },
): void {
  if (NH % KH !== 0) {
    throw new RangeError(
      `Cannot run ${action} as the number of key heads must divide the ${NH} heads: ` +
        `current value is ${KH}`,
    );
  }
  if (HS % 4 !== 0 || HS > MOST_HEAD_SIZE) {
    throw new RangeError(
      `Cannot run ${action} as the head size must be a multiple of 4 up to ${MOST_HEAD_SIZE}: ` +
        `current value is ${HS}`,
    );
  }
}

/** The dimensions that the options give; QKV: heads in a row of qkv. */
function headsOf({ T, heads: NH, keyHeads: KH = NH }: AttentionOptions) {
  return { T, NH, KH, QKV: NH + 2 * KH };
}

/** Largest window, longer than any text: the kernels add it to positions in 32 bits. */
const MOST_WINDOW = 2 ** 30;

/** An attention layer with checked sizes and options. */
interface Layer {
  /** Element type of qkv, and the WGSL type of four elements. */
  real: DType;
  real4: string;
  B: number;
  T: number;
  NH: number;
  KH: number;
  HS: number;
  window: number | undefined;
  /** Whether documents are apart. */
  APART: boolean;
  dropoutRate: number;
  variant: AttentionOptions["variant"];
  /** Constants and uniforms of its kernels; some have real4 or SINGLE, too. Those of delta and of sums have others. */
  constants: Constants;
  uniforms: Readonly<Record<string, number>>;
  /** Of these constants SCALE and WINDOW, as `attentionConstants()` gives them. */
  scoreConstants: Constants;
}

function layerOf(
  action: string,
  { B, HS, real, positions }: {
    B: number;
    HS: number;
    real: DType;
    positions: Tensor | undefined;
  },
  options: AttentionOptions,
): Layer {
  const { T, NH, KH } = headsOf(options), { dropout, variant, window } = options;
  checkHeads(action, { NH, KH, HS });
  const real4 = `vec4<${real}>`, DROPOUT = dropout !== undefined;
  const APART = positions !== undefined, scoreConstants = attentionConstants(options);
  return {
    real,
    real4,
    B,
    T,
    NH,
    KH,
    HS,
    window,
    APART,
    dropoutRate: dropout?.rate ?? 0,
    variant,
    constants: { NH, KH, HS, DROPOUT, APART, ...scoreConstants },
    scoreConstants,
    uniforms: { T, ...(dropout && dropoutUniforms(dropout)) },
  };
}

/** Highest dropout rate of kernels that keep f · p in f16: f is at most 20 then, and f16 holds less than 2¹⁶. */
const MOST_DROPOUT = 0.95;

/** Whether f · p of a layer can be kept in the type of qkv. */
function holdsDropout({ real, dropoutRate }: Layer): boolean {
  return real !== "f16" || dropoutRate <= MOST_DROPOUT;
}

/** An op with its kernels by rows, by tiles and by matrices. */
interface Variants<Tile> {
  /** Name of the op in messages, and in keys of the tuner. */
  action: string;
  name: string;
  rows(program: Program): void;
  /** Variants of the kernels by tiles, of which the first is preferred; none if no tile fits. */
  tileVariants: readonly Tile[];
  tiles(program: Program, variant: Tile): void;
  /** Variants of the kernel by matrices for the head size, of which the first is preferred. */
  matrixVariants: readonly MatrixVariant[];
  matrices(program: Program, variant: MatrixVariant): void;
}

/** Records an op in the variant that the options name, or that the tuner found to be the fastest. */
function recordVariant<Tile extends { name: string; bytes: number }>(
  program: Program,
  layer: Layer,
  op: Variants<Tile>,
): void {
  const { real, B, T, NH, KH, HS, window, APART, variant } = layer, { device } = program;
  if (variant === "tiles" && HS % TILE_COMPONENTS !== 0) {
    throw new RangeError(
      `Cannot run ${op.action} in tiles as the head size must be a multiple of ` +
        `${TILE_COMPONENTS}: current value is ${HS}`,
    );
  }
  const variants = new Map<string, (program: Program) => void>();
  // on a GPU the kernels by rows are many times slower, on a CPU those by tiles
  if ((variant ?? (device.isCpu ? "rows" : "tiles")) === "tiles") {
    for (const tile of variant || !canUseMatrices(device, layer) ? [] : op.matrixVariants) {
      if (isWithin(device.gpu.limits, tile)) {
        variants.set(tile.name, (program) => op.matrices(program, tile));
      }
    }
    for (const tile of op.tileVariants) {
      if (tile.bytes <= device.gpu.limits.maxComputeWorkgroupStorageSize) {
        variants.set(tile.name, (program) => op.tiles(program, tile));
      }
    }
  }
  const [first] = variants.keys();
  if (first === undefined) return op.rows(program);
  if (variant) return variants.get(first)!(program);
  recordFastest(program, {
    key: `attention/${op.name} ${real} [${B * NH},${T},${HS}]` +
      (KH === NH ? "" : ` group ${NH / KH}`) +
      (window === undefined ? "" : ` window ${window}`) +
      (APART ? " apart" : ""),
    variants: [...variants.keys()],
    preferred: first,
    record: (program, variant) => variants.get(variant)!(program),
  });
}

/** Whether the kernels by matrices compute a layer on a device. */
function canUseMatrices(device: Device, layer: Layer): boolean {
  return layer.real === "f16" && hasMatrices(device) && holdsDropout(layer);
}

/** Records a kernel by rows: one of queries, or if `keys` has its constants, one of keys. */
function dispatchRows(
  program: Program,
  { real4, B, T, NH, KH, HS, constants, uniforms }: Layer,
  shader: Dispatch["shader"],
  tensors: Dispatch["tensors"],
  keys?: Constants,
): void {
  const { subgroupSize: LANES = 1 } = program.device;
  program.dispatch({
    shader: { ...shader, "kernels/attention/rows.wgsl": rows, ...WINDOW, ...RANDOM },
    constants: {
      real4,
      ...constants,
      ...keys,
      WORKGROUP_SIZE,
      LANES,
      LOADS: ceilDiv(HS / 4, LANES),
      SUBGROUPS: LANES > 1,
    },
    tensors,
    uniforms,
    workgroups: [ceilDiv(T, WORKGROUP_SIZE), B * (keys ? KH : NH)],
    iterations: keys ? NH / KH * T : T,
  });
}

/** What the kernels by tiles need. */
function tilesOf({ real }: Layer): Shader {
  return { "kernels/attention/tiles.wgsl": tiles, ...packedOf(real), ...WINDOW };
}

/**
 * Most bytes of the tiles of f · p and ds, unless those of one head of k need more: to need no more, the heads are computed
 * in parts, one after the other. 8 sequences of 1,024 tokens and 12 heads need 204 MiB in f16.
 */
const MOST_SCORE_BYTES = 256 * 2 ** 20;

/** Records f · p and ds in tiles, and dq, dk and dv as products of these, for one part of the heads after the other. */
function dispatchBackwardTiles(
  program: Program,
  layer: Layer,
  { tiles, seenBlocks, headBytes, COLUMNS, bytes }: BackwardTileVariant,
  { qkv, positions, dy, logSumExp, delta, random, dqkv }: Dispatch["tensors"],
): void {
  const { real, real4, B, T, NH, KH, HS, APART, constants, scoreConstants } = layer;
  const GROUP = NH / KH, TOKENS = BACKWARD_TOKENS, blocks = ceilDiv(T, TOKENS), heads = B * KH;
  const mostBytes = Math.min(MOST_SCORE_BYTES, program.device.maxBindingBytes);
  const parts = ceilDiv(heads, Math.max(1, Math.floor(mostBytes / headBytes)));
  const headsPerPart = ceilDiv(heads, parts);
  const scores = program.scratch([headsPerPart * GROUP, 2, tiles, TOKENS, TOKENS], { dtype: real });
  const shared = { "kernels/attention/score_tiles.wgsl": scoreTiles, ...tilesOf(layer) };
  for (let firstHead = 0; firstHead < heads; firstHead += headsPerPart) {
    const count = Math.min(headsPerPart, heads - firstHead), sizes = { T, seenBlocks, firstHead };
    program.dispatch({
      shader: { "kernels/attention/backward_scores.wgsl": backwardScores, ...shared, ...RANDOM },
      constants: { ...constants, TOKENS, TERMS, COLUMNS: SCORE_COLUMNS },
      tensors: { qkv, positions, dy, logSumExp, delta, random, scores },
      uniforms: { ...layer.uniforms, ...sizes },
      workgroups: [tiles, count * GROUP],
      iterations: 2 * (1 + HS / TERMS),
      workgroupBytes: bytes,
    });
    program.dispatch({
      shader: { "kernels/attention/backward_products.wgsl": backwardProducts, ...shared },
      constants: {
        ...{ real4, NH, KH, HS, APART, SINGLE: GROUP === 1, TOKENS, TERMS, COLUMNS },
        ...scoreConstants,
      },
      tensors: { qkv, positions, dy, scores, dqkv },
      uniforms: sizes,
      workgroups: [count * (2 + GROUP), blocks, HS / (TILE_COMPONENTS * COLUMNS)],
      // the 1 is the loop that finds the last block of queries that sees a key
      iterations: (1 + TOKENS / TERMS * GROUP) * blocks,
      workgroupBytes: stepBytes(COLUMNS),
    });
  }
}
