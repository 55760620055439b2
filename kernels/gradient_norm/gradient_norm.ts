import forward from "./forward.wgsl" with { type: "text" };
import { type Program, splitWorkgroups } from "../program.ts";
import { rowSlices } from "../slices.ts";
import { assertDType, assertShape, ceilDiv, type Tensor, viewTensor } from "../tensor.ts";

/** Elements that one workgroup sums. */
const BLOCK = 2048;
const WORKGROUP_SIZE = 256;

/** Rows of the tensor `partials` of `gradientNorm()` for a gradient of N elements. */
export function gradientNormBlocks(N: number): number {
  return ceilDiv(N, BLOCK);
}

/**
 * Sums of squares of gradient / lossScale, and whether any element is not finite, block by block;
 * `lossScaleUpdate()` adds the blocks up.
 *
 * gradient: f32 [N], of any size; lossScale: f32 [1]; partials: f32 [blocks,2], the sum and 1 where a
 * block holds NaN or an infinity, else 0.
 */
export function gradientNorm(
  program: Program,
  { gradient, lossScale }: { gradient: Tensor; lossScale: Tensor },
  { partials }: { partials: Tensor },
): void {
  const action = "gradientNorm";
  const [length] = gradient.shape as [number];
  const blocks = gradientNormBlocks(length);
  assertShape(action, gradient, [length]);
  for (const t of [gradient, lossScale, partials]) assertDType(action, t, "f32");
  assertShape(action, lossScale, [1]);
  assertShape(action, partials, [blocks, 2]);

  // as rows of whole blocks, so that slices end where blocks do; the rest is a slice of its own
  const whole = Math.floor(length / BLOCK);
  const slices = whole === 0 ? [] : rowSlices(
    program.device,
    viewTensor(gradient, { offset: 0, shape: [whole, BLOCK] }),
  );
  const rest = length - whole * BLOCK;
  if (rest > 0) {
    const part = viewTensor(gradient, { offset: whole * BLOCK, shape: [rest] });
    slices.push({ first: whole, rows: 1, part });
  }
  for (const { first, rows, part } of slices) {
    const N = part.shape.reduce((a, b) => a * b, 1);
    program.dispatch({
      label: "kernels/gradient_norm/forward.wgsl",
      source: forward,
      constants: { N, BLOCK, WORKGROUP_SIZE },
      tensors: [part, lossScale, partials],
      uniforms: [first],
      workgroups: splitWorkgroups(rows),
      iterations: BLOCK / WORKGROUP_SIZE + WORKGROUP_SIZE,
      workgroupBytes: WORKGROUP_SIZE * 8,
    });
  }
}
