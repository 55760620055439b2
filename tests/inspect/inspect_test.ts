import assert from "node:assert/strict";
import { batchOf } from "../../data/tokens/batch.ts";
import { createDecoder } from "../../generate/decoder.ts";
import { DEFAULT_SAMPLER } from "../../generate/request.ts";
import { attentionWeightsOf, gradientsOf, logitsOf, lossOf } from "../../inspect/inspect.ts";
import { logitLensOf, predictionsOf } from "../../inspect/predictions.ts";
import { download } from "../../kernels/tensor.ts";
import { masterOf } from "../../model/gpt.ts";
import { setElements } from "../../model/weights.ts";
import { createTrainStep } from "../../train/step.ts";
import { withLiveBuffers } from "../bench/live_buffers.ts";
import { byteTokenizer, randomModel } from "../generate/models.ts";
import { assertClose, device, REAL_TYPES } from "../kernels/harness.ts";

const tokenizer = byteTokenizer();
const gpt = randomModel(device, "f32"), model = { gpt, tokenizer };
const { vocabularySize: V, contextLength, layers, heads } = gpt.config;
const TEXT = "Hi you", IDS = [tokenizer.endOfText, ...tokenizer.encode(TEXT)];

/** log softmax of a row of logits, negated: the loss of a token. */
function lossAt(logits: Float32Array, row: number, id: number): number {
  const values = logits.subarray(row * V, (row + 1) * V);
  const total = values.reduce((sum, value) => sum + Math.exp(value), 0);
  return Math.log(total) - values[id]!;
}

Deno.test("logitsOf() equals what the decoder computes after the same tokens", async () => {
  const { ids, logits } = await logitsOf(model, TEXT);
  assert.deepEqual(ids, IDS);
  assert.equal(logits.length, ids.length * V);
  for (const count of [1, 3, ids.length]) {
    using decoder = createDecoder(gpt, {
      prompts: [ids.slice(0, count)],
      seeds: [1],
      maxNewTokens: 1,
      sampler: { ...DEFAULT_SAMPLER, temperature: 0 },
    });
    await decoder.next(1);
    const [expected] = await download(device, decoder.logits);
    const row = logits.subarray((count - 1) * V, count * V);
    assertClose(row, expected!.subarray(0, V), 1e-5, `after ${count} tokens`);
  }
});

Deno.test("logitsOf() reads ids as they are, and up to a whole context of them", async () => {
  const ids = Array.from({ length: contextLength }, (_, t) => (7 * t) % V);
  const all = await logitsOf(model, ids), some = await logitsOf(model, ids.slice(0, 2));
  assert.deepEqual(all.ids, ids);
  assertClose(all.logits.subarray(0, 2 * V), some.logits, 1e-5, "the first two rows");
});

for (const precision of REAL_TYPES as ("f32" | "f16")[]) {
  Deno.test(`lossOf() is the cross-entropy of the logits in ${precision}`, async () => {
    const model = { gpt: randomModel(device, precision), tokenizer };
    const { ids, logits } = await logitsOf(model, TEXT);
    const { losses, loss, ...rest } = await lossOf(model, TEXT);
    assert.deepEqual(rest, { ids });
    const expected = ids.slice(1).map((id, t) => lossAt(logits, t, id));
    assertClose(losses, expected, precision === "f32" ? 1e-5 : 5e-3, "losses");
    const mean = losses.reduce((sum, value) => sum + value, 0) / losses.length;
    assert.ok(Math.abs(loss - mean) < 1e-6);
  });

  Deno.test(`gradientsOf() are those of a training step in ${precision}`, async () => {
    const gpt = randomModel(device, precision);
    const { ids, gradients, loss } = await gradientsOf({ gpt, tokenizer }, TEXT);
    assert.equal(loss, (await lossOf({ gpt, tokenizer }, TEXT)).loss);
    assert.deepEqual([...gradients.keys()], gpt.table.map(({ name }) => name));
    const T = ids.length - 1;
    using step = createTrainStep(gpt, { batchSize: 1, sequenceLength: T });
    await step.submit(0, [batchOf([ids], { contextLength: T, padding: 0 })], { learningRate: 0 });
    const [report] = await step.reports(1), { lossScale, gradientNorm } = report!;
    const tolerance = precision === "f32" ? 1e-6 : 5e-3;
    for (const [name, gradient] of gradients) {
      const [expected] = await download(device, step.gradients.tensors.get(name)!);
      assertClose(gradient, expected!.map((value) => value / lossScale), tolerance, name);
    }
    const squares = [...gradients.values()].flatMap((values) => [...values.map((v) => v * v)]);
    const norm = Math.sqrt(squares.reduce((sum, square) => sum + square, 0));
    assert.ok(Math.abs(norm / gradientNorm - 1) < 1e-2, `${norm} is ${gradientNorm}`);
  });
}

