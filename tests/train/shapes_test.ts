import assert from "node:assert/strict";
import { join } from "node:path";
import { meterMemory } from "../../bench/memory.ts";
import { batchOf } from "../../data/tokens/batch.ts";
import { createDecoder } from "../../generate/decoder.ts";
import { DEFAULT_SAMPLER } from "../../generate/request.ts";
import { Program } from "../../kernels/program.ts";
import { download, size, type Tensor, tensorBytes } from "../../kernels/tensor.ts";
import type { GptConfig } from "../../model/config.ts";
import { createGpt } from "../../model/gpt.ts";
import { initializeParameters } from "../../model/weights.ts";
import { recordEvaluation } from "../../train/evaluate.ts";
import { OuterStep } from "../../train/diloco.ts";
import { oneRank } from "../../distributed/transport.ts";
import { createHistograms } from "../../train/histograms.ts";
import type { RecomputeMode } from "../../model/activations.ts";
import type { TrainingSpec } from "../../train/limits.ts";
import { type LaunchRange, lifetimesIn, shapesOf, trainingShapes } from "../../train/shapes.ts";
import { drawShapes, shapesTable } from "../../train/shapes_report.ts";
import { createTrainStep, type TrainStep } from "../../train/step.ts";
import { SAMPLE_TOKENS } from "../../train/prompts.ts";
import { train } from "../../train/train.ts";
import { directory } from "../checkpoints.ts";
import { leftOpen } from "../left_open.ts";
import { device, REAL_TYPES } from "../kernels/harness.ts";

const CONFIG: GptConfig = { vocabularySize: 67, contextLength: 12, width: 24, layers: 3, heads: 2 };
const lora = { rank: 3, alpha: 6, targets: ["c_attn", "c_proj"] };

/** A training that does not leave open what it recomputes. */
type Spec = TrainingSpec & { recompute: RecomputeMode };

/** A training, small and of odd sizes. */
function specOf(options: Partial<Spec> = {}): Spec {
  return {
    ...{ config: CONFIG, precision: "f32", batchSize: 3, contextLength: 12 },
    ...{ gradientAccumulation: 1, dropout: 0, freeze: undefined, beta1: 0.9, beta2: 0.98 },
    ...{ optimizer: "adamw", isResumed: false, histogramEvery: 0, recompute: "none" },
    syncEvery: 1,
    documents: "joined",
    ...options,
  };
}

const SPECS: Record<string, Partial<Spec>> = {
  "the defaults": {},
  "several batches and dropout": { gradientAccumulation: 2, dropout: 0.1 },
  "f16 and frozen parts": { precision: REAL_TYPES.at(-1) as "f16", freeze: "embeddings,0" },
  "histograms": { histogramEvery: 5 },
  "exchanges of weights by DiLoCo": { syncEvery: 50 },
  "Muon": { optimizer: "muon", precision: REAL_TYPES.at(-1) as "f16" },
  "adapters": { config: { ...CONFIG, lora } },
  "recomputed MLPs": { recompute: "mlp", freeze: "embeddings,0" },
  "recomputed blocks and dropout": { recompute: "block", dropout: 0.1, gradientAccumulation: 2 },
  "a separate head and a wide MLP": { config: { ...CONFIG, ownHead: true, innerWidth: 52 } },
};

for (const [name, options] of Object.entries(SPECS)) {
  Deno.test(`shapesOf() lists what the device allocates with ${name}`, () => {
    const spec = specOf(options), { config, batchSize, contextLength: sequenceLength } = spec;
    const { tensors, memory } = shapesOf(device, spec);
    const meter = meterMemory(device);
    using resources = new DisposableStack();
    resources.defer(meter.stop);
    const how = { precision: spec.precision, freeze: spec.freeze ?? "" };
    const gpt = resources.use(createGpt(device, config, how));
    const step = resources.use(createTrainStep(gpt, { ...spec, sequenceLength }));
    if (spec.syncEvery > 1) resources.use(new OuterStep(oneRank, { gpt, trainStep: step }));
    if (spec.histogramEvery > 0) resources.use(createHistograms(gpt, step));
    resources.adopt(recordEvaluation(gpt, { batchSize, sequenceLength }), (one) => one.destroy());
    resources.use(createDecoder(gpt, {
      ...{ prompts: [[0, 0]], seeds: [0], maxNewTokens: SAMPLE_TOKENS, sampler: DEFAULT_SAMPLER },
    }));
    assert.equal(tensors.reduce((sum, { bytes }) => sum + bytes, 0), meter.peakBytes);
    assert.equal(memory.total, meter.peakBytes);
    for (const [role, total] of Object.entries(memory)) {
      const rows = tensors.filter((tensor) => role === "total" || tensor.role === role);
      assert.equal(rows.reduce((sum, { bytes }) => sum + bytes, 0), total, role);
    }
    for (const tensor of tensors) {
      const element = tensor.dtype === "f16" ? 2 : 4;
      assert.equal(tensor.bytes, Math.ceil(size(tensor.shape) * element / 4) * 4, tensor.name);
    }
    const shape = (name: string) => tensors.find((tensor) => tensor.name === name)?.shape;
    assert.deepEqual(shape("parameters wte.weight"), [67, 24]);
    assert.deepEqual(shape(spec.recompute === "block" ? "qkv" : "qkv 2"), [36, 72]);
  });
}

