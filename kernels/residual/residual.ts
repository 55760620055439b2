import forward from "./forward.wgsl" with { type: "text" };
import backward from "./backward.wgsl" with { type: "text" };
import { type Program, splitWorkgroups } from "../program.ts";
import { type DropoutSite, dropoutUniforms, withRandom } from "../random.ts";
import { assertDType, assertShape, ceilDiv, size, type Tensor } from "../tensor.ts";

const WORKGROUP_SIZE = 256;

/**
 * y = x + dropout(z): a branch joins the residual stream.
 *
 * x, y: f32 [N]; z: [N], f32 or f16. random: u32 [seed, counter], read if the rate is above 0.
 *
 * @throws {RangeError | TypeError} if a tensor has another shape or element type, the rate is not in
 * [0, 1), or is above 0 without `random`.
 */
export function residualForward(
  program: Program,
  { x, z, random }: { x: Tensor; z: Tensor; random?: Tensor },
  { y }: { y: Tensor },
  site: DropoutSite = { rate: 0, site: 0 },
): void {
  assertDType("residualForward", x, "f32");
  assertDType("residualForward", y, "f32");
  assertDType("residualForward", z, "f32", "f16");
  assertShape("residualForward", z, x.shape);
  assertShape("residualForward", y, x.shape);
  program.dispatch({
    ...launch("residualForward", { like: x, real: z.dtype, random }, site),
    label: "kernels/residual/forward.wgsl",
    source: withRandom(forward),
    tensors: [x, z, random ?? x, y],
  });
}

/**
 * dz = the mask of `residualForward()` over dy.  dy: f32 [N]; dz: [N], f32 or f16, is set.
 *
 * @throws {RangeError | TypeError} as `residualForward()` does.
 */
export function residualBackward(
  program: Program,
  { dy, random }: { dy: Tensor; random?: Tensor },
  { dz }: { dz: Tensor },
  site: DropoutSite = { rate: 0, site: 0 },
): void {
  assertDType("residualBackward", dy, "f32");
  assertDType("residualBackward", dz, "f32", "f16");
  assertShape("residualBackward", dz, dy.shape);
  program.dispatch({
    ...launch("residualBackward", { like: dy, real: dz.dtype, random }, site),
    label: "kernels/residual/backward.wgsl",
    source: withRandom(backward),
    tensors: [dy, random ?? dy, dz],
  });
}

function launch(
  action: string,
  { like, real, random }: { like: Tensor; real: string; random: Tensor | undefined },
  site: DropoutSite,
) {
  if (site.rate > 0 && !random) {
    throw new TypeError(
      `Cannot run ${action} as dropout needs the tensor "random": current rate is ${site.rate}`,
    );
  }
  if (random) {
    assertDType(action, random, "u32");
    assertShape(action, random, [2]);
  }
  const N = size(like.shape);
  return {
    constants: { real, N, DROPOUT: site.rate > 0, WORKGROUP_SIZE },
    uniforms: dropoutUniforms(site),
    workgroups: splitWorkgroups(ceilDiv(N, WORKGROUP_SIZE)),
  };
}
