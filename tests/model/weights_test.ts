import assert from "node:assert/strict";
import { download } from "../../kernels/tensor.ts";
import { createGpt, type Gpt } from "../../model/gpt.ts";
import { parameterTable } from "../../model/parameters.ts";
import { fromFloat32, type SafetensorsEntry } from "../../model/safetensors.ts";
import { initializeParameters, loadParameters, saveParameters } from "../../model/weights.ts";
import { device, freshSeed, REAL_TYPES } from "../kernels/harness.ts";

const config = { vocabularySize: 301, contextLength: 7, width: 24, layers: 2, heads: 2 };

async function initialized(seed: number): Promise<Gpt & { values: Map<string, Float32Array> }> {
  const precision = REAL_TYPES.includes("f16") ? "f16" : "f32";
  const gpt = createGpt(device, config, { precision });
  initializeParameters(gpt, { seed });
  const { tensors } = gpt.parameters;
  const values = await download(device, ...tensors.values());
  return {
    ...gpt,
    values: new Map([...tensors.keys()].map((name, i) => [name, values[i]! as Float32Array])),
  };
}

Deno.test("initializeParameters() draws every parameter as the table says", async () => {
  const seed = freshSeed();
  const { values, destroy } = await initialized(seed);
  for (const { name, initial: { mean, deviation } } of parameterTable(config)) {
    const drawn = values.get(name)!, n = drawn.length, what = `${name}, seed ${seed}`;
    if (deviation === 0) {
      assert.ok(drawn.every((v) => v === mean), what);
      continue;
    }
    const sum = (f: (z: number) => number) =>
      drawn.reduce((sum, v) => sum + f((v - mean) / deviation), 0);
    assert.ok(Math.abs(sum((z) => z)) < 6 * Math.sqrt(n), `mean of ${what}`);
    assert.ok(Math.abs(sum((z) => z * z - 1)) < 6 * Math.sqrt(2 * n), `variance of ${what}`);
  }
  destroy();
});

Deno.test("initializeParameters() gives no two parameters the same numbers, nor two seeds", async () => {
  const seed = freshSeed();
  const [first, again, other] = [
    await initialized(seed),
    await initialized(seed),
    await initialized((seed + 1) >>> 0),
  ];
  assert.deepEqual(again.values, first.values);
  const drawn = parameterTable(config).filter(({ initial }) => initial.deviation > 0);
  const beginnings = [first, other].flatMap(({ values }) =>
    drawn.map(({ name, initial }) => (values.get(name)![0]! / initial.deviation).toFixed(5))
  );
  assert.equal(new Set(beginnings).size, beginnings.length, `seed ${seed}`);
  for (const gpt of [first, again, other]) gpt.destroy();
});

Deno.test("initializeParameters() rounds the f16 copies and leaves padding zero", async () => {
  const seed = freshSeed(), gpt = await initialized(seed);
  const { parameters, copies } = gpt;
  const [flat, ...rounded] = await download(
    device,
    parameters.flat,
    ...(copies?.tensors.values() ?? []),
  );
  [...copies?.tensors.keys() ?? []].forEach((name, i) => {
    const expected = new Float32Array(new Float16Array(gpt.values.get(name)!));
    assert.deepEqual(rounded[i], expected, `${name}, seed ${seed}`);
  });
  for (const { offsetBytes, name } of parameters.tensors.values()) {
    const values = gpt.values.get(name.slice("parameters ".length))!;
    flat!.fill(0, offsetBytes / 4, offsetBytes / 4 + values.length);
  }
  assert.ok(flat!.every((v) => v === 0), `seed ${seed}`);
  gpt.destroy();
});

/** A model's file as `saveParameters()` writes it. */
async function savedModel(): Promise<Map<string, SafetensorsEntry>> {
  const gpt = await initialized(1);
  const saved = await saveParameters(gpt);
  gpt.destroy();
  return saved;
}

/** Loads tensors and saves them again. */
async function roundTrip(
  tensors: ReadonlyMap<string, SafetensorsEntry>,
  dimensions: Partial<typeof config> = {},
): Promise<Map<string, SafetensorsEntry>> {
  const gpt = createGpt(device, { ...config, ...dimensions }, { precision: "f32" });
  try {
    loadParameters(gpt, tensors, "m.safetensors");
    return await saveParameters(gpt);
  } finally {
    gpt.destroy();
  }
}

const saved = await savedModel();
const wte = saved.get("transformer.wte.weight")!;
const mask: SafetensorsEntry = { dtype: "BOOL", shape: [1, 1, 2, 2], data: new Uint8Array(4) };

Deno.test("loadParameters() takes names without prefix, constants for masking, and the head that is tied", async () => {
  const bare = new Map(
    [...saved].map(([name, entry]) => [name.slice("transformer.".length), entry]),
  );
  assert.deepEqual(await roundTrip(bare), saved);
  const masks = ["h.0.attn.bias", "transformer.h.1.attn.masked_bias"].map((n) =>
    [n, mask] as const
  );
  assert.deepEqual(await roundTrip(new Map([...saved, ...masks, ["lm_head.weight", wte]])), saved);
});

Deno.test("loadParameters() takes the first of more positions", async () => {
  const shorter = await roundTrip(saved, { contextLength: 3 });
  const { data } = saved.get("transformer.wpe.weight")!;
  assert.deepEqual(
    shorter.get("transformer.wpe.weight")!.data,
    data.slice(0, 3 * config.width * 4),
  );
});

Deno.test("loadParameters() rounds what it loads to f16 as saveParameters() does", async () => {
  const seed = freshSeed(), gpt = await initialized(seed);
  const halves = await saveParameters(gpt, { dtype: "F16" });
  gpt.destroy();
  assert.ok([...halves.values()].every(({ dtype }) => dtype === "F16"));
  const again = createGpt(device, config, { precision: "f32" });
  loadParameters(again, halves, "halves");
  assert.deepEqual(await saveParameters(again, { dtype: "F16" }), halves, `seed ${seed}`);
  again.destroy();
});

const zeros = (shape: number[]) =>
  fromFloat32(new Float32Array(shape.reduce((a, b) => a * b)), shape, "F32");
const changed = (...entries: (readonly [string, SafetensorsEntry])[]) =>
  new Map([...saved, ...entries]);
const without = (name: string) => new Map([...saved].filter(([key]) => key !== name));

for (
  const [what, tensors, message] of [
    [
      "an unknown name",
      changed(["score.weight", wte], ["h.9.x", wte]),
      /unknown names are score\.weight, h\.9\.x$/,
    ],
    ["a missing name", without("transformer.ln_f.bias"), /missing names are ln_f\.bias$/],
    [
      "a name twice",
      changed(["wte.weight", wte]),
      /"wte\.weight" once: .* with and without "transformer\."/,
    ],
    [
      "another shape",
      changed(["transformer.ln_f.bias", zeros([23])]),
      /"ln_f\.bias" must have shape \[24\]: current shape is \[23\]/,
    ],
    [
      "too few positions",
      changed(["transformer.wpe.weight", zeros([6, 24])]),
      /"wpe\.weight" must have shape \[7,24\]: current shape is \[6,24\]/,
    ],
    [
      "another head than the tied one",
      changed(["lm_head.weight", zeros([301, 24])]),
      /"lm_head\.weight" must be the token embedding, as .* says: it differs; .* set tie_word_embeddings to false/,
    ],
  ] as const
) {
  Deno.test(`loadParameters() refuses ${what} in a sentence`, async () => {
    await assert.rejects(roundTrip(tensors), { name: "RangeError", message });
  });
}
