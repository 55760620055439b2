import type { DropoutSite } from "../random.ts";

/** y = x · factor.  x, y: [N]; factor(i) is 0 or 1 / (1 − rate). */
export function dropoutForward(
  { x }: { x: Float32Array },
  factor: (index: number) => number,
): { y: Float32Array } {
  return { y: x.map((v, i) => v * factor(i)) };
}

/** dx = dy · factor.  dy, dx: [N] */
export function dropoutBackward(
  { dy }: { dy: Float32Array },
  factor: (index: number) => number,
): { dx: Float32Array } {
  return { dx: dy.map((v, i) => v * factor(i)) };
}

/**
 * Factor of an element, as random.wgsl draws it: 0 with probability `rate`, else 1 / (1 − rate).
 *
 * @param draw.row the row in which `index` counts, of a matrix that may have more than 2³² elements.
 */
export function dropoutFactor(
  { seed, counter, rate, site, row, index }: DropoutSite & {
    seed: number;
    counter: number;
    row?: number;
    index: number;
  },
): number {
  const first = pcgHash(site + pcgHash(counter + pcgHash(seed)));
  const draw = pcgHash(index + (row === undefined ? first : pcgHash(row + first)));
  return draw < Math.floor(rate * 2 ** 32) ? 0 : Math.fround(1 / (1 - rate));
}

/** A permutation of 32 bits with well-mixed output (pcg_hash, https://jcgt.org/published/0009/03/02/). */
export function pcgHash(v: number): number {
  const state = (Math.imul(v, 747796405) + 2891336453) >>> 0;
  const word = Math.imul((state >>> ((state >>> 28) + 4)) ^ state, 277803737) >>> 0;
  return ((word >>> 22) ^ word) >>> 0;
}
