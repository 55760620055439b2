/**
 * How each kernel of a product is launched.
 *
 * @module
 */

import any from "./matmul.wgsl" with { type: "text" };
import epilogue from "./epilogue.wgsl" with { type: "text" };
import lanes from "./lanes.wgsl" with { type: "text" };
import matrices from "./matrices.wgsl" with { type: "text" };
import matrixRows from "./matrix_rows.wgsl" with { type: "text" };
import reduce from "./reduce.wgsl" with { type: "text" };
import tiles from "./tiles.wgsl" with { type: "text" };
import vector from "./vector.wgsl" with { type: "text" };
import int8 from "../int8.wgsl" with { type: "text" };
import { ACTIVATION, activationConstants, type ActivationFunction } from "../activation.ts";
import type { Device } from "../device.ts";
import { hasMatrices, MATRIX_SIDE, MATRIX_SUBGROUP } from "../matrices.ts";
import { type Normalization, normalizedRows, sumBytes } from "../normalized_rows.ts";
import { packedOf } from "../packed.ts";
import { type Program, splitWorkgroups } from "../program.ts";
import { bytesPerElement, ceilDiv, type DType, type Tensor } from "../tensor.ts";
import {
  type MatrixTile,
  matrixTileBytes,
  TILE_K,
  tileBytes,
  tileColumns,
  tileRows,
  type TileVariant,
} from "./variants.ts";

/**
 * An activation function that a product applies when it stores y. Tensors have y's shape and type.
 *
 * - `forward` sets `activated` to activation(y), beside y, which the backward pass needs.
 * - `backward` multiplies y by activation'(hidden). So y becomes the gradient of hidden, if activation(hidden) was
 *   an operand in the forward pass.
 * - `gatedForward` sets `activated` to activation(gate) · y, beside y: y is the `up` of a gated MLP.
 * - `pairedForward`, for a few rows, sets `activated` to activation(a · gateWeight) · y: it computes the gate of a
 *   gated MLP, too. `gateWeight` has the shape and type of b, `gateScales` those of `scales`.
 * - `gatedBackward` multiplies y by activation(gate), and sets `dgate` to y · up · activation'(gate). So y and
 *   `dgate` become the gradients of up and gate, if activation(gate) · up was an operand in the forward pass.
 */
export type Epilogue =
  & { readonly activation: ActivationFunction }
  & (
    | { readonly kind: "forward"; readonly activated: Tensor }
    | { readonly kind: "backward"; readonly hidden: Tensor }
    | { readonly kind: "gatedForward"; readonly gate: Tensor; readonly activated: Tensor }
    | {
      readonly kind: "pairedForward";
      readonly gateWeight: Tensor;
      readonly gateScales?: Tensor | undefined;
      readonly activated: Tensor;
    }
    | {
      readonly kind: "gatedBackward";
      readonly gate: Tensor;
      readonly up: Tensor;
      readonly dgate: Tensor;
    }
  );

/** An epilogue of the forward pass of a linear layer. */
export type ForwardEpilogue = Extract<Epilogue, { kind: "forward" | "gatedForward" }>;

/** An epilogue of the backward pass of a linear layer. */
export type BackwardEpilogue = Extract<Epilogue, { kind: "backward" | "gatedBackward" }>;

/** The tensors of an epilogue by their names in epilogue.wgsl. */
export function epilogueTensors(
  epilogue: Epilogue | undefined,
): Partial<
  Record<
    "activated" | "hidden" | "gate" | "gateWeight" | "gateScales" | "up" | "dgate",
    Tensor | undefined
  >
> {
  if (!epilogue) return {};
  const { kind: _kind, activation: _activation, ...tensors } = epilogue;
  return tensors;
}

/** A tensor that a product adds to y. */
export interface Addend {
  /** What is added, of y's shape and type. */
  readonly tensor: Tensor;
  /** By what it is multiplied. */
  readonly factor: number;
}

