import assert from "node:assert/strict";
import { TrainingTime, TrainingTokens } from "../../../train/record/training_time.ts";

/** Options of a training with 100 tokens per rank and step. */
const optionsOf = (ranks: number) => ({ batchSize: 2, contextLength: 50, ranks });

Deno.test("TrainingTime.add() counts the tokens of all ranks, whose number may change at a resume", () => {
  const time = new TrainingTime(100);
  const step = (step: number, tokensPerSecond: number) =>
    time.add({ kind: "step", step, tokensPerSecond });
  const start = (step: number, ranks: number) =>
    time.add({ kind: "start", step, options: optionsOf(ranks) });
  start(0, 1);
  assert.equal(step(10, 100), 10);
  start(10, 4);
  assert.equal(step(20, 400), 20); // the steps before the first speed are as fast as that of four ranks
  start(20, 2);
  assert.equal(step(21, 400), 20.5);
});

Deno.test("TrainingTime.add() continues the time of another run if the start knows it", () => {
  const before = (step: number, secondsBefore?: number | null) => {
    const time = new TrainingTime(100);
    time.add({ kind: "start", step, ...(secondsBefore === undefined ? {} : { secondsBefore }) });
    return time;
  };
  const step = { kind: "step", step: 11, tokensPerSecond: 50 };
  assert.deepEqual([0, null, undefined, 7].map((s) => before(10, s).add(step)), [2, NaN, NaN, 9]);
  const time = before(10, 7);
  time.add(step);
  time.goBack(10);
  time.add({ kind: "start", step: 10 }); // resumed from the copy of the other run's checkpoint
  assert.equal(time.add(step), 9);
  // a run that ended before its first checkpoint, and then continued another one
  const other = before(0);
  other.add({ ...step, step: 1 });
  other.add({ kind: "start", step: 10, secondsBefore: 7 });
  assert.equal(other.add(step), 9);
});

Deno.test("TrainingTokens.add() counts the tokens of all ranks, and none of repeated steps", () => {
  const tokens = new TrainingTokens(NaN);
  const start = (step: number, options = {}) => tokens.add({ kind: "start", step, options });
  const at = (step: number) => tokens.add({ kind: "step", step });
  start(0, optionsOf(2));
  assert.equal(at(10), 2000);
  start(10, optionsOf(3));
  assert.equal(at(20), 5000);
  start(5, optionsOf(1)); // from an earlier checkpoint, on fewer ranks
  assert.equal(at(6), 1100);
  start(6); // a record that does not say more
  assert.equal(at(7), 1200);
  tokens.add({ kind: "start", step: 10, options: optionsOf(2), tokensBefore: 4000 });
  assert.deepEqual([at(10), at(11)], [4000, 4200]);
  start(10, optionsOf(3)); // it was killed before its first checkpoint
  assert.deepEqual([at(10), at(11)], [4000, 4300]);
});
