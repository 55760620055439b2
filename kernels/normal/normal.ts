import fill from "./normal.wgsl" with { type: "text" };
import { type Program, splitWorkgroups } from "../program.ts";
import { rowSlices } from "../slices.ts";
import { assertDType, ceilDiv, size, type Tensor, viewTensor } from "../tensor.ts";

/** Which random numbers to draw. */
export interface NormalOptions {
  /** Mean; the value of all elements if the deviation is 0. */
  mean: number;
  /** Standard deviation. */
  deviation: number;
  /** Whether the numbers are uniform in mean ± √3 · deviation instead of normal. */
  uniform?: boolean;
  /** Seed of 32 bits. */
  seed: number;
  /** Number of 32 bits that distinguishes tensors drawn with one seed. */
  stream: number;
}

const WORKGROUP_SIZE = 256;

/**
 * y = mean + deviation · z, with z drawn from the standard normal distribution, or from the uniform one
 * with the same mean and deviation.
 *
 * y: f32 or f16, of any shape and size; is set. Each element is a function of seed, stream and its index,
 * so that an f32 tensor and its f16 copy can be drawn one after the other.
 *
 * @throws {TypeError} if y is of another type.
 */
export function fillNormal(
  program: Program,
  { y }: { y: Tensor },
  { mean, deviation, uniform = false, seed, stream }: NormalOptions,
): void {
  assertDType("fillNormal", { y }, "f32", "f16");
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
