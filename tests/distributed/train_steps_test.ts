import assert from "node:assert/strict";
import { device } from "../kernels/harness.ts";
import { inProcess } from "./in_process.ts";
import { type Case, compareWithOneRank, trainSteps } from "./train_steps.ts";

/** Differences to a training on one rank: the norm of a gradient's as a share of its norm, and losses, f32. */
const GRADIENT_ERROR = 1e-6, LOSS_ERROR = 1e-4;

/** f16, which scales losses, where the device has it. */
const precision = device.features.has("shader-f16") ? "f16" : "f32";

const small = { layers: 1, width: 16 };

// each case has another kind of batches, and other gradients that are added up
const cases: readonly { name: string; size: number; wanted: Case }[] = [{
  name: "fifty steps of a gpt2 with a tied head",
  size: 2,
  wanted: { config: small, steps: 50, gradientAccumulation: 2 },
}, {
  name: "conversations, Muon and dropout",
  size: 3,
  wanted: {
    config: { ...small, family: "llama" },
    data: "conversations",
    options: { optimizer: "muon", dropout: 0.1 },
    ...{ steps: 3, gradientAccumulation: 1 },
  },
}, {
  name: "adapters, documents apart and activations computed again",
  size: 3,
  wanted: {
    config: { ...small, family: "gpt_neox", lora: { rank: 2, alpha: 4, targets: ["dense"] } },
    data: "apart",
    options: { recompute: "block" },
    ...{ steps: 3, gradientAccumulation: 1 },
  },
}, {
  name: "frozen embeddings and rows of one document each",
  size: 2,
  wanted: {
    ...{ config: small, freeze: "embeddings", data: "padded" },
    ...{ steps: 3, gradientAccumulation: 1 },
  },
}];

for (const { name, size, wanted } of cases) {
  Deno.test(`${size} ranks compute what one does with as many micro-batches: ${name}`, async () => {
    const compared = await compareWithOneRank(device, size, wanted);
    const { ranks, gradientError, worst, lossError } = compared;
    assert.ok(gradientError <= GRADIENT_ERROR, `gradient of ${worst} differs by ${gradientError}`);
    assert.ok(lossError <= LOSS_ERROR, `losses differ by ${lossError}`);
    const [{ hash, reports }] = ranks as [typeof ranks[number]];
    if (reports.length >= 50) assert.ok(reports.at(-1)!.loss < reports[0]!.loss - 0.3);
    for (const rank of ranks) assert.deepEqual([rank.hash, rank.reports], [hash, reports]);
  });
}

Deno.test("two ranks that exchange gradients in f16 have the losses of f32, and equal bits", async () => {
  const wanted = {
    config: small,
    precision,
    options: { optimizer: "muon", wire: "f16" },
    steps: 20,
    gradientAccumulation: 1,
  } as const;
  const { ranks, gradientError, lossError } = await compareWithOneRank(device, 2, wanted);
  assert.ok(
    gradientError > 1e-5 && gradientError <= 2 ** -10,
    `gradients differ by ${gradientError}`,
  );
  assert.ok(lossError <= 1e-3, `losses differ by ${lossError}`);
  assert.deepEqual(ranks[1]!.reports, ranks[0]!.reports);
  assert.equal(ranks[1]!.hash, ranks[0]!.hash);
});

Deno.test("ranks skip a step together when the gradients of one overflow", async () => {
  const ranks = await inProcess(2, (transport) =>
    trainSteps(device, transport, {
      ...{ config: small, precision, steps: 2, gradientAccumulation: 1 },
      async before(step, rank, trainStep) {
        if (step !== 1 || rank !== 1) return;
        trainStep.restore({ ...await trainStep.state(), lossScale: Infinity });
      },
    }));
  for (const { reports } of ranks) {
    assert.deepEqual(reports.map(({ skipped }) => skipped), [false, true]);
  }
  assert.equal(ranks[1]!.hash, ranks[0]!.hash);
});
