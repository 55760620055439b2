/**
 * Products of matrices: `matmul()` checks a product and chooses one of the kernels that can compute it.
 *
 * | kernel | for |
 * | --- | --- |
 * | `vector.wgsl` | a few rows, as in generation: as fast as the matrix can be read; can include a norm and a gate |
 * | `matrix_rows.wgsl` | tens of rows on tensor cores, in generation of many texts; can include a norm |
 * | `matrices.wgsl` | GPUs with tensor cores, if a and b are f16 with rows of a multiple of eight elements |
 * | `tiles.wgsl`  | GPUs: the invocations of a workgroup share the blocks that they fetch; variants.ts has the tiles |
 * | `reduce.wgsl` | the sum of partial sums of these two, if K is split because y has too few tiles for a GPU |
 * | `lanes.wgsl`  | CPUs with subgroups: the lanes of a vector register share the vectors that they load |
 * | `matmul.wgsl` | all other products: sizes that are not multiples of four, CPUs without subgroups |
 *
 * Sizes and layout of a product determine the kernels that can compute it (`kernelsFor()`). A GPU uses subgroup
 * matrices if it can, or else tiles: the variant that the tuner found to be the fastest, or if nothing was measured
 * the first of `matrixVariantsToMeasure()`, or `preferredTiles()`. A CPU uses lanes if it can.
 *
 * Each kernel has its own order of summation over K, so another kernel may give other last bits on a GPU.
 * Therefore a checkpoint records the kernels that trained it. On Mesa's lavapipe all kernels give the same bits
 * (measured November 2026).
 *
 * @module
 */

import type { Device } from "../device.ts";
import { dims } from "../dims.ts";
import { hasMatrices } from "../matrices.ts";
import type { Normalization } from "../normalized_rows.ts";
import type { Program, Tunable } from "../program.ts";
import type { Tensor } from "../tensor.ts";
import { recordFastest } from "../tune.ts";
import {
  type Addend,
  anyProduct,
  canMultiplyRows,
  canNormalize,
  elementsPerFetch,
  type Epilogue,
  epilogueTensors,
  lanesProduct,
  MATRIX_ROWS,
  matrixProduct,
  matrixRowsProduct,
  MOST_FEW_ROWS,
  type Product,
  tiledProduct,
  vectorProduct,
} from "./launches.ts";
import {
  matrixVariants,
  matrixVariantsToMeasure,
  preferredTiles,
  tileVariants,
  variantsToMeasure,
} from "./variants.ts";

export type { Normalization } from "../normalized_rows.ts";
export type { Addend, BackwardEpilogue, Epilogue, ForwardEpilogue } from "./launches.ts";

/** How `matmul()` reads its operands and stores its result. */
export interface MatmulOptions {
  /** Whether `a` is stored as [K,M]. */
  transposeA?: boolean;
  /** Whether `b` is stored as [N,K]. */
  transposeB?: boolean;
  /** Whether to add to `y` instead of overwriting it. */
  accumulate?: boolean;
  /** Whether `y` is symmetric, as a · aᵀ is, and its addend: then tensor cores compute one half of it. */
  symmetric?: boolean;
  /**
   * Columns of the stored matrix `a` that are used; all by default. If a vocabulary is too large for one binding,
   * `b` is a slice of it while `a` has the columns of all slices.
   */
  columnsOfA?: { start: number; count: number };
  /**
   * First column of `y` to write, if `y` is wider than N. Up to three columns after the N may be overwritten, up to
   * a multiple of four.
   */
  firstColumnOfY?: number;
  /** An activation function that is applied when y is stored. */
  epilogue?: Epilogue | undefined;
  /** What is added to y before an activation function is applied; its factor is not `scale`. */
  addend?: Addend | undefined;
  /** Number that is added to the diagonal of y, likewise; 0 by default, as it must be with `parts`. */
  diagonal?: number;
  /** Layer-norm or RMS norm of `a` before the product: for few rows, or on tensor cores tens, that are not transposed. */
  normalize?: Normalization | undefined;
  /**
   * Number of partial sums over equal parts of K, for rows as with `normalize`: y is f32 [parts,M,N] then, and its sum over
   * the parts is the product. Part 0 includes the bias.
   */
  parts?: number | undefined;
  /**
   * Number of rows for which the kernel is chosen, M by default. With the same number the bits of a row do not depend on
   * how many rows there are.
   */
  kernelRows?: number | undefined;
  /** f32 [N]: factors of the rows of b, which is i8 and transposed then. */
  scales?: Tensor | undefined;
  /** Factor of a · b; 1 by default. */
  scale?: number;
  /** Name of the kernel to use, by default the tuner's choice; for tests and benchmarks. */
  variant?: string;
}

