/**
 * Products of matrices: one contract, `matmul()`, and several kernels behind it.
 *
 * | kernel | for |
 * | --- | --- |
 * | `vector.wgsl` | a single row, as in generation: as fast as the matrix can be read; can include layer-norm |
 * | `tiles.wgsl`  | GPUs: the invocations of a workgroup share what they fetch; three tiles, see variants.ts |
 * | `reduce.wgsl` | adds up the tiles' partial sums if K is split, as a small result has too few tiles for a GPU |
 * | `lanes.wgsl`  | CPUs with subgroups: the lanes of a vector register share what each has loaded |
 * | `matmul.wgsl` | everything else: sizes that are not multiples of four, CPUs without subgroups |
 *
 * A product's sizes and layout decide which of them can compute it (`kernelsFor()`). Of these, a GPU uses
 * the one that the tuner found to be the fastest, or `preferredTiles()` if nothing was measured; a CPU
 * uses lanes if it can.
 *
 * Each kernel sums over K in another order, so that another kernel may give other last bits on a GPU:
 * therefore a checkpoint remembers the kernels that it was trained with. On Mesa's lavapipe all give the
 * same bits (measured November 2026).
 *
 * @module
 */

import any from "./matmul.wgsl" with { type: "text" };
import lanes from "./lanes.wgsl" with { type: "text" };
import operand from "./operand.wgsl" with { type: "text" };
import operandNormalized from "./operand_normalized.wgsl" with { type: "text" };
import reduce from "./reduce.wgsl" with { type: "text" };
import shape from "./shape.wgsl" with { type: "text" };
import store from "./store.wgsl" with { type: "text" };
import storeGelu from "./store_gelu.wgsl" with { type: "text" };
import storeGeluBackward from "./store_gelu_backward.wgsl" with { type: "text" };
import sumsColumns from "./sums_columns.wgsl" with { type: "text" };
import sumsRows from "./sums_rows.wgsl" with { type: "text" };
import tilesShader from "./tiles.wgsl" with { type: "text" };
import vector from "./vector.wgsl" with { type: "text" };
import heldF16 from "../held_f16.wgsl" with { type: "text" };
import heldF32 from "../held_f32.wgsl" with { type: "text" };
import { EPSILON } from "../layernorm/layernorm.ts";
import gelu from "../gelu/gelu.wgsl" with { type: "text" };
import type { Device } from "../device.ts";
import { type Program, splitWorkgroups } from "../program.ts";
import { assertDType, assertShape, ceilDiv, type Tensor } from "../tensor.ts";
import { recordFastest } from "../tune.ts";
import {
  isWorthTrying,
  parseTiles,
  preferredTiles,
  TILE_K,
  tileBytes,
  tileColumns,
  tileRows,
  tileVariants,
} from "./variants.ts";

/** How `matmul()` reads its operands and treats its result. */
export interface MatmulOptions {
  /** `a` is stored as [K,M]. */
  transposeA?: boolean;
  /** `b` is stored as [N,K]. */
  transposeB?: boolean;
  /** Add to what `y` holds instead of overwriting it. */
  accumulate?: boolean;
  /**
   * Columns of the stored matrix `a` that take part, `start` and `count`: with a vocabulary too
   * large for one binding, `b` holds a slice of it and `a` all of its columns.
   */
  columnsOfA?: { start: number; count: number };
  /**
   * First column of `y` to write, where `y` is wider than N. Columns from N on up to the next multiple
   * of four may be overwritten.
   */
  firstColumnOfY?: number;
  /** GELU as part of the product. */
  epilogue?: Epilogue | undefined;
  /** Layer-norm of `a` before the product, f32 [K] each; only for a single row that is not transposed. */
  normalize?: { weight: Tensor; bias: Tensor } | undefined;
  /** Factor of a · b, 1 by default. */
  scale?: number;
  /** The kernel to use, by default the tuner's choice. For tests and benchmarks. */
  variant?: string;
}