Deno.test("gradientsOf() are the slopes of lossOf()", async () => {
  const { gradients } = await gradientsOf(model, TEXT);
  for (
    const [name, at] of [["h.1.mlp.c_fc.weight", 5], ["wpe.weight", 9], ["ln_f.bias", 2]] as const
  ) {
    const [values] = await download(device, masterOf(gpt, name)), value = values![at]!;
    const lossWith = async (changed: number) => {
      setElements(gpt, name, at, Float32Array.of(changed));
      return (await lossOf(model, TEXT)).loss;
    };
    const h = 0.02, slope = (await lossWith(value + h) - await lossWith(value - h)) / (2 * h);
    await lossWith(value);
    assert.ok(Math.abs(gradients.get(name)![at]! - slope) < 2e-4, `${name}: ${slope}`);
  }
});

for (
  const [what, change] of [["GPT-2", {}], ["Llama", { family: "llama", keyHeads: 1 }]] as const
) {
  Deno.test(`attentionWeightsOf() of a ${what} are causal, sum to one, and differ between heads and layers`, async () => {
    const model = { gpt: randomModel(device, "f32", change), tokenizer }, seen = new Set<number>();
    for (let layer = 0; layer < layers; layer++) {
      const { ids, weights } = await attentionWeightsOf(model, TEXT, { layer }), T = ids.length;
      assert.equal(weights.length, heads * T * T);
      for (let row = 0; row < heads * T; row++) {
        const of = weights.subarray(row * T, (row + 1) * T), t = row % T;
        assert.ok(of.every((weight, s) => s <= t ? weight > 0 : weight === 0));
        assert.ok(Math.abs(of.reduce((sum, weight) => sum + weight, 0) - 1) < 1e-5);
        if (t === T - 1) seen.add(of[0]!);
      }
    }
    assert.equal(seen.size, layers * heads);
  });
}

Deno.test("what inspects a text frees its buffers", async () => {
  const { left } = await withLiveBuffers(async () => {
    for (const read of [logitsOf, lossOf, gradientsOf]) await read(model, TEXT);
    await attentionWeightsOf(model, TEXT, { layer: 0 });
    await predictionsOf(model, TEXT);
    await logitLensOf(model, TEXT);
  });
  assert.deepEqual(left, []);
});

Deno.test("what inspects a text throws when it cannot be read", async () => {
  const long = Array(contextLength + 1).fill(1);
  const cases: [string | number[], RegExp][] = [
    [long, new RegExp(`sees 1 to ${contextLength} tokens: current number is ${long.length}$`)],
    [[], /current number is 0$/],
    [[1, V], new RegExp(`must be 0 to ${V - 1}: current id is ${V}$`)],
  ];
  for (const [text, message] of cases) {
    const readers = [logitsOf, lossOf, gradientsOf].map((read) => () => read(model, text));
    for (const read of [...readers, () => attentionWeightsOf(model, text, { layer: 0 })]) {
      await assert.rejects(read, { name: "UserError", message });
    }
  }
  for (const read of [lossOf, gradientsOf]) {
    await assert.rejects(() => read(model, ""), {
      name: "UserError",
      message: /2 tokens or more: it has 1$/,
    });
  }
  for (const layer of [-1, layers, 0.5]) {
    await assert.rejects(() => attentionWeightsOf(model, TEXT, { layer }), {
      name: "UserError",
      message: `Cannot show attention as the layer must be 0 to ${
        layers - 1
      }: current value is ${layer}`,
    });
  }
});