/** A product y = scale · a · b + bias + addend + diagonal · I with checked tensors. Strides and starts count elements. */
export interface Product {
  readonly a: Tensor;
  readonly b: Tensor;
  readonly bias: Tensor | undefined;
  readonly y: Tensor;
  readonly epilogue: Epilogue | undefined;
  readonly addend: Addend | undefined;
  /** Number that is added to the diagonal of y. */
  readonly diagonal: number;
  readonly normalize: Normalization | undefined;
  readonly M: number;
  /** Rows for which the kernel is chosen. */
  readonly kernelRows: number;
  readonly N: number;
  readonly K: number;
  readonly transposeA: boolean;
  readonly transposeB: boolean;
  readonly accumulate: boolean;
  readonly symmetric: boolean;
  readonly scale: number;
  /** f32 [N]: factors of the rows of b, which is i8 then. */
  readonly scales: Tensor | undefined;
  /** Number of partial sums in y; undefined if y is the whole sum. */
  readonly parts: number | undefined;
  /** Elements from one stored row of a to the next. */
  readonly aStride: number;
  /** Column of the stored a in which the product begins. */
  readonly aStart: number;
  readonly bStride: number;
  readonly yStride: number;
  readonly yStart: number;
  /** Number of products in a batch; undefined without a batch. */
  readonly batch: number | undefined;
}

const EPILOGUE = { "kernels/matmul/epilogue.wgsl": epilogue, ...ACTIVATION };

/** Elements per element of a binding: one number, a vector of four, or eight f16 in a vector of words. */
type Width = 1 | 4 | 8;

const typeOf = (dtype: DType, width: 1 | 4) => width === 4 ? `vec4<${dtype}>` : dtype;

/**
 * The constants, tensors and uniforms of epilogue.wgsl and activation.wgsl.
 *
 * @param widths.operands width of a and b.
 * @param widths.result width of y and the tensors like it.
 * @param split terms of K over which a workgroup sums.
 */
function epilogueOf(
  product: Product,
  widths: { operands: Width; result: 1 | 4 },
  split = product.K,
) {
  const { bias, y, epilogue, addend, diagonal, M, N, K, accumulate, scale, batch } = product;
  const { aStride, aStart, bStride, yStride, yStart, transposeA } = product;
  const kind = epilogue?.kind;
  return {
    constants: {
      ...activationConstants(
        epilogue?.activation ?? "gelu_new",
        widths.result === 4 ? "vec4<f32>" : "f32",
      ),
      yType: typeOf(y.dtype, widths.result),
      BIAS: bias !== undefined,
      SCALED: scale !== 1,
      ADDEND: addend !== undefined,
      DIAGONAL: diagonal !== 0,
      FOUR_COLUMNS: widths.result === 4,
      ACTIVATED: kind === "forward" || kind === "gatedForward" || kind === "pairedForward",
      BACKWARD: kind === "backward" || kind === "gatedBackward",
      GATED: kind === "gatedForward" || kind === "gatedBackward" || kind === "pairedForward",
      PAIRED: kind === "pairedForward",
    },
    tensors: { bias, y, addend: addend?.tensor, ...epilogueTensors(epilogue) },
    uniforms: {
      M,
      N,
      K,
      split,
      accumulate,
      scale,
      aStride: aStride / widths.operands,
      aStart: aStart / widths.operands,
      bStride: bStride / widths.operands,
      yStride: yStride / widths.result,
      yStart: yStart / widths.result,
      addendFactor: addend?.factor ?? 0,
      diagonal,
      aMatrix: batch === undefined ? 0 : (transposeA ? K : M) * aStride / widths.operands,
      bMatrix: batch === undefined ? 0 : K * N / widths.operands,
    },
  };
}

const WORKGROUP_SIZE = 256;

