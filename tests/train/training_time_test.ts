import assert from "node:assert/strict";
import { TrainingTime, TrainingTokens } from "../../train/training_time.ts";

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
});
