/** Shapes and layout of a matrix product, as `matmul()` takes them. */
export interface MatmulShape {
  M: number;
  N: number;
  K: number;
  transposeA?: boolean;
  transposeB?: boolean;
}

/** y = a · b + bias.  a: [M,K] or [K,M]; b: [K,N] or [N,K]; bias: [N]; y: [M,N] */
export function matmul(
  { a, b, bias }: { a: Float32Array; b: Float32Array; bias?: Float32Array },
  { M, N, K, transposeA = false, transposeB = false }: MatmulShape,
): { y: Float32Array } {
  const y = new Float32Array(M * N);
  for (let m = 0; m < M; m++) {
    for (let n = 0; n < N; n++) {
      let sum = bias ? bias[n]! : 0;
      for (let k = 0; k < K; k++) {
        sum += a[transposeA ? k * M + m : m * K + k]! * b[transposeB ? n * K + k : k * N + n]!;
      }
      y[m * N + n] = sum;
    }
  }
  return { y };
}
