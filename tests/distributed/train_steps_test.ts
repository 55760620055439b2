import assert from "node:assert/strict";
import { mpirun, type Ranks, withRanks } from "./mpirun.ts";
import type { Case, Outcome } from "./train_steps.ts";

/** Differences to a training on one rank: the norm of a gradient's as a share of its norm, and losses, f32. */
const GRADIENT_ERROR = 1e-6, LOSS_ERROR = 1e-4;

function trainOn(size: number, wanted: Case): Promise<Ranks<Outcome>> {
  const permissions = ["--allow-ffi", "--allow-env", "--allow-read"];
  return mpirun<Outcome>(size, "train_steps.ts", [JSON.stringify(wanted)], { permissions });
}

withRanks("two ranks compute what one rank does with twice the accumulation", async () => {
  const { lines, stderr } = await trainOn(2, { steps: 50, gradientAccumulation: 2 });
  const [first, second] = lines;
  assert.ok(first && second, stderr);
  assert.ok(first.gradientError! <= GRADIENT_ERROR, `gradients differ by ${first.gradientError}`);
  assert.ok(first.lossError! <= LOSS_ERROR, `losses differ by ${first.lossError}`);
  assert.ok(first.losses[49]! < first.losses[0]! - 0.3, `losses are ${first.losses}`);
  assert.deepEqual(second.losses, first.losses);
  assert.equal(second.hash, first.hash);
});

withRanks("three ranks skip a step together when the gradients of one overflow", async () => {
  const { lines, stderr } = await trainOn(3, {
    config: { family: "llama" },
    ...{ precision: "f16", optimizer: "muon", options: { dropout: 0.1 } },
    ...{ steps: 3, gradientAccumulation: 1, overflowAt: 2 },
  });
  assert.equal(lines.length, 3, stderr);
  for (const { skipped, hash } of lines) {
    assert.deepEqual(skipped, [false, false, true]);
    assert.equal(hash, lines[0]!.hash);
  }
  assert.ok(lines[0]!.gradientError! <= GRADIENT_ERROR, `${lines[0]!.gradientError}`);
});

withRanks("checkSameBits() names the rank that differs, on every rank", async () => {
  const { lines, stderr } = await trainOn(3, { steps: 1, gradientAccumulation: 1, changed: 2 });
  const sentence = "Cannot continue as all ranks must hold the same parameters: " +
    "rank 2 of 3 differs from the others";
  assert.deepEqual(lines.map(({ hash }) => hash), [sentence, sentence, sentence], stderr);
});
