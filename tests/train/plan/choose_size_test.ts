import assert from "node:assert/strict";
import { join } from "node:path";
import type { TrainOptions } from "../../../train/options.ts";
import { train, type TrainEvent } from "../../../train/train.ts";
import { directory } from "../../checkpoints.ts";
import { once } from "../../once.ts";
import { device } from "../../kernels/harness.ts";

const TEXTS = Array.from({ length: 300 }, (_, i) => `One cat and ${i} dogs met in the park.`);
const QUIET = {
  evalEvery: 0,
  saveEvery: 0,
  sampleEvery: 0,
  tune: "off",
  precision: "f32",
} as const;

async function run(out: string, options: Partial<TrainOptions>): Promise<TrainEvent[]> {
  const path = join(directory, out);
  return await Array.fromAsync(train({ device, texts: TEXTS, ...QUIET, ...options, out: path }));
}

const notices = (events: TrainEvent[]) =>
  events.flatMap((event) => event.kind === "notice" ? [event.message] : []);

function partsOf(events: TrainEvent[]) {
  const start = events.find((event) => event.kind === "start"), end = events.at(-1);
  assert.ok(start?.kind === "start" && end?.kind === "end");
  return { start, end };
}

const lossesOf = (events: TrainEvent[]) =>
  events.flatMap((event) => event.kind === "step" ? [event.loss] : []);

const planIn = (out: string) =>
  JSON.parse(Deno.readTextFileSync(join(directory, out, "plan.json")));

Deno.test("train() measures, plans, saves its plan, and reports what it has reached; the plan gives the same again", async () => {
  // so much time that the given steps decide, however slow the machine is
  const given = { minutes: 1e4, depth: 1, contextLength: 8, steps: 2 };
  const events = await run("timed", given), { start, end } = partsOf(events);
  const plan = planIn("timed");
  assert.equal(start.options.depth, 1);
  assert.deepEqual({ ...start.options, ...plan.options }, start.options);
  assert.deepEqual([plan.options.width, plan.options.schedule, plan.options.steps], [32, "wsd", 2]);
  assert.equal(plan.candidates.length, 1);
  const replaced = /^as given: --context-length 8 in place of 64, --steps 2 in place of \d+$/;
  assert.ok(notices(events).some((message) => replaced.test(message)), notices(events).join("\n"));
  const tokens = 2 * 8 * plan.options.batchSize;
  assert.deepEqual([end.tokens, plan.tokens], [tokens, tokens]);
  assert.ok(end.flops > 6 * start.parameters * tokens && end.bitsPerByte! > 0 && end.loss! > 0);

  const file = join(directory, "timed", "plan.json");
  const again = await run("planned", { plan: file });
  assert.deepEqual(lossesOf(again), lossesOf(events));
  assert.equal(partsOf(again).start.options.minutes, undefined);
  assert.deepEqual(planIn("planned").options, plan.options);

  // a resumed run keeps its plan
  const longer = await run("planned", { plan: file, steps: 3 });
  assert.deepEqual([lossesOf(longer).length, partsOf(longer).start.options.width], [1, 32]);
  assert.ok(notices(longer)[0]!.startsWith("depth 1, as in the checkpoint; "));
  Deno.writeTextFileSync(
    file,
    JSON.stringify({ ...plan, options: { ...plan.options, width: 64 } }),
  );
  await assert.rejects(
    run("planned", { plan: file }),
    / as width must stay 32: current value is 64/,
  );
});

/** A short training of a preset's sizes, whose steps are planned for a time. */
const PRESET = {
  minutes: 1e4,
  preset: "nano",
  contextLength: 8,
  batchSize: 2,
  steps: 2,
  arch: "llama",
  optimizer: "muon",
  qkNorm: "on",
  documents: "joined",
  seed: 7,
  gradientClip: 0.5,
} as const;
const presetRun = once(() => run("preset", PRESET));

