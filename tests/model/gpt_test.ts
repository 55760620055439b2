import assert from "node:assert/strict";
import { createDecoder } from "../../generate/decoder.ts";
import { DEFAULT_SAMPLER } from "../../generate/request.ts";
import { tensorNamed } from "../../kernels/arena.ts";
import type { Device } from "../../kernels/device.ts";
import { dryDevice } from "../../kernels/dry_device.ts";
import { Program } from "../../kernels/program.ts";
import { createTensor, download, upload } from "../../kernels/tensor.ts";
import { createActivations } from "../../model/activations.ts";
import { forward } from "../../model/forward_backward.ts";
import { createGpt, type Gpt, headOf, masterOf } from "../../model/gpt.ts";
import { headLogits, headLossForward } from "../../model/head.ts";
import { parameterTable } from "../../model/parameters.ts";
import type { Precision } from "../../model/precision.ts";
import { parseSafetensors, toFloat32 } from "../../model/files/safetensors.ts";
import { parseHuggingFaceConfig } from "../../model/files/hugging_face.ts";
import { loadParameters } from "../../model/weights.ts";
import { createTrainStep } from "../../train/step.ts";
import { assertClose, device, REAL_TYPES } from "../kernels/harness.ts";

// results of tests/golden/make_golden.py, which computes with PyTorch in f64
const path = new URL("../golden/gpt.safetensors", import.meta.url);
const { tensors, metadata } = parseSafetensors(await Deno.readFile(path), "gpt.safetensors");
const config = JSON.parse(metadata.get("config")!);
const golden = (name: string) => toFloat32(tensors.get(name)!);
const integers = (name: string) => new Uint32Array(tensors.get(name)!.data.slice().buffer);
const { batchSize: B, sequenceLength: T, vocabularySize: V } = config;

/**
 * f32: two layers of sums of up to 131 terms. f16: about ten roundings of activations of order one to 11
 * bits. Gradients are relative to the largest of their tensor.
 */
const TOLERANCE: Record<Precision, { logits: number; loss: number; gradient: number }> = {
  f32: { logits: 2e-5, loss: 2e-6, gradient: 2e-5 },
  f16: { logits: 1e-2, loss: 2e-3, gradient: 2e-2 },
};

function goldenModel(on: Device, precision: Precision): Gpt {
  const gpt = createGpt(on, config, { precision });
  const entries = parameterTable(config).map(({ name }) =>
    [`transformer.${name}`, tensors.get(name)!] as const
  );
  loadParameters(gpt, new Map(entries), "golden");
  return gpt;
}

function goldenStep(
  gpt: Gpt,
  options: { labelSmoothing?: number; gradientAccumulation?: number } = {},
) {
  const { gradientAccumulation = 1, labelSmoothing = 0 } = options;
  return createTrainStep(gpt, {
    ...config,
    batchSize: B / gradientAccumulation,
    gradientAccumulation,
    dropout: 0,
    labelSmoothing,
    seed: 0,
  });
}

/** The golden batch split into micro-batches, in the form of `Batches`. */
function goldenBatches(count = 1) {
  return Array.from({ length: count }, (_, i) => {
    const rows = [i * B / count * T, (i + 1) * B / count * T] as const;
    const inputs = integers("tokens").slice(...rows), targets = integers("targets").slice(...rows);
    const order = Uint32Array.from(inputs.keys()).sort((a, b) => inputs[a]! - inputs[b]! || a - b);
    const counted = targets.filter((t) => t !== 0xffffffff).length;
    return { inputs, targets, order, counted };
  });
}

const PRECISIONS = REAL_TYPES as readonly Precision[];

/** The device and, if it is a CPU adapter, a second one that runs the kernels for GPUs. */
const DEVICES: readonly (readonly [how: string, Device])[] = [
  ["", device],
  ...(device.isCpu
    ? [[
      " with a GPU's kernels",
      { ...device, isCpu: false, subgroupSize: undefined, choices: new Map() },
    ]] as const
    : []),
];

