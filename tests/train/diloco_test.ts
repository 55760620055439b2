import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { readTrainerState } from "../../model/files/checkpoint.ts";
import { createGpt } from "../../model/gpt.ts";
import { initializeParameters, setElements } from "../../model/weights.ts";
import { download } from "../../kernels/tensor.ts";
import { oneRank } from "../../distributed/transport.ts";
import { fromJsonBytes, toJsonBytes } from "../../files/json.ts";
import type { TrainOptions } from "../../train/options.ts";
import { createTrainStep } from "../../train/step.ts";
import { directory } from "../checkpoints.ts";
import { inProcess } from "../distributed/in_process.ts";
import {
  batchesOf,
  type Case,
  SIZES,
  smallConfig,
  trainSteps,
} from "../distributed/train_steps.ts";
import { lossesOf, trainSmall } from "../distributed/train.ts";
import { withLiveBuffers } from "../bench/live_buffers.ts";
import { assertClose, device } from "../kernels/harness.ts";

const { fround } = Math;

/**
 * DiLoCo as its paper writes it: trainings of one rank each, whose weights are averaged by hand, in f32.
 *
 * @returns by name the weights after the last step.
 */
async function byHand(
  size: number,
  { config, precision = "f32", freeze = "", data, options, outer, steps, gradientAccumulation }:
    Case,
): Promise<Map<string, number[]>> {
  const { outerLearningRate = 0.7, outerMomentum = 0.9 } = outer ?? {};
  const [rate, mu] = [fround(outerLearningRate), fround(outerMomentum)];
  const H = options!.syncEvery!, batches = batchesOf(data);
  const ranks = Array.from({ length: size }, () => {
    const gpt = createGpt(device, smallConfig(config), { precision, freeze });
    initializeParameters(gpt, { seed: 5 });
    const documents = data === "apart" ? "apart" as const : "joined" as const;
    const step = { ...SIZES, gradientAccumulation, documents, ...options };
    return { gpt, trainStep: createTrainStep(gpt, { ...step, transport: oneRank }) };
  });
  const names = ranks[0]!.gpt.table.filter(({ trained }) => trained).map(({ name }) => name);
  const weightsOf = async (rank: number) => {
    const { tensors } = ranks[rank]!.gpt.parameters;
    const values = await download(device, ...names.map((name) => tensors.get(name)!));
    return new Map(names.map((name, i) => [name, [...values[i]!]]));
  };
  const weights = await weightsOf(0), momentum = new Map<string, number[]>();
  for (let step = 0; step < steps; step++) {
    for (const [r, { trainStep }] of ranks.entries()) {
      const first = (step * size + r) * gradientAccumulation;
      const own = Array.from({ length: gradientAccumulation }, (_, i) => batches.at(first + i));
      await trainStep.submit(step, own, { learningRate: 1e-2 });
    }
    if ((step + 1) % H > 0) continue;
    const ofRanks = await Promise.all(ranks.map((_, r) => weightsOf(r)));
    for (const name of names) {
      const before = weights.get(name)!, m = momentum.get(name) ?? before.map(() => 0);
      before.forEach((weight, i) => {
        const sum = ofRanks
          .map((own) => fround(weight - own.get(name)![i]!))
          .reduce((sum, moved) => fround(sum + moved));
        const gradient = fround(sum / size);
        m[i] = fround(fround(mu * m[i]!) + gradient);
        before[i] = fround(weight - fround(rate * fround(gradient + fround(mu * m[i]!))));
      });
      momentum.set(name, m);
      for (const { gpt } of ranks) setElements(gpt, name, 0, Float32Array.from(before));
    }
  }
  for (const { gpt, trainStep } of ranks) {
    trainStep.destroy();
    gpt.destroy();
  }
  return weights;
}

const small = { layers: 1, width: 16 };
const cases: readonly { name: string; size: number; wanted: Case }[] = [{
  name: "a gpt2 with Muon and accumulation",
  size: 2,
  wanted: {
    // the gradient of a bias of keys is a rounding error, which AdamW would scale to a whole step
    config: { ...small, qkvBias: false },
    options: { syncEvery: 2, optimizer: "muon" },
    ...{ steps: 6, gradientAccumulation: 2 },
  },
}, {
  name: "adapters and documents apart, in f16",
  size: 3,
  wanted: {
    config: { ...small, family: "gpt_neox", lora: { rank: 2, alpha: 4, targets: ["dense"] } },
    ...{ precision: "f16", data: "apart", options: { syncEvery: 3 } },
    ...{ steps: 6, gradientAccumulation: 1 },
  },
}, {
  name: "a frozen block between trained ones, in f16, on one rank",
  size: 1,
  wanted: {
    ...{ config: { width: 16, layers: 3 }, precision: "f16", freeze: "embeddings,1" },
    ...{ options: { syncEvery: 2 }, outer: { outerLearningRate: 0.5, outerMomentum: 0.25 } },
    ...{ steps: 4, gradientAccumulation: 1 },
  },
}];

for (const { name, size, wanted } of cases) {
  Deno.test(`OuterStep computes what ranks alone do whose weights are averaged by hand: ${name}`, async () => {
    const expected = await byHand(size, wanted);
    const { result: ranks, left } = await withLiveBuffers(() =>
      inProcess(size, (transport) => trainSteps(device, transport, wanted))
    );
    assert.deepEqual(left, []);
    for (const { weights } of ranks) {
      for (const [name, values] of expected) {
        assertClose(weights.get(name)!, values, 1e-6, name); // devices round sums of products differently
      }
    }
  });
}

