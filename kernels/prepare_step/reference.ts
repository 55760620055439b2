/** State of torch.amp.GradScaler. */
export interface GradScaler {
  scale: number;
  growthTracker: number;
}

/**
 * One update of torch.amp.GradScaler: a non-finite step halves the scale and resets the tracker;
 * `growthInterval` good steps in a row double it.
 */
export function updateScaler(
  { scale, growthTracker }: GradScaler,
  { finite, growthInterval = 2000 }: { finite: boolean; growthInterval?: number },
): GradScaler {
  if (!finite) return { scale: scale / 2, growthTracker: 0 };
  if (growthTracker + 1 < growthInterval) return { scale, growthTracker: growthTracker + 1 };
  const doubled = Math.fround(scale * 2);
  return { scale: Number.isFinite(doubled) ? doubled : scale, growthTracker: 0 };
}
