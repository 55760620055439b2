import mask from "./dropout.wgsl" with { type: "text" };
import { dims } from "../dims.ts";
import { type Program, splitWorkgroups } from "../program.ts";
import { type Dropout, dropoutUniforms, RANDOM } from "../random.ts";
import { assertShape, assertVectors, ceilDiv, size, type Tensor, viewTensor } from "../tensor.ts";

const WORKGROUP_SIZE = 256;

/**
 * y = x with a share of its elements dropped and the rest scaled up (Srivastava et al. 2014).
 *
 * x, y: [N], f32 or f16 each, N a multiple of four. The random numbers and the site determine which elements are
 * dropped.
 *
 * @throws {RangeError | TypeError} if a tensor has another shape or element type, N is no multiple of four,
 * or the rate is not in [0, 1).
 */
export function dropoutForward(
  program: Program,
  { x }: { x: Tensor },
  { y }: { y: Tensor },
  dropout: Dropout,
): void {
  applyMask("dropoutForward", program, { x, y }, dropout);
}

/**
 * dx = dy · mask, with the mask of `dropoutForward()`.  dy, dx: [N], f32 or f16 each; dx is set.
 *
 * @throws {RangeError | TypeError} as `dropoutForward()` does.
 */
export function dropoutBackward(
  program: Program,
  { dy }: { dy: Tensor },
  { dx }: { dx: Tensor },
  dropout: Dropout,
): void {
  applyMask("dropoutBackward", program, { x: dy, y: dx }, dropout);
}

function applyMask(
  action: string,
  program: Program,
  { x, y }: { x: Tensor; y: Tensor },
  dropout: Dropout,
): void {
  assertShape(action, { y }, x.shape);
  const flat = (t: Tensor) => viewTensor(t, { offset: 0, shape: [size(t.shape)] });
  const { N } = dims(action, {
    x: [flat(x), "N", "f32|f16"],
    y: [flat(y), "N", "f32|f16"],
    random: [dropout.random, "2", "u32"],
  });
  assertVectors(action, { x: flat(x) });
  program.dispatch({
    shader: { "kernels/dropout/dropout.wgsl": mask, ...RANDOM },
    constants: { xType: `vec4<${x.dtype}>`, yType: `vec4<${y.dtype}>`, WORKGROUP_SIZE },
    tensors: { x, y, random: dropout.random },
    uniforms: { N4: N / 4, ...dropoutUniforms(dropout) },
    workgroups: splitWorkgroups(ceilDiv(N / 4, WORKGROUP_SIZE)),
  });
}
