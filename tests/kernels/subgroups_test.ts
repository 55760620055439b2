import assert from "node:assert/strict";
import { sizeOf, testSubgroups } from "../../kernels/subgroups.ts";
import { device } from "./harness.ts";

/** What 64 invocations see in subgroups of neighbours. */
function seen(size: number): Uint32Array {
  return Uint32Array.from({ length: 4 * 64 }, (_, i) => {
    const index = i >> 2, first = index - index % size;
    return [size, index % size, first, first + 3][i % 4]!;
  });
}

Deno.test("sizeOf() takes subgroups of neighbours and no others", () => {
  for (const size of [4, 8, 16, 32]) assert.equal(sizeOf(seen(size)), size);
  assert.equal(sizeOf(seen(64)), undefined); // kernels hold ROWS / LANES vectors a lane
  assert.equal(sizeOf(new Uint32Array(4 * 64)), undefined);
  for (let i = 0; i < 4 * 64; i++) {
    const odd = seen(8);
    odd[i]!++;
    assert.equal(sizeOf(odd), undefined, `value ${i} is off`);
  }
});

Deno.test("testSubgroups() says the size that the device was opened with", async () => {
  const size = await testSubgroups(device.gpu);
  if (device.isCpu) assert.equal(size, device.subgroupSize);
  else assert.equal(size, undefined); // a GPU is opened without the feature
  device.check(); // the test leaves no error behind
});
