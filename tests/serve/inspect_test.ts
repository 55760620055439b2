import assert from "node:assert/strict";
import { loadModel } from "../../generate/load.ts";
import { DEFAULT_SAMPLER } from "../../generate/request.ts";
import { attentionWeightsOf, logitsOf } from "../../inspect/inspect.ts";
import { neighboursOf } from "../../inspect/neighbours.ts";
import { logitLensOf, predictionsOf } from "../../inspect/predictions.ts";
import { samplerDistributions } from "../../inspect/sampler.ts";
import { tokenOf } from "../../inspect/tokens.ts";
import { shrunk } from "../../serve/inspect.ts";
import { assertClose, device } from "../kernels/harness.ts";
import { once } from "../once.ts";
import { ask as askAt, CONTEXT, open, tinyRun } from "./tiny_run.ts";

const run = await tinyRun();

/** The model that the requests name, and a text of it. */
const tiny = once(async () => {
  const model = await loadModel(device, { run });
  return { model, ids: model.tokenizer.encode("One cat and 3 dogs met in") };
});

async function ask(path: string, body: object) {
  await using playground = open();
  return await askAt(playground, { model: "tiny", ...body }, { path: `/api/inspect/${path}` });
}

Deno.test("/api/inspect/predictions answers what predictionsOf() does, and reads a prompt as generate() does", async () => {
  const { model, ids } = await tiny();
  const { predictions } = await predictionsOf(model, ids, { top: 3 });
  const expected = predictions.map(({ top, entropy, next }) => ({
    top: top.map(({ id, text, probability }) => ({ id, text, probability })),
    entropy,
    ...(next ? { next: (({ bytes: _, ...rest }) => rest)(next) } : {}),
  }));
  const { status, model: name, tokens, ...answer } = await ask("predictions", { ids, top: 3 });
  assert.deepEqual([status, name], [200, "tiny@6"]);
  assert.deepEqual(answer.predictions, expected);
  assert.equal(
    tokens.map(({ text }: { text: string }) => text).join(""),
    model.tokenizer.decode(ids),
  );
  const read = await ask("predictions", { prompt: "One cat and 3 dogs met in", top: 3 });
  assert.deepEqual(read.predictions, expected);
  const fox = await ask("predictions", { prompt: "a 🦊" });
  const pieces: string[] = fox.tokens.map(({ piece }: { piece: string }) => piece);
  assert.equal(pieces.join(""), "a 🦊");
  assert.ok(pieces.includes("") && fox.tokens.at(-1).text.startsWith("\\x"));
  const empty = await ask("predictions", {});
  assert.deepEqual(empty.tokens[0].id, model.tokenizer.endOfText);
});

Deno.test("/api/inspect/predictions sees a text beyond the context in the windows of generate()", async () => {
  const { model } = await tiny(), { vocabularySize } = model.tokenizer;
  const ids = Array.from({ length: 2 * CONTEXT + 3 }, (_, t) => (7 * t) % vocabularySize);
  const { predictions } = await ask("predictions", { ids, top: 1 });
  const expected = await predictionsOf(model, ids, { top: 1 });
  assert.equal(predictions.length, ids.length);
  assert.deepEqual(
    predictions.map(({ next }: { next?: { rank: number } }) => next?.rank),
    expected.predictions.map(({ next }) => next?.rank),
  );
});

Deno.test("/api/inspect/sampler answers the distribution after each stage for the settings", async () => {
  const { model, ids } = await tiny();
  const settings = { temperature: 0.7, top_k: 6, top_p: 0.9, min_p: 0.01, repetition_penalty: 1.4 };
  const { stages, candidates } = await ask("sampler", { ids, ...settings, top: 8 });
  const { logits } = await logitsOf(model, ids), V = model.tokenizer.vocabularySize;
  const expected = samplerDistributions(logits.subarray(-V), {
    history: ids,
    sampler: { temperature: 0.7, topK: 6, topP: 0.9, minP: 0.01, repetitionPenalty: 1.4 },
  });
  assert.deepEqual(stages, expected.map(({ stage, tokens }) => ({ stage, tokens })));
  assert.equal(candidates.length, 8);
  const listed = new Set(candidates.map(({ id }: { id: number }) => id));
  const other = Array.from({ length: V }, (_, id) => id).find((id) => !listed.has(id))!;
  const more = await ask("sampler", { ids, ...settings, top: 8, include: other });
  assert.deepEqual(more.candidates.slice(0, 8), candidates);
  assert.equal(more.candidates[8].id, other);
  const same = await ask("sampler", { ids, ...settings, top: 8, include: candidates[2].id });
  assert.deepEqual(same.candidates, candidates);
  const tolerance = model.gpt.precision === "f16" ? 2e-3 : 1e-4; // of the adapter: f16 on GPUs
  for (const { id, text, probabilities } of candidates) {
    assert.equal(text, tokenOf(model.tokenizer, id).text);
    const expectedOf = expected.map(({ probabilities }) => probabilities[id]!);
    assertClose(probabilities, expectedOf, tolerance, text);
  }
});

