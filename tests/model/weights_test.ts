import assert from "node:assert/strict";
import { download } from "../../kernels/tensor.ts";
import { createGpt, type Gpt } from "../../model/gpt.ts";
import { parameterTable } from "../../model/parameters.ts";
import { initializeParameters } from "../../model/weights.ts";
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
  const gpt = await initialized(freshSeed());
  const { parameters, copies } = gpt;
  const [flat, ...rounded] = await download(
    device,
    parameters.flat,
    ...(copies?.tensors.values() ?? []),
  );
  [...copies?.tensors.keys() ?? []].forEach((name, i) => {
    const expected = new Float32Array(new Float16Array(gpt.values.get(name)!));
    assert.deepEqual(rounded[i], expected, name);
  });
  for (const { offsetBytes, name } of parameters.tensors.values()) {
    const values = gpt.values.get(name.slice("parameters ".length))!;
    flat!.fill(0, offsetBytes / 4, offsetBytes / 4 + values.length);
  }
  assert.ok(flat!.every((v) => v === 0));
  gpt.destroy();
});
