import assert from "node:assert/strict";
import { join } from "node:path";
import { readTrainerState } from "../../model/files/checkpoint.ts";
import { mpirun, withRanks } from "./mpirun.ts";
import type { Trained } from "./train.ts";

const permissions = ["--allow-ffi", "--allow-env", "--allow-read", "--allow-write", "--allow-sys"];

withRanks("train() on two ranks takes every row once, also when it resumes on three", async () => {
  const directory = Deno.makeTempDirSync();
  try {
    const out = join(directory, "run"), alone = join(directory, "alone");
    const options = { steps: 3, gradientAccumulation: 1 };
    const run = (size: number, more: object) =>
      mpirun<Trained>(size, "train.ts", [JSON.stringify({ ...options, ...more })], { permissions });
    const two = await run(2, { out });
    assert.equal(two.code, 0, two.stderr);
    const [first, second] = two.lines;
    assert.deepEqual(second!.events, []);
    const one = await run(1, { out: alone, gradientAccumulation: 2 });
    const losses = ({ lines }: typeof one) => lines[0]!.losses;
    for (const [i, loss] of losses(one).entries()) {
      assert.ok(Math.abs(loss - first!.losses[i]!) <= 1e-4 * loss, `${loss}, ${first!.losses[i]}`);
    }
    assert.equal(losses(one).length, 3);
    const [[alone2, alone3] = [], [two2, two3] = []] = [one, two]
      .map(({ lines }) => lines[0]!.evaluated);
    assert.ok(Math.abs(alone2! - two2!) <= 1e-4 * alone2!, `${alone2}, ${two2}`);
    assert.ok(Math.abs(alone3! - two3!) <= 1e-4 * alone3!, `${alone3}, ${two3}`);
    const three = await run(3, { out, steps: 5 });
    assert.equal(three.code, 0, three.stderr);
    assert.equal(losses(three).length, 2);
    const { batchIndex } = readTrainerState(join(out, "checkpoints", "000005"));
    assert.equal(batchIndex, 3 * 2 + 2 * 3);
  } finally {
    Deno.removeSync(directory, { recursive: true });
  }
});

withRanks("train() names the rank whose documents differ", async () => {
  const directory = Deno.makeTempDirSync();
  try {
    const options = { out: join(directory, "run"), steps: 3, otherTextsOf: 1 };
    const { code, stderr } = await mpirun(2, "train.ts", [JSON.stringify(options)], {
      permissions,
    });
    assert.notEqual(code, 0);
    assert.match(
      stderr,
      /rank 1: Cannot train on the given text as every host must have the same documents/,
    );
  } finally {
    Deno.removeSync(directory, { recursive: true });
  }
});
