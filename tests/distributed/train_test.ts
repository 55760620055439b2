import assert from "node:assert/strict";
import { join } from "node:path";
import { Batches } from "../../data/tokens/batches.ts";
import { device } from "../kernels/harness.ts";
import { inProcess } from "./in_process.ts";
import { mpirun, withRanks } from "./mpirun.ts";
import { lossesOf, TEXTS, trainSmall } from "./train.ts";

const directory = Deno.makeTempDirSync();
globalThis.addEventListener("unload", () => Deno.removeSync(directory, { recursive: true }));

/** Trains on several ranks of this process; returns the events of each. */
const trainOn = (size: number, options: Parameters<typeof trainSmall>[0]) =>
  inProcess(size, (transport) => trainSmall({ device, transport, ...options }));

withRanks("train() under mpirun computes the bits of ranks in one process", async () => {
  const options = { steps: 3, gradientAccumulation: 1 };
  const permissions = ["--allow-ffi", "--allow-env", "--allow-read", "--allow-write"];
  const { lines, code, stderr } = await mpirun<{ rank: number; events: number; losses: number[] }>(
    2,
    "train.ts",
    [JSON.stringify({ ...options, out: join(directory, "mpi") })],
    { permissions: [...permissions, "--allow-sys"] },
  );
  assert.equal(code, 0, stderr);
  const [first, second] = lines;
  assert.equal(second!.events, 0); // rank 0 reports for all
  const [events] = await trainOn(2, { ...options, out: join(directory, "two") });
  assert.deepEqual(first!.losses, lossesOf(events!));
});

Deno.test("train() takes every batch once when it resumes on other numbers of ranks", async () => {
  const taken: number[] = [], at = Batches.prototype.at;
  Batches.prototype.at = function (index) {
    taken.push(index);
    return at.call(this, index);
  };
  try {
    const out = join(directory, "resumed"), gradientAccumulation = 2;
    for (const [size, steps] of [[2, 2], [3, 3], [1, 5], [2, 6]] as const) {
      await trainOn(size, { out, steps, gradientAccumulation });
    }
  } finally {
    Batches.prototype.at = at;
  }
  const batches = 2 * (2 * 2 + 3 * 1 + 1 * 2 + 2 * 1);
  taken.sort((a, b) => a - b);
  assert.deepEqual(taken, Array.from({ length: batches }, (_, i) => i));
});

Deno.test("train() on several ranks has the losses of one with as many micro-batches, also of evaluations", async () => {
  const losses = [];
  for (const size of [1, 2]) {
    const options = { steps: 3, gradientAccumulation: 2 / size };
    const [events] = await trainOn(size, { ...options, out: join(directory, `of-${size}`) });
    losses.push(lossesOf(events!));
  }
  const [alone, two] = losses as [number[], number[]];
  assert.equal(alone.length, 5);
  for (const [i, loss] of alone.entries()) {
    assert.ok(Math.abs(loss - two[i]!) <= 1e-4 * loss, `${loss}, ${two[i]}`);
  }
});

Deno.test("train() names the rank whose documents differ", async () => {
  await assert.rejects(
    inProcess(2, (transport) => {
      const texts = transport.rank === 1 ? [...TEXTS, "Something else."] : TEXTS;
      return trainSmall({ device, transport, texts, steps: 3, out: join(directory, "differ") });
    }),
    {
      name: "UserError",
      message:
        "rank 1: Cannot train on the given text as every host must have the same documents: " +
        "those of rank 1 differ from those of rank 0",
    },
  );
});