Deno.test("train() with minutes keeps the sizes of a preset, and its plan repeats the training without one", async () => {
  const events = await presetRun(), { start } = partsOf(events);
  const { schedule, width, learningRate, depth } = start.options;
  assert.deepEqual([schedule, width, learningRate, depth], ["wsd", 64, 5e-3, undefined]);
  const { options } = planIn("preset");
  const { minutes: _, preset: __, ...held } = PRESET;
  assert.deepEqual({ ...options, ...held, muonLearningRate: 0.01, width: 64 }, options);
  // options that follow from others follow from what is given beside the plan
  for (const name of ["warmupSteps", "cooldown", "hidden", "headSize", "mlp", "precision"]) {
    assert.equal(options[name], undefined, name);
  }

  const again = await run("again", { plan: join(directory, "preset") });
  assert.deepEqual(lossesOf(again), lossesOf(events));
  assert.deepEqual(planIn("again").options, options);
  const given = { muonLearningRate: 0.02, width: 32, steps: 1 };
  const other = partsOf(await run("other", { plan: join(directory, "again"), ...given }));
  const { headSize, hidden, mlp, ...changed } = other.start.options;
  assert.deepEqual([headSize, hidden, mlp], [16, 96, "swiglu"]);
  assert.deepEqual({ ...changed, ...given }, changed);
});

Deno.test("train() begins again with the model of a plan, unless another is given", async () => {
  await presetRun();
  const initFrom = join(directory, "preset"), moved = join(initFrom, "checkpoints", "000002");
  const given = { minutes: 1e4, contextLength: 8, steps: 1 };
  const events = await run("tuned", { ...given, initFrom, loraRank: 1, learningRate: 0.1 });
  const plan = join(directory, "tuned");
  const again = await run("tuned-again", { plan });
  assert.deepEqual(lossesOf(again), lossesOf(events));
  assert.deepEqual(partsOf(again).end.loss, partsOf(events).end.loss);
  const { start } = partsOf(await run("tuned-other", { plan, initFrom: moved, loraRank: 2 }));
  assert.deepEqual([start.options.initFrom, start.options.loraRank], [moved, 2]);
  await assert.rejects(
    run("none", { plan, arch: "gpt2" }),
    /as arch must be given without initFrom/,
  );
  await assert.rejects(
    run("none", { plan: initFrom, initFrom }),
    /as plan must be given without initFrom, as both say how large the model is/,
  );
});

Deno.test("train() does the given epochs if a depth would have more or fewer, and plans as many steps", async () => {
  for (const epochs of [0.5, 6]) {
    const options = { depth: 1, batchSize: 4, epochs, dryRun: true };
    const events = await run("epochs", options);
    const start = events.find((event) => event.kind === "start")!;
    assert.ok(start.epochs >= epochs && start.epochs < 1.1 * epochs, `${start.epochs}`);
    const plan = notices(events).find((message) => message.startsWith("plan of depth 1"))!;
    assert.match(plan, new RegExp(`, ${start.steps} steps, `));
  }
});

Deno.test("train() says that it ends late if one step is longer than the time, and does that step", async () => {
  const events = await run("late", {
    minutes: 1e-6,
    preset: "nano",
    contextLength: 8,
    batchSize: 2,
  });
  const late =
    /^a step takes .*s, and there are 0 ms for steps: the training does one step and ends late$/;
  assert.ok(notices(events).some((message) => late.test(message)), notices(events).join("\n"));
  assert.equal(partsOf(events).end.step, 1);
});

Deno.test("train() refuses sizes that no depth allows before it measures any", async () => {
  for (
    const [given, message] of [
      [{ windows: "0,4".padEnd(67, ",4") }, /at most one per layer of 32: current value is 0,4/],
      [{ heads: 7 }, /width must be a multiple of 4 · heads .* are width 2048 and heads 7$/],
    ] as const
  ) {
    await assert.rejects(run("none", { minutes: 1e4, ...given }), message);
  }
});

Deno.test("train() refuses two options that say how large the model is", async () => {
  for (
    const [given, flags] of [
      [{ depth: 2, preset: "nano" }, "depth must be given without preset"],
      [{ depth: 2, initFrom: "gpt2" }, "depth must be given without initFrom"],
      [{ depth: 2, plan: "x" }, "depth must be given without plan"],
      [{ plan: "x", preset: "nano" }, "plan must be given without preset"],
    ] as const
  ) {
    await assert.rejects(run("none", given), {
      name: "OptionError",
      message: new RegExp(`^Cannot train as ${flags}, as both say how large the model is`),
    });
  }
});

Deno.test("train() says why not even the smallest batch of the smallest model fits a plan", async () => {
  // a batch of a preset would not fit the device either
  for (const given of [{ minutes: 1e4 }, { depth: 1 }]) {
    await assert.rejects(run("short", { ...given, contextLength: 30_000 }), {
      name: "UserError",
      message: /^Cannot cut rows of 30000 tokens as the text must have at least 30001 tokens/,
    });
  }
});
