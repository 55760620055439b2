import activation from "./activation.wgsl" with { type: "text" };
import type { Constants, Shader } from "./shader.ts";

/**
 * An activation function, under the name that transformers gives it: `gelu_new` is GELU by its approximation
 * with tanh, as in GPT-2 (Hendrycks and Gimpel 2016, https://arxiv.org/abs/1606.08415), `gelu` is GELU with the
 * error function, `relu` is max(x, 0), `relu2` is its square (So et al. 2021, https://arxiv.org/abs/2109.08668), and
 * `silu` is x · sigmoid(x).
 */
export type ActivationFunction = "gelu_new" | "gelu" | "relu" | "relu2" | "silu";

/** The functions activation() and activationDerivative() of activation.wgsl. */
export const ACTIVATION: Shader = { "kernels/activation.wgsl": activation };

/**
 * The constants of activation.wgsl.
 *
 * @param value WGSL type of its arguments: four elements or one.
 */
export function activationConstants(
  activation: ActivationFunction,
  value: "vec4<f32>" | "f32",
): Constants {
  return { value, ACTIVATION: activation.toUpperCase() };
}
