import forward from "./forward.wgsl" with { type: "text" };
import type { Program } from "../program.ts";
import { assertDType, assertShape, ceilDiv, size, type Tensor } from "../tensor.ts";

const WORKGROUP_SIZE = 256;

/**
 * y = sum of x, in one fixed order.
 *
 * x: f32 [N], N up to 8 million; y: f32 [1], is set, or with `accumulate` added to.
 */
export function sumForward(
  program: Program,
  { x }: { x: Tensor },
  { y }: { y: Tensor },
  { accumulate = false }: { accumulate?: boolean } = {},
): void {
  assertDType("sumForward", x, "f32");
  assertDType("sumForward", y, "f32");
  assertShape("sumForward", y, [1]);
  program.dispatch({
    label: "kernels/sum/forward.wgsl",
    source: forward,
    constants: { ACCUMULATE: accumulate, WORKGROUP_SIZE },
    tensors: [x, y],
    workgroups: [1],
    iterations: ceilDiv(size(x.shape), WORKGROUP_SIZE) + Math.log2(WORKGROUP_SIZE),
    workgroupBytes: WORKGROUP_SIZE * 4,
  });
}
