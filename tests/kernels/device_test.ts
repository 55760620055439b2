import assert from "node:assert/strict";
import { describeBackend } from "../../kernels/device.ts";
import { createTensor, download, upload } from "../../kernels/tensor.ts";
import { openTestDevice } from "../gpu.ts";

Deno.test("Device.check() throws an error of a call once, and the device stays usable", async () => {
  using own = await openTestDevice();
  const x = createTensor(own, "x", { shape: [4], dtype: "f32" });
  upload(own, x, [1, 2, 3, 4]);
  const encoder = own.gpu.createCommandEncoder();
  encoder.copyBufferToBuffer(x.buffer, 0, x.buffer, 0, 2 ** 20);
  own.gpu.queue.submit([encoder.finish()]);
  const refusal = { name: "DeviceError", kind: "invalid", message: /^.+ reported an error: ./ };
  await own.gpu.queue.onSubmittedWorkDone();
  for (let i = 0; i < 2; i++) assert.throws(() => own.check({ keep: true }), refusal); // a look
  await assert.rejects(download(own, x), refusal);
  assert.deepEqual([...(await download(own, x))[0]!], [1, 2, 3, 4]);
});

Deno.test("Device.check() throws at every call that the device was lost", async () => {
  const own = await openTestDevice();
  const x = createTensor(own, "x", { shape: [4], dtype: "f32" });
  own.gpu.destroy();
  for (let i = 0; i < 2; i++) {
    await assert.rejects(download(own, x), { name: "DeviceError", kind: "lost", message: /^.+$/ });
  }
  assert.throws(() => own.check(), { kind: "lost", message: /^.+ was lost \(destroyed\)/ });
});

Deno.test({
  name: "describeBackend() recognises OpenGL by subgroups of unknown size, without f16",
  ignore: Deno.build.os !== "linux",
  fn() {
    const backendOf = (subgroupMaxSize: number, ...features: string[]) =>
      describeBackend({
        features: new Set(features),
        info: { vendor: "v", subgroupMinSize: 4, subgroupMaxSize },
      } as unknown as GPUAdapter, "native");
    assert.equal(backendOf(128), "OpenGL, without Vulkan (vendor v)");
    assert.equal(backendOf(128, "shader-f16"), "Vulkan (vendor v)");
    assert.equal(backendOf(8), "Vulkan (vendor v)");
  },
});
