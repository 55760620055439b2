import assert from "node:assert/strict";
import { meterMemory } from "../../bench/memory.ts";
import { maxIterationsOf, Program, type Tunable } from "../../kernels/program.ts";
import type { Tensor } from "../../kernels/tensor.ts";
import { recordFastest, tune, Tuner, untuned } from "../../kernels/tune.ts";
import { device, poisoned } from "./harness.ts";

const own = () => ({ ...device, choices: new Map<string, string>() });

const SOURCE = `
const TURNS: u32 = 1;
@group(0) @binding(0) var<storage, read_write> y: array<u32>;
@compute @workgroup_size(1)
fn main() {
  for (var i = 0u; i < TURNS; i++) { y[i & 3] = y[(i + 1) & 3] * 3 + i; }
}`;

/** Work whose variants run a loop as many times as their names say. */
function counting(key: string, variants: string[], y: Tensor): Tunable {
  return {
    key,
    variants,
    preferred: variants[0]!,
    record: (program, variant) =>
      program.dispatch({
        shader: { [variant]: SOURCE },
        constants: { TURNS: Number(variant) },
        tensors: { y },
        workgroups: [16],
        iterations: Number(variant),
      }),
  };
}

const labelsOf = (on: typeof device, tunable: Tunable) => {
  const program = new Program(on);
  recordFastest(program, tunable);
  assert.equal(program.tunables.get(tunable.key), tunable);
  return program.labels;
};

Deno.test({
  name: "tune() chooses the fastest of many variants, which recordFastest() then records",
  ignore: !device.features.has("timestamp-query"),
  async fn() {
    const on = own(), y = poisoned("y", { shape: [4], dtype: "u32" });
    const tooMany = `${maxIterationsOf({ isCpu: true }) + 1}`; // cannot be recorded on a CPU adapter
    const work = ["30000", "29000", tooMany, "100", "28000", "27000"];
    const [slow, other] = [counting("slow first", work, y), counting("other", ["3", "30000"], y)];
    assert.deepEqual(labelsOf(on, slow), ["30000"]);
    const progress: number[][] = [];
    await tune(on, [slow, other], (done, of) => progress.push([done, of]));
    assert.deepEqual(progress, [[0, 2], [1, 2], [2, 2]]);
    assert.deepEqual(on.choices, new Map([["slow first", "100"], ["other", "3"]]));
    assert.deepEqual(labelsOf(on, slow), ["100"]);
    y.buffer.destroy();
  },
});

Deno.test("a tuner's variants of several sizes share a scratch tensor of the largest size", () => {
  const memory = meterMemory(device), variants = ["100", "300", "200"];
  const record = (program: Program, variant: string) => void program.scratch([Number(variant)]);
  const work: Tunable = { key: "scratch", variants, preferred: "100", record };
  using tuner = new Tuner(device, [work]);
  tuner.add(work);
  memory.stop();
  assert.equal(memory.peakBytes, 4 * 300);
});

Deno.test("recordFastest() records the preferred variant if the choice names none, and the work stays untuned", () => {
  const on = own(), y = poisoned("y", { shape: [4], dtype: "u32" });
  const tunable = counting("work", ["1", "2"], y);
  on.choices.set("work", "3");
  assert.deepEqual(labelsOf(on, tunable), ["1"]);
  const features = new Set(["timestamp-query"]);
  assert.deepEqual(untuned({ ...on, features }, [tunable]), [tunable]);
  on.choices.set("work", "2");
  assert.deepEqual(labelsOf(on, tunable), ["2"]);
  assert.deepEqual(untuned({ ...on, features }, [tunable]), []);
  y.buffer.destroy();
});

Deno.test("untuned() leaves out work with one variant, and all work if there are no timestamps", () => {
  const on = own(), y = poisoned("y", { shape: [4], dtype: "u32" });
  const [one, two] = [counting("one", ["1"], y), counting("two", ["1", "2"], y)];
  const features = new Set(["timestamp-query"]);
  assert.deepEqual(untuned({ ...on, features }, [one, two]), [two]);
  assert.deepEqual(untuned({ ...on, features: new Set() }, [one, two]), []);
  y.buffer.destroy();
});
