import assert from "node:assert/strict";
import type { Batch } from "../../data/tokens/batch.ts";
import type { Batches } from "../../data/tokens/batches.ts";
import { oneRank } from "../../distributed/transport.ts";
import type { Gpt } from "../../model/gpt.ts";
import type { TrainStep } from "../../train/step.ts";
import { type Start, StepShare } from "../../train/step_share.ts";

/** Batches that are their own numbers. */
const batches = {
  at: (index: number) => index as unknown as Batch,
  counted: (index: number, count: number) => 1000 * index + count,
} as unknown as Batches;

/** Numbers of the batches that a rank submits in a step, and of the targets of all. */
async function submitted(rank: number, size: number, start: Start, step: number) {
  let first: number[] = [], all = NaN;
  const trainStep = {
    submit(_: number, { length, at }: { length: number; at(i: number): Batch }, { counted }: {
      counted: number;
    }) {
      first = Array.from({ length }, (_, i) => at(i) as unknown as number);
      all = counted;
      return Promise.resolve(0);
    },
  } as unknown as TrainStep;
  const share = new StepShare({ ...oneRank, rank, size }, batches, start);
  const rates = { kind: "step", step, learningRate: 1 } as const;
  await share.submit({ gpt: undefined as unknown as Gpt, trainStep }, rates);
  return { batches: first, counted: all };
}

Deno.test("StepShare takes every batch once when a training resumes on other numbers of ranks", async () => {
  const taken: number[] = [];
  let start: Start = { step: 0, batchIndex: 0, gradientAccumulation: 2, syncEvery: 1 };
  for (const [size, steps] of [[2, 3], [1, 2], [3, 2], [5, 1]] as const) {
    for (let step = start.step; step < start.step + steps; step++) {
      for (let rank = 0; rank < size; rank++) {
        const { batches, counted } = await submitted(rank, size, start, step);
        const before = new StepShare({ ...oneRank, size }, undefined as unknown as Batches, start)
          .batchesBefore(step);
        assert.equal(counted, 1000 * before + 2 * size);
        taken.push(...batches);
      }
    }
    const { step, batchIndex } = start;
    start = { ...start, step: step + steps, batchIndex: batchIndex + steps * size * 2 };
  }
  assert.deepEqual(taken, Array.from({ length: 2 * (2 * 3 + 1 * 2 + 3 * 2 + 5 * 1) }, (_, i) => i));
});