/** A part of K over which a launch sums, and what it stores. */
interface Part {
  /** The product, or one that stores partial sums, if there are several parts. */
  readonly stored: Product;
  /** Terms of a part, at most. */
  readonly split: number;
  /** Number of parts. */
  readonly splits: number;
}

/** Records a product in at most `most` parts of K, each of whole steps; then reduce.wgsl, if there are several. */
function inParts(
  program: Program,
  product: Product,
  { most, step }: { most: number; step: number },
  record: (part: Part) => void,
): void {
  const { M, N, K } = product;
  const split = ceilDiv(ceilDiv(K, most), step) * step, splits = ceilDiv(K, split);
  if (splits === 1) return record({ stored: product, split, splits });
  const columns = ceilDiv(N, 4) * 4;
  const partials = program.scratch([splits * M, columns]);
  const stored = {
    ...product,
    bias: undefined,
    epilogue: undefined,
    addend: undefined,
    diagonal: 0,
    accumulate: false,
    scale: 1,
    y: partials,
    yStride: columns,
    yStart: 0,
  };
  record({ stored, split, splits });
  const { constants, tensors, uniforms } = epilogueOf(product, { operands: 4, result: 4 });
  program.dispatch({
    shader: { "kernels/matmul/reduce.wgsl": reduce, ...EPILOGUE },
    constants: { ...constants, SPLITS: splits, WORKGROUP_SIZE },
    tensors: { partials, ...tensors },
    uniforms,
    workgroups: splitWorkgroups(ceilDiv(M * columns / 4, WORKGROUP_SIZE)),
  });
}

/** tiles.wgsl, for GPUs; then reduce.wgsl, if K is split. */
export function tiledProduct(
  program: Program,
  product: Product,
  { tile, splits: most }: TileVariant,
): void {
  const { a, b, M, N, K, transposeA, transposeB, batch } = product;
  const blocks = (tileRows(tile) + tileColumns(tile)) / 4 * TILE_K / 4; // of 4 × 4 elements, per step
  const areF16 = a.dtype === "f16" && b.dtype === "f16";
  const { perCore: _perCore, ...tileConstants } = tile, step = TILE_K * tile.GROUPS;
  inParts(program, product, { most, step }, ({ stored, split, splits }) => {
    const { constants, tensors, uniforms } = epilogueOf(stored, { operands: 4, result: 4 });
    program.dispatch({
      shader: {
        "kernels/matmul/tiles.wgsl": tiles,
        ...packedOf(areF16 ? "f16" : "f32"),
        ...EPILOGUE,
      },
      constants: {
        ...tileConstants,
        ...constants,
        TILE_K,
        IN_GROUPS: tile.GROUPS > 1,
        FETCHES: ceilDiv(blocks, tile.X * tile.Y),
        WHOLE_K: K % step === 0,
        BATCH: batch !== undefined,
        TRANSPOSE_A: transposeA,
        TRANSPOSE_B: transposeB,
        aType: areF16 ? "vec2u" : `vec4<${a.dtype}>`,
        bType: areF16 ? "vec2u" : `vec4<${b.dtype}>`,
      },
      tensors: { a, b, ...tensors },
      uniforms,
      workgroups: [ceilDiv(N, tileColumns(tile)), ceilDiv(M, tileRows(tile)), batch ?? splits],
      iterations: ceilDiv(split, TILE_K),
      workgroupBytes: tileBytes(tile),
    });
  });
}

/** Steps of matrices.wgsl whose operands are on their way to a core that multiplies: memory takes longer than a step. */
const AHEAD = 2;

