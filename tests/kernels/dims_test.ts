import assert from "node:assert/strict";
import { dims } from "../../kernels/dims.ts";
import type { DType, Tensor } from "../../kernels/tensor.ts";

const tensor = (name: string, shape: number[], dtype: DType = "f32"): Tensor => ({
  ...{ name, shape, dtype, offsetBytes: 0 },
  buffer: undefined as unknown as GPUBuffer,
});

Deno.test("dims() returns dimensions by name, also of products and with optional tensors", () => {
  const { B, T, C, N } = dims("attend", {
    qkv: [tensor("h.0.qkv", [6, 24]), "B·T,3C", "f32|f16"],
    mask: [undefined, "B,T", "u32"],
    weight: [tensor("weight", [8, 5], "f16"), "C,N", "f32|f16"],
    y: [tensor("y", [6, 2], "u32"), "B·T,2", "u32"],
  }, { T: 3 });
  assert.deepEqual({ B, T, C, N }, { B: 2, T: 3, C: 8, N: 5 });
});

Deno.test("dims() throws on a known dimension that is no positive integer", () => {
  for (const heads of [1.5, 0, -2, NaN, "4"]) {
    const known = { NH: heads } as Record<string, number>;
    assert.throws(() => dims("attend", { x: [tensor("x", [6, 8]), "M,NH", "f32"] }, known), {
      name: "RangeError",
      message: `Cannot run attend as NH must be a positive integer: current value is ${heads}`,
    });
  }
});

Deno.test("dims() throws on another shape or element type, naming the role, the tensor and the known dimensions", () => {
  const x = tensor("x", [6, 8]);
  const throws = (t: Tensor, shape: string, expected: string) =>
    assert.throws(() => dims("run", { x: [x, "M,C", "f32"], bias: [t, shape, "f32"] }), {
      name: "RangeError",
      message:
        `Cannot run run as bias must have shape [${expected}]: current shape of "t" is [${t.shape}]`,
    });
  throws(tensor("t", [6]), "M,C", "6,8");
  throws(tensor("t", [6, 9]), "M,C", "6,8");
  throws(tensor("t", [6, 10]), "M,3N", "6,3N");
  throws(tensor("t", [6, 9]), "M,2·C", "6,16");
  throws(tensor("t", [7, 9]), "M·N,2N·K", "6N,2N·K");
  throws(tensor("t", [6, 9]), "M,2", "6,2");
  throws(tensor("t", [6, 9, 1]), "N,K", "N,K");
  assert.throws(() => dims("run", { y: [x, "M,C", "f16|u32"] }), {
    name: "TypeError",
    message: 'Cannot run run as y must be f16 or u32: current type of "x" is f32',
  });
  assert.throws(() => dims("run", { x: [x, "M·N,C", "f32"] }), {
    name: "TypeError",
    message:
      "Cannot determine the dimension M·N as at most one of its names may be new: current new names are M,N",
  });
});
