import tiles from "./matmul.wgsl" with { type: "text" };
import quads from "./quads.wgsl" with { type: "text" };
import rows from "./rows.wgsl" with { type: "text" };
import vector from "./vector.wgsl" with { type: "text" };
import type { Program } from "../program.ts";
import { assertDType, assertShape, ceilDiv, type Tensor } from "../tensor.ts";

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
  /** First column of `y` to write, where `y` is wider than N. */
  firstColumnOfY?: number;
}

/** Below so many workgroups a product is divided into more, smaller ones. */
const FEW_WORKGROUPS = 16;

/**
 * y = a · b + bias, summed in f32.
 *
 * a: [M,K], or [K,M] with `transposeA`; b: [K,N], or [N,K] with `transposeB`; bias: f32 [N];
 * y: [M,N]. Each of a, b, y is f32 or f16. y is set, or with `accumulate` added to.
 *
 * @throws {RangeError} if the shapes do not fit together.
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

  const operands = {
    // without a bias the slot shows b, which is never read there
    tensors: [a, b, bias ?? b, y],
    uniforms: [start, firstColumnOfY],
  };
  const constants = { N, K, HAS_BIAS: bias !== undefined };
  const WORKGROUP_X = 8, ROWS = 8, COLUMNS_OF_GROUP = 64;
  // smaller workgroups where there are few, so that every core has one
  let WORKGROUP_Y = 8;
  const groups = () => ceilDiv(N, COLUMNS_OF_GROUP) * ceilDiv(M, WORKGROUP_Y * ROWS);
  while (WORKGROUP_Y > 1 && groups() < FEW_WORKGROUPS) WORKGROUP_Y /= 2;
  const tiled = { ...constants, M, ACCUMULATE: accumulate, ROWS, WORKGROUP_X, WORKGROUP_Y };
  const dimensions = [N, K, start, aColumns, yColumns, firstColumnOfY];
  const multiplesOf4 = (...counts: number[]) => counts.every((count) => count % 4 === 0);

  if (M === 1 && count === aColumns && yColumns === N && !transposeA && !accumulate) {
    const WORKGROUP_X = 32, WORKGROUP_Y = 8;
    program.dispatch({
      label: "kernels/matmul/vector.wgsl",
      source: vector,
      constants: {
        ...constants,
        aType: a.dtype,
        bType: b.dtype,
        yType: y.dtype,
        TRANSPOSE_B: transposeB,
        WORKGROUP_X,
        WORKGROUP_Y,
      },
      tensors: operands.tensors,
      workgroups: [ceilDiv(N, WORKGROUP_X)],
      iterations: ceilDiv(K, WORKGROUP_Y) + WORKGROUP_Y,
      workgroupBytes: WORKGROUP_X * WORKGROUP_Y * 4,
    });
  } else if (transposeB && !transposeA && multiplesOf4(K, start, aColumns)) {
    const COLUMNS = 8;
    program.dispatch({
      ...operands,
      label: "kernels/matmul/rows.wgsl",
      source: rows,
      constants: {
        ...tiled,
        aType: `vec4<${a.dtype}>`,
        bType: `vec4<${b.dtype}>`,
        yType: y.dtype,
        A_STRIDE: aColumns,
        Y_STRIDE: yColumns,
        COLUMNS,
      },
      workgroups: [ceilDiv(N, COLUMNS_OF_GROUP), ceilDiv(M, WORKGROUP_Y * ROWS)],
      iterations: K / 4,
    });
  } else if (!transposeB && multiplesOf4(...dimensions) && (!transposeA || M % 4 === 0)) {
    const COLUMNS = 2;
    program.dispatch({
      ...operands,
      label: "kernels/matmul/quads.wgsl",
      source: quads,
      constants: {
        ...tiled,
        aType: `vec4<${a.dtype}>`,
        bType: `vec4<${b.dtype}>`,
        yType: `vec4<${y.dtype}>`,
        TRANSPOSE_A: transposeA,
        A_STRIDE: aColumns,
        Y_STRIDE: yColumns,
        COLUMNS,
      },
      workgroups: [ceilDiv(N, COLUMNS_OF_GROUP), ceilDiv(M, WORKGROUP_Y * ROWS)],
      iterations: K / 4,
    });
  } else {
    const COLUMNS = 8;
    program.dispatch({
      ...operands,
      label: "kernels/matmul/matmul.wgsl",
      source: tiles,
      constants: {
        ...tiled,
        aType: a.dtype,
        bType: b.dtype,
        yType: y.dtype,
        TRANSPOSE_A: transposeA,
        TRANSPOSE_B: transposeB,
        A_STRIDE: aColumns,
        Y_STRIDE: yColumns,
        COLUMNS,
      },
      workgroups: [ceilDiv(N, COLUMNS_OF_GROUP), ceilDiv(M, WORKGROUP_Y * ROWS)],
      iterations: K,
    });
  }
}
