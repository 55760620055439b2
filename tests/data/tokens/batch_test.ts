import assert from "node:assert/strict";
import { Random } from "../../../data/random.ts";
import { placesInOrder, shiftedPair } from "../../../data/tokens/batch.ts";
import { freshSeed } from "../../seeds.ts";

Deno.test("shiftedPair() makes each token's target the token after it", () => {
  const { input, target } = shiftedPair(Uint32Array.of(5, 6, 7, 8));
  assert.deepEqual([[...input], [...target]], [[5, 6, 7], [6, 7, 8]]);
});

Deno.test("placesInOrder() sorts places by value, and those of equal values by place", () => {
  const seed = freshSeed(), random = new Random(seed);
  for (const limit of [1, 3, 2 ** 8, 2 ** 20, 2 ** 32]) {
    const values = Uint32Array.from({ length: 300 }, () => random.below(limit));
    const places = [...values.keys()].sort((a, b) => values[a]! - values[b]! || a - b);
    assert.deepEqual([...placesInOrder(values)], places, `below ${limit}, seed ${seed}`);
  }
});
