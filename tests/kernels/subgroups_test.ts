import assert from "node:assert/strict";
import { dryDevice } from "../../kernels/dry_device.ts";
import { testSubgroups } from "../../kernels/subgroups.ts";
import { device } from "./harness.ts";

/** A device that reports these values for each of the 64 invocations of the self-test. */
function deviceThatReports(values: Uint32Array<ArrayBuffer>): GPUDevice {
  const { gpu } = dryDevice(device);
  return {
    ...gpu,
    pushErrorScope() {},
    popErrorScope: () => Promise.resolve(null),
    createCommandEncoder: () => ({ ...gpu.createCommandEncoder(), copyBufferToBuffer() {} }),
    createBuffer: () => ({
      mapAsync: () => Promise.resolve(),
      getMappedRange: () => values.buffer,
      destroy() {},
    }),
  } as unknown as GPUDevice;
}

/** What 64 invocations report if they form subgroups of neighbours. */
function subgroupsOf(size: number): Uint32Array<ArrayBuffer> {
  return Uint32Array.from({ length: 4 * 64 }, (_, i) => {
    const index = i >> 2, first = index - index % size;
    return [size, index % size, first, first + 3][i % 4]!;
  });
}

Deno.test("testSubgroups() accepts subgroups of neighbours and no others", async () => {
  const sizeOf = (values: Uint32Array<ArrayBuffer>) =>
    testSubgroups(deviceThatReports(values), new Set());
  for (const size of [4, 8, 16, 32]) assert.equal(await sizeOf(subgroupsOf(size)), size);
  assert.equal(await sizeOf(subgroupsOf(64)), undefined); // a lane holds ROWS / LANES vectors
  assert.equal(await sizeOf(new Uint32Array(4 * 64)), undefined);
  for (let i = 0; i < 4 * 64; i++) {
    const values = subgroupsOf(8);
    values[i]!++;
    assert.equal(await sizeOf(values), undefined, `value ${i} is wrong`);
  }
});

Deno.test("testSubgroups() returns the size with which the device was opened", async () => {
  const size = await testSubgroups(device.gpu, device.features);
  if (device.isCpu || device.features.has("subgroups")) assert.equal(size, device.subgroupSize);
  else assert.equal(size, undefined); // a GPU is opened without the feature
  device.check(); // the self-test leaves no error behind
});
