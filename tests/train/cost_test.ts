import assert from "node:assert/strict";
import { PRESETS } from "../../model/config.ts";
import { flopsPerToken } from "../../train/cost.ts";

Deno.test("flopsPerToken() counts GPT-2 as PaLM's appendix does", () => {
  // 124,439,808 parameters; 12 layers, 12 heads of 64, 1024 tokens
  const expected = 6 * 124_439_808 + 12 * 12 * 12 * 64 * 1024;
  assert.equal(flopsPerToken({ ...PRESETS.gpt2, vocabularySize: 50257 }), expected);
  const apart = { batches: { documentTokens: 256 } }; // of a document in each row, on average
  assert.equal(
    flopsPerToken({ ...PRESETS.gpt2, vocabularySize: 50257 }, apart),
    expected - 12 * 12 * 12 * 64 * (1024 - 256),
  );
  // heads of 32 halve attention, and the matrices of its inputs and outputs
  const narrow = expected - 6 * 12 * (2 * 768 * 768 + 3 * 384) - 12 * 12 * 12 * 32 * 1024;
  const config = { ...PRESETS.gpt2, vocabularySize: 50257, headSize: 32 };
  assert.equal(flopsPerToken(config), narrow);
});

Deno.test("flopsPerToken() counts no gradients of frozen parameters, nor any below the first trained block", () => {
  const [V, T, C, L] = [10, 8, 4, 3];
  const config = { vocabularySize: V, contextLength: T, width: C, layers: L, heads: 1 };
  const embedding = V * C, positions = T * C, norm = 2 * C;
  const block = 12 * C * C + 13 * C, attention = 4 * T * C;
  const of = (freeze?: string, more = {}) =>
    flopsPerToken({ ...config, ...more }, { options: { freeze } });
  const all = embedding + positions + norm + L * block;
  assert.equal(of(), 6 * all + 3 * L * attention);
  assert.equal(of("embeddings"), 6 * all - 2 * embedding - 4 * positions + 3 * L * attention);
  assert.equal(of("1"), 6 * all - 2 * block + 3 * L * attention); // gradients pass through it
  assert.equal(
    of("embeddings,0-1"),
    6 * (norm + block) + 4 * embedding + 2 * positions + 2 * 2 * block + 5 * attention,
  );
  assert.equal(
    of("embeddings,0-2", { ownHead: true }),
    6 * (norm + embedding) + 2 * (embedding + positions + L * block) + L * attention,
  );
  // adapters of queries, keys and values, of rank 2, with everything else frozen
  const lora = { rank: 2, alpha: 4, targets: ["c_attn"] };
  assert.equal(
    of(undefined, { lora }),
    6 * L * 2 * (C + 3 * C) + 4 * (embedding + norm + L * block) + 2 * positions +
      3 * L * attention,
  );
});
