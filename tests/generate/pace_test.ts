import assert from "node:assert/strict";
import { Pace } from "../../generate/pace.ts";

Deno.test("Pace does not wait for a CPU adapter, however long a chunk took once", async () => {
  const pace = new Pace({ isCpu: true }), begin = performance.now();
  const work = { steps: 1, rows: 1, reads: 0 };
  pace.computed({ ...work, sinceMs: begin - 60_000 }, begin - 60_000);
  await pace.pause({ ...work, sinceMs: begin });
  assert.ok(performance.now() - begin < 10_000);
  assert.equal(pace.tokens(1, { isFirst: false }), 1);
});
