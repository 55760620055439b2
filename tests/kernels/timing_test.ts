import assert from "node:assert/strict";
import { openDevice } from "../../kernels/device.ts";
import { matmul } from "../../kernels/matmul/matmul.ts";
import { Program } from "../../kernels/program.ts";
import { createTensor, download } from "../../kernels/tensor.ts";
import { clockOf, intervalOf, PassTimer } from "../../kernels/timing.ts";

const device = await openDevice();

Deno.test({
  name: "PassTimer measures from the begin of its first pass to the end of the last one",
  ignore: clockOf(device) !== "timestamps",
  async fn() {
    const tensor = (name: string) => createTensor(device, name, { shape: [64, 64], dtype: "f32" });
    using program = new Program(device);
    using timer = new PassTimer(device), inner = new PassTimer(device);
    matmul(program, { a: tensor("a"), b: tensor("b") }, { y: tensor("y") });
    await program.compiling();
    assert.equal(timer.stop(), undefined);
    const run = (by: PassTimer) => program.run({ repeats: 20, timestampWrites: by.writes() });
    const read = async (by: PassTimer) => intervalOf((await download(device, by.stop()!))[0]!);
    run(timer);
    const one = await read(timer);
    for (const by of [timer, inner, timer]) run(by);
    const [whole, within] = [await read(timer), await read(inner)];
    assert.ok(one.endMs > one.beginMs && within.endMs > within.beginMs);
    assert.ok(whole.beginMs > one.endMs);
    assert.ok(whole.beginMs <= within.beginMs && within.endMs <= whole.endMs);
  },
});

Deno.test("PassTimer writes nothing on a device without timestamp queries", () => {
  using timer = new PassTimer({ ...device, features: new Set() });
  assert.equal(timer.writes(), undefined);
  assert.equal(timer.stop(), undefined);
});