/**
 * What a product computes of y as it stores it. Both tensors have y's shape and type.
 *
 * - `gelu` sets `activated` to gelu(y) and keeps y, which the backward pass needs.
 * - `gelu backward` multiplies y by gelu'(hidden): y is the gradient of hidden where gelu(hidden) is an
 *   operand of the forward pass.
 */
export type Epilogue =
  | { readonly kind: "gelu"; readonly activated: Tensor }
  | { readonly kind: "gelu backward"; readonly hidden: Tensor };

/**
 * y = scale · a · b + bias, summed in f32.
 *
 * a: [M,K], or [K,M] with `transposeA`; b: [K,N], or [N,K] with `transposeB`; bias: f32 [N];
 * y: [M,N]. Each of a, b, y is f32 or f16. y is set, or with `accumulate` added to.
 *
 * @throws {RangeError | TypeError} if shapes or types do not fit together, or if the kernel that is asked
 * for cannot compute the product.
 */
export function matmul(
  program: Program,
  { a, b, bias }: { a: Tensor; b: Tensor; bias?: Tensor | undefined },
  { y }: { y: Tensor },
  options: MatmulOptions = {},
): void {
  const { transposeA = false, transposeB = false, accumulate = false, firstColumnOfY = 0 } =
    options;
  for (const t of [a, b, y]) {
    assertDType("matmul", t, "f32", "f16");
    if (t.shape.length !== 2) assertShape("matmul", t, [NaN, NaN]);
  }
  const [aRows, aColumns] = a.shape as [number, number];
  const { start, count } = options.columnsOfA ?? { start: 0, count: aColumns };
  const [M, K] = transposeA ? [count, aRows] : [aRows, count];
  const N = b.shape[transposeB ? 0 : 1]!;
  assertShape("matmul", b, transposeB ? [N, K] : [K, N]);
  const yColumns = options.firstColumnOfY === undefined ? N : y.shape[1]!;
  assertShape("matmul", y, [M, yColumns]);
  if (start < 0 || start + count > aColumns || firstColumnOfY + N > yColumns) {
    throw new RangeError(
      `Cannot run matmul as the columns must lie inside the matrices: current columns are ` +
        `${start} to ${start + count} of "${a.name}" [${a.shape}] and ` +
        `${firstColumnOfY} to ${firstColumnOfY + N} of "${y.name}" [${y.shape}]`,
    );
  }
  if (bias) {
    assertShape("matmul", bias, [N]);
    assertDType("matmul", bias, "f32");
  }
  const { epilogue, scale = 1 } = options;
  if (epilogue) {
    const tensor = epilogue.kind === "gelu" ? epilogue.activated : epilogue.hidden;
    assertShape("matmul", tensor, y.shape);
    assertDType("matmul", tensor, y.dtype);
  }
  const { normalize } = options;
  for (const t of normalize ? [normalize.weight, normalize.bias] : []) {
    assertShape("matmul", t, [K]);
    assertDType("matmul", t, "f32");
  }
  const product: Product = {
    ...{ a, b, bias, y, M, N, K, transposeA, transposeB, accumulate, normalize, scale, epilogue },
    aStride: aColumns,
    aStart: start,
    bStride: b.shape[1]!,
    yStride: yColumns,
    yStart: firstColumnOfY,
  };
  const { device } = program;
  const { tiles, others } = kernelsFor(product, device);
  if (normalize && !others.has("vector")) {
    throw new RangeError(
      `Cannot run matmul as only a single row is normalised, and sizes must be multiples of four: ` +
        `current shapes are [${M},${K}] and [${K},${N}]`,
    );
  }
  const { variant } = options;
  if (variant !== undefined) {
    const kernel = tiles.get(variant) ?? others.get(variant);
    if (!kernel) {
      throw new RangeError(
        `Cannot run matmul as for this product the kernel must be one of ` +
          `${[...others.keys(), ...tiles.keys()].join(", ")}: current value is "${variant}"`,
      );
    }
    kernel(program);
    return;
  }
  // tiles are hopelessly slow on a CPU, and so are the others on a GPU if tiles fit
  const kernels = device.isCpu || tiles.size === 0 ? others : tiles;
  const stored = epilogue ? EPILOGUE_KEYS[epilogue.kind] : "";
  const layout = `${transposeA ? "T" : "N"}${transposeB ? "T" : "N"}`;
  recordFastest(program, {
    key: `matmul ${layout} ${a.dtype},${b.dtype},${y.dtype} [${M},${K}]x[${K},${N}]${stored}`,
    variants: [...kernels.keys()].filter((variant) =>
      isWorthTrying(variant, product, device.gpu.limits)
    ),
    preferred: kernels === tiles ? preferredTiles(product) : [...others.keys()].at(-1)!,
    record: (program, variant) => kernels.get(variant)!(program),
  });
}

