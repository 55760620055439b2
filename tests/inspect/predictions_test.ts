import assert from "node:assert/strict";
import { windowStart } from "../../generate/slots.ts";
import { logitsOf, lossOf } from "../../inspect/inspect.ts";
import { logitLensOf, type Prediction, predictionsOf } from "../../inspect/predictions.ts";
import { tokenOf } from "../../inspect/tokens.ts";
import { download, size } from "../../kernels/tensor.ts";
import type { GptConfig } from "../../model/config.ts";
import { createGpt, type Gpt, headName, masterOf } from "../../model/gpt.ts";
import { setElements } from "../../model/weights.ts";
import { byteTokenizer, CONFIG, randomModel } from "../generate/models.ts";
import {
  assertClose,
  device,
  freshSeed,
  randomValues,
  REAL_TYPES,
  testRandom,
} from "../kernels/harness.ts";

const tokenizer = byteTokenizer();
const seed = freshSeed(), random = testRandom(seed);

/** A random model in which every parameter matters. */
function modelWith(config: Partial<GptConfig>, precision: "f32" | "f16" = "f32"): Gpt {
  const gpt = createGpt(device, { ...CONFIG, ...config }, { precision });
  for (const { name, shape, decayed } of gpt.table) {
    const values = randomValues(random, size(shape), { scale: 0.3 });
    if (!decayed) values.forEach((value, i) => values[i] = 1 + value);
    setElements(gpt, name, 0, values);
  }
  return gpt;
}

/** A prediction computed in f64 from a row of logits, without care for speed. */
function naivePrediction(logits: Float32Array, next: number | undefined, top: number) {
  const total = logits.reduce((sum, logit) => sum + Math.exp(logit), 0);
  const p = Array.from(logits, (logit) => Math.exp(logit) / total);
  const order = [...p.keys()].sort((a, b) => logits[b]! - logits[a]! || a - b);
  return {
    top: order.slice(0, top).map((id) => ({ id, probability: p[id]! })),
    entropy: p.reduce((sum, p) => sum - (p > 0 ? p * Math.log(p) : 0), 0),
    next: next === undefined ? undefined : {
      id: next,
      probability: p[next]!,
      rank: order.indexOf(next) + 1,
      loss: -Math.log(p[next]!),
    },
  };
}

function assertPrediction(
  { top, entropy, next }: Prediction,
  expected: ReturnType<typeof naivePrediction>,
  tolerance: number,
  what: string,
): void {
  const figures = ({ top, entropy, next }: typeof expected) => [
    ...top.map(({ probability }) => probability),
    entropy,
    ...(next ? [next.probability, next.loss] : []),
  ];
  const ours = { top: [...top], entropy, next };
  assertClose(figures(ours), figures(expected), tolerance, `${what}, seed ${seed}`);
  assert.equal(next?.id, expected.next?.id);
}

Deno.test("predictionsOf() are softmax, ranks and losses of the logits", async () => {
  const model = { gpt: randomModel(device, "f32"), tokenizer }, V = CONFIG.vocabularySize;
  const { ids, logits } = await logitsOf(model, "Hi you é");
  const { tokens, predictions, ids: same } = await predictionsOf(model, "Hi you é", { top: V });
  assert.deepEqual(same, ids);
  assert.deepEqual(tokens, ids.map((id) => tokenOf(tokenizer, id)));
  assert.equal(predictions.length, ids.length);
  for (const [t, prediction] of predictions.entries()) {
    const expected = naivePrediction(logits.subarray(t * V, (t + 1) * V), ids[t + 1], V);
    assertPrediction(prediction, expected, 1e-12, `position ${t}`);
    assert.deepEqual(prediction.top.map(({ id }) => id), expected.top.map(({ id }) => id));
    assert.equal(prediction.next?.rank, expected.next?.rank);
    const sum = prediction.top.reduce((sum, { probability }) => sum + probability, 0);
    assert.ok(Math.abs(sum - 1) < 1e-12);
  }
  assert.equal(predictions.at(-1)!.next, undefined);
  const { losses } = await lossOf(model, "Hi you é");
  assertClose(predictions.slice(0, -1).map(({ next }) => next!.loss), losses, 1e-5, "losses");
});

Deno.test("predictionsOf() are the same for a chunk of logits as for all", async () => {
  const gpt = randomModel(device, "f32"), ids = Array.from({ length: 38 }, (_, t) => 7 * t % 257);
  // the gpt's device binds rows of logits of which 32 fit
  const narrow = { ...device, maxBindingBytes: 4 * 320 * 32 };
  const all = await predictionsOf({ gpt, tokenizer }, ids);
  const some = await predictionsOf({ gpt: { ...gpt, device: narrow }, tokenizer }, ids);
  assert.deepEqual(some, all);
});

