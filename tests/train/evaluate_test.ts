import assert from "node:assert/strict";
import { Program } from "../../kernels/program.ts";
import { createTensor, upload } from "../../kernels/tensor.ts";
import { RunningSum } from "../../train/evaluate.ts";
import { device } from "../kernels/harness.ts";

Deno.test("RunningSum adds up what one f32 would lose, over more runs than wait on the device", async () => {
  const runs = 2500, loss = 10.82, M = 4, before = 2 ** 33; // as after a billion tokens
  const x = createTensor(device, "losses", { shape: [M], dtype: "f32" });
  const program = new Program(device), sum = new RunningSum(program, x);
  const sumOnce = async () => {
    sum.reset();
    upload(device, x, [before, 0, 0, 0]);
    await sum.run();
    upload(device, x, new Array(M).fill(loss));
    for (let i = 0; i < runs; i++) await sum.run();
    return await sum.total();
  };
  const expected = before + runs * M * loss;
  let f32 = Math.fround(before);
  for (let i = 0; i < runs; i++) f32 = Math.fround(f32 + M * loss);
  assert.ok(Math.abs(f32 / expected - 1) > 1e-6, `one f32 would do: ${f32}`);
  for (let i = 0; i < 2; i++) {
    const total = await sumOnce();
    assert.ok(Math.abs(total / expected - 1) < 1e-9, `${total} of ${expected}`);
  }
  assert.equal(await sum.total(), await sum.total()); // nothing is added twice
  sum.destroy();
  program.destroy();
});
