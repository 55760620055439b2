import type { ActivationFunction } from "../activation.ts";
import { activationBackward, activationForward } from "../matmul/reference.ts";

/** activated = activation(gate) · up.  gate, up, activated: [N] */
export function swigluForward(
  { gate, up }: { gate: Float32Array; up: Float32Array },
  activation: ActivationFunction,
): { activated: Float32Array } {
  const { y } = activationForward({ x: gate }, activation);
  return { activated: y.map((v, i) => v * up[i]!) };
}

/** Gradients of `swigluForward()`.  gate, up, dactivated, dgate, dup: [N] */
export function swigluBackward(
  { gate, up, dactivated }: { gate: Float32Array; up: Float32Array; dactivated: Float32Array },
  activation: ActivationFunction,
): { dgate: Float32Array; dup: Float32Array } {
  const { y } = activationForward({ x: gate }, activation);
  const dy = dactivated.map((v, i) => v * up[i]!);
  return {
    dgate: activationBackward({ x: gate, dy }, activation).dx,
    dup: dactivated.map((v, i) => v * y[i]!),
  };
}
