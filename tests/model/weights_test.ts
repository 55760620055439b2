import assert from "node:assert/strict";
import { download } from "../../kernels/tensor.ts";
import { type PresetName, PRESETS } from "../../model/config.ts";
import { createGpt, type Gpt, masterOf } from "../../model/gpt.ts";
import { isAdapter } from "../../model/files/lora.ts";
import { parameterTable } from "../../model/parameters.ts";
import { fromFloat32, type SafetensorsEntry } from "../../model/files/safetensors.ts";
import {
  initializeParameters,
  loadParameters,
  saveParameters,
  unexpectedTensors,
} from "../../model/weights.ts";
import { device, freshSeed, REAL_TYPES } from "../kernels/harness.ts";

const config = { vocabularySize: 301, contextLength: 7, width: 24, layers: 2, heads: 2 };

async function initialized(
  seed: number,
  options: { zeroProjections?: boolean } = {},
): Promise<Gpt & { values: Map<string, Float32Array> }> {
  const precision = REAL_TYPES.includes("f16") ? "f16" : "f32";
  const gpt = createGpt(device, config, { precision });
  initializeParameters(gpt, { seed, ...options });
  const { tensors } = gpt.parameters;
  const values = await download(device, ...tensors.values());
  return {
    ...gpt,
    values: new Map([...tensors.keys()].map((name, i) => [name, values[i]! as Float32Array])),
  };
}

/**
 * Mean and standard deviation of a parameter's initial values: GPT-2's 0.02 holds for 768 columns, so 24
 * columns have 0.02 · √32, and projections onto the residual stream that divided by √(2 · layers).
 */
const INITIAL: readonly [name: RegExp, mean: number, deviation: number][] = [
  [/(ln_\d|ln_f)\.weight$/, 1, 0],
  [/\.bias$/, 0, 0],
  [/c_proj\.weight$/, 0, 0.0565685425],
  [/(wte|wpe|c_attn|c_fc)\.weight$/, 0, 0.113137085],
];

/** Standard deviations by which a sum may be off: one check in 10¹⁰ fails by chance. */
const DEVIATIONS = 7;

Deno.test("initializeParameters() draws every parameter with GPT-2's mean and deviation", async () => {
  const seed = freshSeed();
  const { values, destroy } = await initialized(seed);
  for (const [name, drawn] of values) {
    const [, mean, deviation] = INITIAL.find(([pattern]) => pattern.test(name))!;
    const n = drawn.length, what = `${name}, seed ${seed}`;
    if (deviation === 0) {
      assert.ok(drawn.every((v) => v === mean), what);
      continue;
    }
    const sum = (f: (z: number) => number) =>
      drawn.reduce((sum, v) => sum + f((v - mean) / deviation), 0);
    assert.ok(Math.abs(sum((z) => z)) < DEVIATIONS * Math.sqrt(n), `mean of ${what}`);
    // the cube root of a sum of squares is nearly normal (Wilson and Hilferty, 1931)
    const root = Math.cbrt(sum((z) => z * z) / n), ofRoot = 2 / (9 * n);
    assert.ok(
      Math.abs(root - (1 - ofRoot)) < DEVIATIONS * Math.sqrt(ofRoot),
      `variance of ${what}`,
    );
  }
  assert.equal(values.size, 2 + 12 * config.layers + 2);
  destroy();
});

Deno.test("initializeParameters() with zeroProjections changes nothing but the projections, which are zero", async () => {
  const [drawn, zero] = [await initialized(5), await initialized(5, { zeroProjections: true })];
  for (const [name, values] of zero.values) {
    const isProjection = /^h\.\d+\.(attn|mlp)\.c_proj\.weight$/.test(name);
    assert.deepEqual(values, isProjection ? values.map(() => 0) : drawn.values.get(name), name);
  }
  for (const { destroy } of [drawn, zero]) destroy();
});

Deno.test("parameterTable() has the initial deviations of GPT-2 at its widths and depths", () => {
  const deviations = (preset: PresetName) =>
    Object.fromEntries(
      parameterTable({ ...PRESETS[preset], vocabularySize: 300 })
        .filter(({ name }) => /^(wte|wpe|h\.0)/.test(name))
        .map(({ name, initial: { deviation } }) => [name, Number(deviation.toFixed(8))]),
    );
  const of = (matrix: number, projection: number) => ({
    "wte.weight": matrix,
    "wpe.weight": matrix,
    "h.0.attn.c_attn.weight": matrix,
    "h.0.attn.c_proj.weight": projection,
    "h.0.mlp.c_fc.weight": matrix,
    "h.0.mlp.c_proj.weight": projection,
    ...Object.fromEntries(
      ["ln_1.weight", "ln_1.bias", "attn.c_attn.bias", "attn.c_proj.bias", "ln_2.weight"]
        .concat("ln_2.bias", "mlp.c_fc.bias", "mlp.c_proj.bias")
        .map((name) => [`h.0.${name}`, 0]),
    ),
  });
  assert.deepEqual(deviations("gpt2"), of(0.02, 0.00408248)); // 12 layers: 0.02 / √24
  assert.deepEqual(deviations("nano"), of(0.06928203, 0.03464102)); // 64 wide, 2 layers
});

