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
  return { site, threshold: Math.floor(rate * 2 ** 32), scale: 1 / (1 - rate) };
}
