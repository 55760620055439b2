import assert from "node:assert/strict";
import { shiftedPair } from "../../../data/tokens/batch.ts";

Deno.test("shiftedPair() makes each token's target the token after it", () => {
  const { input, target } = shiftedPair(Uint32Array.of(5, 6, 7, 8));
  assert.deepEqual([[...input], [...target]], [[5, 6, 7], [6, 7, 8]]);
});
