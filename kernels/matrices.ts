import type { MatrixShape } from "./provider.ts";

/** The feature of a device that multiplies matrices. */
export const MATRIX_FEATURE = "chromium-experimental-subgroup-matrix";

/** Rows, and columns, of the matrices that the kernels with tensor cores multiply. */
export const MATRIX_SIDE = 16;

/** Invocations of a subgroup that multiplies matrices: the kernels know no other size. */
export const MATRIX_SUBGROUP = 32;

/** Whether a device has the matrices that the kernels with tensor cores need, of f16 with sums in f32. */
export function hasMatrices(
  { matrixShapes }: { readonly matrixShapes: readonly MatrixShape[] },
): boolean {
  return matrixShapes.some(({ rows, columns, depth, input, result }) =>
    [rows, columns, depth].every((side) => side === MATRIX_SIDE) && input === "f16" &&
    result === "f32"
  );
}
