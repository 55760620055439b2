import assert from "node:assert/strict";
import { cooldownStart, learningRateAt, type Schedule } from "../../train/schedule.ts";
import { shortened, TimeLimit } from "../../train/time_limit.ts";

const WSD: Schedule = {
  ...{ schedule: "wsd", learningRate: 1, minLearningRate: 0 },
  ...{ warmupSteps: 5, cooldown: 40, steps: 200 },
};

Deno.test("TimeLimit counts the steps that fit at the present speed, and what is between steps in proportion", () => {
  let left = 100;
  const limit = new TimeLimit(() => left);
  const spend = (steps: number, seconds: number, others = 0) => {
    left -= seconds + others;
    limit.add(steps, seconds);
  };
  assert.equal(limit.stepsLeft(0), Infinity);
  spend(10, 1);
  assert.equal(limit.stepsLeft(0), Infinity); // a hundredth of the time says little
  spend(90, 9);
  assert.equal(limit.stepsLeft(0), 900);
  assert.equal(limit.stepsLeft(10), 800);
  // five seconds of evaluations in twenty-five
  spend(100, 10, 5);
  assert.equal(limit.stepsLeft(0), 600);
  // half as fast: only the last steps count
  spend(50, 10, 2.5);
  assert.deepEqual([left, limit.stepsLeft(0)], [62.5, 250]);
  left = 0;
  assert.equal(limit.stepsLeft(3), 0);
});

Deno.test("shortened() lets the cool-down begin earlier, or become shorter if there is no more time", () => {
  assert.deepEqual(shortened(WSD, 50, 120), { steps: 120, cooldown: 40 });
  assert.deepEqual(shortened(WSD, 50, 70), { steps: 70, cooldown: 20 });
  assert.deepEqual(shortened(WSD, 50, 50), { steps: 50, cooldown: 0 });
  for (const schedule of ["cosine", "constant"] as const) {
    assert.equal(shortened({ ...WSD, schedule, cooldown: 0 }, 50, 120).steps, 120);
  }
});

Deno.test("shortened() continues a cool-down at the rate that it has reached, and ends it", () => {
  for (const step of [161, 170, 198]) {
    for (const steps of [step + 1, step + 10, 195].filter((steps) => step < steps && steps < 200)) {
      const shorter = { ...WSD, ...shortened(WSD, step, steps) };
      const [rate, before] = [learningRateAt(step, shorter), learningRateAt(step - 1, WSD)];
      assert.ok(rate < before + 1e-9, `${step} ${steps}: ${rate} after ${before}`);
      if (steps > step + 1) assert.ok(rate > 0.8 * before, `${step} ${steps}: ${rate}`);
      assert.ok(cooldownStart(shorter) <= step);
    }
  }
});
