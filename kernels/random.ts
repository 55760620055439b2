import random from "./random.wgsl" with { type: "text" };
import type { Shader } from "./shader.ts";

/** The functions that draw random numbers, for shaders that need them. */
export const RANDOM: Shader = { "kernels/random.wgsl": random };

/** Share of elements that are dropped, and the place in the model that drops them. */
export interface DropoutSite {
  /** Probability that an element is dropped, in [0, 1). */
  rate: number;
  /** A number that no other place in the model has. */
  site: number;
}

/**
 * The uniforms of random.wgsl.
 *
 * @throws {RangeError} if the rate is not in [0, 1).
 */
export function dropoutUniforms(
  { rate, site }: DropoutSite,
): { site: number; threshold: number; scale: number } {
  if (!(rate >= 0 && rate < 1)) {
    throw new RangeError(
      `Cannot drop elements as the rate must be at least 0 and below 1: current value is ${rate}`,
    );
  }
  return { site, threshold: threshold(rate), scale: 1 / (1 - rate) };
}

/**
 * CPU twin of `dropoutFactor()` in random.wgsl: 0 with probability `rate`, else 1 / (1 − rate).
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
  return draw < threshold(rate) ? 0 : Math.fround(1 / (1 - rate));
}

function threshold(rate: number): number {
  return Math.floor(rate * 2 ** 32);
}

/** CPU twin of `pcgHash()` in random.wgsl. */
export function pcgHash(v: number): number {
  const state = (Math.imul(v, 747796405) + 2891336453) >>> 0;
  const word = Math.imul((state >>> ((state >>> 28) + 4)) ^ state, 277803737) >>> 0;
  return ((word >>> 22) ^ word) >>> 0;
}