/** matrices.wgsl, for GPUs with subgroup matrices; then reduce.wgsl, if K is split. */
export function matrixProduct(
  program: Program,
  product: Product,
  { tile, splits: most }: TileVariant<MatrixTile>,
): void {
  const { a, b, M, N, K, transposeA, transposeB, batch, symmetric } = product;
  const { X, Y, ROWS, COLUMNS, TILE_K } = tile, step = AHEAD * TILE_K;
  const rows = ceilDiv(M, tileRows(tile)), columns = ceilDiv(N, tileColumns(tile));
  inParts(program, product, { most, step }, ({ stored, split, splits }) => {
    const { constants, tensors, uniforms } = epilogueOf(stored, { operands: 8, result: 4 }, split);
    program.dispatch({
      shader: { "kernels/matmul/matrices.wgsl": matrices, ...EPILOGUE },
      constants: {
        X,
        Y,
        ROWS,
        COLUMNS,
        TILE_K,
        AHEAD,
        ...constants,
        WHOLE_K: K % step === 0,
        BATCH: batch !== undefined,
        SYMMETRIC: symmetric,
        READS_AHEAD: constants.ADDEND || constants.BACKWARD || constants.GATED,
        // without the check a product with a derivative takes 172 µs instead of 169, others up to 6 % less (H200)
        CHECKS_BOUNDS: constants.BACKWARD || M % tileRows(tile) !== 0 ||
          N % tileColumns(tile) !== 0,
        // in a batch the branch costs more, 3 to 6 %, than it saves (H200)
        SKIPS: batch === undefined &&
          (ceilDiv(M, MATRIX_SIDE * ROWS) % Y !== 0 || ceilDiv(N, MATRIX_SIDE * COLUMNS) % X !== 0),
        // a pipeline for each case, as the branch costs up to 6 % (H200)
        MAY_ACCUMULATE: stored.accumulate,
        TRANSPOSE_A: transposeA,
        TRANSPOSE_B: transposeB,
      },
      tensors: { a, b, ...tensors },
      uniforms,
      workgroups: [
        ...symmetric ? [rows * (rows + 1) / 2, 1] as const : [columns, rows] as const,
        batch ?? splits,
      ],
      iterations: ceilDiv(split, TILE_K) + 3 * (symmetric ? ROWS + COLUMNS : ROWS),
      workgroupBytes: matrixTileBytes(tile, { transposeA, transposeB }),
    });
  });
}

/** Fewest workgroups of a product on a CPU: with fewer, workgroups are halved, so that every core has one. */
const FEWEST_WORKGROUPS = 16;

/** matmul.wgsl, for sizes that are not multiples of four, and for CPUs without subgroups. */
export function anyProduct(program: Program, product: Product): void {
  const { a, b, M, N, K, transposeA, transposeB, batch = 1 } = product;
  const WORKGROUP_X = 8, ROWS = 8, COLUMNS = 8;
  let WORKGROUP_Y = 8;
  const columnGroups = ceilDiv(N, WORKGROUP_X * COLUMNS);
  const rowGroups = () => ceilDiv(M, WORKGROUP_Y * ROWS);
  const groups = () => columnGroups * rowGroups() * batch;
  while (WORKGROUP_Y > 1 && groups() < FEWEST_WORKGROUPS) WORKGROUP_Y /= 2;
  const { constants, tensors, uniforms } = epilogueOf(product, { operands: 1, result: 1 });
  program.dispatch({
    shader: { "kernels/matmul/matmul.wgsl": any, ...EPILOGUE },
    constants: {
      ROWS,
      COLUMNS,
      WORKGROUP_X,
      WORKGROUP_Y,
      ...constants,
      TRANSPOSE_A: transposeA,
      TRANSPOSE_B: transposeB,
      aType: a.dtype,
      bType: b.dtype,
    },
    tensors: { a, b, ...tensors },
    uniforms,
    workgroups: [columnGroups, rowGroups(), batch],
    iterations: K,
  });
}