/** A checked product. Strides and starts in elements. */
interface Product {
  a: Tensor;
  b: Tensor;
  bias: Tensor | undefined;
  y: Tensor;
  M: number;
  N: number;
  K: number;
  transposeA: boolean;
  transposeB: boolean;
  accumulate: boolean;
  normalize: MatmulOptions["normalize"];
  aStride: number;
  aStart: number;
  bStride: number;
  yStride: number;
  yStart: number;
  scale: number;
  epilogue: Epilogue | undefined;
}

/** What the tuner's keys say of an epilogue; tuning files and checkpoints have them. */
const EPILOGUE_KEYS = { "gelu": " gelu", "gelu backward": " gelu'" } as const;

/** The store*.wgsl of an epilogue, with what it needs, and the tensors that it binds after y. */
function storeOf({ epilogue }: Product): { source: string; tensors: readonly Tensor[] } {
  if (!epilogue) return { source: store, tensors: [] };
  return epilogue.kind === "gelu"
    ? { source: `${storeGelu}\n${gelu}`, tensors: [epilogue.activated] }
    : { source: `${storeGeluBackward}\n${gelu}`, tensors: [epilogue.hidden] };
}

const WORKGROUP_SIZE = 256;

/** A kernel for a product, to be recorded. */
type Kernel = (program: Program) => void;

/** The kernels that can compute a product, by name; the last of the others is the one for CPUs. */
function kernelsFor(
  product: Product,
  { subgroupSize }: Pick<Device, "subgroupSize">,
): { tiles: Map<string, Kernel>; others: Map<string, Kernel> } {
  const { M, N, K, transposeA, transposeB, aStride, aStart, bStride, yStride, yStart } = product;
  const multiplesOf4 = (...counts: number[]) => counts.every((count) => count % 4 === 0);
  const tiles = new Map<string, Kernel>(), others = new Map<string, Kernel>();
  if (
    M === 1 && !transposeA && multiplesOf4(K, aStart) && (transposeB || multiplesOf4(N, bStride))
  ) {
    others.set("vector", (program) => vectorProduct(program, product));
    return { tiles, others };
  }
  const aligned = multiplesOf4(aStride, aStart, bStride, yStride, yStart) &&
    (!product.bias || N % 4 === 0);
  if (aligned && (!transposeB || K % 4 === 0)) {
    for (const variant of tileVariants(product)) {
      tiles.set(variant, (program) => tiledProduct(program, product, variant));
    }
  }
  others.set("any", (program) => anyProduct(program, product));
  if (subgroupSize && aligned && multiplesOf4(K) && (!transposeA || M % 4 === 0)) {
    others.set("lanes", (program) => lanesProduct(program, product, subgroupSize));
  }
  return { tiles, others };
}

/** The uniform `shape` of shape.wgsl; bindings are arrays of vectors of four or of numbers. */
function shapeUniform(
  { M, N, K, aStride, aStart, bStride, yStride, yStart, bias, accumulate }: Product,
  { split, vectors }: { split: number; vectors: { operands: boolean; result: boolean } },
): number[] {
  const operand = vectors.operands ? 4 : 1, result = vectors.result ? 4 : 1;
  return [
    ...[M, N, K, split],
    ...[aStride / operand, aStart / operand, bStride / operand],
    ...[yStride / result, yStart / result, bias ? 1 : 0, accumulate ? 1 : 0],
  ];
}

