import type { Histogram } from "./histogram.ts";

/** Counts by sign and power of two.  x: [N] */
export function histogram({ x }: { x: Float32Array }): Histogram {
  const positive: Record<number, number> = {}, negative: Record<number, number> = {};
  let zeros = 0, notFinite = 0, min: number | null = null, max: number | null = null;
  for (const value of x) {
    if (!Number.isFinite(value)) {
      notFinite++;
      continue;
    }
    if (min === null || value < min) min = value;
    if (max === null || value > max) max = value;
    if (value === 0) {
      zeros++;
      continue;
    }
    let exponent = -149;
    while (2 ** (exponent + 1) <= Math.abs(value)) exponent++;
    const buckets = value > 0 ? positive : negative;
    buckets[exponent] = (buckets[exponent] ?? 0) + 1;
  }
  return { count: x.length, zeros, notFinite, min, max, positive, negative };
}
