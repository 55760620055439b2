import forward from "./forward.wgsl" with { type: "text" };
import backward from "./backward.wgsl" with { type: "text" };
import { type Program, splitWorkgroups } from "../program.ts";
import { assertDType, assertShape, ceilDiv, size, type Tensor } from "../tensor.ts";

const WORKGROUP_SIZE = 256;

/** y = gelu(x), tanh approximation.  x, y: [N], f32 or f16 */
export function geluForward(program: Program, { x }: { x: Tensor }, { y }: { y: Tensor }): void {
  assertDType("geluForward", x, "f32", "f16");
  assertDType("geluForward", y, x.dtype);
  assertShape("geluForward", y, x.shape);
  const N = size(x.shape);
  program.dispatch({
    label: "kernels/gelu/forward.wgsl",
    source: forward,
    constants: { real: x.dtype, N, WORKGROUP_SIZE },
    tensors: [x, y],
    workgroups: splitWorkgroups(ceilDiv(N, WORKGROUP_SIZE)),
  });
}

/** dx = dy · gelu'(x).  x, dy, dx: [N], f32 or f16; dx is set. */
export function geluBackward(
  program: Program,
  { x, dy }: { x: Tensor; dy: Tensor },
  { dx }: { dx: Tensor },
): void {
  assertDType("geluBackward", x, "f32", "f16");
  for (const t of [dy, dx]) {
    assertDType("geluBackward", t, x.dtype);
    assertShape("geluBackward", t, x.shape);
  }
  const N = size(x.shape);
  program.dispatch({
    label: "kernels/gelu/backward.wgsl",
    source: backward,
    constants: { real: x.dtype, N, WORKGROUP_SIZE },
    tensors: [x, dy, dx],
    workgroups: splitWorkgroups(ceilDiv(N, WORKGROUP_SIZE)),
  });
}
