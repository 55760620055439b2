import assert from "node:assert/strict";
import { TrainingTime } from "../../train/training_time.ts";

Deno.test("TrainingTime.add() counts the tokens of all ranks, whose number may change at a resume", () => {
  const time = new TrainingTime(100);
  const step = (step: number, tokensPerSecond: number) =>
    time.add({ kind: "step", step, tokensPerSecond });
  time.add({ kind: "start", step: 0 });
  assert.equal(step(10, 100), 10);
  time.add({ kind: "start", step: 10, ranks: 4 });
  assert.equal(step(20, 400), 20); // the steps before the first speed are as fast as that of four ranks
  time.add({ kind: "start", step: 20, ranks: 2 });
  assert.equal(step(21, 400), 20.5);
});
