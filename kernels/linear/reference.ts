import { matmul } from "../matmul/reference.ts";

/** Sizes of a linear layer: M rows, C inputs, N outputs. */
export interface LinearShape {
  M: number;
  C: number;
  N: number;
}

/** y = x · weight + bias.  x: [M,C]; weight: [C,N]; bias: [N]; y: [M,N] */
export function linearForward(
  { x, weight, bias }: { x: Float32Array; weight: Float32Array; bias: Float32Array },
  { M, C, N }: LinearShape,
): { y: Float32Array } {
  return matmul({ a: x, b: weight, bias }, { M, N, K: C });
}

/** dx = dy · weightᵀ; dweight = xᵀ · dy; dbias = column sums of dy. */
export function linearBackward(
  { x, weight, dy }: { x: Float32Array; weight: Float32Array; dy: Float32Array },
  { M, C, N }: LinearShape,
): { dx: Float32Array; dweight: Float32Array; dbias: Float32Array } {
  const { y: dx } = matmul({ a: dy, b: weight }, { M, N: C, K: N, transposeB: true });
  const { y: dweight } = matmul({ a: x, b: dy }, { M: C, N, K: M, transposeA: true });
  const dbias = new Float32Array(N);
  for (let m = 0; m < M; m++) {
    for (let n = 0; n < N; n++) dbias[n]! += dy[m * N + n]!;
  }
  return { dx, dweight, dbias };
}