Deno.test("initializeParameters() draws adapters as PEFT does: A within 1 / √inputs, B zero", async () => {
  const seed = freshSeed(), lora = { rank: 8, alpha: 16, targets: ["c_fc", "c_proj"] };
  const gpt = createGpt(device, { ...config, lora }, { precision: "f32" });
  initializeParameters(gpt, { seed });
  for (const { name } of gpt.table.filter(({ name }) => isAdapter(name))) {
    const [drawn] = await download(device, masterOf(gpt, name));
    const what = `${name}, seed ${seed}`;
    if (name.includes("lora_B")) {
      assert.ok(drawn!.every((v) => v === 0), what);
      continue;
    }
    const bound = name.includes("mlp.c_proj") ? 0.1020620726 : 0.2041241452; // of 96 inputs, of 24
    const n = drawn!.length, largest = Math.max(...drawn!.map(Math.abs));
    // all 192 numbers of the smallest are below 0.85 · bound by chance once in 10¹³ runs
    assert.ok(largest <= bound + 1e-7 && largest > 0.85 * bound, `${largest} of ${what}`);
    // v² has the mean bound² / 3 and the deviation 2 · bound² / √45
    let squares = 0;
    for (const v of drawn!) squares += (v / bound) ** 2 - 1 / 3;
    const deviation = 2 / Math.sqrt(45) * Math.sqrt(n);
    assert.ok(Math.abs(squares) < DEVIATIONS * deviation, `variance of ${what}`);
  }
  gpt.destroy();
});

Deno.test("initializeParameters() draws different numbers for every parameter and seed", async () => {
  const seed = freshSeed();
  const [first, again, other] = [
    await initialized(seed),
    await initialized(seed),
    await initialized((seed + 1) >>> 0),
  ];
  assert.deepEqual(again.values, first.values);
  const drawn = parameterTable(config).filter(({ initial }) => initial.deviation > 0);
  // several numbers of each: single ones agree in five digits once in two thousand seeds
  const beginnings = [first, other].flatMap(({ values }) =>
    drawn.map(({ name, initial }) =>
      Array.from(values.get(name)!.subarray(0, 4), (v) => (v / initial.deviation).toFixed(5)).join()
    )
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

Deno.test("loadParameters() accepts names without prefix, attention masks, and the tied head", async () => {
  const bare = new Map(
    [...saved].map(([name, entry]) => [name.slice("transformer.".length), entry]),
  );
  assert.deepEqual(await roundTrip(bare), saved);
  const masks = ["h.0.attn.bias", "transformer.h.1.attn.masked_bias"].map((n) =>
    [n, mask] as const
  );
  assert.deepEqual(await roundTrip(new Map([...saved, ...masks, ["lm_head.weight", wte]])), saved);
});

const zeros = (shape: number[]) =>
  fromFloat32(new Float32Array(shape.reduce((a, b) => a * b)), shape, "F32");
const changed = (...entries: (readonly [string, SafetensorsEntry])[]) =>
  new Map([...saved, ...entries]);
const without = (name: string) => new Map([...saved].filter(([key]) => key !== name));

Deno.test("unexpectedTensors() names the tensors without a parameter in the model, which loadParameters() ignores", async () => {
  const more = changed(["score.weight", wte], ["module.h.9.x", wte], [
    "_orig_mod.lm_head.weight",
    wte,
  ]);
  assert.deepEqual(unexpectedTensors(config, more.keys()), ["score.weight", "module.h.9.x"]);
  const deep = `${"module.".repeat(100_000)}x`;
  assert.deepEqual(unexpectedTensors(config, [deep]), [deep]);
  assert.deepEqual(await roundTrip(more), saved);
});

Deno.test("loadParameters() loads the first positions if the file has more", async () => {
  const shorter = await roundTrip(saved, { contextLength: 3 });
  const { data } = saved.get("transformer.wpe.weight")!;
  assert.deepEqual(
    shorter.get("transformer.wpe.weight")!.data,
    data.slice(0, 3 * config.width * 4),
  );
});

Deno.test("loadParameters() rounds to f16 as saveParameters() does", async () => {
  const seed = freshSeed(), gpt = await initialized(seed);
  const halves = await saveParameters(gpt, { dtype: "F16" });
  gpt.destroy();
  assert.ok([...halves.values()].every(({ dtype }) => dtype === "F16"));
  const again = createGpt(device, config, { precision: "f32" });
  loadParameters(again, halves, "halves");
  assert.deepEqual(await saveParameters(again, { dtype: "F16" }), halves, `seed ${seed}`);
  again.destroy();
});

for (
  const [what, tensors, message] of [
    ["a missing name", without("transformer.ln_f.bias"), /missing names are ln_f\.bias$/],
    [
      "a name twice",
      changed(["wte.weight", wte]),
      /"wte\.weight" once: current names are "transformer\.wte\.weight" and "wte\.weight"$/,
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
  Deno.test(`loadParameters() throws a UserError on ${what}`, async () => {
    await assert.rejects(roundTrip(tensors), { name: "UserError", message });
  });
}
