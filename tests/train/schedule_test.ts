import assert from "node:assert/strict";
import { learningRateAt, type Schedule } from "../../train/schedule.ts";

const SCHEDULE: Schedule = { learningRate: 8, minLearningRate: 2, warmupSteps: 3, steps: 12 };

/** Learning rates of all steps, to nine digits. */
const ratesOf = (schedule: Schedule, { from = 0, to = schedule.steps } = {}) =>
  Array.from(
    { length: to - from },
    (_, i) => Number(learningRateAt(from + i, schedule).toFixed(9)),
  );

Deno.test("learningRateAt() rises in the warm-up, then falls by half a cosine to the minimum", () => {
  assert.deepEqual(ratesOf(SCHEDULE), [
    // 8 · 1/4, 2/4 and 3/4: no step is at 0, the first after the warm-up is at the highest
    ...[2, 4, 6, 8],
    // 2 + 6 · (1 + cos(π · i / 8)) / 2
    ...[7.771638598, 7.121320344, 6.148050297, 5, 3.851949703, 2.878679656, 2.228361402, 2],
  ]);
});

Deno.test("learningRateAt() begins at the highest rate when there is no warm-up", () => {
  assert.deepEqual(ratesOf({ ...SCHEDULE, warmupSteps: 0, steps: 5 }), [
    ...[8, 7.121320344, 5, 2.878679656, 2],
  ]);
});

Deno.test("learningRateAt() stays at the minimum when the steps are done", () => {
  assert.deepEqual(ratesOf(SCHEDULE, { from: 11, to: 15 }), [2, 2, 2, 2]);
});

Deno.test("learningRateAt() of an extended training follows the longer cosine", () => {
  // 10 of 21 steps after the warm-up: 2 + 6 · (1 + cos(π · 8 / 20)) / 2 at step 11, not the minimum
  const extended = { ...SCHEDULE, steps: 24 };
  assert.deepEqual(ratesOf(extended, { from: 11, to: 13 }), [5.927050983, 5.469303395]);
  assert.equal(learningRateAt(13, extended), 5);
  assert.equal(learningRateAt(23, extended), 2);
});

Deno.test("learningRateAt() is neither 0 nor above the highest when the training is short", () => {
  for (let steps = 1; steps <= 6; steps++) {
    for (let warmupSteps = 0; warmupSteps <= 7; warmupSteps++) {
      const rates = ratesOf({ ...SCHEDULE, minLearningRate: 0.5, steps, warmupSteps });
      for (const rate of rates) assert.ok(rate >= 0.5 && rate <= 8, `${rates}`);
    }
  }
  assert.deepEqual(ratesOf({ ...SCHEDULE, warmupSteps: 0, steps: 1 }), [8]);
  assert.deepEqual(ratesOf({ ...SCHEDULE, warmupSteps: 1, steps: 2 }), [4, 8]);
});
