import assert from "node:assert/strict";
import { samplerDistributions } from "../../inspect/sampler.ts";
import { Program } from "../../kernels/program.ts";
import {
  sample,
  type SamplerOptions,
  samplerSettings,
  SETTINGS_LENGTH,
} from "../../kernels/sample/sample.ts";
import { createTensor, download, upload } from "../../kernels/tensor.ts";
import { device, tensorOf } from "../kernels/harness.ts";

const LOGITS = Float32Array.of(2, 1.5, 1.4, 1, 0.5, 0, -0.2, -1, -2, -3.5, 0.9);
const V = LOGITS.length, HISTORY = [9, 0, 7];
const OPTIONS: SamplerOptions = {
  ...{ temperature: 0.9, topK: 8, topP: 0.92, minP: 0.4 },
  ...{ repetitionPenalty: 1.6, repetitionWindow: 2, presencePenalty: 0, frequencyPenalty: 0 },
};

Deno.test("samplerDistributions() has each stage of the sampler in its order", () => {
  const all = samplerDistributions(LOGITS, { history: HISTORY, sampler: OPTIONS });
  assert.deepEqual(all.map(({ stage, tokens }) => [stage, tokens]), [
    ["logits", V],
    ["repetitionPenalty", V],
    ["temperature", V],
    ["topK", 8],
    ["topP", 6],
    ["minP", 5],
  ]);
  for (const { tokens, probabilities } of all) {
    assert.ok(Math.abs(probabilities.reduce((sum, p) => sum + p, 0) - 1) < 1e-12);
    assert.equal(probabilities.filter((p) => p > 0).length, tokens);
  }
  const softmax = (logits: Float32Array) => {
    const weights = Float64Array.from(logits, Math.exp), total = weights.reduce((a, b) => a + b, 0);
    return weights.map((weight) => weight / total);
  };
  const close = (stage: number, logits: Float32Array) =>
    softmax(logits).forEach((p, id) =>
      assert.ok(Math.abs(all[stage]!.probabilities[id]! - p) < 1e-7, `${stage}, ${id}`)
    );
  const penalized = LOGITS.slice();
  penalized[0]! /= 1.6; // positive
  penalized[7]! *= 1.6; // negative; 9 is outside the window
  close(0, LOGITS);
  close(1, penalized);
  close(2, penalized.map((logit) => logit / 0.9));
});

Deno.test("samplerDistributions() ends with the distribution from which the kernel draws", async () => {
  const B = 4096, N = HISTORY.length + 1;
  const inputs = {
    logits: tensorOf("logits", { shape: [B, V], dtype: "f32" }, repeated(LOGITS, B)),
    settings: createTensor(device, "settings", { shape: [B, SETTINGS_LENGTH], dtype: "u32" }),
  };
  const tokens = tensorOf("tokens", { shape: [B, N], dtype: "u32" }, repeated([...HISTORY, 0], B));
  const cursors = createTensor(device, "cursors", { shape: [B, 4], dtype: "u32" });
  for (
    const options of [OPTIONS, { ...OPTIONS, topK: 0, topP: 1, minP: 0, repetitionPenalty: 0.5 }]
  ) {
    const texts = Array.from({ length: B }, (_, b) => b);
    upload(device, cursors, texts.flatMap((b) => [N - 2, 0, b, N]));
    const settingsOf = (seed: number) =>
      samplerSettings({ sampler: options, seed, firstDrawn: N - 1 });
    upload(device, inputs.settings, texts.flatMap((b) => [...settingsOf(b)]));
    using program = new Program(device);
    sample(program, inputs, { tokens, cursors }, { vocabularySize: V, penalties: true });
    program.run();
    const [drawn] = await download(device, tokens);
    const counts = new Float64Array(V);
    for (let b = 0; b < B; b++) counts[drawn![b * N + N - 1]!]!++;
    const stages = samplerDistributions(LOGITS, { history: HISTORY, sampler: options });
    const { probabilities } = stages.at(-1)!;
    let chiSquare = 0;
    for (const [id, p] of probabilities.entries()) {
      if (p === 0) assert.equal(counts[id], 0, `token ${id} is filtered out`);
      else chiSquare += (counts[id]! - p * B) ** 2 / (p * B);
    }
    assert.ok(chiSquare < 29.6, `chi-square is ${chiSquare}, above 29.6 in 0.1 %: ${counts}`);
  }
});

Deno.test("samplerDistributions() keeps the likeliest token at temperature 0, and throws on a wrong option", () => {
  const greedy = samplerDistributions(LOGITS, { history: HISTORY, sampler: { temperature: 0 } });
  assert.deepEqual(greedy.map(({ tokens }) => tokens), [V, V, 1, 1, 1, 1]);
  assert.equal(greedy.at(-1)!.probabilities[0], 1);
  assert.throws(() => samplerDistributions(LOGITS, { sampler: { topP: 2 } }), {
    name: "UserError",
    message: "Cannot sample as topP must be above 0 and at most 1: current value is 2",
  });
});

/** An array, a number of times. */
function repeated(values: ArrayLike<number>, times: number): number[] {
  const list = Array.from(values);
  return Array.from({ length: times * list.length }, (_, i) => list[i % list.length]!);
}
