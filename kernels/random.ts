import random from "./random.wgsl" with { type: "text" };
import type { Shader } from "./shader.ts";
import type { Tensor } from "./tensor.ts";

/** The functions of random.wgsl, for shaders that drop elements. */
export const RANDOM: Shader = { "kernels/random.wgsl": random };

/** A place in the model at which elements are dropped, and their share. */
export interface DropoutSite {
  /** Probability that an element is dropped, in [0, 1). */
  rate: number;
  /** Number of the place, which no other place in the model has. */
  site: number;
}

/** Dropout at one place in the model, with its source of random numbers. */
export interface Dropout extends DropoutSite {
  /** u32 [2]: the seed, and a counter that differs in every micro-batch. */
  random: Tensor;
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