/**
 * y = scale · a · b + bias + addend + diagonal · I, summed in f32.
 *
 * a: [M,K], or [K,M] with `transposeA`; b: [K,N], or [N,K] with `transposeB`; bias: f32 [N];
 * y: [M,N]. Each of a, b, y is f32 or f16, and b with `scales` i8. y is set, or with `accumulate` added to. In a batch,
 * a, b and y have one more dimension before these, the number of products, which are computed in one launch.
 *
 * @throws {RangeError | TypeError} if shapes or types do not match, or if the kernel that `variant` names cannot
 * compute the product.
 */
export function matmul(
  program: Program,
  inputs: { a: Tensor; b: Tensor; bias?: Tensor | undefined },
  outputs: { y: Tensor },
  options: MatmulOptions = {},
): void {
  const product = checkProduct({ ...inputs, ...outputs }, options);
  const { device } = program, { matrix, tiled, untiled } = kernelsFor(product, device);
  if (needsVector(product) && !untiled.has("vector")) {
    const { M, N, K } = product;
    throw new RangeError(
      `Cannot run matmul as with a norm, a paired product, parts or scales the sizes must be ` +
        `multiples of four, and of eight for i8: ` +
        `current shapes are [${M},${K}] and [${K},${N}]`,
    );
  }
  const { variant } = options;
  if (variant !== undefined) {
    const record = matrix.get(variant) ?? tiled.get(variant) ?? untiled.get(variant);
    if (!record) {
      throw new RangeError(
        `Cannot run matmul as for this product the kernel must be one of ` +
          `${[untiled, tiled, matrix].flatMap((kernels) => [...kernels.keys()]).join(", ")}: ` +
          `current value is "${variant}"`,
      );
    }
    return record(program);
  }
  const half = matrix.size > 0 && product.symmetric ? " symmetric" : ""; // other kernels compute all of y
  recordFastest(program, { key: keyOf(product) + half, ...offered() });

  /** The kernels among which the tuner chooses, of one kind. */
  function offered(): Omit<Tunable, "key"> {
    const from = (kernels: Map<string, Kernel>, variants: string[], preferred: string) => ({
      variants,
      preferred,
      record: (program: Program, variant: string) => kernels.get(variant)!(program),
    });
    const names = [...untiled.keys()], sizes = { ...product, M: product.kernelRows };
    if (matrix.has(MATRIX_ROWS)) return from(matrix, [MATRIX_ROWS], MATRIX_ROWS);
    // tiles are many times slower than the others on a CPU, and many times faster on a GPU
    if (device.isCpu || tiled.size === 0) return from(untiled, names, names.at(-1)!);
    if (matrix.size > 0) {
      const names = matrixVariantsToMeasure(sizes);
      return from(matrix, names, names[0]!);
    }
    return from(tiled, variantsToMeasure(sizes, device.gpu.limits), preferredTiles(sizes));
  }
}

