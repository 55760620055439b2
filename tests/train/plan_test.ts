import assert from "node:assert/strict";
import type { Corpus } from "../../data/tokens/corpus.ts";
import { choosePreset, jumpOf, littleHeldOut } from "../../train/plan.ts";
import type { Schedule } from "../../train/schedule.ts";
import { device } from "../kernels/harness.ts";

Deno.test("choosePreset() chooses nano on a CPU adapter and mini on a GPU, unless a preset is given", () => {
  const cpu = { ...device, isCpu: true }, gpu = { ...device, isCpu: false };
  const of = (on: typeof device, asked: "auto" | "gpt2") => {
    const { preset, reason, defaults: { batchSize, steps, learningRate } } = choosePreset(
      on,
      asked,
    );
    return [preset, reason, batchSize, steps, learningRate];
  };
  assert.deepEqual(of(cpu, "auto"), [
    ...["nano", "preset nano, as no GPU was found and the CPU computes"],
    ...[16, 2000, 5e-3],
  ]);
  assert.deepEqual(of(gpu, "auto"), ["mini", "preset mini, as there is a GPU", 32, 2000, 1e-3]);
  for (const on of [cpu, gpu]) {
    assert.deepEqual(of(on, "gpt2"), ["gpt2", "preset gpt2, as asked", 8, 50000, 3e-4]);
  }
});

Deno.test("jumpOf() gives both learning rates with three digits, and the steps if they changed", () => {
  const flat = (rate: number, steps = 10): Schedule => ({
    ...{ schedule: "constant", learningRate: rate, minLearningRate: rate },
    ...{ warmupSteps: 0, cooldown: 0, steps },
  });
  const jump = (before: number, now: number, steps?: number) =>
    jumpOf(4, { before: flat(before), now: flat(now, steps) });
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
  assert.equal(jumpOf(80, { before: planned, now: planned }), undefined);
  assert.equal(
    jumpOf(30, { before: planned, now: wsd(40, 10) }),
    "the cool-down begins: the learning rate falls from 0.1 to 0 up to step 40",
  );
  assert.equal(
    jumpOf(90, { before: planned, now: wsd(200, 20) }),
    "the learning rate jumps: step 91 has 0.1 instead of 0.0276; the schedule now has 200 steps instead of 100; " +
      "--resume-from 80 continues from before the cool-down",
  );
  assert.equal(jumpOf(80, { before: planned, now: wsd(200, 20) }), undefined);
});

Deno.test("littleHeldOut() names the tokens of a text to validate with that has fewer than 1,000", () => {
  const of = (length: number) => littleHeldOut({ validation: { length } } as Corpus);
  assert.equal(of(1000), undefined);
  assert.equal(
    of(999),
    "the validation text has only 999 tokens: its loss, and which checkpoint is the best, are partly chance; " +
      "--validation-data names more text",
  );
});