/** For GPUs: a workgroup shares what it fetched, see tiles.wgsl. */
function tiledProduct(program: Program, product: Product, variant: string): void {
  const { a, b, bias, y, M, N, K, transposeA, transposeB } = product;
  const { tile, splits: mostSplits } = parseTiles(variant);
  const { order, ...sizes } = tile;
  const vectors = { operands: true, result: true };
  // blocks of 4 × 4 elements, one an invocation and turn
  const blocks = (tileRows(tile) + tileColumns(tile)) / 4 * TILE_K / 4;
  const split = ceilDiv(ceilDiv(K, mostSplits), TILE_K) * TILE_K;
  const splits = ceilDiv(K, split);
  const areF16 = a.dtype === "f16" && b.dtype === "f16";
  const columns = ceilDiv(N, 4) * 4;
  const partials = splits === 1 ? undefined : program.scratch([splits * M, columns]);
  const stored: Product = partials === undefined ? product : {
    ...product,
    bias: undefined,
    accumulate: false,
    yStride: columns,
    yStart: 0,
    scale: 1,
    epilogue: undefined,
  };
  const end = storeOf(stored);
  program.dispatch({
    label: "kernels/matmul/tiles.wgsl",
    source: [
      tilesShader,
      order === "rows" ? sumsRows : sumsColumns,
      areF16 ? heldF16 : heldF32,
      shape,
      end.source,
    ].join("\n"),
    constants: {
      ...sizes,
      EXTRA: end.tensors.length,
      SCALE: stored.scale,
      TILE_K,
      FETCHES: ceilDiv(blocks, tile.X * tile.Y),
      WHOLE_K: K % TILE_K === 0,
      TRANSPOSE_A: transposeA,
      TRANSPOSE_B: transposeB,
      aType: areF16 ? "vec2u" : `vec4<${a.dtype}>`,
      bType: areF16 ? "vec2u" : `vec4<${b.dtype}>`,
      yType: `vec4<${partials ? "f32" : y.dtype}>`,
    },
    tensors: [a, b, stored.bias ?? program.unread, partials ?? y, ...end.tensors],
    uniforms: shapeUniform(stored, { split, vectors }),
    workgroups: [ceilDiv(N, tileColumns(tile)), ceilDiv(M, tileRows(tile)), splits],
    iterations: ceilDiv(split, TILE_K),
    workgroupBytes: tileBytes(tile),
  });
  if (partials === undefined) return;
  const reducedEnd = storeOf(product);
  program.dispatch({
    label: "kernels/matmul/reduce.wgsl",
    source: [reduce, shape, reducedEnd.source].join("\n"),
    constants: {
      SPLITS: splits,
      WORKGROUP_SIZE,
      FIRST: 1,
      EXTRA: reducedEnd.tensors.length,
      SCALE: product.scale,
      yType: `vec4<${y.dtype}>`,
    },
    tensors: [partials, bias ?? program.unread, y, ...reducedEnd.tensors],
    uniforms: shapeUniform(product, { split, vectors }),
    workgroups: splitWorkgroups(ceilDiv(M * columns / 4, WORKGROUP_SIZE)),
  });
}

/** Below so many workgroups a product is divided into more, smaller ones. */
const FEW_WORKGROUPS = 16;

/** For sizes that are not multiples of four, and for CPUs without subgroups, see matmul.wgsl. */
function anyProduct(program: Program, product: Product): void {
  const { a, b, bias, y, M, N, K, transposeA, transposeB } = product;
  const WORKGROUP_X = 8, ROWS = 8, COLUMNS = 8;
  // smaller workgroups if there are few, so that every core has one
  let WORKGROUP_Y = 8;
  const columnGroups = ceilDiv(N, WORKGROUP_X * COLUMNS);
  const rowGroups = () => ceilDiv(M, WORKGROUP_Y * ROWS);
  while (WORKGROUP_Y > 1 && columnGroups * rowGroups() < FEW_WORKGROUPS) WORKGROUP_Y /= 2;
  const end = storeOf(product);
  program.dispatch({
    label: "kernels/matmul/matmul.wgsl",
    source: [any, shape, end.source].join("\n"),
    constants: {
      ...{ ROWS, COLUMNS, WORKGROUP_X, WORKGROUP_Y },
      TRANSPOSE_A: transposeA,
      TRANSPOSE_B: transposeB,
      EXTRA: end.tensors.length,
      SCALE: product.scale,
      aType: a.dtype,
      bType: b.dtype,
      yType: y.dtype,
      value: "f32",
    },
    tensors: [a, b, bias ?? program.unread, y, ...end.tensors],
    uniforms: shapeUniform(product, {
      split: K,
      vectors: { operands: false, result: false },
    }),
    workgroups: [columnGroups, rowGroups()],
    iterations: K,
  });
}

