/** Settings of AdamW. */
export interface AdamwOptions {
  beta1: number;
  beta2: number;
  epsilon: number;
  weightDecay: number;
}

/** One step of AdamW, number t from 1 on, in place.  parameter, gradient, m, v: [N] */
export function adamw(
  { gradient, learningRate, t }: { gradient: ArrayLike<number>; learningRate: number; t: number },
  { parameter, m, v }: { parameter: Float64Array; m: Float64Array; v: Float64Array },
  { beta1, beta2, epsilon, weightDecay }: AdamwOptions,
): void {
  for (let i = 0; i < parameter.length; i++) {
    const g = gradient[i]!;
    parameter[i]! *= 1 - learningRate * weightDecay;
    m[i] = beta1 * m[i]! + (1 - beta1) * g;
    v[i] = beta2 * v[i]! + (1 - beta2) * g * g;
    const mHat = m[i]! / (1 - beta1 ** t), vHat = v[i]! / (1 - beta2 ** t);
    parameter[i]! -= learningRate * mHat / (Math.sqrt(vHat) + epsilon);
  }
}
