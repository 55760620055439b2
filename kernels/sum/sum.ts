import forward from "./forward.wgsl" with { type: "text" };
import { dims } from "../dims.ts";
import type { Program } from "../program.ts";
import { ceilDiv, type Tensor } from "../tensor.ts";

const WORKGROUP_SIZE = 256;

/**
 * y = sum of x, or y[place] = sum of x if a `place` is given, in one fixed order.
 *
 * x: f32 [N]; place: u32 [1]; y: f32 [1], or with a place [R], of which one element is set. The host adds
 * the sums of several runs of a program in f64, because a sum in f32 would stop growing.
 *
 * @throws {RangeError | TypeError} if a tensor has another shape or element type.
 */
export function sumForward(
  program: Program,
  { x, place }: { x: Tensor; place?: Tensor },
  { y }: { y: Tensor },
): void {
  const { N } = dims("sumForward", {
    x: [x, "N", "f32"],
    y: [y, place ? "R" : "1", "f32"],
    place: [place, "1", "u32"],
  });
  program.dispatch({
    shader: { "kernels/sum/forward.wgsl": forward },
    constants: { PLACED: place !== undefined, WORKGROUP_SIZE },
    tensors: { x, place, y },
    workgroups: [1],
    iterations: ceilDiv(N, WORKGROUP_SIZE) + Math.log2(WORKGROUP_SIZE),
    workgroupBytes: WORKGROUP_SIZE * 4,
  });
}
