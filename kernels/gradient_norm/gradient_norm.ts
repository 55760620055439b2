import norm from "./forward.wgsl" with { type: "text" };
import type { Device } from "../device.ts";
import { dims } from "../dims.ts";
import type { Program } from "../program.ts";
import { assertVectors, ceilDiv, size, type Tensor, viewTensor } from "../tensor.ts";

const WORKGROUP_SIZE = 256;

/** Most blocks: enough to fill a large GPU, and few enough for one workgroup to add their sums. */
const MOST_BLOCKS = 1024;

/**
 * Elements per block, which one workgroup sums: in each turn every invocation reads a vector of four. With
 * fewer than 16 turns a CPU adapter would spend most of its time at the barriers of the reduction.
 */
function blockLength({ maxBindingBytes }: Device, N: number): number {
  const turn = 4 * WORKGROUP_SIZE;
  const turns = Math.max(16, ceilDiv(N, turn * MOST_BLOCKS));
  return turn * Math.min(turns, Math.floor(maxBindingBytes / (4 * turn)));
}

/** Rows of the tensor `partials` of `gradientNorm()` for a gradient of N elements. */
export function gradientNormBlocks(device: Device, N: number): number {
  return ceilDiv(N, blockLength(device, N));
}

/**
 * Per block the sum of (gradient / lossScale)², and whether an element is not finite; `prepareStep()` adds
 * the blocks.
 *
 * gradient: f32 [N], of any size, N a multiple of four; lossScale: f32 [1]; partials: f32 [blocks,2], is
 * set to the sum and to a number above 0 if the block holds NaN or an infinity, else 0.
 *
 * @throws {RangeError | TypeError} if a tensor has another shape or element type, or N is no multiple of
 * four.
 */
export function gradientNorm(
  program: Program,
  { gradient, lossScale }: { gradient: Tensor; lossScale: Tensor },
  { partials }: { partials: Tensor },
): void {
  const action = "gradientNorm", { device } = program;
  const blocks = gradientNormBlocks(device, size(gradient.shape));
  const { N } = dims(action, {
    gradient: [gradient, "N", "f32"],
    lossScale: [lossScale, "1", "f32"],
    partials: [partials, "blocks,2", "f32"],
  }, { blocks });
  const block = blockLength(device, N);
  assertVectors(action, { gradient });
  const blocksPerBinding = Math.floor(device.maxBindingBytes / (4 * block));
  for (let first = 0; first < blocks; first += blocksPerBinding) {
    const count = Math.min(blocksPerBinding, blocks - first), offset = first * block;
    const length = Math.min(count * block, N - offset);
    program.dispatch({
      shader: { "kernels/gradient_norm/forward.wgsl": norm },
      constants: { WORKGROUP_SIZE },
      tensors: {
        gradient: viewTensor(gradient, { offset, shape: [length] }),
        lossScale,
        partials,
      },
      uniforms: { firstBlock: first, block4: block / 4 },
      workgroups: [count],
      iterations: block / 4 / WORKGROUP_SIZE + Math.log2(WORKGROUP_SIZE),
      workgroupBytes: WORKGROUP_SIZE * 8,
    });
  }
}