const OPTIONS: Partial<TrainOptions> = {
  ...{ syncEvery: 2, optimizer: "muon", precision: "f16", dropout: 0.1, evalEvery: 0 },
  ...{ schedule: "constant", warmupSteps: 2 },
};

const trainOn = (size: number, options: Partial<TrainOptions>) =>
  inProcess(size, (transport) => trainSmall({ device, transport, ...OPTIONS, ...options }));

/** A checkpoint's weights and state of the optimizer, and what its state says of the ranks. */
function contentOf(out: string, step: number) {
  const path = join(out, "checkpoints", String(step).padStart(6, "0"));
  const files = ["model.safetensors", "optimizer.safetensors"];
  const { batchIndex, lossScale, optimizerSteps, otherRanks } = readTrainerState(path);
  return {
    files: files.map((name) => readFileSync(join(path, name)).toString("latin1")),
    state: { batchIndex, lossScale, optimizerSteps, otherRanks },
  };
}

Deno.test("train() by DiLoCo resumes to the bit on as many ranks", async () => {
  const [whole, parts] = [join(directory, "whole"), join(directory, "parts")];
  const [events] = await trainOn(2, { out: whole, steps: 5 });
  await trainOn(2, { out: parts, steps: 2 });
  const [resumed] = await trainOn(2, { out: parts, steps: 5 });
  assert.deepEqual(contentOf(parts, 5), contentOf(whole, 5));
  assert.deepEqual(lossesOf(resumed!), lossesOf(events!).slice(-lossesOf(resumed!).length));
});

Deno.test("train() by DiLoCo resumes each rank with its own loss scale and skips", async () => {
  const out = join(directory, "own-scales");
  await inProcess(2, (transport) => {
    const skipped = { lossScale: 32768, growthTracker: 1, optimizerSteps: 1, skippedSteps: 1 };
    const gather = (bytes: Uint8Array<ArrayBuffer>) => { // as if the first step of rank 1 was skipped
      const isState = transport.rank === 1 && bytes[0] === 0x7b; // {
      return transport.gather(
        isState ? toJsonBytes({ ...Object(fromJsonBytes(bytes)), ...skipped }) : bytes,
      );
    };
    const options = { out, steps: 2, device, transport: { ...transport, gather } };
    return trainSmall({ ...OPTIONS, ...options });
  });
  await trainOn(2, { out, steps: 4 });
  const { otherRanks: [other] = [], ...state } = readTrainerState(
    join(out, "checkpoints", "000004"),
  );
  assert.deepEqual([state.lossScale, state.skippedSteps], [65536, 0]);
  assert.deepEqual([other!.lossScale, other!.skippedSteps, other!.optimizerSteps], [32768, 1, 3]);
});

Deno.test("train() by DiLoCo gives ranks that its checkpoint does not have the optimizer of rank 0, and says so", async () => {
  const out = join(directory, "other-ranks");
  const noticesOf = async (size: number, options: Partial<TrainOptions>) => {
    const [events] = await trainOn(size, { out, ...options });
    return events!.flatMap((event) =>
      event.kind === "notice" && /rank(?!s compute)/.test(event.message) ? [event.message] : []
    );
  };
  const every = (steps: number) => `, and every ${steps} steps weights are exchanged, by DiLoCo`;
  assert.deepEqual(await noticesOf(1, { steps: 2 }), [
    "1 rank trains: a step has 2 rows, and every 2 steps an outer step is taken, by DiLoCo",
  ]);
  assert.deepEqual(await noticesOf(3, { steps: 4 }), [
    `3 ranks train together, in place of 1 up to now: a step has 6 rows${every(2)}`,
    "the optimizer of ranks 1 and 2 begins with the state of rank 0's, as the checkpoint has no other",
  ]);
  const state = readTrainerState(join(out, "checkpoints", "000004"));
  assert.equal(state.otherRanks?.length, 2);
  assert.equal(state.batchIndex, 2 + 3 * 2);
  assert.deepEqual(await noticesOf(2, { steps: 6, syncEvery: 3 }), [
    `2 ranks train together, in place of 3 up to now: a step has 4 rows${every(3)}`,
    "the state of the optimizer of rank 2 is left out",
  ]);
  assert.deepEqual(await noticesOf(2, { steps: 7, syncEvery: 3 }), [ // each has its own
    `2 ranks train together: a step has 4 rows${every(3)}`,
  ]);
  assert.deepEqual(await noticesOf(2, { steps: 8, syncEvery: 1 }), [
    "2 ranks train together: a step has 4 rows",
    "the state of the optimizer of rank 1 is left out",
  ]);
  assert.equal(readTrainerState(join(out, "checkpoints", "000008")).otherRanks, undefined);
});

Deno.test("ranks that exchange weights decide each for itself which step is skipped", async () => {
  const ranks = await inProcess(2, (transport) =>
    trainSteps(device, transport, {
      ...{ config: small, precision: "f16", options: { syncEvery: 2 } },
      ...{ steps: 2, gradientAccumulation: 1 },
      async before(step, rank, trainStep) {
        if (step !== 1 || rank !== 1) return;
        trainStep.restore({ ...await trainStep.state(), lossScale: 2 ** 120 });
      },
    }));
  const skipped = ranks.map(({ reports }) => reports.map(({ skipped }) => skipped));
  assert.deepEqual(skipped, [[false, false], [false, true]]);
  assert.equal(ranks[1]!.hash, ranks[0]!.hash);
});
