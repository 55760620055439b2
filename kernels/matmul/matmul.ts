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
import epilogueShader from "./epilogue.wgsl" with { type: "text" };
import lanes from "./lanes.wgsl" with { type: "text" };
import reduce from "./reduce.wgsl" with { type: "text" };
import tiles from "./tiles.wgsl" with { type: "text" };
import vector from "./vector.wgsl" with { type: "text" };
import packedF16 from "../packed_f16.wgsl" with { type: "text" };
import packedF32 from "../packed_f32.wgsl" with { type: "text" };
import { EPSILON } from "../layernorm/layernorm.ts";
import type { Device } from "../device.ts";
import { dims } from "../dims.ts";
import { type Program, splitWorkgroups } from "../program.ts";
import { ceilDiv, type DType, type Tensor } from "../tensor.ts";
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
   * The columns of the stored matrix `a` that are used, all by default: if a vocabulary is too large for one
   * binding, `b` is a slice of it while `a` has all of its columns.
   */
  columnsOfA?: { start: number; count: number };
  /**
   * First column of `y` to write, if `y` is wider than N. Up to three columns after the N may be
   * overwritten, up to a multiple of four.
   */
  firstColumnOfY?: number;
  /** An activation function as part of the product. */
  epilogue?: Epilogue | undefined;
  /**
   * Layer-norm of `a` before the product, with weight and bias f32 [K] each, and 1e-5 as the addition to the
   * variance by default; only for a single row that is not transposed.
   */
  normalize?: { weight: Tensor; bias: Tensor; epsilon?: number | undefined } | undefined;
  /** Factor of a · b, 1 by default. */
  scale?: number;
  /** The kernel to use, by default the tuner's choice. For tests and benchmarks. */
  variant?: string;
}

/**
 * An activation function, by the name that transformers has for it: `gelu_new` is GELU by its approximation
 * with tanh, as in GPT-2 (Hendrycks & Gimpel 2016, https://arxiv.org/abs/1606.08415), `gelu` that with the error function,
 * `relu` is max(x, 0), and `silu` x · sigmoid(x).
 */
export type ActivationFunction = "gelu_new" | "gelu" | "relu" | "silu";

/**
 * What a product computes of y as it stores it. Both tensors have y's shape and type.
 *
 * - `forward` sets `activated` to activation(y) and keeps y, which the backward pass needs.
 * - `backward` multiplies y by activation'(hidden): y is the gradient of hidden if activation(hidden) is an
 *   operand of the forward pass.
 */
