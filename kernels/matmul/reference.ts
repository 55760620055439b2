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

const SQRT_2_OVER_PI = Math.sqrt(2 / Math.PI);

/** y = gelu(x), tanh approximation.  x, y: [N] */
export function geluForward({ x }: { x: Float32Array }): { y: Float32Array } {
  const y = x.map((v) => 0.5 * v * (1 + Math.tanh(SQRT_2_OVER_PI * (v + 0.044715 * v ** 3))));
  return { y };
}

/** dx = dy * gelu'(x).  x, dy, dx: [N] */
export function geluBackward(
  { x, dy }: { x: Float32Array; dy: Float32Array },
): { dx: Float32Array } {
  const dx = x.map((v, i) => {
    const t = Math.tanh(SQRT_2_OVER_PI * (v + 0.044715 * v ** 3));
    const derivative = 0.5 * (1 + t) +
      0.5 * v * (1 - t * t) * SQRT_2_OVER_PI * (1 + 3 * 0.044715 * v * v);
    return derivative * dy[i]!;
  });
  return { dx };
}
