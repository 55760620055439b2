import assert from "node:assert/strict";
import {
  areSmall,
  checkpointsAtEnd,
  chooseRetained,
  type Keep,
} from "../../../train/directory/retention.ts";
import { directory } from "../../checkpoints.ts";
import { withFreeBytes } from "../../free_bytes.ts";

/** Steps in descending order of `count` checkpoints. */
const stepsTo = (count: number) => Array.from({ length: count }, (_, i) => count - i);

/** What stays of checkpoints: steps in descending order. */
function retained(steps: number[], how: Partial<Parameters<typeof chooseRetained>[1]>) {
  const { whole, weightsOnly } = chooseRetained(steps, {
    ...{ keep: "auto", best: undefined, isSmall: false },
    ...how,
  });
  const sorted = (chosen: ReadonlySet<number>) => [...chosen].sort((a, b) => b - a);
  return { whole: sorted(whole), weightsOnly: sorted(weightsOnly) };
}

Deno.test("chooseRetained() keeps a number of checkpoints and the best, or all while they are small", () => {
  assert.deepEqual(retained(stepsTo(9), { keep: 2, best: 4 }), {
    whole: [9, 8, 4],
    weightsOnly: [],
  });
  assert.deepEqual(retained(stepsTo(9), { keep: 2, best: 9 }), { whole: [9, 8], weightsOnly: [] });
  const all = { whole: stepsTo(99), weightsOnly: [] };
  assert.deepEqual(retained(stepsTo(99), { isSmall: true }), all);
  assert.deepEqual(retained([], { keep: 3 }), { whole: [], weightsOnly: [] });
  assert.deepEqual(retained([], {}), { whole: [], weightsOnly: [] });
  assert.deepEqual(retained(stepsTo(2), {}), { whole: [2, 1], weightsOnly: [] });
});

Deno.test("chooseRetained() spreads the weights of ten checkpoints evenly while new checkpoints come", () => {
  // saved one by one, and many at once when they become too large
  for (const begin of [1, 50, 235]) {
    let steps = stepsTo(begin - 1).map((step) => 10 * step);
    for (let save = begin; save < 600; save++) {
      steps = [10 * save, ...steps];
      const { whole, weightsOnly } = retained(steps, {});
      assert.deepEqual(whole, stepsTo(save).slice(0, 3).map((step) => 10 * step));
      assert.equal(weightsOnly.length, Math.min(10, Math.max(0, save - 3)));
      steps = [...whole, ...weightsOnly];
      const line = [whole.at(-1)!, ...weightsOnly, 0];
      const gaps = line.slice(1).map((step, i) => line[i]! - step);
      const mean = line[0]! / 11;
      assert.ok(Math.max(...gaps) <= Math.max(10, 2 * mean), `gaps ${gaps} after ${save} saves`);
    }
  }
});

Deno.test("chooseRetained() keeps the best whole beside the ten, and considers it again when it is not the best any more", () => {
  const best = retained(stepsTo(20), { best: 7 });
  assert.deepEqual(best.whole, [20, 19, 18, 7]);
  assert.equal(best.weightsOnly.length, 10);
  assert.ok(!best.weightsOnly.includes(7));
  const later = retained([21, ...best.whole, ...best.weightsOnly].sort((a, b) => b - a), {
    best: 21,
  });
  assert.deepEqual(later.whole, [21, 20, 19]);
  assert.equal(later.weightsOnly.length, 10);
  const fewer = retained(stepsTo(20), { mostWeightsOnly: 4 });
  assert.deepEqual(fewer, { whole: [20, 19, 18], weightsOnly: [16, 12, 8, 4] });
});

Deno.test("areSmall() compares with 500 MB and with 1 % of the free disk, if that is known", () => {
  using disk = withFreeBytes(1e12);
  assert.deepEqual([499e6, 500e6].map((bytes) => areSmall(bytes, "runs")), [true, false]);
  disk.bytes = 1e9;
  assert.deepEqual([9.9e6, 10.1e6].map((bytes) => areSmall(bytes, "runs")), [true, false]);
  disk.bytes = Infinity;
  assert.deepEqual([499e6, 500e6].map((bytes) => areSmall(bytes, "runs")), [true, false]);
});

Deno.test("chooseRetained() keeps the checkpoint before a cool-down whole", () => {
  const rules = { best: 4, beforeCooldown: 5 };
  assert.deepEqual(retained(stepsTo(9), { ...rules, keep: 1 }), {
    whole: [9, 5, 4],
    weightsOnly: [],
  });
  assert.deepEqual(retained(stepsTo(9), rules).whole, [9, 8, 7, 5, 4]);
  assert.deepEqual(retained(stepsTo(3), { ...rules, keep: 1 }).whole, [3]);
});

Deno.test("checkpointsAtEnd() counts whole checkpoints with the best, and those with only weights", () => {
  using disk = withFreeBytes(1e12);
  const atEnd = (saves: number, keep: Keep, checkpointBytes = 1e7) =>
    Object.values(checkpointsAtEnd(`${directory}/none`, {
      ...{ checkpointBytes, weightsOnlyBytes: 1, keep, others: 1, saves, startsOver: false },
    }));
  assert.deepEqual(atEnd(9, 3), [4, 0]);
  assert.deepEqual(atEnd(2, 3), [2, 0]);
  assert.deepEqual(atEnd(49, "auto"), [49, 0]);
  assert.deepEqual(atEnd(51, "auto"), [4, 10]);
  assert.deepEqual(atEnd(9, "auto", 1e8), [4, 5]);
  assert.deepEqual(atEnd(2, "auto", 1e9), [2, 0]);
  disk.bytes = 1e10;
  assert.deepEqual(atEnd(11, "auto"), [4, 7]);
});
