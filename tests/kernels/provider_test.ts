import assert from "node:assert/strict";
import { isDawnInstalled } from "../../files/packages.ts";
import { openDevice } from "../../kernels/device.ts";
import { hasMatrices } from "../../kernels/matrices.ts";
import { fillNormal } from "../../kernels/normal/normal.ts";
import { Program } from "../../kernels/program.ts";
import { matrixShapesOf } from "../../kernels/provider.ts";
import { createTensor } from "../../kernels/tensor.ts";
import { TEST_GPU } from "../gpu.ts";
import { device } from "./harness.ts";

Deno.test("openDevice() opens a device of the provider that is asked for", () => {
  if (TEST_GPU !== "auto") assert.equal(device.provider, TEST_GPU);
  if (device.provider === "native") assert.deepEqual(device.matrixShapes, []);
  if (device.matrixShapes.length > 0) assert.equal(device.subgroupSize, 32);
});

Deno.test('openDevice({ gpu: "auto" }) opens Dawn only if it is installed and has matrices for the kernels', async () => {
  const path = new URL("../../dawn", import.meta.url);
  const { state } = Deno.permissions.querySync({ name: "ffi", path });
  if (isDawnInstalled() && state !== "granted") {
    return await assert.rejects(openDevice({ gpu: "auto" }), { name: "NotCapable" });
  }
  using opened = await openDevice({ gpu: "auto" });
  assert.equal(opened.provider, hasMatrices(opened) ? "dawn" : "native");
});

Deno.test("openDevice() throws if there is no such provider", async () => {
  const message =
    'Cannot open a device as gpu must be native or dawn or auto: current value is "down"';
  await assert.rejects(openDevice({ gpu: "down" as "dawn" }), { name: "TypeError", message });
  // in version 0.2.0 gpu was an object of WebGPU
  await assert.rejects(openDevice({ gpu: navigator.gpu as never }), { name: "TypeError" });
});

Deno.test({
  name: "openDevice() lets Dawn ask for results once per millisecond at most",
  ignore: device.provider !== "dawn",
  async fn() {
    const { setImmediate } = globalThis;
    let questions = 0;
    const counted = (callback: () => void) => {
      questions++;
      return setImmediate(callback);
    };
    Object.assign(globalThis, { setImmediate: counted });
    try {
      const since = performance.now(), program = new Program(device);
      const y = createTensor(device, "y", { shape: [2 ** 20], dtype: "f32" });
      fillNormal(program, { y }, { mean: 0, deviation: 1, seed: 0, stream: 0 });
      do {
        for (let i = 0; i < 20; i++) program.run();
        await device.gpu.queue.onSubmittedWorkDone();
      } while (performance.now() - since < 50);
      const ms = performance.now() - since;
      assert(questions > 0 && questions <= 2 * ms, `${questions} in ${ms} ms`);
      y.buffer.destroy();
    } finally {
      Object.assign(globalThis, { setImmediate });
    }
  },
});

Deno.test("matrixShapesOf() returns the shapes of f16 factors that an adapter reports", () => {
  const config = { componentType: "f16", resultComponentType: "f32", M: 16, N: 8, K: 4 };
  const adapterWith = (...subgroupMatrixConfigs: object[]) =>
    ({ info: { subgroupMatrixConfigs } }) as unknown as GPUAdapter;
  assert.deepEqual(
    matrixShapesOf(adapterWith(
      config,
      { ...config, componentType: "i8", resultComponentType: "i32" },
      { ...config, resultComponentType: "f16" },
    )),
    [
      { rows: 16, columns: 8, depth: 4, input: "f16", result: "f32" },
      { rows: 16, columns: 8, depth: 4, input: "f16", result: "f16" },
    ],
  );
  assert.deepEqual(matrixShapesOf({ info: {} } as GPUAdapter), []);
});
