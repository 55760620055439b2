import assert from "node:assert/strict";
import type { Batch } from "../../data/tokens/batch.ts";
import type { Batches } from "../../data/tokens/batches.ts";
import { oneRank, type Transport } from "../../distributed/transport.ts";
import { createGpt, type Gpt } from "../../model/gpt.ts";
import { initializeParameters } from "../../model/weights.ts";
import type { OuterStep } from "../../train/diloco.ts";
import type { TrainStep } from "../../train/step.ts";
import { type Start, StepShare } from "../../train/step_share.ts";
import { inProcess } from "../distributed/in_process.ts";
import { device } from "../kernels/harness.ts";

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

Deno.test("StepShare.submit() compares the weights of all ranks after every hundredth step", async () => {
  const config = { vocabularySize: 8, contextLength: 4, width: 8, layers: 1, heads: 1 };
  const trainStep = { submit: () => Promise.resolve(0) } as unknown as TrainStep;
  const share = async (transport: Transport, step: number) => {
    using gpt = createGpt(device, config, { precision: "f32" });
    initializeParameters(gpt, { seed: transport.rank === 1 ? 2 : 1 });
    const start = { step: 0, batchIndex: 0, gradientAccumulation: 1, syncEvery: 1 };
    const rates = { kind: "step", step, learningRate: 1 } as const;
    await new StepShare(transport, batches, start).submit({ gpt, trainStep }, rates);
  };
  await inProcess(3, (transport) => share(transport, 98));
  await assert.rejects(inProcess(3, (transport) => share(transport, 99)), {
    message: "Cannot continue as all ranks must hold the same parameters: " +
      "rank 1 of 3 differs from the others",
  });
});

Deno.test("StepShare.exchange() compares the weights of all ranks once after every hundred steps", async () => {
  const config = { vocabularySize: 8, contextLength: 4, width: 8, layers: 1, heads: 1 };
  const trainStep = { submit: () => Promise.resolve(0) } as unknown as TrainStep;
  const compared = await inProcess(2, async (transport) => {
    let comparisons = 0;
    const gather = (bytes: Uint8Array<ArrayBuffer>) => {
      comparisons++;
      return transport.gather(bytes);
    };
    using gpt = createGpt(device, config, { precision: "f32" });
    const start = { step: 90, batchIndex: 0, gradientAccumulation: 1, syncEvery: 30 };
    const share = new StepShare({ ...transport, gather }, batches, start);
    const outer = { run: () => Promise.resolve() } as unknown as OuterStep;
    const after: number[] = [];
    for (let step = 90; step < 320; step++) {
      await share.submit({ gpt, trainStep }, { kind: "step", step, learningRate: 1 });
      if ((step + 1) % 30 > 0) continue;
      const before = comparisons;
      await share.exchange({ gpt, outer });
      if (comparisons > before) after.push(step + 1);
    }
    return after;
  });
  assert.deepEqual(compared, [[120, 210, 300], [120, 210, 300]]);
});
