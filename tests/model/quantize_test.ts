import assert from "node:assert/strict";
import { sampleStories } from "../../data/text/stories.ts";
import { batchOf } from "../../data/tokens/batch.ts";
import { createDecoder } from "../../generate/decoder.ts";
import { DEFAULT_SAMPLER } from "../../generate/request.ts";
import type { Device } from "../../kernels/device.ts";
import { dryDevice } from "../../kernels/dry_device.ts";
import { Program } from "../../kernels/program.ts";
import { createTensor, download, size, upload } from "../../kernels/tensor.ts";
import { createActivations } from "../../model/activations.ts";
import { type GptConfig, PRESETS } from "../../model/config.ts";
import { forward } from "../../model/forward_backward.ts";
import { createGpt, type Gpt, headMatrixOf } from "../../model/gpt.ts";
import { headLossForward } from "../../model/head.ts";
import { countParameters } from "../../model/parameters.ts";
import type { Precision } from "../../model/precision.ts";
import { initializeParameters, saveParameters, setElements } from "../../model/weights.ts";
import { createTrainStep } from "../../train/step.ts";
import { assertClose, device, randomValues, REAL_TYPES, testRandom } from "../kernels/harness.ts";

const BASE: GptConfig = { vocabularySize: 70, contextLength: 12, width: 40, layers: 2, heads: 2 };

// another order of sums, as in the decoder's tests; f16 activations are rounded some ten times on the way
const TOLERANCE = { f32: 2e-5, f16: 2e-2 };

/** Random parameters by name. */
function randomParameters({ table }: Pick<Gpt, "table">): Map<string, Float32Array> {
  const random = testRandom(3);
  return new Map(
    table.map(({ name, shape }) => [name, randomValues(random, size(shape), { scale: 0.4 })]),
  );
}

/** Fills a model with parameters, and returns them as int8 holds them. */
async function roundedParameters(gpt: Gpt, given: ReadonlyMap<string, Float32Array>) {
  for (const [name, values] of given) setElements(gpt, name, 0, values);
  const rounded = new Map(given);
  for (const [name, { values, scales }] of gpt.quantized!) {
    const [outputs, inputs] = values.shape as [number, number];
    const [int8, factors] = await download(device, values, scales);
    const isTable = name === "wte.weight" || name === "lm_head.weight";
    const whole = new Float32Array(outputs * inputs);
    int8!.forEach((value, at) => {
      const n = Math.floor(at / inputs), i = at % inputs;
      whole[isTable ? at : i * outputs + n] = value * factors![n]!;
    });
    rounded.set(name, whole);
  }
  return rounded;
}

/** Logits after a few texts. */
async function logitsOf(gpt: Gpt, texts: readonly (readonly number[])[]): Promise<Float32Array> {
  const decoder = createDecoder(gpt, {
    prompts: texts,
    seeds: texts.map((_, b) => b),
    maxNewTokens: 1,
    sampler: DEFAULT_SAMPLER,
  });
  await decoder.next(1);
  const [logits] = await download(device, decoder.logits);
  decoder.destroy();
  return (logits as Float32Array).filter((_, i) => i % decoder.logits.shape[1]! < 70);
}

const LLAMA: Partial<GptConfig> = {
  ...{ family: "llama", heads: 4, keyHeads: 2, headSize: 16, qkNorm: true, ownHead: true },
};
// launches of a GPU for one text, and those of a CPU for several
const CASES = [
  { what: "a GPT-2", change: {}, isCpu: false, precision: "f32", texts: [[3, 1]] },
  { what: "a Llama", change: LLAMA, isCpu: false, precision: "f32", texts: [[3, 1]] },
  {
    ...{ what: "a Llama", change: LLAMA, isCpu: true, precision: REAL_TYPES.at(-1)! as Precision },
    texts: [[3, 1, 4, 1, 5], [2, 7], [9, 9, 9]],
  },
] as const;
for (const { what, change, isCpu, precision, texts } of CASES) {
  Deno.test(`createGpt() with quantize computes of ${what} what its rounded parameters give, ${texts.length} texts in ${precision}`, async () => {
    const config = { ...BASE, ...change };
    const on: Device = { ...device, isCpu, subgroupSize: undefined, choices: new Map() };
    using int8 = createGpt(on, config, { precision, quantize: "int8" });
    using whole = createGpt(on, config, { precision });
    const given = randomParameters(int8), rounded = await roundedParameters(int8, given);
    for (const [name, values] of rounded) {
      setElements(whole, name, 0, values);
      const largest = Math.max(...given.get(name)!.map(Math.abs));
      assertClose(values, given.get(name)!, largest / 127, name); // a step, half of which is lost at most
    }
    const [actual, expected] = [await logitsOf(int8, texts), await logitsOf(whole, texts)];
    assertClose(actual, expected, TOLERANCE[precision], "logits");
  });
}

