import normalizing from "./normalized_rows.wgsl" with { type: "text" };
import { EPSILON } from "./layernorm/layernorm.ts";
import type { Constants, Shader } from "./shader.ts";
import { ceilDiv, type Tensor } from "./tensor.ts";

/** A layer-norm, or without a bias an RMS norm. */
export interface Normalization {
  /** f32 [K] */
  readonly weight: Tensor;
  /** f32 [K]; an RMS norm has none. */
  readonly bias?: Tensor | undefined;
  /** Addend of the variance, or of the mean of squares; 1e-5 by default. */
  readonly epsilon?: number | undefined;
  /** f32 [addends,M,K]: what is added to a first, such as partial sums of a product with `parts`. */
  readonly addends?: Tensor | undefined;
  /** f32 [M,K]: is set to a + Σ addends. */
  readonly total?: Tensor | undefined;
}

/** Addends that an invocation loads at the same time, at most. */
const MOST_ADDENDS_AT_ONCE = 16;

/** Invocations whose sums of a row are added up first, of all that have the row: a divisor near its square root. */
function rowGroupOf(invocations: number): number {
  let count = Math.min(16, invocations);
  while (invocations % count !== 0) count--;
  return count;
}

/** Bytes of a workgroup of so many invocations for sums over rows. */
export function sumBytes(invocations: number): number {
  return 12 * invocations;
}

/**
 * normalized_rows.wgsl in a workgroup of so many invocations, which normalises so many rows of a at a time.
 *
 * @returns `workgroupBytes` without the rows, which the kernel keeps in its own way.
 */
export function normalizedRows(
  { weight, bias, epsilon = EPSILON, addends, total }: Normalization,
  { a, M, K, aStride = K, aStart = 0, rows, invocations }: {
    a: Tensor;
    M: number;
    K: number;
    aStride?: number;
    aStart?: number;
    rows: number;
    invocations: number;
  },
): {
  shader: Shader;
  constants: Constants;
  tensors: Readonly<Record<string, Tensor | undefined>>;
  iterations: number;
  workgroupBytes: number;
} {
  const ADDENDS = addends?.shape[0] ?? 0, ROW_TURNS = ceilDiv(K / 4, invocations / rows);
  const most = rows === 1 ? MOST_ADDENDS_AT_ONCE : MOST_ADDENDS_AT_ONCE / 4;
  return {
    shader: { "kernels/normalized_rows.wgsl": normalizing },
    constants: {
      rowType: `vec4<${a.dtype}>`,
      ROW_COUNT: M,
      ROW_LENGTH: K,
      ROW_STRIDE: aStride / 4,
      ROW_START: aStart / 4,
      ROW_INVOCATIONS: invocations,
      ROWS_AT_ONCE: rows,
      ROW_TURNS,
      ROW_GROUP: rowGroupOf(invocations / rows),
      CENTERED: bias !== undefined,
      ROW_EPSILON: epsilon,
      ADDED: addends !== undefined,
      ADDENDS,
      ADDENDS_AT_ONCE: Math.max(1, Math.min(most, ADDENDS)),
      STORES_TOTAL: total !== undefined,
    },
    tensors: { a, normWeight: weight, normBias: bias, addends, total },
    iterations: ROW_TURNS * ADDENDS,
    workgroupBytes: sumBytes(invocations),
  };
}