/** Runs two steps launch by launch; before and after each launch, tensors that it does not need are overwritten. */
async function trainedWith(spec: Spec, { isPoisoned }: { isPoisoned: boolean }) {
  const { config, precision, freeze = "", contextLength: T, gradientAccumulation } = spec;
  const gpt = createGpt(device, config, { precision, freeze });
  initializeParameters(gpt, { seed: 5 });
  using step = createTrainStep(gpt, { ...spec, sequenceLength: T });
  const tensors = [...step.activations.tensors, ...step.gradients.tensors.values()];
  const neededIn = lifetimesIn(step), { program } = step;
  const ranges = tensors.map((tensor) => [tensor, neededIn(tensor)] as const);
  let poisoned = 0;
  program.run = ({ from = 0, to = program.length } = {}) => {
    for (let launch = from; launch < to; launch++) {
      const isNeeded = ({ from, to }: LaunchRange) => from <= launch && launch <= to;
      const unneeded = ranges.filter(([, needed]) => isPoisoned && !needed.some(isNeeded));
      for (const [tensor] of unneeded) poison(tensor);
      Program.prototype.run.call(program, { from: launch, to: launch + 1 });
      for (const [tensor] of unneeded) poison(tensor);
      poisoned += unneeded.length;
    }
  };
  const rows = Array.from(
    { length: spec.batchSize },
    (_, b) => Array.from({ length: T + 1 }, (_, t) => (5 * b + 3 * t * t) % config.vocabularySize),
  );
  const batch = batchOf(rows, { contextLength: T, padding: 0 });
  for (let i = 0; i < 2; i++) {
    const batches = Array.from({ length: gradientAccumulation }, () => batch);
    await step.submit(i, batches, { learningRate: 1e-2 });
  }
  const [values] = await download(device, gpt.parameters.flat);
  const reports = await step.reports(2);
  gpt.destroy();
  return { values, reports, poisoned };
}

/** Fills a tensor with NaN. */
function poison(tensor: Tensor): void {
  const bytes = new Uint8Array(tensorBytes(tensor)).fill(0xff);
  device.gpu.queue.writeBuffer(tensor.buffer, tensor.offsetBytes, bytes);
}

for (const name of Object.keys(SPECS).filter((name) => name !== "histograms")) {
  Deno.test(`a step does not depend on values of tensors outside their lifetimes with ${name}`, async () => {
    const spec = specOf(SPECS[name]);
    const expected = await trainedWith(spec, { isPoisoned: false });
    const { values, reports, poisoned } = await trainedWith(spec, { isPoisoned: true });
    assert.ok(poisoned > 1000, `${poisoned}`);
    assert.deepEqual(reports, expected.reports);
    assert.deepEqual(values, expected.values);
    assert.ok(Number.isFinite(reports[1]!.loss) && reports[1]!.loss < reports[0]!.loss);
  });
}

Deno.test("lifetimesIn() tells tensors apart that lie side by side in a buffer", () => {
  const buffer = {} as GPUBuffer;
  const [a, b, c] = [0, 16, 32].map((offsetBytes): Tensor => (
    { name: "x", shape: [4], dtype: "f32", buffer, offsetBytes }
  ));
  const launches = [a, c, b, a].map((tensor) => ({
    label: "kernel",
    tensors: [{ name: "x", tensor: tensor!, isWritten: true }],
  }));
  const program = { launches, length: launches.length } as unknown as Program;
  const step = { program, parts: { first: 0, others: 4, update: 4 } } as TrainStep;
  const neededIn = lifetimesIn(step);
  const found = [a, b, c].map((tensor) => neededIn(tensor!));
  assert.deepEqual(found, [[{ from: 0, to: 3 }], [{ from: 2, to: 2 }], [{ from: 1, to: 1 }]]);
});