/** For CPUs with subgroups: lanes share what they loaded, see lanes.wgsl. */
function lanesProduct(program: Program, product: Product, LANES: number): void {
  const { a, b, bias, y, M, N, K, transposeA, transposeB } = product;
  const ROWS = 32;
  // smaller workgroups if there are few, so that every core has one
  let STRIPS = 4;
  const groups = () => ceilDiv(N, 4 * LANES) * ceilDiv(M, ROWS * STRIPS);
  while (STRIPS > 1 && groups() < FEW_WORKGROUPS) STRIPS /= 2;
  const vectors = { operands: true, result: true };
  const end = storeOf(product);
  program.dispatch({
    label: "kernels/matmul/lanes.wgsl",
    source: [lanes, shape, end.source].join("\n"),
    constants: {
      ROWS,
      LANES,
      STRIPS,
      TRANSPOSE_A: transposeA,
      TRANSPOSE_B: transposeB,
      EXTRA: end.tensors.length,
      SCALE: product.scale,
      aType: `vec4<${a.dtype}>`,
      bType: `vec4<${b.dtype}>`,
      yType: `vec4<${y.dtype}>`,
    },
    tensors: [a, b, bias ?? program.unread, y, ...end.tensors],
    uniforms: shapeUniform(product, { split: K, vectors }),
    workgroups: [ceilDiv(N, 4 * LANES), ceilDiv(M, ROWS * STRIPS)],
    iterations: K / 4,
  });
}

/** One row: generation. */
function vectorProduct(program: Program, product: Product): void {
  const { a, b, bias, y, N, K, transposeB, normalize } = product;
  const vectors = { operands: true, result: false };
  const normalizing = normalize ? [normalize.weight, normalize.bias] : [];
  // A GPU needs many lanes to wait for memory together; without transposition 4 quads are as wide as what
  // it fetches at a time. A CPU pays for every barrier: on lavapipe a lane each was two to ten times as
  // fast (two cores, November 2026).
  const [QUADS, LANES] = program.device.isCpu ? [16, 1] : transposeB ? [8, 32] : [4, 64];
  const end = storeOf(product);
  const size = QUADS * LANES, levels = Math.ceil(Math.log2(size)); // of trees, at most
  program.dispatch({
    label: "kernels/matmul/vector.wgsl",
    source: [vector, normalize ? operandNormalized : operand, shape, end.source].join("\n"),
    constants: {
      ...(normalize ? { EPSILON } : {}),
      FIRST: 2 + normalizing.length,
      EXTRA: end.tensors.length,
      SCALE: product.scale,
      QUADS,
      LANES,
      TRANSPOSE_B: transposeB,
      aType: `vec4<${a.dtype}>`,
      bType: `vec4<${b.dtype}>`,
      yType: y.dtype,
      value: "f32",
    },
    tensors: [a, b, ...normalizing, bias ?? program.unread, y, ...end.tensors],
    uniforms: shapeUniform(product, { split: K, vectors }),
    workgroups: [ceilDiv(N, 4 * QUADS)],
    iterations: ceilDiv(K, 4 * LANES) + levels +
      (normalize ? 2 * (ceilDiv(K / 4, size) + levels) : 0),
    workgroupBytes: size * (16 + (normalize ? 4 : 0)),
  });
}
