import assert from "node:assert/strict";
import { copyingHeads } from "../../inspect/copying_heads.ts";
import { attentionWeightsOf } from "../../inspect/inspect.ts";
import { byteTokenizer, CONFIG, randomModel } from "../generate/models.ts";
import { device } from "../kernels/harness.ts";

const model = { gpt: randomModel(device, "f32"), tokenizer: byteTokenizer() };

Deno.test("copyingHeads() is the attention of the last token to all places of the word", async () => {
  const texts = [{ text: "a cat and a cat, the", word: " cat" }, {
    text: "Tom sang.\n",
    word: "Tom",
  }];
  const places = [[2, 3, 4, 5, 12, 13, 14, 15], [1, 2, 3]]; // the text begins at place 1
  const found = await copyingHeads(model, texts);
  assert.equal(found.length, CONFIG.layers * CONFIG.heads);
  for (const [i, { layer, head, weight }] of found.entries()) {
    let sum = 0;
    for (const [j, { text }] of texts.entries()) {
      const { ids, weights } = await attentionWeightsOf(model, text, { layer }), T = ids.length;
      for (const place of places[j]!) sum += weights[(head * T + T - 1) * T + place]!;
    }
    assert.ok(Math.abs(weight - sum / 2) < 1e-6, `${layer}.${head}: ${weight} is ${sum / 2}`);
    assert.ok(i === 0 || weight <= found[i - 1]!.weight);
  }
});

Deno.test("copyingHeads() refuses a text that does not have its word, and no texts", async () => {
  await assert.rejects(copyingHeads(model, []), RangeError);
  await assert.rejects(copyingHeads(model, [{ text: "Once", word: " upon" }]), {
    name: "UserError",
    message: 'Cannot find heads that copy " upon" as the text must have it: "Once"',
  });
});
