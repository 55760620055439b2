import assert from "node:assert/strict";
import { dryDevice } from "../../kernels/dry_device.ts";
import { createGpt } from "../../model/gpt.ts";
import { createTrainStep } from "../../train/step.ts";
import { device } from "../kernels/harness.ts";

Deno.test("createTrainStep() names an option that is out of its range, its requirement and its value", () => {
  const config = { vocabularySize: 16, contextLength: 8, width: 8, layers: 1, heads: 1 };
  const gpt = createGpt(dryDevice(device), config, { precision: "f32" });
  const sizes = { batchSize: 2, sequenceLength: 8 };
  const integer = ["batchSize", "sequenceLength", "gradientAccumulation", "seed"];
  const real = ["dropout", "labelSmoothing", "gradientClip", "weightDecay", "beta1", "beta2"];
  for (const name of [...integer, ...real]) {
    const kind = integer.includes(name) ? "an integer" : "a number";
    for (const value of [-1, NaN, Infinity, ...(integer.includes(name) ? [1.5] : [])]) {
      const expected = new RegExp(
        `^Cannot train as ${name} must be ${kind} from .*: current value is `,
      );
      assert.throws(() => createTrainStep(gpt, { ...sizes, [name]: value }), {
        name: "OptionError",
        message: expected,
      });
    }
  }
  for (const name of ["batchSize", "sequenceLength", "gradientAccumulation"]) {
    assert.throws(() => createTrainStep(gpt, { ...sizes, [name]: 0 }), /from 1 to .* value is 0$/);
  }
  assert.doesNotThrow(() => createTrainStep(gpt, { ...sizes, gradientClip: 0, seed: 0 }).destroy());
});
