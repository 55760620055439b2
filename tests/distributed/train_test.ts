import assert from "node:assert/strict";
import { join } from "node:path";
import { Batches } from "../../data/tokens/batches.ts";
import { readRun } from "../../train/record/compared_run.ts";
import { openTestDevice } from "../gpu.ts";
import { readTrainerState } from "../../model/files/checkpoint.ts";
import { device } from "../kernels/harness.ts";
import { describeDevices } from "../../train/ranks.ts";
import { inProcess } from "./in_process.ts";
import { mpirun, withRanks } from "./mpirun.ts";
import type { Transport } from "../../distributed/transport.ts";
import { StepShare } from "../../train/step_share.ts";
import { train, type TrainEvent } from "../../train/train.ts";
import { lossesOf, SMALL, TEXTS, trainSmall } from "./train.ts";

const directory = Deno.makeTempDirSync();
globalThis.addEventListener("unload", () => Deno.removeSync(directory, { recursive: true }));

/** Trains on several ranks of this process; returns the events of each. */
const trainOn = (size: number, options: Parameters<typeof trainSmall>[0]) =>
  inProcess(size, (transport) => trainSmall({ device, transport, ...options }));

withRanks("train() under mpirun computes the bits of ranks in one process", async () => {
  const options = { steps: 3, gradientAccumulation: 1 };
  const permissions = ["--allow-ffi=/usr,/opt", "--allow-env", "--allow-read", "--allow-write"];
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

const noticesOf = (events: readonly TrainEvent[]) =>
  events.flatMap((event) => event.kind === "notice" ? [event.message] : []);

const resumes = [
  [2, 2, "2 ranks train together: a step has 8 rows"],
  [3, 3, "3 ranks train together, in place of 2 up to now: a step has 12 rows"],
  [1, 5, "1 rank trains, in place of 3 up to now: a step has 4 rows"],
  [2, 6, "2 ranks train together, in place of 1 up to now: a step has 8 rows"],
] as const;

Deno.test("train() takes every batch once when it resumes on other numbers of ranks", async () => {
  const taken: number[] = [], { at } = Batches.prototype, { submit } = StepShare.prototype;
  let submitting = 0; // ranks; the count of FLOPs takes batches, too
  Batches.prototype.at = function (index) {
    if (submitting > 0) taken.push(index);
    return at.call(this, index);
  };
  StepShare.prototype.submit = async function (...step) {
    submitting++;
    return await submit.apply(this, step).finally(() => submitting--);
  };
  try {
    const out = join(directory, "resumed"), gradientAccumulation = 2;
    for (const [size, steps, message] of resumes) {
      const [events] = await trainOn(size, { out, steps, gradientAccumulation });
      const notices = noticesOf(events!);
      assert.ok(notices.includes(message), message);
      assert.equal(notices.includes(`all ranks compute on ${device.name}`), size > 1);
    }
  } finally {
    Batches.prototype.at = at;
    StepShare.prototype.submit = submit;
  }
  const batches = 2 * (2 * 2 + 3 * 1 + 1 * 2 + 2 * 1);
  taken.sort((a, b) => a - b);
  assert.deepEqual(taken, Array.from({ length: batches }, (_, i) => i));
});

Deno.test("describeDevices() names the ranks of each device if they have several", () => {
  const [first, second] = ["A at 0000:1b:00.0", "A at 0000:43:00.0"];
  assert.equal(describeDevices([first, first]), `all ranks compute on ${first}`);
  assert.equal(
    describeDevices([first, second, first]),
    `ranks 0, 2 compute on ${first}, rank 1 on ${second}`,
  );
});

Deno.test("train() counts steps, passes over the text and tokens of all ranks", async () => {
  const out = join(directory, "counted");
  const tokens = (ranks: number) => 2 * 16 * ranks;
  const [first] = await trainOn(2, { out, steps: 3, logEvery: 1 });
  const [dry] = await trainOn(3, { out, epochs: 1, dryRun: true });
  const [events] = await trainOn(3, { out, epochs: 1, evalEvery: 0 });
  const find = <Kind extends TrainEvent["kind"]>(events: TrainEvent[], kind: Kind) =>
    events.find((event) => event.kind === kind) as TrainEvent & { kind: Kind };
  const { steps, epochs, options } = find(events!, "start");
  assert.equal(options.ranks, 3);
  assert.equal(find(dry!, "start").steps, steps);
  const { flops } = find(dry!, "estimate");
  assert.equal(flops.perStep, flops.perToken * tokens(3));
  const perStep = epochs * 3 / (3 * 2 + (steps - 3) * 3);
  assert.ok(epochs >= 1 && epochs - perStep < 1, `${steps} steps are ${epochs} epochs`);
  assert.equal(find(first!, "end").tokens, 3 * tokens(2));
  const { points } = readRun(out, () => {});
  assert.deepEqual(points.map(({ step, tokens }) => [step, tokens]), [
    [2, 2 * tokens(2)],
    [3, 3 * tokens(2)],
    [steps, 3 * tokens(2) + (steps - 3) * tokens(3)],
  ]);
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

for (const syncEvery of [1, 2]) {
  const name = syncEvery === 1 ? "gradients" : "differences of weights";
  Deno.test(`train() resumes the error feedback of ${name} in f16 to the bit, on as many ranks`, async () => {
    const out = join(directory, `wire-${syncEvery}`);
    const options = { out, wire: "f16", syncEvery, steps: 6, evalEvery: 0 } as const;
    const saved = () => readTrainerState(join(out, "checkpoints", "000006")).files; // hashes
    await trainOn(2, { ...options, saveEvery: 2 });
    const whole = saved();
    const resumeFrom = join(out, "checkpoints", "000004");
    const [resumed] = await trainOn(2, { ...options, resumeFrom });
    assert.deepEqual(saved(), whole);
    const [three] = await trainOn(3, { ...options, steps: 7 });
    const message =
      "the error feedback of --wire f16 begins anew, as the checkpoint has none of these ranks";
    assert.ok(noticesOf(three!).includes(message));
    assert.ok(!noticesOf(resumed!).includes(message));
    const [alone] = await trainOn(1, { out, steps: 7, syncEvery: 1, dryRun: true });
    assert.deepEqual(
      noticesOf(alone!).filter((notice) => notice.includes("left out")),
      [
        "what --wire f16 has rounded away, and not sent yet, is left out",
        ...syncEvery === 1 ? [] : [
          "the momentum of the outer optimizer is left out",
          "the state of the optimizer of ranks 1 and 2 is left out",
        ],
      ],
    );
  });
}

Deno.test("train() names the rank whose documents differ", async () => {
  await assert.rejects(
    inProcess(2, (transport) => {
      const texts = transport.rank === 1 ? [...TEXTS, "Something else."] : TEXTS;
      return trainSmall({ device, transport, texts, steps: 3, out: join(directory, "differ") });
    }),
    {
      name: "UserError",
      message: "Cannot train on the given text as every host must have the same documents: " +
        "those of rank 1 differ from those of rank 0",
    },
  );
});

for (const losing of [0, 1]) {
  Deno.test(`train() leaves the other ranks when rank ${losing} loses its device, as its program may live on`, async () => {
    const own = await openTestDevice(), reasons: string[] = [];
    const lost = `${own.name} was lost (destroyed): device was lost`;
    let isLost = false;
    await assert.rejects(
      inProcess(2, async (given) => {
        const isLosing = given.rank === losing;
        const transport: Transport = {
          ...given,
          sum(values) {
            if (isLosing) own.gpu.destroy();
            if (isLosing) isLost = true;
            return given.sum(values);
          },
          broadcast(bytes) {
            assert.ok(!isLosing || !isLost, "the others are in the midst of a step");
            return given.broadcast(bytes);
          },
          leave: (reason) => reasons.push(`${given.rank}: ${reason}`),
        };
        const options = { steps: 3, out: join(directory, `lost${losing}`) };
        return await trainSmall({ device: isLosing ? own : device, transport, ...options });
      }),
      {
        name: "DeviceError",
        kind: "lost",
        ...(losing === 1 ? { message: `rank 1: ${lost}` } : {}),
      },
    );
    assert.equal(reasons[0], `${losing}: ${lost}`);
  });
}

Deno.test("train() ends the other ranks when its consumer stops, and takes the options of rank 0", async () => {
  const reasons: string[] = [];
  const seen = await inProcess(2, async (given) => {
    const transport = { ...given, leave: (reason: string) => void reasons.push(reason) };
    const options = { device, transport, steps: 9, out: join(directory, "stopped") };
    let steps = 0;
    const mistakes = given.rank === 1 ? { learningRate: -1, batchSize: 0 } : {};
    for await (const { kind } of train({ ...SMALL, ...options, ...mistakes })) {
      if (kind === "step" && ++steps === 2) break;
    }
    return steps;
  });
  assert.deepEqual([seen, reasons], [[2, 0], []]);
});
