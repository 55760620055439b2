import activation from "./activation.wgsl" with { type: "text" };
import { quoted } from "../files/printable.ts";
import type { Constants, Shader } from "./shader.ts";

/**
 * An activation function, under the name that transformers gives it: `gelu_new` is GELU by its approximation
 * with tanh, as in GPT-2 (Hendrycks and Gimpel 2016, https://arxiv.org/abs/1606.08415), `gelu` is GELU with the
 * error function, `relu` is max(x, 0), `relu2` is its square (So et al. 2021, https://arxiv.org/abs/2109.08668), and
 * `silu` is x · sigmoid(x).
 */
export type ActivationFunction = (typeof ACTIVATION_FUNCTIONS)[number];

/** The activation functions of activation.wgsl. */
export const ACTIVATION_FUNCTIONS = ["gelu_new", "gelu", "relu", "relu2", "silu"] as const;

/** The functions activation() and activationDerivative() of activation.wgsl. */
export const ACTIVATION: Shader = { "kernels/activation.wgsl": activation };

/**
 * The constants of activation.wgsl.
 *
 * @param value WGSL type of its arguments: four elements or one.
 * @throws {TypeError} if there is no such function.
 */
export function activationConstants(
  activation: ActivationFunction,
  value: "vec4<f32>" | "f32",
): Constants {
  if (!ACTIVATION_FUNCTIONS.includes(activation)) {
    throw new TypeError(
      `Cannot compute an activation as it must be ${ACTIVATION_FUNCTIONS.join(" or ")}: ` +
        `current value is ${quoted(activation)}`,
    );
  }
  return { value, ACTIVATION: activation.toUpperCase() };
}