export type Epilogue =
  & { readonly activation: ActivationFunction }
  & (
    | { readonly kind: "forward"; readonly activated: Tensor }
    | { readonly kind: "backward"; readonly hidden: Tensor }
  );

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
  const { transposeA = false, transposeB = false, accumulate = false, scale = 1 } = options;
  const { columnsOfA, firstColumnOfY, epilogue, normalize, variant } = options;
  const activated = epilogue?.kind === "forward" ? epilogue.activated : undefined;
  const hidden = epilogue?.kind === "backward" ? epilogue.hidden : undefined;

  const { aRows, aColumns } = dims("matmul", [[a, "aRows,aColumns", "f32|f16"]]);
  const { start, count } = columnsOfA ?? { start: 0, count: aColumns };
  const [M, K] = transposeA ? [count, aRows] : [aRows, count];
  const yShape = firstColumnOfY === undefined ? "M,N" : "M,yColumns";
  const { N, yColumns = N } = dims("matmul", [
    [b, transposeB ? "N,K" : "K,N", "f32|f16"],
    [y, yShape, "f32|f16"],
    [bias, "N", "f32"],
    [activated, yShape, y.dtype],
    [hidden, yShape, y.dtype],
    [normalize?.weight, "K", "f32"],
    [normalize?.bias, "K", "f32"],
  ], { M, K });
  const yStart = firstColumnOfY ?? 0;
  if (start < 0 || start + count > aColumns || yStart + N > yColumns) {
    throw new RangeError(
      `Cannot run matmul as the columns must lie inside the matrices: current columns are ` +
        `${start} to ${start + count} of "${a.name}" [${a.shape}] and ` +
        `${yStart} to ${yStart + N} of "${y.name}" [${y.shape}]`,
    );
  }

  const product: Product = {
    ...{ a, b, bias, y, activated, hidden, activation: epilogue?.activation, M, N, K },
    ...{ transposeA, transposeB, accumulate, scale, normalize },
    ...{ aStride: aColumns, aStart: start, bStride: transposeB ? K : N, yStride: yColumns, yStart },
  };
  const { device } = program;
  const { tiles, others } = kernelsFor(product, device);
  if (normalize && !others.has("vector")) {
    throw new RangeError(
      `Cannot run matmul as only a single row is normalised, and sizes must be multiples of four: ` +
        `current shapes are [${M},${K}] and [${K},${N}]`,
    );
  }
  if (variant !== undefined) {
    const kernel = tiles.get(variant) ?? others.get(variant);
    if (!kernel) {
      throw new RangeError(
        `Cannot run matmul as for this product the kernel must be one of ` +
          `${[...others.keys(), ...tiles.keys()].join(", ")}: current value is "${variant}"`,
      );
    }
    return kernel(program);
  }
  // tiles are hopelessly slow on a CPU, and so are the others on a GPU if tiles fit
  const kernels = device.isCpu || tiles.size === 0 ? others : tiles;
  const layout = `${transposeA ? "T" : "N"}${transposeB ? "T" : "N"}`;
  // what a product is called in checkpoints since all activations were GELU: which kernel is the fastest does
  // not depend on the function
  const stored = activated ? " gelu" : hidden ? " gelu'" : "";
  recordFastest(program, {
    key: `matmul ${layout} ${a.dtype},${b.dtype},${y.dtype} [${M},${K}]x[${K},${N}]${stored}`,
    variants: [...kernels.keys()].filter((variant) =>
      isWorthTrying(variant, product, device.gpu.limits)
    ),
    preferred: kernels === tiles ? preferredTiles(product) : [...others.keys()].at(-1)!,
    record: (program, variant) => kernels.get(variant)!(program),
  });
}

/** A checked product. Strides and starts count elements. */
interface Product {
  a: Tensor;
  b: Tensor;
  bias: Tensor | undefined;
  y: Tensor;
  activated: Tensor | undefined;
  hidden: Tensor | undefined;
  activation: ActivationFunction | undefined;
  M: number;
  N: number;
  K: number;
  transposeA: boolean;
  transposeB: boolean;
  accumulate: boolean;
  scale: number;
  normalize: MatmulOptions["normalize"];
  aStride: number;
  aStart: number;
  bStride: number;
  yStride: number;
  yStart: number;
}

/** Records a product as one kernel computes it. */
type Kernel = (program: Program) => void;

/** The kernels that can compute a product, by name; the last of the others is the default on a CPU. */
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

const EPILOGUE = { "kernels/matmul/epilogue.wgsl": epilogueShader };

/** Elements per element of a binding: vectors of four, or numbers. */
type Width = 1 | 4;

const typeOf = (dtype: DType, width: Width) => width === 4 ? `vec4<${dtype}>` : dtype;

