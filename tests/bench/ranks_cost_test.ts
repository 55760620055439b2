import assert from "node:assert/strict";
import {
  exchangeMs,
  figuresOf,
  modelledTrainings,
  mostHosts,
  NETWORKS,
  outerShareMs,
  stepMs,
  sumMs,
} from "../../bench/ranks_cost.ts";
import { SUM_FLOATS } from "../../distributed/transport.ts";
import { SYNC_EVERY } from "../../bench/ranks_report.ts";
import { ranksReports } from "./ranks_fixture.ts";

const reports = ranksReports(), { report } = reports, figures = figuresOf(reports);
const network = { bytesPerSecond: 1e9 }, two = { hosts: 1, ranksPerHost: 2 };

/** Asserts that a number is within a thousandth of another one. */
function near(actual: number, expected: number): void {
  assert.ok(Math.abs(actual - expected) <= 1e-3 * expected, `${actual} is not near ${expected}`);
}

Deno.test("figuresOf() has figures from which the model gives the measured exchanges of two ranks", () => {
  near(figures.callMs, 0.02);
  near(figures.messageMs, 0.01);
  for (const { name, floats, ms, parts } of report.results) {
    if (floats === undefined) continue;
    near(sumMs(figures, floats, two, network), parts!.sum!);
    if (name.startsWith("exchange")) near(exchangeMs(figures, floats, two, network), ms);
    else near(outerShareMs(figures, floats, two, network), ms / SYNC_EVERY);
  }
});

Deno.test("figuresOf() rests on the exchanges with the fewest and the most floats", () => {
  const between = report.results.filter(({ name }) => name.startsWith("exchange")).slice(0, 1).map(
    (one) => ({ ...one, floats: 2 * one.floats!, ms: 9 * one.ms }),
  );
  const results = [...between, ...report.results];
  assert.deepEqual(figuresOf({ ...reports, report: { ...report, results } }), figures);
  assert.deepEqual(
    figuresOf({ ...reports, report: { ...report, results: results.toReversed() } }),
    figures,
  );
});

Deno.test("sumMs() divides a network among the ranks of a host, and pays for each message", () => {
  const free = { ...figures, callMs: 0, messageMs: 0, tcpBytesPerSecond: Infinity };
  const floats = 4 * SUM_FLOATS, bytes = 4 * floats;
  // each of two hosts sends half of the floats of its one rank twice
  near(sumMs(free, floats, { hosts: 2, ranksPerHost: 1 }, network), 1e3 * bytes / 1e9);
  // a rank of one host writes its floats, adds seven slices of an eighth, and reads all sums
  const inHost = sumMs(free, floats, { hosts: 1, ranksPerHost: 8 }, network);
  near(inHost, 1e3 * bytes * (2 + 7 / 8) / figures.memoryBytesPerSecond);
  const both = sumMs(free, floats, { hosts: 2, ranksPerHost: 8 }, network);
  const here = 2 * bytes * 7 / 16 / figures.hereBytesPerSecond; // slices to seven ranks, and theirs
  near(both, 1e3 * (here + 2 * bytes * 8 * 8 / 16 / 1e9));
  const slow = { ...free, messageMs: 1 }; // of four pieces, each with three messages to eight ranks
  near(sumMs(slow, floats, { hosts: 2, ranksPerHost: 8 }, network) - both, 4 * 3 * 8);
  const busy = { ...free, callMs: 1 }; // of four pieces, each with three exchanges and fifteen additions
  near(sumMs(busy, floats, { hosts: 2, ranksPerHost: 8 }, network) - both, 4 * (3 + 15));
  assert.equal(exchangeMs(figures, floats, { hosts: 1, ranksPerHost: 1 }, network), 0);
});

Deno.test("mostHosts() is the last power of two with which ranks reach 0.8 of linear", () => {
  const [mini, gpt2, xl] = modelledTrainings(report);
  assert.deepEqual([mini!.oneRankMs, gpt2!.oneRankMs], [160, 2464]);
  assert.ok(xl!.isScaled && xl!.oneRankMs > 10 * gpt2!.oneRankMs);
  const fast = { ...figures, callMs: 0, messageMs: 0, memoryBytesPerSecond: 1e12 };
  const none = { fixedMs: 0, perFloatMs: 0 };
  const free = { ...fast, readBack: none, copies: none, rest: none, tcpBytesPerSecond: 1e12 };
  const share = (hosts: number, gigabits: number) => {
    const place = { hosts, ranksPerHost: 8 }, rate = { bytesPerSecond: gigabits * 1e9 / 8 };
    return gpt2!.oneRankMs / stepMs(free, gpt2!, "synchronous", place, rate);
  };
  const [slow, , quick] = NETWORKS;
  assert.equal(mostHosts(free, gpt2!, "synchronous", slow!, 1024), 1);
  assert.ok(share(1, 10) >= 0.8 && share(2, 10) < 0.8);
  assert.equal(mostHosts(free, gpt2!, "synchronous", quick!, 1024), 1024);
  assert.equal(mostHosts(figures, mini!, "synchronous", slow!, 1024), 0);
  const forty = { ...free, memoryBytesPerSecond: Infinity, rest: { ...none, fixedMs: 40 } };
  assert.equal(mostHosts(forty, mini!, "synchronous", slow!, 1), 1); // 160 of 200 ms are just enough
  assert.ok(mostHosts(figures, mini!, "DiLoCo", slow!, 1024) >= 2);
});