for (
  const [precision, [how, on]] of PRECISIONS.flatMap((p) => DEVICES.map((d) => [p, d] as const))
) {
  Deno.test(`forward() computes PyTorch's logits in ${precision}${how}`, async () => {
    const logits = await goldenLogits(on, precision, { batchSize: B });
    assertClose(logits, golden("logits"), TOLERANCE[precision].logits, "logits");
  });

  Deno.test(`backward() computes PyTorch's loss and gradients in ${precision}${how}`, async () => {
    const step = goldenStep(goldenModel(on, precision));
    await step.submit(0, goldenBatches(), { learningRate: 0 });
    const [report] = await step.reports(1);
    const { loss, gradient } = TOLERANCE[precision];
    assertClose([report!.loss], golden("loss"), loss, "loss");
    assertClose([report!.gradientNorm], golden("step norms").subarray(0, 1), gradient, "norm");
    assert.equal(report!.skipped, false);
    const scale = report!.lossScale;
    for (const { name } of parameterTable(config)) {
      const [values] = await download(device, tensorNamed(step.gradients, name));
      const expected = golden(`gradient ${name}`);
      const largest = expected.reduce((max, v) => Math.max(max, Math.abs(v)), 0);
      assertClose(
        values!.map((v) => v / scale / largest),
        expected.map((v) => v / largest),
        gradient,
        `gradient of ${name}`,
      );
    }
  });
}

// bindings that hold 128 rows of the embedding, which therefore has two slices, as GPT-2's has on lavapipe
const small: Device = { ...device, maxBindingBytes: 128 * config.width * 4 };

Deno.test("forward() computes PyTorch's logits if the embedding needs two bindings", async () => {
  const logits = await goldenLogits(small, "f32", { batchSize: 1 });
  assertClose(logits, golden("logits").subarray(0, T * V), TOLERANCE.f32.logits, "logits");
});

Deno.test("backward() computes the same gradients if the embedding needs two bindings", async () => {
  const gradients = await Promise.all([device, small].map(async (on) => {
    const step = goldenStep(goldenModel(on, "f32"), { gradientAccumulation: 3 });
    await step.submit(0, goldenBatches(3), { learningRate: 0 });
    return (await download(on, step.gradients.flat))[0]!;
  }));
  assertClose(gradients[1]!, gradients[0]!, 1e-6, "gradients");
});

/** Logits of the first sequences of the golden batch. */
async function goldenLogits(
  on: Device,
  precision: Precision,
  { batchSize }: { batchSize: number },
): Promise<Float32Array> {
  const gpt = goldenModel(on, precision), rows = batchSize * T;
  const batch = { batchSize, sequenceLength: T };
  const activations = createActivations(on, config, { batch, precision, purpose: "evaluation" });
  const tokens = createTensor(on, "tokens", { shape: [rows], dtype: "u32" });
  upload(on, tokens, integers("tokens").subarray(0, rows));
  const logits = createTensor(on, "logits", { shape: [rows, V], dtype: precision });
  const program = new Program(on);
  forward(program, gpt, { tokens }, activations);
  headLogits(program, { x: activations.at("lnf"), weight: headOf(gpt) }, { logits });
  program.run();
  const [values] = await download(on, logits);
  return values as Float32Array;
}

for (const [precision, lossScale] of [["f32", 1], ["f16", 65536]] as const) {
  if (!PRECISIONS.includes(precision)) continue;
  Deno.test(`createTrainStep() starts with the initial loss scale in ${precision}`, async () => {
    const step = goldenStep(goldenModel(device, precision));
    assert.deepEqual(await step.state(), {
      lossScale,
      growthTracker: 0,
      optimizerSteps: 0,
      skippedSteps: 0,
      consecutiveSkips: 0,
    });
  });
}