Deno.test("createGpt() with quantize needs at most 0.55 of the bytes that f16 needs for its weights", () => {
  const config = { ...PRESETS.gpt2, vocabularySize: 50257 };
  const { bytes } = createGpt(dryDevice(device), config, { precision: "f32", quantize: "int8" });
  const share = bytes / (2 * countParameters(config));
  assert.ok(share > 0.5 && share <= 0.55, `${share}`);
});

Deno.test("createGpt() with quantize keeps a model that has diverged visible", async () => {
  using gpt = createGpt(device, BASE, { precision: "f32", quantize: "int8" });
  for (const [name, values] of randomParameters(gpt)) {
    if (name === "h.0.mlp.c_fc.weight") values[5] = NaN;
    setElements(gpt, name, 0, values);
  }
  assert.ok((await logitsOf(gpt, [[1]])).every(Number.isNaN));
});

/** Mean loss in nats over texts of one length, by the forward pass of training. */
async function lossOf(gpt: Gpt, texts: readonly (readonly number[])[]): Promise<number> {
  const { inputs, targets } = batchOf(texts, { contextLength: texts[0]!.length - 1, padding: 0 });
  const batch = { batchSize: texts.length, sequenceLength: texts[0]!.length - 1 };
  using activations = createActivations(device, gpt.config, {
    ...{ batch, precision: gpt.precision, purpose: "evaluation" },
  });
  const { at } = activations;
  const tensor = (name: string, data: Uint32Array) => {
    const made = createTensor(device, name, { shape: [data.length], dtype: "u32" });
    upload(device, made, data);
    return made;
  };
  using program = new Program(device);
  forward(program, gpt, { tokens: tensor("tokens", inputs) }, activations);
  const head = { x: at("lnf"), ...headMatrixOf(gpt), targets: tensor("targets", targets) };
  headLossForward(program, head, { logits: at("logits"), losses: at("losses") });
  program.run();
  const [losses] = await download(device, at("losses"));
  return (losses as Float32Array).reduce((sum, loss) => sum + loss) / losses!.length;
}

Deno.test("a trained model in int8 has a perplexity within 1 % of that in f32", async () => {
  const T = 48, config: GptConfig = { ...BASE, vocabularySize: 128, contextLength: T, width: 64 };
  const bytes = sampleStories({ seed: 4, count: 400 }).map((story) =>
    [...new TextEncoder().encode(story)].slice(0, T + 1)
  ).filter(({ length }) => length === T + 1);
  using trained = createGpt(device, config, { precision: "f32" });
  initializeParameters(trained, { seed: 1 });
  using trainStep = createTrainStep(trained, { batchSize: 16, sequenceLength: T });
  for (let step = 0; step < 60; step++) {
    const rows = Array.from({ length: 16 }, (_, b) => bytes[(16 * step + b) % 300]!);
    const batch = batchOf(rows, { contextLength: T, padding: 0 });
    await trainStep.submit(step, [batch], { learningRate: 5e-3 });
  }
  await trainStep.reports(60);
  using int8 = createGpt(device, config, { precision: "f32", quantize: "int8" });
  for (const { name } of trained.table) {
    const [values] = await download(device, trained.parameters.tensors.get(name)!);
    setElements(int8, name, 0, values as Float32Array);
  }
  const texts = bytes.slice(300, 316);
  const before = await lossOf(trained, texts), after = await lossOf(int8, texts);
  assert.ok(before < 3, `loss of ${before}`); // ln 128 is 4.9
  assert.ok(Math.abs(Math.exp(after - before) - 1) < 0.01, `${before}, ${after}`);
  assert.notEqual(before, after);
});

Deno.test("saveParameters() and createTrainStep() refuse a model in int8 in a sentence", async () => {
  using int8 = createGpt(device, BASE, { precision: "f32", quantize: "int8" });
  const refusal = {
    name: "UserError",
    message: "Cannot read wte.weight as a float as the model must be loaded without quantize: " +
      "current value is int8",
  };
  await assert.rejects(saveParameters(int8), refusal);
  assert.throws(() => createTrainStep(int8, { batchSize: 1, sequenceLength: 4 }), refusal);
});
