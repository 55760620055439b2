import assert from "node:assert/strict";
import { FAILED, Heartbeat, progressOf, SHARED } from "../../distributed/heartbeat.ts";

const TIMEOUT_MS = 4000, ALONE = { calls: 0, waiting: 0, limitMs: 0 };

Deno.test("progressOf() has a number of calls that grows, and is not FAILED after 2³¹ and more of them", () => {
  const shared = new Int32Array(new SharedArrayBuffer(12));
  const callsAfter = (calls: number) => {
    shared[SHARED.calls] = calls;
    return progressOf(shared).calls;
  };
  assert.deepEqual([0, 7, 2 ** 31 - 1].map(callsAfter), [0, 7, 2 ** 31 - 1]);
  for (const calls of [2 ** 31, 2 ** 31 + 5, 2 ** 32 - 1]) {
    assert.ok(callsAfter(calls) >= 0 && callsAfter(calls) !== FAILED, `${calls}`);
    assert.notEqual(callsAfter(calls), callsAfter(calls - 1));
  }
});

Deno.test("Heartbeat.pass() names the ranks that are silent for the timeout", () => {
  const heartbeat = new Heartbeat({ rank: 0, size: 4, timeoutMs: TIMEOUT_MS });
  for (const rank of [1, 2, 3]) heartbeat.received(rank, ALONE);
  for (let second = 0; second < 4; second++) {
    heartbeat.received(2, { calls: 1, waiting: 1 }); // without progress
    assert.equal(heartbeat.pass(1000, ALONE), undefined);
  }
  assert.deepEqual(heartbeat.pass(1000, ALONE), {
    sentence: "Cannot continue as every rank must answer within 4 s (--timeout): " +
      "ranks 1, 3 are silent",
    launcherState: "unreachable",
  });
  for (const rank of [1, 3]) heartbeat.received(rank, { calls: 1, waiting: 1 });
  assert.equal(heartbeat.pass(1000, ALONE), undefined); // they were stopped, and continue
});

Deno.test("Heartbeat.pass() names eight silent ranks, and counts those beyond", () => {
  const silent = (size: number) => {
    const heartbeat = new Heartbeat({ rank: 0, size, timeoutMs: TIMEOUT_MS });
    return heartbeat.pass(TIMEOUT_MS + 10_001, ALONE)!.sentence.split(": ")[1];
  };
  assert.equal(silent(9), "ranks 1, 2, 3, 4, 5, 6, 7, 8 are silent");
  assert.equal(silent(12), "ranks 1, 2, 3, 4, 5, 6, 7, 8 and 3 more are silent");
});

Deno.test("Heartbeat.pass() lets other ranks watch rank 0 alone, the lower ones first", () => {
  const [first, second] = [1, 2].map((rank) =>
    new Heartbeat({ rank, size: 3, timeoutMs: TIMEOUT_MS })
  );
  for (const heartbeat of [first!, second!]) {
    heartbeat.received(0, ALONE);
    assert.equal(heartbeat.pass(TIMEOUT_MS, ALONE), undefined);
  }
  assert.match(first!.pass(150, ALONE)!.sentence, /: rank 0 is silent$/);
  assert.equal(second!.pass(150, ALONE), undefined);
});

Deno.test("Heartbeat.pass() names the ranks for which the others wait when a step makes no progress", () => {
  const heartbeat = new Heartbeat({ rank: 0, size: 4, timeoutMs: Infinity });
  const own = { calls: 3, waiting: 1, limitMs: 2000 };
  const passSecond = (calls: readonly number[]) => {
    for (const [i, count] of calls.entries()) {
      heartbeat.received(i + 1, { calls: count, waiting: count % 2 });
    }
    return heartbeat.pass(1000, own);
  };
  assert.equal(passSecond([1, 2, 4]), undefined);
  assert.equal(passSecond([1, 2, 4]), undefined);
  assert.equal(passSecond([1, 4, 4]), undefined); // rank 2 has made progress
  assert.equal(passSecond([1, 4, 4]), undefined);
  assert.deepEqual(passSecond([1, 4, 4]), {
    sentence: "Cannot continue as a step must make progress within 2 s (--timeout): " +
      "ranks 2, 3 are not done with their own part",
    launcherState: "reachable",
  });
});

Deno.test("Heartbeat.pass() counts no time without a limit, as while rank 0 saves", () => {
  const heartbeat = new Heartbeat({ rank: 0, size: 2, timeoutMs: Infinity });
  const pass = (limitMs: number, calls = 1) => {
    heartbeat.received(1, { calls: 7, waiting: 1 });
    return heartbeat.pass(1500, { calls, waiting: 1, limitMs });
  };
  assert.equal(pass(2000), undefined);
  assert.equal(pass(0), undefined);
  assert.equal(pass(2000), undefined);
  assert.match(pass(2000)!.sentence, /: all ranks wait for each other$/);
});

Deno.test("Heartbeat.pass() names silent ranks sooner while the launcher may be ending all", () => {
  const heartbeat = new Heartbeat({ rank: 0, size: 3, timeoutMs: 60_000 });
  heartbeat.expectEnd(); // rank 2 has not started yet
  heartbeat.received(1, ALONE);
  assert.equal(heartbeat.pass(5000, ALONE), undefined);
  heartbeat.received(1, ALONE);
  assert.deepEqual(heartbeat.pass(1, ALONE), {
    sentence: "Cannot continue as every rank must answer within 5 s when the ranks are ended: " +
      "rank 2 is silent",
    launcherState: "ending",
  });
  heartbeat.expectEnd(); // once more: silence counts from now on
  assert.equal(heartbeat.pass(5000, ALONE), undefined);
  for (const rank of [1, 2]) heartbeat.received(rank, ALONE);
  assert.equal(heartbeat.pass(10_000, ALONE)!.launcherState, "ending");
  for (const rank of [1, 2]) heartbeat.received(rank, ALONE); // the ranks were only stopped, and continue
  assert.equal(heartbeat.pass(60_000, ALONE), undefined);
});

Deno.test("Heartbeat.pass() gives the worker of another rank ten seconds more to start", () => {
  const heartbeat = new Heartbeat({ rank: 0, size: 2, timeoutMs: TIMEOUT_MS });
  assert.equal(heartbeat.pass(TIMEOUT_MS + 10_000, ALONE), undefined);
  assert.match(heartbeat.pass(1, ALONE)!.sentence, /: rank 1 is silent$/);
});
