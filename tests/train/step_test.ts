import assert from "node:assert/strict";
import { sampleBatches } from "../../bench/text.ts";
import { batchOf } from "../../data/tokens/batch.ts";
import { type Device, openDevice } from "../../kernels/device.ts";
import { dryDevice } from "../../kernels/dry_device.ts";
import { hasMatrices } from "../../kernels/matrices.ts";
import { Program } from "../../kernels/program.ts";
import { createTensor, tensorBytes } from "../../kernels/tensor.ts";
import { createGpt } from "../../model/gpt.ts";
import { initializeParameters } from "../../model/weights.ts";
import { createTrainStep } from "../../train/step.ts";
import { DeviceState, type StepReport } from "../../train/step_state.ts";
import { withLiveBuffers } from "../bench/live_buffers.ts";
import { assertClose, device } from "../kernels/harness.ts";

Deno.test("createTrainStep() makes one scratch tensor per slot, of the size that the slot comes to need", () => {
  const on = dryDevice({ ...device, isCpu: false });
  const config = { vocabularySize: 64, contextLength: 80, width: 64, layers: 2, heads: 2 };
  const gpt = createGpt(on, config, { precision: "f32" });
  const { scratch } = Program.prototype, lengths = new Map<number, number[]>(); // by slot
  Program.prototype.scratch = function (shape, options = {}) {
    const { slot = 0, dtype = "f32" } = options, length = tensorBytes({ shape, dtype }) / 4;
    lengths.set(slot, [...lengths.get(slot) ?? [], length]);
    return scratch.call(this, shape, options);
  };
  try {
    const step = createTrainStep(gpt, { batchSize: 2, sequenceLength: 80, optimizer: "muon" });
    const largest = [...lengths.values()].map((each) => Math.max(...each));
    assert.ok([...lengths.values()].some((each) => each[0]! < Math.max(...each)));
    assert.equal(step.program.scratchBytes, 4 * largest.reduce((sum, n) => sum + n, 0));
  } finally {
    Program.prototype.scratch = scratch;
  }
});

Deno.test("createTrainStep() leaves nothing on a device that cannot bind a tensor of the step", async () => {
  const config = { vocabularySize: 64, contextLength: 8, width: 8, layers: 1, heads: 1 };
  const on = { ...device, maxBindingBytes: 2 ** 14 }; // q, k and v of 64 rows have three times as many
  using gpt = createGpt(on, config, { precision: "f32" });
  const { left } = await withLiveBuffers(() => {
    assert.throws(() => createTrainStep(gpt, { batchSize: 64, sequenceLength: 8 }), {
      name: "LimitError",
    });
    return Promise.resolve();
  });
  assert.deepEqual(left, []);
});

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

Deno.test("createTrainStep() with documents apart takes a batch without positions as one document per row", async () => {
  const config = { vocabularySize: 19, contextLength: 8, width: 16, layers: 2, heads: 2 };
  const gpt = createGpt(device, { ...config, positions: "rotary" }, { precision: "f32" });
  initializeParameters(gpt, { seed: 3 });
  const rows = [[1, 2, 3, 4, 5, 6, 7, 8, 9], [7, 5, 3, 1, 18, 16, 14]];
  const batch = batchOf(rows, { contextLength: 8, padding: 0 });
  const sizes = { batchSize: 2, sequenceLength: 8 };
  const norms = [];
  for (const documents of ["joined", "apart"] as const) {
    using step = createTrainStep(gpt, { ...sizes, documents });
    if (documents === "apart") { // which must leave no trace
      const positions = new Uint32Array(16);
      await step.submit(0, [{ ...batch, positions }], { learningRate: 0 });
    }
    await step.submit(1, [batch], { learningRate: 0 });
    const [{ loss, gradientNorm }] = await step.reports(1) as [StepReport];
    norms.push([loss, gradientNorm]);
  }
  assert.deepEqual(norms[1], norms[0]);
  gpt.destroy();
});

Deno.test("TrainStep.submit() refuses positions if documents are joined", async () => {
  const config = { vocabularySize: 16, contextLength: 4, width: 8, layers: 1, heads: 1 };
  const gpt = createGpt(dryDevice(device), config, { precision: "f32" });
  const step = createTrainStep(gpt, { batchSize: 1, sequenceLength: 4 });
  const batch = batchOf([[1, 2, 3]], { contextLength: 4, padding: 0 });
  const apart = { ...batch, positions: Uint32Array.of(0, 0, 1, 2) };
  await assert.rejects(step.submit(0, [apart], { learningRate: 0 }), {
    name: "RangeError",
    message: "Cannot submit a batch with positions as the step must keep documents apart: " +
      "current value is joined",
  });
});

Deno.test("DeviceState.reports() refuses more reports than the device has", async () => {
  const gradients = createTensor(device, "gradients", { shape: [4], dtype: "f32" });
  const state = new DeviceState(device, { gradients, precision: "f32" });
  const refusedAt = (count: number, most: number) =>
    assert.rejects(() => state.reports(count), {
      name: "RangeError",
      message: "Cannot read the reports on the last steps as the device has at most " +
        `${most} of them: current number is ${count}`,
    });
  await refusedAt(1, 0);
  for (let step = 0; step < 300; step++) state.noteSubmitted();
  assert.equal((await state.reports(256)).length, 256);
  await refusedAt(257, 256);
  for (const { buffer } of [gradients, ...state.tensors]) buffer.destroy();
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
  name: "createTrainStep() gives the native losses and gradients on tensor cores, in 24 layers",
  ignore: !hasMatrices(device),
  fn: async () => {
    using native = await openDevice();
    const expected = await tenSteps(native);
    const { losses, norms } = await tenSteps({ ...device, choices: new Map() });
    // with emulated matrices the losses of six steps differed by 1e-5, the norms by 1e-4
    assertClose(losses, expected.losses, 1e-3, "loss");
    assertClose(norms, expected.norms, 1e-2, "norm");
  },
});
