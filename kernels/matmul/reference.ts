import type { ActivationFunction } from "../activation.ts";

/** Sizes and layout of a matrix product. */
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

/** Φ(x), the cumulative distribution of the standard normal one, by a series of terms of the same sign. */
function normalCdf(x: number): number {
  if (Math.abs(x) > 9) return x < 0 ? 0 : 1;
  let sum = 0;
  for (let n = 0, term = x; n < 300; n++, term *= x * x / (2 * n + 1)) sum += term;
  return 0.5 + normalDensity(x) * sum;
}

function normalDensity(x: number): number {
  return Math.exp(-x * x / 2) / Math.sqrt(2 * Math.PI);
}

const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));

/** Activation functions and their derivatives. */
const ACTIVATIONS: Readonly<
  Record<ActivationFunction, { of: (x: number) => number; derivative: (x: number) => number }>
> = {
  gelu_new: {
    of: (x) => 0.5 * x * (1 + Math.tanh(SQRT_2_OVER_PI * (x + 0.044715 * x ** 3))),
    derivative: (x) => {
      const t = Math.tanh(SQRT_2_OVER_PI * (x + 0.044715 * x ** 3));
      return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * SQRT_2_OVER_PI * (1 + 3 * 0.044715 * x * x);
    },
  },
  gelu: {
    of: (x) => x * normalCdf(x),
    derivative: (x) => normalCdf(x) + x * normalDensity(x),
  },
  relu: { of: (x) => Math.max(x, 0), derivative: (x) => x > 0 ? 1 : 0 },
  relu2: { of: (x) => Math.max(x, 0) ** 2, derivative: (x) => 2 * Math.max(x, 0) },
  silu: {
    of: (x) => x * sigmoid(x),
    derivative: (x) => sigmoid(x) * (1 + x * (1 - sigmoid(x))),
  },
};

/** y = activation(x).  x, y: [N] */
export function activationForward(
  { x }: { x: Float32Array },
  activation: ActivationFunction,
): { y: Float32Array } {
  return { y: x.map(ACTIVATIONS[activation].of) };
}

/** dx = dy · activation'(x).  x, dy, dx: [N] */
export function activationBackward(
  { x, dy }: { x: Float32Array; dy: Float32Array },
  activation: ActivationFunction,
): { dx: Float32Array } {
  return { dx: x.map((v, i) => ACTIVATIONS[activation].derivative(v) * dy[i]!) };
}