Deno.test("ten training steps with clipping reproduce PyTorch's AdamW", async () => {
  const gpt = goldenModel(device, "f32");
  const step = goldenStep(gpt);
  for (let i = 0; i < 10; i++) {
    await step.submit(i, goldenBatches(), { learningRate: config.learningRate });
  }
  const reports = await step.reports(10);
  // each step starts from the parameters of the previous one, so errors of 1e-6 grow
  assertClose(reports.map((r) => r.loss), golden("step losses"), 1e-4, "losses");
  assertClose(reports.map((r) => r.gradientNorm), golden("step norms"), 1e-3, "norms");
  assert.ok(reports.every((r) => r.gradientNorm > config.gradientClip), "clipping must have acted");
  for (const { name } of parameterTable(config)) {
    let [values] = await download(device, masterOf(gpt, name));
    let expected = golden(`after ${name}`);
    if (name.endsWith("c_attn.bias")) {
      // a bias of the keys adds the same to all scores of a query, so its gradient is only rounding
      // errors, which AdamW scales to whole steps
      const isKey = (i: number) => Math.floor(i / config.width) === 1;
      values = values!.map((v, i) => isKey(i) ? 0 : v);
      expected = expected.map((v, i) => isKey(i) ? 0 : v);
    }
    assertClose(values!, expected, 2e-4, name);
  }
});

Deno.test("label smoothing computes PyTorch's loss", async () => {
  const step = goldenStep(goldenModel(device, "f32"), { labelSmoothing: config.labelSmoothing });
  await step.submit(0, goldenBatches(), { learningRate: 0 });
  const [report] = await step.reports(1);
  assertClose([report!.loss], golden("loss smoothed"), TOLERANCE.f32.loss, "loss");
});

Deno.test("gradient accumulation computes the gradients of the larger batch", async () => {
  // three micro-batches with different numbers of targets, for which a mean of means would differ
  const step = goldenStep(goldenModel(device, "f32"), { gradientAccumulation: 3 });
  await step.submit(0, goldenBatches(3), { learningRate: 0 });
  const [report] = await step.reports(1);
  assertClose([report!.loss], golden("loss"), TOLERANCE.f32.loss, "loss");
  for (const { name } of parameterTable(config)) {
    const [values] = await download(device, tensorNamed(step.gradients, name));
    assertClose(values!, golden(`gradient ${name}`), TOLERANCE.f32.gradient, name);
  }
});

Deno.test("thousands of micro-batches need as many launches and as much memory as two", async () => {
  const gpt = goldenModel(device, "f32");
  const step = (gradientAccumulation: number) =>
    createTrainStep(gpt, {
      ...config,
      batchSize: 1,
      gradientAccumulation,
      dropout: 0.1,
      labelSmoothing: 0,
      seed: 0,
    });
  const two = step(2), many = step(4096);
  assert.equal(many.program.length, two.program.length);
  assert.equal(many.bytes - two.bytes, 4 * (4096 - 2)); // one loss per micro-batch
  await assert.rejects(many.submit(0, goldenBatches(), { learningRate: 0 }), {
    name: "RangeError",
    message: "Cannot submit a step as it must have 4096 micro-batches: current number is 1",
  });
  for (const { destroy } of [two, many]) destroy();
});

Deno.test("a training step reads its micro-batches one at a time", async () => {
  const gpt = goldenModel(device, "f32"), micro = 3, batches = goldenBatches(micro);
  const step = goldenStep(gpt, { gradientAccumulation: micro });
  await step.submit(0, batches, { learningRate: 0 });
  const asked: number[] = [];
  const counted = batches.reduce((sum, batch) => sum + batch.counted, 0);
  const at = (i: number) => {
    asked.push(i);
    return batches[i];
  };
  await step.submit(1, { length: micro, at }, { learningRate: 0, counted });
  assert.deepEqual(asked, [0, 1, 2]);
  const [first, second] = await step.reports(2);
  assert.deepEqual(second, first);
});

