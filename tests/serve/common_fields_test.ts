import assert from "node:assert/strict";
import { type CommonFields, seedsOf } from "../../serve/common_fields.ts";

Deno.test("seedsOf() gives each choice another seed, also behind the largest one", () => {
  const seeds = (seed: number) => seedsOf({ seed } as CommonFields, 4);
  assert.deepEqual(seeds(7), [7, 8, 9, 10]);
  const most = 2 ** 32 - 1;
  assert.deepEqual(seeds(Number.MAX_SAFE_INTEGER), [most, 0, 1, 2]);
  assert.equal(new Set(seedsOf({ seed: undefined } as CommonFields, 4)).size, 4);
});
