import assert from "node:assert/strict";
import { Pace } from "../../generate/pace.ts";
import { LOGPROBS_KEPT } from "../../generate/slots.ts";

const GPU = { isCpu: false, provider: "native" } as const;

/** Later chunks than the first ones, of requests without logprobs. */
const LATER = { isFirst: false, logprobs: false, left: Infinity };

Deno.test("Pace does not pause for a CPU adapter, however long a chunk took", async () => {
  const { setTimeout } = globalThis;
  globalThis.setTimeout = (() => assert.fail("it pauses")) as unknown as typeof setTimeout;
  try {
    const pace = new Pace({ isCpu: true, provider: "native" });
    const work = { steps: 1, rows: 1, prefills: 0, isFirst: true, sinceMs: performance.now() };
    pace.observe(work, { steps: { beginMs: 1, endMs: 60_001 } });
    await pace.pause(work);
    assert.equal(pace.steps(1, LATER), 1);
  } finally {
    globalThis.setTimeout = setTimeout;
  }
});

Deno.test("Pace has at most the tokens in a chunk whose logprobs are kept, if there are logprobs", () => {
  const pace = new Pace(GPU);
  const work = { steps: 1000, rows: 1, prefills: 0, isFirst: true, sinceMs: 0 };
  pace.observe(work, { steps: { beginMs: 1, endMs: 17 } });
  assert.equal(pace.steps(1, { ...LATER, logprobs: true }), LOGPROBS_KEPT);
  assert.equal(pace.steps(1, LATER), 1000);
});

Deno.test("Pace has as many tokens in a chunk as take its milliseconds, in the first one a quarter, in the last one the rest", () => {
  for (const chunkMs of [16, 160]) {
    const pace = new Pace(GPU, { chunkMs }); // a token takes 1 ms, it supposes
    assert.equal(pace.steps(1, LATER), chunkMs);
    assert.equal(pace.steps(1, { ...LATER, isFirst: true }), chunkMs / 4);
    assert.equal(pace.steps(1, { ...LATER, left: chunkMs + 9 }), chunkMs + 9); // the rest takes less than to read it back
    assert.equal(pace.steps(1, { ...LATER, left: chunkMs + 10 }), chunkMs);
  }
});

Deno.test("Pace leaves four milliseconds for a last chunk on Dawn, if there is as much before it", () => {
  const pace = new Pace({ isCpu: false, provider: "dawn" }); // a token takes 1 ms, it supposes
  assert.equal(pace.steps(1, { ...LATER, left: 24 }), 20); // a chunk and a rest
  assert.equal(pace.steps(1, { ...LATER, left: 9 }), 5);
  for (const left of [4, 8]) assert.equal(pace.steps(1, { ...LATER, left }), left);
  assert.equal(pace.steps(1, { ...LATER, left: 40 }), 16); // not the last one
  const onCpu = new Pace({ isCpu: true, provider: "dawn" }); // a token takes 8 ms there
  assert.equal(onCpu.steps(1, { ...LATER, left: 3 }), 3);
});

/** What a pace has learnt of a device on which a step takes half a millisecond and a pass that prefills 1.5 ms. */
function learnt({ isCpu = false, idleMs, unit = 1, hostMs = () => 0 }: {
  isCpu?: boolean;
  /** Milliseconds of the device without work before a chunk. */
  idleMs: number;
  /** Milliseconds of the device's clock per millisecond. */
  unit?: number;
  /** Milliseconds for which the host waits in vain for chunk i. */
  hostMs?: (i: number) => number;
}) {
  const pace = new Pace({ ...GPU, isCpu });
  for (let i = 0, now = 1000; i < 100; i++) {
    const steps = pace.steps(64, LATER), prefills = Math.min(pace.prefills(true), i * 7 % 8);
    const begin = now + idleMs, middle = begin + prefills * 1.5, end = middle + steps * 0.5;
    const interval = (beginMs: number, endMs: number) => ({
      beginMs: unit * beginMs,
      endMs: unit * endMs,
    });
    const work = { steps, rows: 64, prefills, isFirst: i === 0, sinceMs: now };
    const times = {
      prefills: prefills ? interval(begin, middle) : undefined,
      steps: interval(middle, end),
    };
    pace.observe(work, times, end + hostMs(i));
    now = end;
  }
  return { tokens: pace.steps(64, LATER), prefills: pace.prefills(true) };
}

Deno.test("Pace has steps and passes that read for 16 ms of the device each, however long the host waits", () => {
  for (const hostMs of [() => 0, (i: number) => i * 13 % 40]) {
    assert.deepEqual(learnt({ idleMs: 0.5, hostMs }), { tokens: 32, prefills: 10 });
  }
});

Deno.test("Pace knows the unit of the device's clock by the host's", () => {
  for (const unit of [0.02, 10]) {
    const { tokens, prefills } = learnt({ idleMs: 0.5, unit, hostMs: (i) => i * 13 % 40 });
    assert.ok(tokens >= 30 && tokens <= 34, `${tokens} of 32`);
    assert.ok(prefills >= 9 && prefills <= 11, `${prefills} of 10`);
  }
});

Deno.test("Pace has longer chunks if a GPU waits for each of them, up to a bound", () => {
  assert.deepEqual(learnt({ idleMs: 3 }), { tokens: 80, prefills: 16 });
  assert.deepEqual(learnt({ idleMs: 1.5 }), { tokens: 32, prefills: 10 });
  assert.deepEqual(learnt({ isCpu: true, idleMs: 3 }), { tokens: 32, prefills: 10 });
});

Deno.test("Pace learns nothing of a device that has no timestamps, or gives none", () => {
  const pace = new Pace(GPU),
    work = { steps: 7, rows: 64, prefills: 1, isFirst: false, sinceMs: 0 };
  for (
    const times of [{}, { prefills: { beginMs: 0, endMs: 0 }, steps: { beginMs: 0, endMs: 0 } }]
  ) {
    pace.observe(work, times);
    assert.deepEqual([pace.steps(64, LATER), pace.prefills(true)], [16, 4]);
  }
});