/** lanes.wgsl, for CPUs with subgroups of LANES lanes. */
export function lanesProduct(program: Program, product: Product, LANES: number): void {
  const { a, b, M, N, K, transposeA, transposeB, batch = 1 } = product;
  const ROWS = M <= 8 ? Math.max(8, LANES) : 32; // rows beyond M would be computed in vain
  let STRIPS = 4;
  const columnGroups = ceilDiv(N, 4 * LANES);
  const rowGroups = () => ceilDiv(M, ROWS * STRIPS);
  const groups = () => columnGroups * rowGroups() * batch;
  const isLowEnough = () => M > ROWS * STRIPS / 2; // or else half of a workgroup has no rows
  while (STRIPS > 1 && !(isLowEnough() && groups() >= FEWEST_WORKGROUPS)) STRIPS /= 2;
  const { constants, tensors, uniforms } = epilogueOf(product, { operands: 4, result: 4 });
  program.dispatch({
    shader: { "kernels/matmul/lanes.wgsl": lanes, ...EPILOGUE },
    constants: {
      ROWS,
      LANES,
      STRIPS,
      ...constants,
      TRANSPOSE_A: transposeA,
      TRANSPOSE_B: transposeB,
      aType: `vec4<${a.dtype}>`,
      bType: `vec4<${b.dtype}>`,
    },
    tensors: { a, b, ...tensors },
    uniforms,
    workgroups: [columnGroups, rowGroups(), batch],
    iterations: K / 4,
  });
}

/** Rows of a product that `vector.wgsl` computes with one reading of b, at most: more are computed in groups. */
export const MOST_FEW_ROWS = 8;

/** Numbers that a workgroup of `vector.wgsl` normalises, at most: they are in its memory and its registers. */
const MOST_NORMALIZED = 8192;

/** Invocations of a workgroup of `vector.wgsl` on a GPU. */
const VECTOR_INVOCATIONS = 256;

/**
 * Workgroups of `vector.wgsl` along the columns on a GPU, at most: each computes the norm of its rows once. An H200 runs
 * two per core, and four of those that read int8, since they need fewer registers.
 */
const MOST_VECTOR_GROUPS = { real: 264, int8: 528 };

/**
 * Groups of four fetches that a lane has under way on a GPU, at most: more would need too many registers, of which int8
 * needs some to be unpacked. With one; two; four the product [1,4096]x[4096,16384] of int8 took 20.7; 22.0; 29.0 µs on an
 * H200 (November 2026).
 */
const MOST_FETCH_GROUPS = { real: 4, int8: 1 };

/** Elements per fetch of b, the most that whole fetches of its rows can have; undefined if even the fewest do not fit. */
export function elementsPerFetch(dtype: DType, rowLength: number): number | undefined {
  const choices = { f32: [4], f16: [8, 4], i8: [16, 8], u32: [] }[dtype];
  return choices.find((count) => rowLength % count === 0);
}

/** Bytes of a workgroup of `vector.wgsl` that has normalised rows. */
function normalizedBytes(
  { ROWS, K, invocations }: Record<"ROWS" | "K" | "invocations", number>,
): number {
  return 16 * ceilDiv(ROWS * K / 4, invocations) * invocations + sumBytes(invocations);
}

/** Bytes of a workgroup of `vector.wgsl` for the sums of its lanes, of a pair of products with 16 columns per lane. */
const MOST_SUM_BYTES = 2 * 36 * VECTOR_INVOCATIONS;

/** Whether `vector.wgsl` can normalise so many rows of K elements at a time. */
export function canNormalize({ gpu }: Pick<Device, "gpu">, K: number, ROWS = 1): boolean {
  return K % 4 === 0 && ROWS * K <= MOST_NORMALIZED &&
    normalizedBytes({ ROWS, K, invocations: VECTOR_INVOCATIONS }) + MOST_SUM_BYTES <=
      gpu.limits.maxComputeWorkgroupStorageSize;
}

/** Storage buffers that a launch binds while a few texts are generated, at most: `attentionDecode()` with a projection. */
export const MOST_BUFFERS = 11;

/** Parts of K, at most. */
const MOST_PARTS = 8;

/**
 * Parts of K, at most, if the bits of a row may not depend on how many rows there are: with few rows the next launch reads the
 * parts of all of them in every workgroup. Not measured.
 */
