import type { Device } from "../device.ts";
import { MATRIX_SIDE, MATRIX_SUBGROUP } from "../matrices.ts";
import { bytesPerElement, ceilDiv, type DType } from "../tensor.ts";

/** A variant of forward_tiles.wgsl. */
export interface ForwardTileVariant {
  /** The tuner's name: queries x keys per tile, and invocations of a workgroup. */
  readonly name: string;
  /** Queries, and keys, per tile. */
  readonly TOKENS: number;
  /** Values of the constants of the kernel. */
  readonly constants: Readonly<Record<string, number>>;
  /** Bytes of workgroup memory. */
  readonly bytes: number;
}

/**
 * Components of a head per vector of columns of an invocation, 4 · X in the kernels by tiles: they compute heads of a multiple
 * of these.
 */
export const TILE_COMPONENTS = 32;

/** Terms per step of a product in tiles: TERMS in the kernels. */
export const TERMS = 16;

/** Tokens of the longest sequence for which the smaller tile of the forward pass is preferred. */
const MOST_SHORT_TOKENS = 256;

/** The variants of forward_tiles.wgsl, of which the first is preferred; none if no tile has heads of this size. */
export function forwardTileVariants({ T, HS }: { T: number; HS: number }): ForwardTileVariant[] {
  if (HS % TILE_COMPONENTS !== 0) return [];
  return (T > MOST_SHORT_TOKENS ? [64, 32] : [32, 64]).map((TOKENS) => {
    const invocations = 2 * TOKENS;
    return {
      name: `${TOKENS}x${TOKENS} of ${invocations}`,
      TOKENS,
      constants: { TOKENS, TERMS, FETCHES: ceilDiv(TERMS / 4 * HS / 4, invocations) }, // of v
      bytes: 4 * TERMS * (TOKENS + Math.max(TOKENS, HS) + 12),
    };
  });
}

/** The variant of backward_scores.wgsl and backward_products.wgsl. */
export interface BackwardTileVariant {
  /** The tuner's name: queries x keys per tile, and invocations of a workgroup. */
  readonly name: string;
  /** Most blocks of keys that a block of queries sees. */
  readonly seenBlocks: number;
  /** Tiles of a head. */
  readonly tiles: number;
  /** Bytes of the tiles of f · p and of ds of the heads of q that read one head of k. */
  readonly headBytes: number;
  /** Vectors of columns per invocation of backward_products.wgsl. */
  readonly COLUMNS: number;
  /** Bytes of workgroup memory of backward_scores.wgsl; backward_products.wgsl needs as many, or fewer. */
  readonly bytes: number;
}

/** Queries, and keys, per tile of the backward pass: TOKENS in score_tiles.wgsl. */
export const BACKWARD_TOKENS = 64;

/** Vectors of keys per invocation of backward_scores.wgsl: COLUMNS in score_tiles.wgsl. */
export const SCORE_COLUMNS = BACKWARD_TOKENS / TILE_COMPONENTS;

/**
 * The variant of the backward pass by tiles; none if no tile has heads of this size, or if a device cannot bind the
 * tiles of the heads of q that read one head of k.
 *
 * @param layer.real the element type of qkv.
 */
export function backwardTileVariants(
  { real, T, NH, KH, HS, window = Infinity }: {
    real: DType;
    T: number;
    NH: number;
    KH: number;
    HS: number;
    window: number | undefined;
  },
  { maxBindingBytes, gpu: { limits } }: Pick<Device, "maxBindingBytes" | "gpu">,
): BackwardTileVariant[] {
  const blocks = ceilDiv(T, BACKWARD_TOKENS);
  const seenBlocks = 1 + ceilDiv(Math.min(window, T) - 1, BACKWARD_TOKENS);
  const tiles = seenBlocks * (seenBlocks + 1) / 2 + (blocks - seenBlocks) * seenBlocks;
  const headBytes = 2 * NH / KH * tiles * BACKWARD_TOKENS ** 2 * bytesPerElement(real);
  if (HS % TILE_COMPONENTS !== 0 || headBytes > maxBindingBytes) return [];
  if (tiles > limits.maxComputeWorkgroupsPerDimension) return [];
  const COLUMNS = HS % (2 * TILE_COMPONENTS) === 0 ? 2 : 1;
  return [{
    name: "64x64 of 64",
    ...{ seenBlocks, tiles, headBytes, COLUMNS },
    bytes: stepBytes(SCORE_COLUMNS),
  }];
}

/** Bytes of workgroup memory of a step in score_tiles.wgsl, with so many vectors of columns per invocation. */
export function stepBytes(COLUMNS: number): number {
  return VECTOR_BYTES * TERMS / 4 * (4 * (16 + 8 * COLUMNS) + 4); // aTile, bTile and their padding
}

/** Most bytes of workgroup memory of a variant. */
const MOST_BYTES = 48 * 2 ** 10;

/** Bytes of a vector in workgroup memory. */
const VECTOR_BYTES = 16;

/** Most registers of an invocation that a variant may need for matrices and for vectors that it fetches ahead. */
const MOST_REGISTERS = 224;

