import { MATRIX_SIDE, MATRIX_SUBGROUP } from "../matrices.ts";
import { ceilDiv } from "../tensor.ts";

/** A variant of forward_tiles.wgsl or of backward_tiles.wgsl. */
export interface TileVariant {
  /** The tuner's name: queries x keys per tile, and invocations of a workgroup. */
  readonly name: string;
  /** Queries, and keys, per tile. */
  readonly TOKENS: number;
  /** Terms per step of a product. */
  readonly TERMS: number;
}

/** The variants of forward_tiles.wgsl, the largest first. */
export const FORWARD_TILES: readonly TileVariant[] = [
  { name: "64x64 of 128", TOKENS: 64, TERMS: 16 },
  { name: "32x32 of 64", TOKENS: 32, TERMS: 16 },
];

/** The variants of backward_tiles.wgsl: in longer steps, too, with half the barriers and twice the workgroup memory. */
export const BACKWARD_TILES: readonly TileVariant[] = [
  { name: "64x64 of 128 in steps of 32", TOKENS: 64, TERMS: 32 },
  ...FORWARD_TILES,
];

/** Tokens of the longest sequence for which the smaller tile is preferred. */
export const MOST_SHORT_TOKENS = 256;

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