const MOST_INVARIANT_PARTS = 2;

/** Terms of a part, at least. */
const LEAST_TERMS = 128;

/** Terms of a part for tens of rows, at most: a workgroup of 48 KiB has no memory for more, as `canMultiplyRows()` checks. */
const MOST_TERMS = 768;

/** Workgroups that keep a large GPU busy. */
const BUSY_WORKGROUPS = 128;

/**
 * Parts of K in which a product keeps a GPU busy, although y has few columns and up to tens of rows.
 *
 * @param sizes.rows for which the kernel is chosen; 1 by default.
 * @param sizes.isInvariant whether the bits of a row may not depend on how many rows there are; false by default.
 */
export function partsOf(
  { K, N, rows = 1, isInvariant = false }: {
    K: number;
    N: number;
    rows?: number;
    isInvariant?: boolean;
  },
): number {
  const areTens = rows > MOST_FEW_ROWS;
  const most = isInvariant && !areTens ? MOST_INVARIANT_PARTS : MOST_PARTS;
  const least = areTens ? ceilDiv(K, MOST_TERMS) : 1;
  const workgroups = ceilDiv(N, 32) * (areTens ? ceilDiv(rows, MATRIX_SIDE) : 1); // of 32 columns, per part
  const wanted = Math.max(least, ceilDiv(BUSY_WORKGROUPS, workgroups));
  const possible = Array.from({ length: most }, (_, i) => i + 1).filter((parts) =>
    parts >= least && K % (16 * parts) === 0 && K / parts >= LEAST_TERMS
  );
  return possible.findLast((parts) => parts <= wanted) ?? possible[0] ?? 1;
}

/** Lanes that share a row of a transposed b: all have the same number of its fetches, if possible. */
function lanesOf(fetches: number): number {
  if (fetches % 32 === 0) return 32;
  for (let lanes = 64; lanes >= 16; lanes -= 4) if (fetches % lanes === 0) return lanes;
  return fetches < 16 ? 8 : fetches < 32 ? 16 : 32;
}

