import { compilable } from "./shader.ts";
import test from "./subgroups.wgsl" with { type: "text" };

/** Invocations that run the self-test: the constant of subgroups.wgsl. */
const INVOCATIONS = 64;

/**
 * Invocations per subgroup of this device, or undefined if its subgroups are not what the kernels need: they must
 * have one size, consist of neighbours by local_invocation_index, and broadcast the right values. The test is
 * needed because Deno 2.9 grants the feature without listing it.
 *
 * @param features features that the adapter lists.
 */
export async function testSubgroups(
  gpu: GPUDevice,
  features: ReadonlySet<string>,
): Promise<number | undefined> {
  gpu.pushErrorScope("validation");
  const bytes = INVOCATIONS * 16;
  const y = gpu.createBuffer({ size: bytes, usage: 0x80 | 0x04 }); // STORAGE | COPY_SRC
  const staging = gpu.createBuffer({ size: bytes, usage: 0x01 | 0x08 }); // MAP_READ | COPY_DST
  const module = gpu.createShaderModule({
    label: "kernels/subgroups.wgsl",
    code: compilable(test, features),
  });
  const pipeline = gpu.createComputePipeline({ layout: "auto", compute: { module } });
  const layout = pipeline.getBindGroupLayout(0);
  const group = gpu.createBindGroup({ layout, entries: [{ binding: 0, resource: { buffer: y } }] });
  const encoder = gpu.createCommandEncoder();
  const pass = encoder.beginComputePass();
  pass.setPipeline(pipeline);
  pass.setBindGroup(0, group);
  pass.dispatchWorkgroups(1);
  pass.end();
  encoder.copyBufferToBuffer(y, 0, staging, 0, bytes);
  gpu.queue.submit([encoder.finish()]);
  if (await gpu.popErrorScope()) return undefined;
  await staging.mapAsync(0x01); // READ
  const values = new Uint32Array(staging.getMappedRange().slice(0));
  for (const buffer of [y, staging]) buffer.destroy();
  return sizeOf(values);
}

/** The size that all invocations report, or undefined if any value is not as expected. */
function sizeOf(values: Uint32Array): number | undefined {
  const size = values[0]!;
  if (![4, 8, 16, 32].includes(size)) return undefined;
  for (let index = 0; index < INVOCATIONS; index++) {
    const first = Math.floor(index / size) * size;
    const expected = [size, index - first, first, first + 3];
    if (expected.some((value, i) => values[4 * index + i] !== value)) return undefined;
  }
  return size;
}