/** The constants, tensors and uniforms of epilogue.wgsl. `split` is the part of K that a workgroup takes. */
function epilogueOf(
  product: Product,
  { operands, result, split = product.K }: { operands: Width; result: Width; split?: number },
) {
  const { bias, y, activated, hidden, activation = "gelu_new" } = product;
  const { M, N, K, accumulate, scale } = product;
  const { aStride, aStart, bStride, yStride, yStart } = product;
  return {
    constants: {
      value: typeOf("f32", result),
      yType: typeOf(y.dtype, result),
      BIAS: bias !== undefined,
      SCALED: scale !== 1,
      ACTIVATED: activated !== undefined,
      BACKWARD: hidden !== undefined,
      ACTIVATION: activation.toUpperCase(), // the constant of this name
    },
    tensors: { bias, hidden, y, activated },
    uniforms: {
      ...{ M, N, K, split, accumulate, scale },
      aStride: aStride / operands,
      aStart: aStart / operands,
      bStride: bStride / operands,
      yStride: yStride / result,
      yStart: yStart / result,
    },
  };
}

const WORKGROUP_SIZE = 256;

/** For GPUs: a workgroup shares what it fetched, see tiles.wgsl. */
function tiledProduct(program: Program, product: Product, variant: string): void {
  const { a, b, M, N, K, transposeA, transposeB } = product;
  const { tile, splits: mostSplits } = parseTiles(variant);
  const { order, ...tileSizes } = tile;
  const blocks = (tileRows(tile) + tileColumns(tile)) / 4 * TILE_K / 4; // of 4 × 4 elements, per step
  const split = ceilDiv(ceilDiv(K, mostSplits), TILE_K) * TILE_K;
  const splits = ceilDiv(K, split);
  const columns = ceilDiv(N, 4) * 4;
  const partials = splits === 1 ? undefined : program.scratch([splits * M, columns]);
  const widths = { operands: 4, result: 4 } as const;
  const stored = epilogueOf(
    partials
      ? {
        ...product,
        ...{ bias: undefined, activated: undefined, hidden: undefined },
        ...{ y: partials, yStride: columns, yStart: 0, accumulate: false, scale: 1 },
      }
      : product,
    { ...widths, split },
  );
  const areF16 = a.dtype === "f16" && b.dtype === "f16";
  program.dispatch({
    shader: {
      "kernels/matmul/tiles.wgsl": tiles,
      ...(areF16
        ? { "kernels/packed_f16.wgsl": packedF16 }
        : { "kernels/packed_f32.wgsl": packedF32 }),
      ...EPILOGUE,
    },
    constants: {
      ...tileSizes,
      ...stored.constants,
      TILE_K,
      FETCHES: ceilDiv(blocks, tile.X * tile.Y),
      WHOLE_K: K % TILE_K === 0,
      BY_COLUMNS: order === "columns",
      TRANSPOSE_A: transposeA,
      TRANSPOSE_B: transposeB,
      aType: areF16 ? "vec2u" : `vec4<${a.dtype}>`,
      bType: areF16 ? "vec2u" : `vec4<${b.dtype}>`,
    },
    tensors: { a, b, ...stored.tensors },
    uniforms: stored.uniforms,
    workgroups: [ceilDiv(N, tileColumns(tile)), ceilDiv(M, tileRows(tile)), splits],
    iterations: ceilDiv(split, TILE_K),
    workgroupBytes: tileBytes(tile),
  });
  if (!partials) return;
  const reduced = epilogueOf(product, widths);
  program.dispatch({
    shader: { "kernels/matmul/reduce.wgsl": reduce, ...EPILOGUE },
    constants: { ...reduced.constants, SPLITS: splits, WORKGROUP_SIZE },
    tensors: { partials, ...reduced.tensors },
    uniforms: reduced.uniforms,
    workgroups: splitWorkgroups(ceilDiv(M * columns / 4, WORKGROUP_SIZE)),
  });
}

/** With fewer workgroups than this, a product is divided into more, smaller ones. */
const FEW_WORKGROUPS = 16;