/** vector.wgsl, for a few rows, as in generation. */
export function vectorProduct(program: Program, product: Product): void {
  const { a, b, bias, M, N, K, transposeB, normalize, parts = 1, scale, scales } = product;
  const { kernelRows, epilogue, aStride, aStart, bStride } = product;
  const { isCpu } = program.device, isPaired = epilogue?.kind === "pairedForward";
  const EACH = elementsPerFetch(b.dtype, bStride)!, COLUMNS = transposeB ? 4 : EACH;
  const fetches = K / parts / (transposeB ? EACH : 4); // per vector of columns, in groups of four
  // On a GPU many lanes wait for memory together. On a CPU barriers are expensive: on lavapipe one lane per vector
  // was two to ten times as fast (two cores, November 2026).
  const LANES = isCpu ? 1 : transposeB ? lanesOf(fetches) : 64;
  const VECTORS = isCpu ? 16 : 2 * Math.floor(VECTOR_INVOCATIONS / LANES / 2); // each row has as many invocations
  let ROWS = 1;
  while (ROWS < Math.min(kernelRows, isPaired ? MOST_FEW_ROWS / 2 : MOST_FEW_ROWS)) ROWS *= 2;
  while (normalize && ROWS > 1 && !canNormalize(program.device, K, ROWS)) ROWS /= 2;
  const type = scales ? "int8" : "real", hasFewRegisters = isPaired || ROWS > 4;
  const mostFetchGroups = isCpu ? 1 : Math.min(MOST_FETCH_GROUPS[type], hasFewRegisters ? 2 : 4);
  const FETCHES = 4 * Math.min(mostFetchGroups, ceilDiv(fetches, LANES));
  const vectors = ceilDiv(N, COLUMNS), invocations = VECTORS * LANES;
  const sizes = { a, M, K, aStride, aStart, rows: ROWS, invocations };
  const normalized = normalize && normalizedRows(normalize, sizes);
  const groups = Math.min(ceilDiv(vectors, VECTORS), isCpu ? Infinity : MOST_VECTOR_GROUPS[type]);
  const K_STEPS = ceilDiv(fetches, FETCHES / 4 * LANES);
  const { constants, tensors, uniforms } = epilogueOf(
    product,
    { operands: 4, result: 1 },
    K / parts,
  );
  const turnsOfColumns = ceilDiv(ceilDiv(vectors, VECTORS), groups);
  const normBytes = normalized ? normalizedBytes({ ROWS, K, invocations }) : 0;
  const laneBytes = LANES > 1 ? (isPaired ? 2 : 1) * 4 * COLUMNS * invocations : 0; // of one turn
  const mostKept = ROWS > 1 || LANES === 1 ? 1 : Math.min(
    Math.floor((program.device.gpu.limits.maxComputeWorkgroupStorageSize - normBytes) / laneBytes),
    Math.floor(LANES / COLUMNS), // an invocation stores a column
  );
  const KEPT = ceilDiv(turnsOfColumns, ceilDiv(turnsOfColumns, mostKept));
  program.dispatch({
    shader: {
      "kernels/matmul/vector.wgsl": vector,
      ...normalized?.shader,
      ...(product.scales ? { "kernels/int8.wgsl": int8 } : {}),
      ...EPILOGUE,
    },
    constants: {
      ...normalized?.constants,
      EACH,
      ROWS,
      VECTORS,
      COLUMNS,
      LANES,
      FETCHES,
      TURNS_OF_K: transposeB ? EACH / 4 : 1,
      SHARED: LANES > 1,
      KEPT,
      OWN_COLUMNS: LANES > 1 ? 1 : COLUMNS,
      COLUMN_GROUPS: groups,
      COLUMN_TURNS: turnsOfColumns,
      ONE_TURN: turnsOfColumns === 1,
      K_STEPS,
      ONE_STEP: K_STEPS === 1,
      ONE_FETCH: K_STEPS === 1 && turnsOfColumns === 1,
      A_AHEAD: !isCpu && !normalize && ROWS === 1,
      EVEN: fetches === K_STEPS * FETCHES / 4 * LANES,
      ...constants,
      BIAS: false, // this kernel reads it earlier than the epilogue
      SCALED: false,
      OFFSET: bias !== undefined,
      FACTOR: scale !== 1,
      TRANSPOSE_B: transposeB,
      QUANTIZED: b.dtype === "i8",
      NORMALIZE: normalize !== undefined,
      SPLIT: product.parts !== undefined,
      B_F16: b.dtype === "f16",
      aType: `vec4<${a.dtype}>`,
      bType: EACH * bytesPerElement(b.dtype) === 16 ? "vec4u" : "vec2u",
    },
    tensors: {
      a,
      b,
      ...tensors,
      bias: undefined,
      offset: bias,
      scales,
      ...normalized?.tensors,
    },
    uniforms: {
      ...uniforms,
      bStride: bStride / EACH,
    },
    constantSizes: true,
    workgroups: [groups, ceilDiv(M, ROWS), parts],
    iterations: turnsOfColumns * (1 + K_STEPS) + (normalized?.iterations ?? 0),
    workgroupBytes: KEPT * laneBytes + normBytes,
  });
}

/** Name of the variant of matrix_rows.wgsl. */
export const MATRIX_ROWS = "matrix rows";

/** A workgroup of matrix_rows.wgsl: matrices of 16 columns, subgroups that share one, and terms of K per step, at most. */
const MATRIX_ROWS_TILE = { COLUMNS: 2, SHARES: 4, MOST_STEP: 256 };