Deno.test("/api/inspect/attention answers the weights of a head, and small matrices of all", async () => {
  const { model, ids } = await tiny(), T = ids.length, { layers, heads } = model.gpt.config;
  const bytesOf = ({ weights }: { weights: string }) => Uint8Array.fromBase64(weights);
  const all = await ask("attention", { ids });
  assert.deepEqual([all.layers, all.heads, all.first, all.cells], [layers, heads, 0, T]);
  for (let layer = 0; layer < layers; layer++) {
    const { weights } = await attentionWeightsOf(model, ids, { layer });
    for (let head = 0; head < heads; head++) {
      const expected = Uint8Array.from(
        weights.subarray(head * T * T, (head + 1) * T * T),
        (weight) => Math.round(255 * weight),
      );
      const start = (layer * heads + head) * T * T;
      assert.deepEqual(bytesOf(all).subarray(start, start + T * T), expected);
      assert.deepEqual(bytesOf(await ask("attention", { ids, layer, head })), expected);
    }
  }
});

Deno.test("shrunk() keeps the highest weight of each block", () => {
  const weights = Float32Array.of(9, 0, 0, 0, 1, 2, 0, 0, 3, 4, 5, 0, 6, 7, 8, 1);
  assert.deepEqual([...shrunk(weights, 4, 2)], [9, 0, 7, 8]);
  assert.deepEqual(shrunk(weights, 4, 4), weights);
  assert.deepEqual([...shrunk(weights, 4, 3)], [9, 0, 0, 4, 5, 0, 7, 8, 1]);
});

Deno.test("/api/inspect/lens and neighbours answer what logitLensOf() and neighboursOf() do", async () => {
  const { model, ids } = await tiny();
  const { layers } = await ask("lens", { ids, top: 1 });
  const expected = await logitLensOf(model, ids, { top: 1 });
  const tops = (rows: { top: { id: number }[] }[][]) =>
    rows.map((row) => row.map(({ top }) => top[0]!.id));
  assert.deepEqual(tops(layers), tops(expected.layers as never));
  const { neighbours } = await ask("neighbours", { ids: ids.slice(0, 2), top: 4 });
  const nearest = await neighboursOf(model, ids.slice(0, 2), { top: 4 });
  assert.deepEqual(
    neighbours,
    nearest.neighbours.map((near) => near.map(({ id, text, cosine }) => ({ id, text, cosine }))),
  );
});

Deno.test("/api/inspect refuses other texts, layers and sizes", async () => {
  const cases: [path: string, body: object, param: string, message: RegExp][] = [
    ["lens", { ids: [] }, "ids", /ids must be a list of 1 to 4096 ids of tokens/],
    ["lens", { ids: [0.5] }, "ids", /ids must be a list/],
    ["predictions", { ids: [99999] }, "ids", /ids must be below \d+: current id of ids is 99999$/],
    ["predictions", { prompt: "a ".repeat(9000) }, "prompt", /at most 4096 tokens/],
    ["attention", { ids: [1], layer: 1 }, "head", /layer and head must be given together$/],
    ["attention", { ids: [1], layer: 99, head: 0 }, "layer", /current values are 99 and 0$/],
    [
      "sampler",
      { ids: [1], include: 99999 },
      "include",
      /ids must be below \d+: current id of include/,
    ],
    ["sampler", { ids: [1], top_p: 0 }, "top_p", /top_p must be above 0/],
    ["neighbours", { ids: [1], top: 51 }, "top", /top must be a whole number from 1 to 50/],
  ];
  for (const [path, body, param, message] of cases) {
    const { status, error } = await ask(path, body);
    assert.match(error.message, message);
    assert.deepEqual([status, error.param], [400, param]);
  }
});

Deno.test("/api/inspect refuses a text that free memory is too short for, with both figures", async () => {
  let freeBytes = 1e9;
  await using playground = open({ freeBytes: () => freeBytes });
  const body = { model: "tiny", ids: [1, 2, 3] };
  for (const path of ["attention", "lens"].map((name) => ({ path: `/api/inspect/${name}` }))) {
    freeBytes = 1e9;
    assert.equal((await askAt(playground, body, path)).status, 200);
    freeBytes = 1000;
    const { status, error } = await askAt(playground, body, path);
    assert.equal(status, 503);
    assert.match(
      error.message,
      /^Cannot inspect a text of 3 tokens .* it needs [\d.]+ kB, and 1.00 kB/,
    );
  }
});

Deno.test("/api/inspect/settings are those of generate, and need no model", async () => {
  await using playground = open({ open: () => Promise.reject(new Error("a device is opened")) });
  const settings = (method: string) =>
    playground.handle(new Request("http://127.0.0.1/api/inspect/settings", { method }));
  const response = await settings("GET");
  assert.deepEqual([(await settings("HEAD"))!.status, (await settings("POST"))!.status], [
    200,
    405,
  ]);
  const { temperature, top_k } = await response!.json();
  assert.deepEqual(temperature, { value: 0.8, must: "a number not below 0" });
  assert.equal(top_k.value, DEFAULT_SAMPLER.topK);
});