/** The product of these tensors, once their shapes and types are checked. */
function checkProduct(
  { a, b, bias, y }: { a: Tensor; b: Tensor; bias?: Tensor | undefined; y: Tensor },
  options: MatmulOptions,
): Product {
  const { transposeA = false, transposeB = false, accumulate = false, scale = 1 } = options;
  const { symmetric = false, diagonal = 0 } = options;
  const { columnsOfA, firstColumnOfY, epilogue, addend, normalize, parts, scales } = options;
  const { kernelRows } = options;
  const batch = a.shape.length === 3 ? a.shape[0] : undefined;
  /** The shape of a tensor that holds a matrix of each product. */
  const each = <S extends string>(shape: S) =>
    (batch === undefined ? shape : `${batch},${shape}`) as S;
  const { aRows, aColumns } = dims("matmul", { a: [a, each("aRows,aColumns"), "f32|f16"] });
  const { start: aStart, count } = columnsOfA ?? { start: 0, count: aColumns };
  const [M, K] = transposeA ? [count, aRows] : [aRows, count];
  const yShape = parts !== undefined
    ? "parts,M,N"
    : each(firstColumnOfY === undefined ? "M,N" : "M,yColumns");
  const { activated, hidden, gate, gateWeight, gateScales, up, dgate } = epilogueTensors(epilogue);
  const { N, yColumns = N } = dims("matmul", {
    b: [b, each(transposeB ? "N,K" : "K,N"), scales ? "i8" : "f32|f16"],
    scales: [scales, "N", "f32"],
    y: [y, yShape, parts === undefined ? "f32|f16" : "f32"],
    bias: [bias, "N", "f32"],
    activated: [activated, yShape, y.dtype],
    gateWeight: [gateWeight, each(transposeB ? "N,K" : "K,N"), b.dtype],
    gateScales: [gateScales, "N", "f32"],
    hidden: [hidden, yShape, y.dtype],
    gate: [gate, yShape, y.dtype],
    up: [up, yShape, y.dtype],
    dgate: [dgate, yShape, y.dtype],
    addend: [addend?.tensor, yShape, y.dtype],
    normalizeWeight: [normalize?.weight, "K", "f32"],
    normalizeBias: [normalize?.bias, "K", "f32"],
    addends: [normalize?.addends, "addends,M,K", "f32"],
    total: [normalize?.total, "M,K", "f32"],
  }, { M, K, ...(parts === undefined ? {} : { parts }) });
  const yStart = firstColumnOfY ?? 0;
  if (aStart < 0 || aStart + count > aColumns || yStart + N > yColumns) {
    throw new RangeError(
      `Cannot run matmul as the columns must lie inside the matrices: current columns are ` +
        `${aStart} to ${aStart + count} of "${a.name}" [${a.shape}] and ` +
        `${yStart} to ${yStart + N} of "${y.name}" [${y.shape}]`,
    );
  }
  if (parts !== undefined && diagonal !== 0) {
    throw new RangeError(
      `Cannot run matmul as with parts diagonal must be 0: current value is ${diagonal}`,
    );
  }
  return {
    a,
    b,
    bias,
    y,
    epilogue,
    addend,
    diagonal,
    normalize,
    M,
    kernelRows: kernelRows ?? M,
    N,
    K,
    transposeA,
    transposeB,
    accumulate,
    symmetric,
    scale,
    scales,
    parts,
    aStride: aColumns,
    aStart,
    bStride: transposeB ? K : N,
    yStride: yColumns,
    yStart,
    batch,
  };
}

/** What determines the fastest kernel of a product, for the tuner. */
function keyOf(
  { a, b, y, epilogue, kernelRows, N, K, transposeA, transposeB, batch }: Product,
): string {
  const layout = `${transposeA ? "T" : "N"}${transposeB ? "T" : "N"}`;
  // checkpoints and tuning files name every activation function gelu, as all of them need the same kernel
  const stored = epilogue && {
    forward: " gelu",
    backward: " gelu'",
    gatedForward: " gated gelu",
    pairedForward: " paired gelu",
    gatedBackward: " gated gelu'",
  }[epilogue.kind];
  const count = batch === undefined ? "" : `${batch} times `;
  return `matmul ${layout} ${a.dtype},${b.dtype},${y.dtype} ${count}[${kernelRows},${K}]x[${K},${N}]${
    stored ?? ""
  }`;
}

