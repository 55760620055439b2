import assert from "node:assert/strict";
import {
  cooldownStart,
  jumpOf,
  learningRateAt,
  type Schedule,
  SCHEDULES,
} from "../../train/schedule.ts";

const SCHEDULE: Schedule = {
  ...{ schedule: "cosine", learningRate: 8, minLearningRate: 2, warmupSteps: 3 },
  ...{ cooldown: 0, steps: 12 },
};

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
      for (const cooldown of [0, 1, steps]) {
        const rates = ratesOf({ ...WSD, minLearningRate: 0, steps, warmupSteps, cooldown });
        for (const rate of rates) assert.ok(rate > 0 && rate <= 8, `${rates}`);
      }
    }
  }
  assert.deepEqual(ratesOf({ ...SCHEDULE, warmupSteps: 0, steps: 1 }), [8]);
  assert.deepEqual(ratesOf({ ...SCHEDULE, warmupSteps: 1, steps: 2 }), [4, 8]);
});

const WSD: Schedule = { ...SCHEDULE, schedule: "wsd", cooldown: 3 };

Deno.test("learningRateAt() of wsd stays at the highest rate, then falls with the root of the progress", () => {
  assert.deepEqual(ratesOf(WSD), [
    ...[2, 4, 6],
    ...[8, 8, 8, 8, 8, 8],
    // 2 + 6 · (1 − √(i / 4)): a fourth step would be at the minimum
    ...[5, 3.757359313, 2.803847577],
  ]);
  assert.equal(cooldownStart(WSD), 9);
  assert.equal(learningRateAt(12, WSD), 2);
});

Deno.test("learningRateAt() of wsd and constant agree before the cool-down, however long the training is", () => {
  for (const steps of [12, 20, 1000]) {
    const constant: Schedule = { ...WSD, schedule: "constant", steps };
    assert.deepEqual(ratesOf(constant, { to: 9 }), ratesOf(WSD, { to: 9 }));
    assert.equal(learningRateAt(steps - 1, constant), 8);
    assert.equal(cooldownStart(constant), steps);
  }
});

Deno.test("learningRateAt() begins a cool-down after the warm-up when it is as long as the training", () => {
  const schedule = { ...WSD, minLearningRate: 0, cooldown: 12 };
  assert.equal(cooldownStart(schedule), 3);
  assert.deepEqual(ratesOf(schedule, { to: 5 }).slice(0, 3), [2, 4, 6]);
  assert.ok(ratesOf(schedule, { from: 3 }).every((rate, i, all) => i === 0 || rate < all[i - 1]!));
});

Deno.test("learningRateAt() gives another learning rate the same share at every step", () => {
  for (const schedule of SCHEDULES) {
    for (const minLearningRate of [0, 2, 8]) {
      const of = { ...WSD, schedule, minLearningRate };
      for (let step = 0; step < 12; step++) {
        const share = learningRateAt(step, of, 0.02) / 0.02;
        assert.ok(Math.abs(share - learningRateAt(step, of) / 8) < 1e-12, `${schedule} ${step}`);
      }
    }
  }
  const none = { ...SCHEDULE, learningRate: 0, minLearningRate: 0 };
  assert.deepEqual([learningRateAt(4, none), learningRateAt(11, none, 0.02)], [0, 0]);
});

/** Every checkpoint is there. */
const isSaved = () => true;

Deno.test("jumpOf() gives both learning rates with three digits, and the steps if they changed", () => {
  const flat = (rate: number, steps = 10): Schedule => ({
    ...{ schedule: "constant", learningRate: rate, minLearningRate: rate },
    ...{ warmupSteps: 0, cooldown: 0, steps },
  });
  const jump = (before: number, now: number, steps?: number) =>
    jumpOf(4, { before: flat(before), now: flat(now, steps), isSaved });
  assert.equal(
    jump(0.00123456, 0.0234567),
    "the learning rate jumps: step 5 has 0.0235 instead of 0.00123",
  );
  assert.equal(
    jump(0.1, 0.2, 20),
    "the learning rate jumps: step 5 has 0.2 instead of 0.1; " +
      "the schedule now has 20 steps instead of 10",
  );
  assert.equal(jump(0.1, 0.109), undefined);
  assert.ok(jump(0.1, 0.111) !== undefined);
});

Deno.test("jumpOf() says that a cool-down begins, and from where a run that has cooled down is extended", () => {
  const wsd = (steps: number, cooldown: number): Schedule => ({
    ...{ schedule: "wsd", learningRate: 0.1, minLearningRate: 0 },
    ...{ warmupSteps: 0, cooldown, steps },
  });
  const planned = wsd(100, 20);
  assert.equal(jumpOf(80, { before: planned, now: planned, isSaved }), undefined);
  assert.equal(
    jumpOf(30, { before: planned, now: wsd(40, 10), isSaved }),
    "the cool-down begins: the learning rate falls from 0.1 to 0 up to step 40",
  );
  // of a run that has ended without one; not if the rate is not the highest
  for (const before of [wsd(30, 0), { ...wsd(30, 0), schedule: "constant" as const }]) {
    assert.equal(
      jumpOf(30, { before, now: wsd(40, 10), isSaved }),
      "the cool-down begins: the learning rate falls from 0.1 to 0 up to step 40",
    );
  }
  assert.equal(
    jumpOf(30, { before: { ...wsd(30, 0), schedule: "cosine" }, now: wsd(40, 10), isSaved }),
    "the learning rate jumps: step 31 has 0.0698 instead of 0; the schedule now has 40 steps instead of 30",
  );
  assert.equal(
    jumpOf(90, { before: planned, now: wsd(200, 20), isSaved }),
    "the learning rate jumps: step 91 has 0.1 instead of 0.0276; the schedule now has 200 steps instead of 100; " +
      "--resume-from 80 continues from before the cool-down",
  );
  assert.equal(
    jumpOf(90, { before: planned, now: wsd(200, 20), isSaved: (step) => step !== 80 }),
    "the learning rate jumps: step 91 has 0.1 instead of 0.0276; the schedule now has 200 steps instead of 100",
  );
  assert.equal(jumpOf(80, { before: planned, now: wsd(200, 20), isSaved }), undefined);
});