Deno.test("a training step waits for the device once per quarter of a gigabyte that it uploads", async () => {
  const dry = dryDevice(device);
  let waits = 0;
  Object.assign(dry.gpu.queue, {
    onSubmittedWorkDone() {
      waits++;
      return Promise.resolve();
    },
  });
  const rows = 1024, M = rows * config.contextLength, gradientAccumulation = 400;
  const gpt = createGpt(dry, config, { precision: "f32" });
  const step = createTrainStep(gpt, {
    ...config,
    ...{ batchSize: rows, sequenceLength: config.contextLength, gradientAccumulation },
    ...{ dropout: 0, labelSmoothing: 0, seed: 0 },
  });
  const tokens = new Uint32Array(M);
  const batch = { inputs: tokens, targets: tokens, order: tokens, counted: M };
  const steps = Math.ceil(2.5 * 2 ** 28 / (12 * M * gradientAccumulation));
  for (let i = 0; i < steps; i++) {
    await step.submit(i, new Array(gradientAccumulation).fill(batch), { learningRate: 0 });
  }
  const sent = 12 * M * gradientAccumulation * steps;
  assert.equal(waits, Math.floor(Math.floor(sent / (12 * M)) / Math.ceil(2 ** 28 / (12 * M))));
  assert.ok(waits >= 2, `${waits}`);
});

for (const precision of PRECISIONS) {
  Deno.test(`a model memorises one batch to a loss below 0.01 in ${precision}`, async () => {
    const step = goldenStep(goldenModel(device, precision));
    for (let i = 0; i < 150; i++) await step.submit(i, goldenBatches(), { learningRate: 1e-2 });
    const reports = await step.reports(150);
    assert.ok(reports.at(-1)!.loss < 0.01, `loss is ${reports.at(-1)!.loss}`);
    const { optimizerSteps, skippedSteps } = await step.state();
    assert.equal(optimizerSteps + skippedSteps, 150);
  });
}

Deno.test("a training step with a non-finite gradient halves the loss scale and changes nothing else", async () => {
  const precision = REAL_TYPES.at(-1) as Precision;
  const gpt = goldenModel(device, precision);
  const step = goldenStep(gpt);
  await step.submit(0, goldenBatches(), { learningRate: 1e-2 });
  const states = step.optimizer.state.values().map(({ flat }) => flat).toArray();
  assert.equal(states.length, 2);
  const before = await download(device, gpt.parameters.flat, ...states);
  const lossScale = Math.fround(3e38);
  step.restore({ ...await step.state(), lossScale });
  await step.submit(1, goldenBatches(), { learningRate: 1e-2 });
  const after = await download(device, gpt.parameters.flat, ...states);
  assert.deepEqual(after, before);
  const [report] = await step.reports(1);
  assert.equal(report!.skipped, true);
  assert.deepEqual(await step.state(), {
    lossScale: precision === "f16" ? lossScale / 2 : lossScale, // without f16 there is no scaling
    growthTracker: 0,
    optimizerSteps: 1,
    skippedSteps: 1,
    consecutiveSkips: 1,
  });
});

for (const precision of PRECISIONS) {
  Deno.test(`the 2000th good step in a row doubles the loss scale if there is f16, in ${precision}`, async () => {
    const step = goldenStep(goldenModel(device, precision));
    const state = { ...await step.state(), lossScale: 1024, consecutiveSkips: 3 };
    step.restore({ ...state, growthTracker: 1998 });
    const scales: number[][] = [];
    for (let i = 0; i < 3; i++) {
      await step.submit(i, goldenBatches(), { learningRate: 0 });
      const { lossScale, growthTracker, consecutiveSkips } = await step.state();
      scales.push([lossScale, growthTracker, consecutiveSkips]);
    }
    const grown = precision === "f16" ? 2048 : 1024;
    assert.deepEqual(scales, [[1024, 1999, 0], [grown, 0, 0], [grown, 1, 0]]);
    assert.deepEqual((await step.reports(3)).map((report) => report.lossScale), [
      1024,
      1024,
      grown,
    ]);
  });
}