/** For sizes that are not multiples of four, and for CPUs without subgroups, see matmul.wgsl. */
function anyProduct(program: Program, product: Product): void {
  const { a, b, M, N, K, transposeA, transposeB } = product;
  const WORKGROUP_X = 8, ROWS = 8, COLUMNS = 8;
  // smaller workgroups if there are few, so that every core has one
  let WORKGROUP_Y = 8;
  const columnGroups = ceilDiv(N, WORKGROUP_X * COLUMNS);
  const rowGroups = () => ceilDiv(M, WORKGROUP_Y * ROWS);
  while (WORKGROUP_Y > 1 && columnGroups * rowGroups() < FEW_WORKGROUPS) WORKGROUP_Y /= 2;
  const stored = epilogueOf(product, { operands: 1, result: 1 });
  program.dispatch({
    shader: { "kernels/matmul/matmul.wgsl": any, ...EPILOGUE },
    constants: {
      ...{ ROWS, COLUMNS, WORKGROUP_X, WORKGROUP_Y },
      ...stored.constants,
      TRANSPOSE_A: transposeA,
      TRANSPOSE_B: transposeB,
      aType: a.dtype,
      bType: b.dtype,
    },
    tensors: { a, b, ...stored.tensors },
    uniforms: stored.uniforms,
    workgroups: [columnGroups, rowGroups()],
    iterations: K,
  });
}

/** For CPUs with subgroups: lanes share what they loaded, see lanes.wgsl. */
function lanesProduct(program: Program, product: Product, LANES: number): void {
  const { a, b, M, N, K, transposeA, transposeB } = product;
  const ROWS = 32;
  // smaller workgroups if there are few, so that every core has one
  let STRIPS = 4;
  const columnGroups = ceilDiv(N, 4 * LANES);
  const rowGroups = () => ceilDiv(M, ROWS * STRIPS);
  while (STRIPS > 1 && columnGroups * rowGroups() < FEW_WORKGROUPS) STRIPS /= 2;
  const stored = epilogueOf(product, { operands: 4, result: 4 });
  program.dispatch({
    shader: { "kernels/matmul/lanes.wgsl": lanes, ...EPILOGUE },
    constants: {
      ...{ ROWS, LANES, STRIPS },
      ...stored.constants,
      TRANSPOSE_A: transposeA,
      TRANSPOSE_B: transposeB,
      aType: `vec4<${a.dtype}>`,
      bType: `vec4<${b.dtype}>`,
    },
    tensors: { a, b, ...stored.tensors },
    uniforms: stored.uniforms,
    workgroups: [columnGroups, rowGroups()],
    iterations: K / 4,
  });
}

/** For a single row: generation. */
function vectorProduct(program: Program, product: Product): void {
  const { a, b, N, K, transposeB, normalize } = product;
  // A GPU needs many lanes that wait for memory together; if b is not transposed, 4 quads are as wide as what
  // it fetches at a time. A CPU pays for every barrier: on lavapipe one lane per quad was two to ten times as
  // fast (two cores, November 2026).
  const [QUADS, LANES] = program.device.isCpu ? [16, 1] : transposeB ? [8, 32] : [4, 64];
  const size = QUADS * LANES, levels = Math.ceil(Math.log2(size)); // of trees, at most
  const stored = epilogueOf(product, { operands: 4, result: 1 });
  program.dispatch({
    shader: { "kernels/matmul/vector.wgsl": vector, ...EPILOGUE },
    constants: {
      ...{ QUADS, LANES, EPSILON: normalize?.epsilon ?? EPSILON },
      ...stored.constants,
      TRANSPOSE_B: transposeB,
      NORMALIZE: normalize !== undefined,
      aType: `vec4<${a.dtype}>`,
      bType: `vec4<${b.dtype}>`,
    },
    tensors: { a, b, normWeight: normalize?.weight, normBias: normalize?.bias, ...stored.tensors },
    uniforms: stored.uniforms,
    workgroups: [ceilDiv(N, 4 * QUADS)],
    iterations: ceilDiv(K, 4 * LANES) + levels +
      (normalize ? 2 * (ceilDiv(K / 4, size) + levels) : 0),
    workgroupBytes: size * (16 + (normalize ? 4 : 0)),
  });
}