/** Bytes of a workgroup of matrix_rows.wgsl for a part of K. */
function matrixRowsBytes(
  { terms, STEP, transposeB }: { terms: number; STEP: number; transposeB: boolean },
): number {
  const { COLUMNS, SHARES } = MATRIX_ROWS_TILE, columns = MATRIX_SIDE * COLUMNS;
  const a = MATRIX_SIDE * (2 * terms + 16);
  const b = transposeB ? columns * (2 * STEP + 16) : STEP * (2 * columns + 16);
  return a + Math.max(b, COLUMNS * SHARES * MATRIX_SIDE * (4 * MATRIX_SIDE + 16));
}

/** Terms of a part of K in whole turns of the subgroups of matrix_rows.wgsl, and terms per step. */
function stepsOfRows(split: number): { terms: number; STEP: number } {
  const turn = MATRIX_SIDE * MATRIX_ROWS_TILE.SHARES, terms = ceilDiv(split, turn) * turn;
  let STEP = Math.min(terms, MATRIX_ROWS_TILE.MOST_STEP);
  while (terms % STEP !== 0) STEP -= turn;
  return { terms, STEP };
}

/**
 * Whether matrix_rows.wgsl can compute a product in so many parts of K, by its vectors and by the memory of its workgroups.
 *
 * @param sizes.parts 1 by default.
 * @param sizes.isNormalized whether the product normalises its rows; false by default.
 */
export function canMultiplyRows(
  device: Pick<Device, "gpu" | "matrixShapes">,
  { N, K, transposeB = false, parts = 1, isNormalized = false }: {
    N: number;
    K: number;
    transposeB?: boolean;
    parts?: number | undefined;
    isNormalized?: boolean;
  },
): boolean {
  const { COLUMNS, SHARES } = MATRIX_ROWS_TILE;
  const bytes = matrixRowsBytes({ ...stepsOfRows(K / parts), transposeB }) +
    (isNormalized ? sumBytes(MATRIX_SUBGROUP * COLUMNS * SHARES) : 0);
  const areVectors = K % (8 * parts) === 0 && N % (transposeB ? 4 : 8) === 0; // of b, and of y
  return hasMatrices(device) && areVectors && !(isNormalized && parts > 1) &&
    bytes <= device.gpu.limits.maxComputeWorkgroupStorageSize;
}

/** matrix_rows.wgsl, for tens of rows, as in generation of many texts. */
export function matrixRowsProduct(program: Program, product: Product): void {
  const { a, b, M, N, K, transposeB, normalize, parts = 1, aStride, aStart } = product;
  const { COLUMNS, SHARES } = MATRIX_ROWS_TILE, invocations = MATRIX_SUBGROUP * COLUMNS * SHARES;
  const split = K / parts, { terms, STEP } = stepsOfRows(split);
  const sizes = { a, M, K, aStride, aStart, rows: MATRIX_SIDE, invocations };
  const normalized = normalize && normalizedRows(normalize, sizes);
  const { constants, tensors, uniforms } = epilogueOf(product, { operands: 4, result: 4 }, split);
  program.dispatch({
    shader: { "kernels/matmul/matrix_rows.wgsl": matrixRows, ...normalized?.shader, ...EPILOGUE },
    constants: {
      ...normalized?.constants,
      COLUMNS,
      SHARES,
      STEP,
      STEPS: terms / STEP,
      ...constants,
      TRANSPOSE_B: transposeB,
      NORMALIZE: normalize !== undefined,
      SPLIT: product.parts !== undefined,
    },
    tensors: { a, b, ...tensors, ...normalized?.tensors },
    uniforms: { ...uniforms, bStride: product.bStride / 8 },
    workgroups: [ceilDiv(N, MATRIX_SIDE * COLUMNS), ceilDiv(M, MATRIX_SIDE), parts],
    iterations: terms / STEP + (normalized?.iterations ?? 0),
    workgroupBytes: matrixRowsBytes({ terms, STEP, transposeB }) +
      (normalized?.workgroupBytes ?? 0),
  });
}
