import assert from "node:assert/strict";
import { Pace } from "../../generate/pace.ts";
import { LOGPROBS_KEPT } from "../../generate/slots.ts";

Deno.test("Pace does not wait for a CPU adapter, however long a chunk took once", async () => {
  const pace = new Pace({ isCpu: true }), begin = performance.now();
  const work = { steps: 1, rows: 1, reads: 0 };
  pace.computed({ ...work, sinceMs: begin - 60_000 }, begin - 60_000);
  await pace.pause({ ...work, sinceMs: begin });
  assert.ok(performance.now() - begin < 10_000);
  assert.equal(pace.tokens(1, { isFirst: false }), 1);
});

Deno.test("Pace has at most the tokens in a chunk whose logprobs are kept, if there may be logprobs", () => {
  for (const logprobs of [true, false]) {
    const pace = new Pace({ isCpu: true }, { logprobs });
    for (let i = 0; i < 12; i++) {
      const sinceMs = performance.now() - 100;
      pace.computed({ steps: 1e6, rows: 1, reads: 0, sinceMs }, sinceMs);
    }
    const tokens = pace.tokens(1, { isFirst: false });
    assert.ok(logprobs ? tokens === LOGPROBS_KEPT : tokens > 10 * LOGPROBS_KEPT, `${tokens}`);
  }
});

Deno.test("Pace has as many tokens in a chunk as take its milliseconds, in the first one a quarter", () => {
  for (const chunkMs of [16, 160]) {
    const pace = new Pace({ isCpu: false }, { chunkMs, logprobs: false }); // a token takes 1 ms, it supposes
    assert.equal(pace.tokens(1, { isFirst: false }), chunkMs);
    assert.equal(pace.tokens(1, { isFirst: true }), chunkMs / 4);
  }
});
