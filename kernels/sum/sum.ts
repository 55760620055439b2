import forward from "./forward.wgsl" with { type: "text" };
import type { Program } from "../program.ts";
import { assertDType, assertShape, ceilDiv, size, type Tensor } from "../tensor.ts";

const WORKGROUP_SIZE = 256;

/**
 * y = sum of x, or with a `place` y[place] = sum of x, in one fixed order.
 *
 * x: f32 [N]; place: u32 [1]; y: f32 [1], or with a place [R], of which one element is set. A sum over
 * many runs of a program is for the host to add up, in f64: an f32 would stop growing.
 */
export function sumForward(
  program: Program,
  { x, place }: { x: Tensor; place?: Tensor },
  { y }: { y: Tensor },
): void {
  assertDType("sumForward", x, "f32");
  assertDType("sumForward", y, "f32");
  assertShape("sumForward", y, [place ? size(y.shape) : 1]);
  if (place) {
    assertShape("sumForward", place, [1]);
    assertDType("sumForward", place, "u32");
  }
  program.dispatch({
    label: "kernels/sum/forward.wgsl",
    source: forward,
    constants: { PLACED: place !== undefined, WORKGROUP_SIZE },
    tensors: [x, place ?? x, y],
    workgroups: [1],
    iterations: ceilDiv(size(x.shape), WORKGROUP_SIZE) + Math.log2(WORKGROUP_SIZE),
    workgroupBytes: WORKGROUP_SIZE * 4,
  });
}
