import assert from "node:assert/strict";
import { Pace } from "../../generate/pace.ts";
import { LOGPROBS_KEPT } from "../../generate/slots.ts";

/** Later chunks than the first ones, of requests without logprobs. */
const LATER = { isFirst: false, logprobs: false, left: Infinity };

Deno.test("Pace does not wait for a CPU adapter, however long a chunk took once", async () => {
  const pace = new Pace({ isCpu: true, provider: "native" }), begin = performance.now();
  const work = { steps: 1, rows: 1, reads: 0 };
  pace.computed({ ...work, sinceMs: begin - 60_000 }, begin - 60_000);
  await pace.pause({ ...work, sinceMs: begin });
  assert.ok(performance.now() - begin < 10_000);
  assert.equal(pace.tokens(1, LATER), 1);
});

Deno.test("Pace has at most the tokens in a chunk whose logprobs are kept, if there are logprobs", () => {
  const pace = new Pace({ isCpu: true, provider: "native" });
  for (let i = 0; i < 12; i++) {
    const sinceMs = performance.now() - 100;
    pace.computed({ steps: 1e6, rows: 1, reads: 0, sinceMs }, sinceMs);
  }
  assert.equal(pace.tokens(1, { ...LATER, logprobs: true }), LOGPROBS_KEPT);
  assert.ok(pace.tokens(1, LATER) > 10 * LOGPROBS_KEPT);
});

Deno.test("Pace has as many tokens in a chunk as take its milliseconds, in the first one a quarter, in the last one the rest", () => {
  for (const chunkMs of [16, 160]) {
    const pace = new Pace({ isCpu: false, provider: "native" }, { chunkMs }); // a token takes 1 ms, it supposes
    assert.equal(pace.tokens(1, LATER), chunkMs);
    assert.equal(pace.tokens(1, { ...LATER, isFirst: true }), chunkMs / 4);
    assert.equal(pace.tokens(1, { ...LATER, left: chunkMs + 9 }), chunkMs + 9); // the rest takes less than to read it back
    assert.equal(pace.tokens(1, { ...LATER, left: chunkMs + 10 }), chunkMs);
  }
});

/** What a host learns of a device with these times, if each chunk also reads prompts and the host is late at some times. */
function learned({ stepMs, readMs, late }: { stepMs: number; readMs: number; late: number }) {
  const pace = new Pace({ isCpu: false, provider: "native" });
  for (let i = 0, now = 0; i < 400; i++) {
    const steps = pace.tokens(64, LATER), reads = Math.min(pace.reads(true), 1 + i * 7 % 8);
    const sinceMs = now, readyMs = now + steps * stepMs + reads * readMs;
    now = i * 13 % 100 < 100 * late ? readyMs + 3 : readyMs;
    pace.computed({ steps, rows: 64, reads, sinceMs }, now === readyMs ? now - 2 : now, now);
  }
  return { tokens: pace.tokens(64, LATER), reads: pace.reads(true) };
}

Deno.test("Pace tells steps and passes that read apart though each chunk has both, also if the host is late", () => {
  for (const late of [0, 0.3]) {
    const { tokens, reads } = learned({ stepMs: 0.4, readMs: 1.5, late });
    assert.ok(tokens >= 36 && tokens <= 48, `${tokens} of 40`);
    assert.ok(reads >= 8 && reads <= 12, `${reads} of 10`);
  }
});

Deno.test("Pace has longer chunks for a host that is always late, up to a bound", () => {
  const { tokens } = learned({ stepMs: 0.4, readMs: 1.5, late: 1 });
  assert.ok(tokens >= 80 && tokens <= 120, `${tokens} of 100`);
});

Deno.test("Pace has eight steps in a chunk at least, however long a busy host waits for any", () => {
  const pace = new Pace({ isCpu: false, provider: "native" });
  for (let i = 0, now = 0; i < 100; i++) {
    const steps = pace.tokens(1, LATER), sinceMs = now;
    now += 50;
    pace.computed({ steps, rows: 1, reads: 0, sinceMs }, sinceMs, now);
  }
  assert.equal(pace.tokens(1, LATER), 8);
});
