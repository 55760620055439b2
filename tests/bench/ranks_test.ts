import assert from "node:assert/strict";
import { setImmediate } from "node:timers";
import { measureExchanges, measureSteps, type Ranks } from "../../bench/ranks.ts";
import { type RanksResult, SYNC_EVERY, TINY_SUM } from "../../bench/ranks_report.ts";
import { dryTransport, type Transport } from "../../distributed/transport.ts";
import { fromJsonBytes, toJsonBytes } from "../../files/json.ts";
import { device } from "../kernels/harness.ts";
import { withLiveBuffers } from "./live_buffers.ts";
import { type StandingClock, withStandingClock } from "./standing_clock.ts";

/** Milliseconds of a submission, of a wait for all, of a barrier, and by which each sum takes longer than the one before. */
const SUBMIT_MS = 400, WAIT_MS = 7, BARRIER_MS = 1e6, LONGER_MS = 10;

/** Asserts that a number is another one but for rounding. */
function near(actual: number, expected: number): void {
  assert.ok(Math.abs(actual - expected) < 1e-6 * expected, `${actual} is not ${expected}`);
}

// the clock stands still but for submissions and what a rank does with another one, which does nothing
Deno.test("measureExchanges() and measureSteps() time ranks together, and one alone", async () => {
  let sums = 0, barriers = 0, gathered = 0;
  const transportAt = (clock: StandingClock): Transport => ({
    ...dryTransport(2),
    async sum() {
      await new Promise((resolve) => setImmediate(resolve));
      clock.now += LONGER_MS * ++sums;
    },
    barrier() {
      clock.now += BARRIER_MS;
      barriers++;
      return Promise.resolve();
    },
    gather(bytes) {
      gathered++;
      return Promise.resolve([bytes, bytes]);
    },
    broadcast(bytes) {
      const isChoices = Array.isArray(fromJsonBytes(bytes!));
      return Promise.resolve(isChoices ? toJsonBytes([["an op", "a variant"]]) : bytes!);
    },
  });
  const results: RanksResult[] = [], asked: string[] = [];
  const ranks: Omit<Ranks, "transport"> = {
    // without timestamps nothing is tuned
    device: { ...device, isCpu: true, features: new Set(), choices: new Map() },
    precision: "f32",
    wants(name) {
      asked.push(name);
      return Promise.resolve(!name.includes("--wire"));
    },
    add: (result) => void results.push(result),
  };
  const training = { model: "nano", batchSize: 1, accumulation: 2 } as const;
  const { result: ofExchanges, left } = await withLiveBuffers(() =>
    withStandingClock(() => SUBMIT_MS, async (clock) => {
      const all = { ...ranks, transport: transportAt(clock) };
      await measureExchanges(all);
      const soFar = [sums, barriers, gathered];
      await measureSteps(all, [
        training,
        { ...training, isDiloco: true },
        { ...training, wire: "f16" },
      ]);
      return soFar;
    }, { waitMs: WAIT_MS })
  );
  assert.deepEqual(left, []);
  const step = "train step f32 nano 1x64 x 2";
  const names = [TINY_SUM, "exchange of 0.2 M floats", `${step}, 1 rank`, `${step}, 2 ranks`];
  names.push(`${step}, 2 ranks by DiLoCo`, "outer step nano");
  assert.deepEqual(results.map(({ name }) => name), names);
  assert.deepEqual(asked, [
    ...[...names.slice(0, 2), ...names.slice(3, 5)],
    `${step}, 2 ranks --wire f16`,
  ]);
  assert.deepEqual(results.map(({ ranks }) => ranks), [2, 2, 1, 2, 2, 2]);
  const [tiny, exchange, alone, together, diloco, outer] = results as [
    ...[RanksResult, RanksResult, RanksResult, RanksResult, RanksResult, RanksResult],
  ];

  // a round to warm up, and the third of five: of 100 sums, and of those after them
  const median = (first: number) => LONGER_MS * (first + 3);
  assert.equal(tiny.ms, LONGER_MS * (3 * 100 + (1 + 100) / 2));
  // a copy to the host, what was written to the device, and the wait for it
  const exchangeMs = median(601) + 2 * SUBMIT_MS + WAIT_MS;
  assert.deepEqual([exchange.floats, exchange.ms], [200_000, exchangeMs]);
  assert.deepEqual(exchange.parts, {
    ...{ wait: 0, download: 0, upload: 0 },
    sum: LONGER_MS * (601 + 606) / 2, // the mean of six
    ...{ "read back alone": SUBMIT_MS, "sum alone": median(607), "upload alone": WAIT_MS },
  });
  assert.deepEqual(ofExchanges, [612, 5 + 4 * 5, 0]);

  // three steps are timed after two: a submission per micro-batch, and one that reads the last report
  const reportMs = SUBMIT_MS / 3, tokens = 2 * 64;
  near(alone.ms, 2 * SUBMIT_MS + reportMs);
  assert.equal(alone.rangeMs, undefined);
  assert.deepEqual(alone.parts, {});
  assert.equal(alone.tokensPerSecond, 1e3 * tokens / alone.ms);
  const [least, most] = together.rangeMs!, ofSteps = 2 * (1 + 1 + 3); // sums of losses and of gradients
  assert.equal(most - least, LONGER_MS * 2 * (2 + 2)); // two sums, of which each is two sums later
  near(together.ms, (least + most) / 2 + reportMs);
  // the first of the three steps has the fifth and the sixth sum
  assert.equal((least - LONGER_MS * (617 + 618)) % SUBMIT_MS, 0);
  assert.ok(least > LONGER_MS * (617 + 618) && least < LONGER_MS * (617 + 618) + 10 * SUBMIT_MS);
  assert.equal(together.tokensPerSecond, 1e3 * 2 * tokens / together.ms);

  near(diloco.innerMs!, alone.ms);
  near(diloco.ms, alone.ms + outer.ms / SYNC_EVERY);
  near(diloco.tokensPerSecond!, 1e3 * 2 * tokens / diloco.ms);
  assert.equal(diloco.rangeMs, undefined); // steps are submitted before others end
  const firstOuter = 612 + ofSteps + 1;
  assert.equal((outer.ms - median(firstOuter) - WAIT_MS) % SUBMIT_MS, 0);
  assert.equal(outer.parts!.sum, LONGER_MS * (2 * firstOuter + 5) / 2);
  assert.equal(sums, firstOuter + 5);
  // before each of two cases, their steps and the outer step
  assert.equal(barriers, 25 + 2 * (1 + 3) + 5);
  assert.equal(gathered, 1); // weights are compared
  for (const { model, batch, accumulation } of [alone, together, diloco]) {
    assert.deepEqual([model, batch, accumulation], ["nano", "1x64", 2]);
  }
  assert.deepEqual([together.isDiloco, diloco.isDiloco], [undefined, true]);
  assert.equal(ranks.device.choices.get("an op"), "a variant");
});