/** A variant of forward_matrices.wgsl or of backward_matrices.wgsl. */
export interface MatrixVariant {
  /** The tuner's name: queries x keys per tile, and of these those of a subgroup. */
  readonly name: string;
  /** Queries, and keys, per tile. */
  readonly QUERIES: number;
  readonly KEYS: number;
  /** Values of the other constants of the kernel. */
  readonly constants: Readonly<Record<string, number | boolean>>;
  /** Invocations per workgroup. */
  readonly invocations: number;
  /** Bytes of workgroup memory. */
  readonly bytes: number;
}

/** Limits of a device that a variant may exceed. */
type Limits = Pick<
  GPUSupportedLimits,
  "maxComputeInvocationsPerWorkgroup" | "maxComputeWorkgroupStorageSize"
>;

/** Whether a device with these limits can run a variant. */
export function isWithin(limits: Limits, { bytes, invocations }: MatrixVariant): boolean {
  return bytes <= limits.maxComputeWorkgroupStorageSize &&
    invocations <= limits.maxComputeInvocationsPerWorkgroup;
}

/** Tokens of the longest sequence for which the smallest tiles of matrices are offered. */
const MOST_FEW_TOKENS = 128;

/** Queries, and keys, of the smallest tiles of matrices. */
const SMALLEST = 32;

/**
 * Queries and keys per tile of the forward pass, of which the first is preferred. With these, and heads of 64, two to
 * four workgroups share the memory of a core.
 */
const FORWARD: readonly (readonly [QUERIES: number, KEYS: number])[] = [
  [128, 32],
  [128, 16],
  [64, 32],
  [SMALLEST, 16],
];

/**
 * The variants of forward_matrices.wgsl; none if the head size is not a multiple of 16 or too large for the registers.
 */
export function forwardMatrixVariants({ T, HS }: { T: number; HS: number }): MatrixVariant[] {
  if (HS % MATRIX_SIDE !== 0) return [];
  return FORWARD.filter(([QUERIES]) => isOffered(QUERIES, T)).flatMap(([QUERIES, KEYS]) => {
    const FETCHES = ceilDiv(KEYS * HS / 8, QUERIES);
    return fitting({
      name: `matrix ${QUERIES}x${KEYS} by ${MATRIX_SUBGROUP}x${KEYS}`,
      QUERIES,
      KEYS,
      invocations: QUERIES,
      constants: { QUERIES, KEYS, FETCHES },
      bytes: VECTOR_BYTES * (QUERIES * (KEYS / 4 + 1) + KEYS * (HS / 8 + 1) + 2),
    }, HS + HS / 2 + KEYS + 8 * FETCHES);
  });
}

/**
 * Queries and keys per tile of the backward pass, and subgroups that share keys. The first one is preferred: its blocks
 * of keys are the largest, so that there are the fewest partial sums of dq.
 */
const BACKWARD: readonly (readonly [QUERIES: number, KEYS: number, SPLIT: number])[] = [
  [32, 128, 1],
  [32, 64, 1],
  [32, 64, 2], // for large heads
  [SMALLEST, SMALLEST, 1],
];

/** Head size above which subgroups of 16 keys share them, because the registers of one do not hold their dk and dv. */
const MOST_UNSHARED = 96;

/** The variants of backward_matrices.wgsl; none if the head size is as in `forwardMatrixVariants()`. */
export function backwardMatrixVariants({ T, HS }: { T: number; HS: number }): MatrixVariant[] {
  return BACKWARD.filter(([, KEYS]) => isOffered(KEYS, T)).flatMap((
    [QUERIES, KEYS, SPLIT],
  ) => {
    if (HS % (MATRIX_SIDE * SPLIT) !== 0) return [];
    if (SPLIT > 1 && HS <= MOST_UNSHARED) return [];
    const subgroups = KEYS / MATRIX_SIDE * SPLIT, invocations = MATRIX_SUBGROUP * subgroups;
    const COLUMNS = Math.max(MATRIX_SIDE, QUERIES * KEYS / invocations);
    const FETCHES = ceilDiv(QUERIES * HS / 8, invocations);
    const DQS = ceilDiv(QUERIES / MATRIX_SIDE * HS / MATRIX_SIDE, subgroups);
    const row = HS / 8 + 1, scores = QUERIES * (KEYS / 4 + 1);
    return fitting({
      name: `matrix ${QUERIES}x${KEYS} by ${QUERIES / SPLIT}x${MATRIX_SIDE}`,
      QUERIES,
      KEYS,
      invocations,
      constants: { QUERIES, KEYS, SPLIT, COLUMNS, FETCHES, DQS },
      bytes: VECTOR_BYTES * Math.max(scores + (2 * QUERIES + KEYS) * row, KEYS * (HS / 4 + 1)),
    }, HS / SPLIT + HS / 4 + QUERIES / SPLIT / 2 + COLUMNS + 8 * FETCHES + 2);
  });
}

function isOffered(tokens: number, T: number): boolean {
  return tokens > SMALLEST || T <= MOST_FEW_TOKENS;
}

/** The variant, unless it needs more workgroup memory or more registers than there are. */
function fitting(variant: MatrixVariant, registers: number): MatrixVariant[] {
  return variant.bytes <= MOST_BYTES && registers <= MOST_REGISTERS ? [variant] : [];
}