Deno.test("shapesOf() gives what lasts, what is uploaded, and what each micro-batch needs anew", () => {
  const { tensors, parts, launches } = shapesOf(device, specOf({ gradientAccumulation: 2 }));
  const [first, further, update] = parts;
  assert.deepEqual(parts.map(({ name }) => name), ["micro-batch", "further micro-batch", "update"]);
  assert.deepEqual([first!.from, update!.to], [0, launches.length - 1]);
  assert.deepEqual([further!.from, update!.from], [first!.to + 1, further!.to + 1]);
  const needed = (name: string) => tensors.find((tensor) => tensor.name === name)!.needed;
  for (
    const name of ["parameters wte.weight", "m wte.weight", "lossScale", "counters", "reports"]
  ) {
    assert.equal(needed(name), "run");
  }
  const inMicroBatches = needed("targets") as { from: number; to: number }[];
  assert.deepEqual(inMicroBatches.map(({ from }) => from), [0, further!.from]);
  const [gradient, ...none] = needed("gradients wte.weight") as { from: number; to: number }[];
  assert.deepEqual(none, []);
  assert.ok(gradient!.from > 0 && gradient!.from < first!.to && gradient!.to > update!.from);
  const counted = shapesOf(device, specOf({ histogramEvery: 5 }));
  const counts = counted.tensors.filter(({ needed }) => needed === "histograms");
  assert.ok(counts.length > 1 && counts.every(({ role }) => role === "other"));
  const wte = counted.tensors.find(({ name }) => name === "gradients wte.weight")!.needed;
  assert.equal((wte as readonly LaunchRange[])[0]!.to, counted.launches.length - 1);
  const frozen = shapesOf(device, specOf({ freeze: "embeddings" })).tensors;
  // the gradient of the embedding reads it
  assert.deepEqual(frozen.find(({ name }) => name === "order")!.needed, []);
});

const text = join(directory, "shapes.txt");
const words = Array.from({ length: 30 }, (_, i) => `One cat and ${i} dogs met in the park.`);
Deno.writeTextFileSync(text, words.join("<|endoftext|>"));

Deno.test("trainingShapes() has the memory that train() with dryRun estimates, of a new run and of a checkpoint", async () => {
  const options = {
    ...{ preset: "nano", contextLength: 8, batchSize: 2, data: [text], precision: "f32" } as const,
    ...{ gradientAccumulation: 2, device },
  };
  const out = join(directory, "shaped"), interrupted = new AbortController();
  const estimated = async () => {
    const { signal } = interrupted;
    for await (const event of train({ ...options, out, steps: 1, dryRun: true, signal })) {
      if (event.kind === "start") interrupted.abort(); // no step is timed
      if (event.kind === "estimate") return event.memory;
    }
  };
  const notices: string[] = [];
  const onEvent = (event: { kind: string }) => notices.push(event.kind);
  const shapes = await trainingShapes({ ...options, onEvent });
  assert.deepEqual(shapes.memory, await estimated());
  assert.ok(notices.includes("notice"));
  await Array.fromAsync(train({ ...options, out, steps: 1, sampleEvery: 0 }));
  Deno.removeSync(text);
  assert.deepEqual(await trainingShapes({ run: out, device }), shapes);
  await assert.rejects(() => trainingShapes({ run: join(directory, "absent"), device }), {
    name: "UserError",
    message: /as it must have a checkpoint: it has none$/,
  });
});

Deno.test("trainingShapes() ends what is under way if its listener throws", async () => {
  const long = join(directory, "long.txt"), expected = new Error("a listener's mistake");
  Deno.writeTextFileSync(long, "One day a fox met a hen.\n".repeat(200_000));
  const onEvent = ({ kind }: { kind: string }) => {
    if (kind === "preparing") throw expected;
  };
  await assert.rejects(trainingShapes({ preset: "nano", data: [long], device, onEvent }), expected);
  assert.deepEqual(leftOpen(directory), []);
});

Deno.test("shapesTable() has a line per tensor, and fewer columns in a narrow terminal", () => {
  const shapes = shapesOf(device, specOf({ freeze: "embeddings" }));
  const table = shapesTable(shapes), [summary, step, tensors] = table.split("\n\n");
  assert.match(summary!, /^memory +\S+ [kM]B on .*\n {2}parameters +[^]*\n {2}samples +\S+ kB$/);
  assert.match(step!, /^launches of a step: micro-batch 0–\d+, update \d+–\d+$/);
  const lines = tensors!.trimEnd().split("\n");
  assert.equal(lines.length, 1 + shapes.tensors.length);
  assert.match(lines[0]!, /^role +tensor +shape +type +size +needed$/);
  assert.match(table, /^parameters +wte\.weight +67 × 24 +f32 +6\.43 kB +run$/m);
  assert.match(table, /^activations +qkv 2 +36 × 72 +f32 +10\.4 kB +\d+–\d+$/m);
  assert.match(table, /^other +order .* never$/m);
  for (const width of [60, 80]) {
    const longest = Math.max(
      ...shapesTable(shapes, width).split("\n").slice(12).map((line) => line.length),
    );
    assert.ok(longest <= width, `${longest} of ${width}`);
  }
});

Deno.test("drawShapes() draws a bar per lifetime, and names wide lanes", async () => {
  const shapes = shapesOf(device, specOf({ gradientAccumulation: 2 }));
  const svg = await drawShapes(shapes, { title: "a <step>" });
  const drawn = shapes.tensors.filter(({ role }) => role !== "evaluation" && role !== "samples");
  const bars = drawn.reduce(
    (sum, { needed }) => sum + (typeof needed === "string" ? 1 : needed.length),
    0,
  );
  assert.equal(svg.match(/<rect /g)!.length, drawn.length + bars);
  assert.match(svg, />hidden 0</);
  assert.match(svg, /a &lt;step&gt;/);
});
