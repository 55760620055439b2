/** How far weights have moved.  start, weights: [N] */
export function outerGradient(
  { start, weights }: { start: ArrayLike<number>; weights: ArrayLike<number> },
): { moved: Float64Array } {
  const moved = new Float64Array(start.length);
  for (let i = 0; i < moved.length; i++) moved[i] = start[i]! - weights[i]!;
  return { moved };
}

/** One step of SGD with Nesterov momentum, as torch.optim.SGD, in place.  sum, start, momentum: [N] */
export function outerStep(
  { sum }: { sum: ArrayLike<number> },
  { start, momentum }: { start: Float64Array; momentum: Float64Array },
  { ranks, outerLearningRate, outerMomentum }: {
    ranks: number;
    outerLearningRate: number;
    outerMomentum: number;
  },
): void {
  for (let i = 0; i < start.length; i++) {
    const gradient = sum[i]! / ranks;
    momentum[i] = outerMomentum * momentum[i]! + gradient;
    start[i]! -= outerLearningRate * (gradient + outerMomentum * momentum[i]!);
  }
}