Deno.test("createDecoder() draws PyTorch's tokens at temperature 0", async () => {
  const expected = integers("greedy"), given = 3;
  const decoder = createDecoder(goldenModel(device, "f32"), {
    prompts: [[...expected.subarray(0, given)]],
    seeds: [0],
    maxNewTokens: expected.length - given,
    sampler: { ...DEFAULT_SAMPLER, temperature: 0 },
  });
  assert.deepEqual(await decoder.next(expected.length - given), [expected.subarray(given)]);
});

Deno.test("headLossForward() computes the same losses in one chunk and in many", async () => {
  const rows = 300, width = 8, vocabulary = 17;
  const random = (length: number, k: number) =>
    Float32Array.from({ length }, (_, i) => Math.sin(k * i));
  const make = (
    name: string,
    shape: number[],
    values?: ArrayLike<number>,
    dtype: "f32" | "u32" = "f32",
  ) => {
    const tensor = createTensor(device, name, { shape, dtype });
    if (values) upload(device, tensor, values);
    return tensor;
  };
  const inputs = {
    x: make("x", [rows, width], random(rows * width, 1.3)),
    weight: make("weight", [vocabulary, width], random(vocabulary * width, 2.7)),
    targets: make("targets", [rows], Uint32Array.from({ length: rows }, (_, i) => i % 17), "u32"),
  };
  const losses = [];
  for (const chunkRows of [300, 128]) {
    const outputs = {
      logits: make("logits", [chunkRows, 20]),
      losses: make("losses", [rows]),
    };
    const program = new Program(device);
    headLossForward(program, inputs, outputs);
    program.run();
    losses.push((await download(device, outputs.losses))[0]);
  }
  assert.deepEqual(losses[0], losses[1]);
});

Deno.test("createTrainStep() accepts GPT-2's vocabulary, which is larger than a loop's bound", () => {
  const wide = { vocabularySize: 50257, contextLength: 4, width: 4, layers: 1, heads: 1 };
  const gpt = createGpt(device, wide, { precision: "f32" });
  const step = createTrainStep(gpt, {
    batchSize: 1,
    sequenceLength: 4,
    gradientAccumulation: 1,
    dropout: 0,
    labelSmoothing: 0,
    gradientClip: 1,
    weightDecay: 0,
    beta1: 0.9,
    beta2: 0.95,
    seed: 0,
  });
  // including the head's products and the loss, none of which was refused for the length of its loops
  assert.ok(step.program.labels.some((label) => label.includes("cross_entropy")));
  step.destroy();
  gpt.destroy();
});

Deno.test("createGpt() and parseHuggingFaceConfig() throw on a head size that the kernels do not support", () => {
  const sizes = { vocabularySize: 9, contextLength: 4, layers: 1 };
  const values = "current values are width 520, heads 2";
  assert.throws(() => createGpt(device, { ...sizes, width: 520, heads: 2 }, { precision: "f32" }), {
    name: "UserError",
    message:
      `Cannot build a model as width must be a multiple of 4 · heads, and at most 256 · heads: ${values}`,
  });
  const fields = { model_type: "gpt2", vocab_size: 9, n_positions: 4, n_layer: 1 };
  const json = JSON.stringify({ ...fields, n_embd: 520, n_head: 2 });
  assert.throws(() => parseHuggingFaceConfig(json, "x/config.json"), {
    name: "UserError",
    message:
      `Cannot load x/config.json as width must be a multiple of 4 · heads, and at most 256 · heads: ${values}`,
  });
  for (const width of [512, 8]) {
    createGpt(dryDevice(device), { ...sizes, width, heads: 2 }, { precision: "f32" });
  }
});