Deno.test("predictionsOf() sees a text beyond the context in the windows of generate(), from any position on", async () => {
  const gpt = modelWith({ contextLength: 9 }),
    model = { gpt, tokenizer },
    V = CONFIG.vocabularySize;
  const ids = Array.from({ length: 24 }, () => Math.floor(random() * V));
  const { predictions, tokens } = await predictionsOf(model, ids, { top: 3 });
  assert.deepEqual([predictions.length, tokens.length], [24, 24]);
  for (const [t, prediction] of predictions.entries()) {
    const start = windowStart(t + 1, 9), window = ids.slice(start, t + 1);
    const { logits } = await logitsOf(model, window);
    const expected = naivePrediction(logits.subarray((window.length - 1) * V), ids[t + 1], 3);
    assertPrediction(prediction, expected, 1e-4, `position ${t}`);
  }
  for (const from of [7, 23, 24]) {
    const some = await predictionsOf(model, ids, { top: 3, from });
    assert.deepEqual(some.predictions, predictions.slice(from));
  }
});

Deno.test("predictionsOf() throws the reason of its signal when it has aborted", async () => {
  const signal = AbortSignal.abort(new Error("nobody reads it"));
  const model = { gpt: randomModel(device, "f32"), tokenizer };
  await assert.rejects(predictionsOf(model, "Hi", { signal }), { message: "nobody reads it" });
});

Deno.test("predictionsOf() throws on a model that has diverged", async () => {
  const gpt = randomModel(device, "f32");
  setElements(gpt, "ln_f.bias", 0, Float32Array.of(NaN));
  await assert.rejects(() => predictionsOf({ gpt, tokenizer }, "Hi"), {
    name: "UserError",
    message: /^Cannot compute probabilities as the model's logits must be finite\n?/,
  });
});

/** The logits that a residual stream gives: norm and head in f64. */
async function naiveLogits(gpt: Gpt, x: Float64Array): Promise<Float32Array> {
  const { width: C, vocabularySize: V, normEpsilon = 1e-5 } = gpt.config;
  const isRms = gpt.config.family === "llama";
  const names = [headName(gpt), "ln_f.weight", ...(isRms ? [] : ["ln_f.bias"])];
  const [head, weight, bias] = await download(device, ...names.map((name) => masterOf(gpt, name)));
  const mean = isRms ? 0 : x.reduce((sum, v) => sum + v, 0) / C;
  const square = x.reduce((sum, v) => sum + (v - mean) ** 2, 0) / C;
  const y = x.map((v, c) =>
    (v - mean) / Math.sqrt(square + normEpsilon) * weight![c]! + (bias?.[c] ?? 0)
  );
  return Float32Array.from(
    { length: V },
    (_, v) => y.reduce((sum, value, c) => sum + value * head![v * C + c]!, 0),
  );
}

/** The model without the blocks after the first ones. */
async function firstBlocks(gpt: Gpt, layers: number): Promise<Gpt> {
  const { attentionWindows } = gpt.config;
  const windows = attentionWindows ? { attentionWindows: attentionWindows.slice(0, layers) } : {};
  const config = { ...gpt.config, layers, ...windows };
  const first = createGpt(device, config, { precision: gpt.precision });
  for (const { name } of first.table) {
    const [values] = await download(device, masterOf(gpt, name));
    setElements(first, name, 0, values as Float32Array);
  }
  return first;
}

const lora = { rank: 3, alpha: 6, targets: ["c_attn", "c_proj"] };
const MODELS: Record<string, Partial<GptConfig>> = {
  "GPT-2": {},
  "a wide MLP, an untied head and another epsilon": {
    ...{ layers: 3, innerWidth: 52, ownHead: true, normEpsilon: 1e-2, activation: "relu" },
  },
  "GPT-Neo": {
    ...{ family: "gpt_neo", attentionScale: 1, attentionWindows: [0, 3], activation: "silu" },
  },
  "Llama": { family: "llama", keyHeads: 1, qkNorm: true },
  "scores scaled by layer and adapters": { attentionScaleByLayer: true, lora },
};

for (const [name, config] of Object.entries(MODELS)) {
  for (const precision of REAL_TYPES as ("f32" | "f16")[]) {
    Deno.test(`logitLensOf() has the predictions of the first blocks alone of ${name} in ${precision}`, async () => {
      const gpt = modelWith(config, precision), text = "Hi you";
      const { width: C, layers } = gpt.config;
      const { ids, layers: lens } = await logitLensOf({ gpt, tokenizer }, text, { top: 4 });
      assert.equal(lens.length, layers + 1);
      const tolerance = precision === "f32" ? 2e-5 : 2e-2;
      for (let blocks = 1; blocks <= layers; blocks++) {
        const first = blocks === layers ? gpt : await firstBlocks(gpt, blocks);
        const { predictions } = await predictionsOf({ gpt: first, tokenizer }, text, { top: 4 });
        for (const [t, prediction] of lens[blocks]!.entries()) {
          const { next, ...rest } = predictions[t]!;
          const expected = { ...rest, top: [...rest.top], next };
          assertPrediction(prediction, expected, tolerance, `block ${blocks}, position ${t}`);
        }
      }
      const names = ["wte.weight", ...(config.family === "llama" ? [] : ["wpe.weight"])];
      const [wte, wpe] = await download(device, ...names.map((name) => masterOf(gpt, name)));
      for (const [t, id] of ids.entries()) {
        const x = Float64Array.from(
          { length: C },
          (_, c) => wte![id * C + c]! + (wpe?.[t * C + c] ?? 0),
        );
        const expected = naivePrediction(await naiveLogits(gpt, x), ids[t + 1], 4);
        assertPrediction(lens[0]![t]!, expected, tolerance, `embedding ${t}`);
      }
    });
  }
}
