import assert from "node:assert/strict";
import { largestThat } from "../../kernels/fit.ts";

Deno.test("largestThat() finds the last number that fits", () => {
  for (const last of [0, 1, 2, 7, 8, 99, 100]) {
    assert.equal(largestThat((value) => value <= last, 100), last);
  }
  assert.equal(largestThat(() => true, 0), 0);
});
