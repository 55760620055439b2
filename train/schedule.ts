/** Learning rate over training: a linear warm-up, then half a cosine down to the minimum. */
export interface Schedule {
  /** Highest learning rate, reached at the end of the warm-up. */
  readonly learningRate: number;
  /** Learning rate of the last step. */
  readonly minLearningRate: number;
  /** Steps of linear warm-up. */
  readonly warmupSteps: number;
  /** Steps of the whole training. */
  readonly steps: number;
}

/**
 * Learning rate of a step, counted from 0.
 *
 * Warm-up begins at learningRate / (warmupSteps + 1), as a step at zero would change nothing; the cosine
 * is that of Loshchilov and Hutter 2017 (https://arxiv.org/abs/1608.03983) without restarts.
 */
export function learningRateAt(
  step: number,
  { learningRate, minLearningRate, warmupSteps, steps }: Schedule,
): number {
  if (step < warmupSteps) return learningRate * (step + 1) / (warmupSteps + 1);
  if (step >= steps) return minLearningRate;
  const progress = (step - warmupSteps) / Math.max(1, steps - 1 - warmupSteps);
  const share = (1 + Math.cos(Math.PI * Math.min(progress, 1))) / 2;
  return minLearningRate + (learningRate - minLearningRate) * share;
}
