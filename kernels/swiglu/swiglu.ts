import forward from "./forward.wgsl" with { type: "text" };
import backward from "./backward.wgsl" with { type: "text" };
import { ACTIVATION, activationConstants, type ActivationFunction } from "../activation.ts";
import { dims } from "../dims.ts";
import { type Program, splitWorkgroups } from "../program.ts";
import { assertVectors, ceilDiv, type Tensor } from "../tensor.ts";

const WORKGROUP_SIZE = 256;

/** How `swigluForward()` and `swigluBackward()` gate. */
export interface SwigluOptions {
  /** The function of the gate: `silu` makes it SwiGLU, `gelu` or `gelu_new` GEGLU, `relu` ReGLU. */
  activation: ActivationFunction;
}

/**
 * activated = activation(gate) · up, as in a gated MLP (Shazeer 2020, https://arxiv.org/abs/2002.05202).
 *
 * gate, up, activated: [M,F], f32 or f16, all of one type; F is a multiple of four. The epilogue `gatedForward` of a
 * product computes the same without a launch.
 *
 * @throws {RangeError | TypeError} if a tensor has another shape or element type.
 */
export function swigluForward(
  program: Program,
  { gate, up }: { gate: Tensor; up: Tensor },
  { activated }: { activated: Tensor },
  { activation }: SwigluOptions,
): void {
  const action = "swigluForward", { dtype } = gate;
  const { M, F } = dims(action, {
    gate: [gate, "M,F", "f32|f16"],
    up: [up, "M,F", dtype],
    activated: [activated, "M,F", dtype],
  });
  assertVectors(action, { gate });
  program.dispatch({
    shader: { "kernels/swiglu/forward.wgsl": forward, ...ACTIVATION },
    constants: {
      ...activationConstants(activation, "vec4<f32>"),
      xType: `vec4<${dtype}>`,
      WORKGROUP_SIZE,
    },
    tensors: { gate, up, activated },
    uniforms: { N4: M * F / 4 },
    workgroups: splitWorkgroups(ceilDiv(M * F / 4, WORKGROUP_SIZE)),
  });
}

/**
 * Gradients of `swigluForward()`: dgate = dactivated · up · activation'(gate), dup = dactivated · activation(gate).
 *
 * gate, up, dactivated, dgate, dup: [M,F], f32 or f16, all of one type; F is a multiple of four. dgate and dup are
 * set. The epilogue `gatedBackward` of a product computes the same without a launch.
 *
 * @throws {RangeError | TypeError} if a tensor has another shape or element type.
 */
export function swigluBackward(
  program: Program,
  { gate, up, dactivated }: { gate: Tensor; up: Tensor; dactivated: Tensor },
  { dgate, dup }: { dgate: Tensor; dup: Tensor },
  { activation }: SwigluOptions,
): void {
  const action = "swigluBackward", { dtype } = gate;
  const { M, F } = dims(action, {
    gate: [gate, "M,F", "f32|f16"],
    up: [up, "M,F", dtype],
    dactivated: [dactivated, "M,F", dtype],
    dgate: [dgate, "M,F", dtype],
    dup: [dup, "M,F", dtype],
  });
  assertVectors(action, { gate });
  program.dispatch({
    shader: { "kernels/swiglu/backward.wgsl": backward, ...ACTIVATION },
    constants: {
      ...activationConstants(activation, "vec4<f32>"),
      xType: `vec4<${dtype}>`,
      WORKGROUP_SIZE,
    },
    tensors: { gate, up, dactivated, dgate, dup },
    uniforms: { N4: M * F / 4 },
    workgroups: splitWorkgroups(ceilDiv(M * F / 4, WORKGROUP_SIZE)),
  });
}