/** Whether only vector.wgsl can compute a product, or on tensor cores matrix_rows.wgsl. */
function needsVector({ normalize, epilogue, scales, parts }: Product): boolean {
  return normalize !== undefined || epilogue?.kind === "pairedForward" || scales !== undefined ||
    parts !== undefined;
}

/** Whether matrix_rows.wgsl computes a product that vector.wgsl could compute as well. */
function fitsMatrixRows(device: Pick<Device, "gpu" | "matrixShapes">, product: Product): boolean {
  const { a, b, N, K, kernelRows, transposeB, normalize, parts, scales, epilogue } = product;
  return kernelRows > MOST_FEW_ROWS && !scales && epilogue?.kind !== "pairedForward" &&
    b.dtype === "f16" && (a.dtype === "f16" || normalize !== undefined) &&
    product.yStride % 4 === 0 && product.yStart % 4 === 0 &&
    canMultiplyRows(device, { N, K, transposeB, parts, isNormalized: normalize !== undefined });
}

/** Records the launches of a product. */
type Kernel = (program: Program) => void;

/** The kernels that can compute a product, by kind and name. A CPU uses the last of the untiled ones. */
function kernelsFor(
  product: Product,
  device: Pick<Device, "gpu" | "subgroupSize" | "matrixShapes">,
): Record<"matrix" | "tiled" | "untiled", Map<string, Kernel>> {
  const { M, kernelRows, N, K, transposeA, transposeB, aStride, aStart, bStride, yStride, yStart } =
    product;
  const { a, b, batch } = product, { subgroupSize } = device;
  const areMultiplesOf = (divisor: number, ...counts: number[]) =>
    counts.every((count) => count % divisor === 0);
  const areMultiplesOf4 = (...counts: number[]) => areMultiplesOf(4, ...counts);
  const sizes = { ...product, M: kernelRows };
  const matrix = new Map<string, Kernel>(), tiled = new Map<string, Kernel>();
  const untiled = new Map<string, Kernel>();
  const { normalize, parts, scales } = product;
  const fetch = elementsPerFetch(b.dtype, bStride); // whole fetches of whole parts
  const fits = fetch !== undefined && areMultiplesOf4(K, aStart) &&
    (M === 1 || areMultiplesOf4(aStride)) && K % ((parts ?? 1) * (transposeB ? fetch : 4)) === 0;
  if (
    // other products of several rows are faster with tiles
    (kernelRows === 1 || needsVector(product)) && fits && batch === undefined && !transposeA &&
    (!normalize || canNormalize(device, K)) &&
    (transposeB || !scales)
  ) {
    if (fitsMatrixRows(device, product)) {
      matrix.set(MATRIX_ROWS, (program) => matrixRowsProduct(program, product));
    }
    untiled.set("vector", (program) => vectorProduct(program, product));
    return { matrix, tiled, untiled };
  }
  const isAligned = areMultiplesOf4(aStride, aStart, bStride, yStride, yStart) &&
    (!product.bias || areMultiplesOf4(N));
  if (isAligned && (!transposeB || areMultiplesOf4(K))) {
    for (const variant of tileVariants(sizes)) {
      tiled.set(variant.name, (program) => tiledProduct(program, product, variant));
    }
  }
  if (
    hasMatrices(device) && isAligned && a.dtype === "f16" && b.dtype === "f16" &&
    areMultiplesOf(8, aStride, aStart, bStride)
  ) {
    for (const variant of matrixVariants(sizes)) {
      matrix.set(variant.name, (program) => matrixProduct(program, product, variant));
    }
  }
  untiled.set("any", (program) => anyProduct(program, product));
  if (subgroupSize && isAligned && areMultiplesOf4(K) && (!transposeA || areMultiplesOf4(M))) {
    untiled.set("lanes", (program) => lanesProduct(program, product, subgroupSize));
  }
  return { matrix, tiled, untiled };
}
