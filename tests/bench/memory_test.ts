import assert from "node:assert/strict";
import { meterMemory } from "../../bench/memory.ts";
import { createTensor } from "../../kernels/tensor.ts";
import { device } from "../kernels/harness.ts";

Deno.test("meterMemory() returns the most bytes that buffers had at one time until it is stopped", () => {
  const make = (length: number) => createTensor(device, "x", { shape: [length], dtype: "f32" });
  const before = make(1000), meter = meterMemory(device);
  const first = make(100), second = make(50);
  assert.equal(meter.peakBytes, 600);
  first.buffer.destroy();
  first.buffer.destroy(); // counts once
  before.buffer.destroy(); // is not among them
  const third = make(75);
  assert.equal(meter.peakBytes, 600);
  const fourth = make(60);
  assert.equal(meter.peakBytes, 4 * (50 + 75 + 60));
  meter.stop();
  const fifth = make(1000);
  assert.equal(meter.peakBytes, 740);
  for (const { buffer } of [second, third, fourth, fifth]) buffer.destroy();
});
