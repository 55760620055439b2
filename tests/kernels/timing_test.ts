import assert from "node:assert/strict";
import { openDevice } from "../../kernels/device.ts";
import { matmul } from "../../kernels/matmul/matmul.ts";
import { Program } from "../../kernels/program.ts";
import { createTensor, download } from "../../kernels/tensor.ts";
import { clockOf, type Interval, intervalOf, PassTimer } from "../../kernels/timing.ts";

const device = await openDevice();

Deno.test({
  name: "PassTimer measures from the begin of its first pass to the end of the last one",
  ignore: clockOf(device) !== "timestamps",
  async fn() {
    const tensor = (name: string) => createTensor(device, name, { shape: [64, 64], dtype: "f32" });
    using program = new Program(device), timer = new PassTimer(device);
    matmul(program, { a: tensor("a"), b: tensor("b") }, { y: tensor("y") });
    await program.compiling();
    assert.equal(timer.stop(), undefined);
    const intervals: Interval[] = [];
    for (const passes of [1, 1, 40]) {
      for (let i = 0; i < passes; i++) {
        program.run({ repeats: 20, timestampWrites: timer.writes() });
      }
      intervals.push(intervalOf((await download(device, timer.stop()!))[0]!));
    }
    const [, one, many] = intervals as [Interval, Interval, Interval];
    assert.ok(one.endMs > one.beginMs);
    assert.ok(many.beginMs > one.endMs);
    assert.ok(many.endMs - many.beginMs > 3 * (one.endMs - one.beginMs), "40 passes in place of 1");
  },
});

Deno.test("PassTimer writes nothing on a device without timestamp queries", () => {
  using timer = new PassTimer({ ...device, features: new Set() });
  assert.equal(timer.writes(), undefined);
  assert.equal(timer.stop(), undefined);
});
