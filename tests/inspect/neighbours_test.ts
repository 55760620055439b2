import assert from "node:assert/strict";
import { neighboursOf } from "../../inspect/neighbours.ts";
import { download } from "../../kernels/tensor.ts";
import { createGpt, type Gpt, masterOf } from "../../model/gpt.ts";
import { initializeParameters, setElements } from "../../model/weights.ts";
import { byteTokenizer, CONFIG } from "../generate/models.ts";
import { device, freshSeed } from "../kernels/harness.ts";

const tokenizer = byteTokenizer(), { width: C, vocabularySize: V } = CONFIG;
const seed = freshSeed();

/** A random model; each test makes its own, because one of them changes it. */
function randomModel() {
  const gpt = createGpt(device, { ...CONFIG, ownHead: true }, { precision: "f32" });
  initializeParameters(gpt, { seed });
  return { gpt, tokenizer };
}

/** The rows of a matrix, f32 [V,C]. */
async function rowsOf(gpt: Gpt, name: string): Promise<Float32Array> {
  const [rows] = await download(device, masterOf(gpt, name));
  return rows as Float32Array;
}

Deno.test("neighboursOf() ranks all tokens by their cosine, in the embedding and in the head", async () => {
  const model = randomModel();
  using gpt = model.gpt;
  for (const [matrix, name] of [["embedding", "wte.weight"], ["head", "lm_head.weight"]] as const) {
    const rows = await rowsOf(gpt, name);
    const row = (id: number) => rows.subarray(id * C, (id + 1) * C);
    const cosine = (a: number, b: number) =>
      row(a).reduce((sum, v, c) => sum + v * row(b)[c]!, 0) /
      (Math.hypot(...row(a)) * Math.hypot(...row(b)));
    const { ids, tokens, neighbours } = await neighboursOf(model, [65, 66, 65], { top: V, matrix });
    assert.deepEqual(ids, [65, 66, 65]);
    assert.deepEqual(tokens.map(({ text }) => text), ["A", "B", "A"]);
    assert.equal(neighbours[0], neighbours[2]);
    for (const [t, id] of ids.entries()) {
      assert.equal(neighbours[t]!.length, V - 1);
      assert.ok(neighbours[t]!.every((other) => other.id !== id));
      for (const [i, other] of neighbours[t]!.entries()) {
        assert.ok(Math.abs(other.cosine - cosine(id, other.id)) < 1e-5, `seed ${seed}`);
        assert.ok(i === 0 || neighbours[t]![i - 1]!.cosine >= other.cosine);
      }
    }
  }
});

Deno.test("neighboursOf() finds a copy of a token's vector first, whatever its length, and has no NaN", async () => {
  const model = randomModel();
  using gpt = model.gpt;
  const rows = await rowsOf(gpt, "wte.weight");
  setElements(gpt, "wte.weight", 90 * C, rows.subarray(65 * C, 66 * C).map((v) => 3 * v));
  setElements(gpt, "wte.weight", 91 * C, new Float32Array(C));
  const { neighbours } = await neighboursOf(model, [65, 91], { top: 3 });
  const first = neighbours[0]![0]!, ofZero = neighbours[1]!;
  assert.equal(first.id, 90);
  assert.ok(Math.abs(first.cosine - 1) < 1e-6);
  assert.deepEqual(ofZero.map(({ cosine }) => cosine), [0, 0, 0]);
});
