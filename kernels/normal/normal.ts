import fill from "./normal.wgsl" with { type: "text" };
import { type Program, splitWorkgroups } from "../program.ts";
import { rowSlices } from "../slices.ts";
import { assertDType, ceilDiv, size, type Tensor, viewTensor } from "../tensor.ts";

/** Which random numbers to draw. */
export interface NormalOptions {
  /** Mean; the value of all elements where the deviation is 0. */
  mean: number;
  /** Standard deviation. */
  deviation: number;
  /** Whether they are evenly distributed, mean ± √3 · deviation, instead of normally. */
  uniform?: boolean;
  /** Seed, 32 bits. */
  seed: number;
  /** Tells tensors apart that are drawn with one seed, 32 bits. */
  stream: number;
}

const WORKGROUP_SIZE = 256;

/**
 * y = mean + deviation · z, with z drawn from the standard normal distribution, or from the uniform one
 * with the same mean and deviation.
 *
 * y: f32 or f16, of any shape and size; is set. Each element is a function of seed, stream and its
 * place, so that an f32 tensor and an f16 copy of it can be drawn one after the other.
 *
 * @throws {TypeError} if y is of another type.
 */
export function fillNormal(
  program: Program,
  { y }: { y: Tensor },
  { mean, deviation, uniform = false, seed, stream }: NormalOptions,
): void {
  assertDType("fillNormal", y, "f32", "f16");
  const rows = y.shape.length > 1 ? y : viewTensor(y, { offset: 0, shape: [size(y.shape), 1] });
  for (const { first, view } of rowSlices(program.device, rows)) {
    const N = size(view.shape), rowLength = size(rows.shape.slice(1));
    program.dispatch({
      shader: { "kernels/normal/normal.wgsl": fill },
      constants: { real: y.dtype, UNIFORM: uniform, WORKGROUP_SIZE },
      tensors: { y: view },
      uniforms: { N, first: first * rowLength, seed, stream, mean, deviation },
      workgroups: splitWorkgroups(ceilDiv(N, WORKGROUP_SIZE)),
    });
  }
}
