import assert from "node:assert/strict";
import { sampleBatches } from "../../bench/text.ts";
import type { Device } from "../../kernels/device.ts";
import { dryDevice } from "../../kernels/dry_device.ts";
import { hasMatrices } from "../../kernels/matrices.ts";
import { Pipelines } from "../../kernels/shader.ts";
import { createGpt } from "../../model/gpt.ts";
import { initializeParameters } from "../../model/weights.ts";
import { createTrainStep } from "../../train/step.ts";
import { assertClose, device } from "../kernels/harness.ts";

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

/** Losses and norms of the gradients of ten steps of a deep model. */
async function tenSteps(on: Device): Promise<{ losses: number[]; norms: number[] }> {
  const config = { vocabularySize: 1048, contextLength: 64, width: 64, layers: 24, heads: 2 };
  const sizes = { batchSize: 4, sequenceLength: config.contextLength };
  const gpt = createGpt(on, config, { precision: "f16" });
  initializeParameters(gpt, { seed: 0 });
  using step = createTrainStep(gpt, sizes);
  const batches = sampleBatches({ ...sizes, vocabularySize: config.vocabularySize });
  for (let i = 0; i < 10; i++) await step.submit(i, [batches.at(i)], { learningRate: 3e-4 });
  const reports = await step.reports(10);
  gpt.destroy();
  return {
    losses: reports.map(({ loss }) => loss),
    norms: reports.map(({ gradientNorm }) => gradientNorm),
  };
}

Deno.test({
  name: "createTrainStep() gives the losses and gradients of tiles on tensor cores in 24 layers",
  ignore: !hasMatrices(device),
  fn: async () => {
    const without = { matrixShapes: [], choices: new Map(), pipelines: new Pipelines() };
    const expected = await tenSteps({ ...device, ...without });
    const { losses, norms } = await tenSteps({ ...device, choices: new Map() });
    // with emulated matrices the losses of six steps differed by 1e-5, the norms by 1e-4
    assertClose(losses, expected.losses, 1e-3, "loss");
    assertClose(norms, expected.norms, 1e-2, "norm");
  },
});
