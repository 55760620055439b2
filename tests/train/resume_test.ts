import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { cpSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { openTestDevice, TEST_GPU } from "../gpu.ts";
import type { JsonObject } from "../../files/json.ts";
import { loadModel } from "../../generate/load.ts";
import { newestCheckpoint, verifyCheckpoint } from "../../model/files/checkpoint.ts";
import { parseSafetensors } from "../../model/files/safetensors.ts";
import { checkResumable } from "../../train/state.ts";
import { train, type TrainEvent } from "../../train/train.ts";
import type { TrainOptions } from "../../train/options.ts";
import { changeFields, readFields } from "../checkpoints.ts";
import { device } from "../kernels/harness.ts";
import { once } from "../once.ts";
import { leftOpen } from "../left_open.ts";

const directory = Deno.makeTempDirSync();
const text = join(directory, "stories.txt");
Deno.writeTextFileSync(
  text,
  Array.from(
    { length: 40 },
    (_, i) => `Story ${i} is about number ${i * i} and ${"so ".repeat(i % 7)}on.`,
  )
    .join("\n<|endoftext|>\n"),
);
globalThis.addEventListener("unload", () => Deno.removeSync(directory, { recursive: true }));

const OPTIONS: Partial<TrainOptions> = {
  preset: "nano",
  data: [text],
  contextLength: 16,
  batchSize: 2,
  gradientAccumulation: 2,
  dropout: 0.1,
  precision: device.features.has("shader-f16") ? "f16" : "f32",
  steps: 20,
  warmupSteps: 3,
  evalEvery: 10,
  saveEvery: 10,
  sampleEvery: 0,
  logEvery: 1,
};

async function run(out: string, options: Partial<TrainOptions> = {}): Promise<TrainEvent[]> {
  const events: TrainEvent[] = [];
  for await (const event of train({ ...OPTIONS, device, out: join(directory, out), ...options })) {
    events.push(event);
  }
  return events;
}

/** SHA-256 of every file of a checkpoint. */
function hashes(out: string, step: string): Record<string, string> {
  const path = join(directory, out, "checkpoints", step);
  return Object.fromEntries(
    readdirSync(path).sort().map((name) => [
      name,
      createHash("sha256").update(readFileSync(join(path, name))).digest("hex"),
    ]),
  );
}

/** The run "whole": 20 steps without a break. */
const whole = once(() => run("whole"));

/** A copy of the run "whole". */
async function copyOfWhole(name: string): Promise<string> {
  await whole();
  cpSync(join(directory, "whole"), join(directory, name), { recursive: true });
  return name;
}

Deno.test("train() gives the same bits in 20 steps as in 10, a kill, and 10 more", async () => {
  await whole();
  // killed after step 13, beyond its last checkpoint: whoever consumes the events goes away
  for await (const event of train({ ...OPTIONS, device, out: join(directory, "killed") })) {
    if (event.kind === "step" && event.step >= 13) break;
  }
  const events = await run("killed");
  const start = events.find((event) => event.kind === "start");
  assert.equal(start?.kind === "start" && start.resumedFrom, 10);
  const steps = events.filter((event) => event.kind === "step").map((event) => event.step);
  assert.deepEqual(steps, [11, 12, 13, 14, 15, 16, 17, 18, 19, 20]);
  const noted = (name: string) =>
    Deno.readTextFileSync(join(directory, "killed", name)).trim().split("\n")
      .map((line) => JSON.parse(line))
      .filter(({ kind }) => kind === "step")
      .map(({ step }) => step);
  assert.deepEqual(noted("metrics.jsonl"), Array.from({ length: 20 }, (_, i) => i + 1));
  assert.deepEqual(noted("metrics-after-000010.jsonl").slice(0, 3), [11, 12, 13]);
  const expected = hashes("whole", "000020");
  assert.equal(Object.keys(expected).length, 7);
  assert.deepEqual(hashes("killed", "000020"), expected);
});

Deno.test("train() with Muon gives the same bits in 6 steps as in 3 and 3 more, and stays with Muon", async () => {
  const options = { optimizer: "muon", steps: 6, evalEvery: 6, saveEvery: 3, keep: 9 } as const;
  const events = await run("muon", { ...options, learningRate: 4e-3, muonLearningRate: 0.02 });
  const rates = events.flatMap((event) =>
    event.kind === "step" ? [event.muonLearningRate! / event.learningRate] : []
  );
  assert.deepEqual(rates.map((ratio) => ratio.toFixed(6)), new Array(6).fill("5.000000"));
  const resumeFrom = join(directory, "muon", "checkpoints", "000003");
  await run("muon resumed", { steps: 6, resumeFrom });
  const expected = hashes("muon", "000006"), resumed = hashes("muon resumed", "000006");
  for (const name of ["model.safetensors", "optimizer.safetensors"]) {
    assert.equal(resumed[name], expected[name], name);
  }
  const path = join(directory, "muon", "checkpoints", "000006", "optimizer.safetensors");
  const { tensors } = parseSafetensors(Deno.readFileSync(path), path), names = [...tensors.keys()];
  const state = names.filter((name) => name.endsWith(".h.1.attn.c_attn.weight"));
  assert.deepEqual(state, ["momentum.h.1.attn.c_attn.weight"]);
  assert.ok(names.includes("m.h.1.attn.c_attn.bias") && names.includes("v.wte.weight"));
  await run("adamw", { optimizer: "adamw", steps: 1 });
  for (
    const [out, now, before] of [["muon", "adamw", "muon"], ["adamw", "muon", "adamw"]] as const
  ) {
    await assert.rejects(run(out, { steps: 30, optimizer: now }), {
      name: "UserError",
      message: new RegExp(
        `^Cannot resume .* as optimizer must stay ${before}: current value is ${now}`,
      ),
    });
  }
});

Deno.test("train() gives the same bits whatever it recomputes, also when a resumed run changes that", async () => {
  const options = { ...OPTIONS, device, out: join(directory, "recomputed") };
  for await (const event of train({ ...options, recompute: "block" })) {
    if (event.kind === "step" && event.step >= 13) break;
  }
  await run("recomputed", { recompute: "mlp" });
  await whole();
  const { recompute } = readFields(join(options.out, "checkpoints", "000020"))
    .options as JsonObject;
  assert.equal(recompute, "mlp");
  const tensorsOf = (out: string) =>
    Object.entries(hashes(out, "000020")).filter(([name]) => name.endsWith(".safetensors"));
  assert.equal(tensorsOf("recomputed").length, 2);
  assert.deepEqual(tensorsOf("recomputed"), tensorsOf("whole"));
});

Deno.test("train() ends interrupted with a checkpoint when its signal aborts", async () => {
  const controller = new AbortController();
  const events: TrainEvent[] = [];
  const options = { ...OPTIONS, device, out: join(directory, "interrupted") };
  for await (const event of train({ ...options, signal: controller.signal })) {
    events.push(event);
    if (event.kind === "step" && event.step === 4) controller.abort();
  }
  const end = events.at(-1)!;
  assert.ok(end.kind === "end" && end.reason === "interrupted" && end.step < 20, end.kind);
  const resumed = await run("interrupted");
  const start = resumed.find((event) => event.kind === "start");
  assert.equal(start?.kind === "start" && start.resumedFrom, end.kind === "end" && end.step);
  await whole();
  assert.deepEqual(hashes("interrupted", "000020"), hashes("whole", "000020"));
});

Deno.test("train() throws the signal's reason before the first step when it aborts while kernels are compiled", async () => {
  const out = await copyOfWhole("stopped early"), reason = new Error("stopped");
  const files = () => readdirSync(directory, { recursive: true }).sort();
  const before = files();
  for (
    const options of [{ steps: 30 }, { fresh: true }, { resumeFrom: "10" }, { out: "stopped new" }]
  ) {
    const controller = new AbortController(), kinds: string[] = [];
    await assert.rejects(async () => {
      const given = { ...OPTIONS, device, ...options, out: join(directory, options.out ?? out) };
      for await (const { kind } of train({ ...given, signal: controller.signal })) {
        kinds.push(kind);
        // this thread is busy until kernels are compiled, and hears of it only then
        if (kind === "start") setTimeout(() => controller.abort(reason));
      }
    }, reason);
    assert.ok(!kinds.includes("step"));
    assert.deepEqual(files(), before);
  }
});

Deno.test("train() refuses to resume with another batch size, naming both values", async () => {
  const out = await copyOfWhole("rows");
  await assert.rejects(run(out, { batchSize: 3 }), {
    name: "UserError",
    message: /as batchSize must stay 2: current value is 3$/,
  });
});

Deno.test("train() resumes only from a checkpoint with the state of the optimizer, and starts from one without", async () => {
  const out = await copyOfWhole("weights only"), path = join(directory, out);
  const at = (step: number) => join(path, "checkpoints", `0000${step}`);
  Deno.removeSync(join(at(20), "optimizer.safetensors"));
  await assert.rejects(run(out, { resumeFrom: "20", steps: 21 }), {
    name: "CheckpointError",
    message:
      /as it must hold the state of the optimizer: .*; the nearest whole .* is that of step 10$/,
  });
  const warnings: string[] = [];
  const newest = newestCheckpoint(path, (warning) => warnings.push(warning), checkResumable);
  assert.equal(newest, at(10));
  (await loadModel(device, { run: path, checkpoint: "20" })).gpt.destroy();
  const events = await run("from weights", { preset: "auto", initFrom: at(20), steps: 1 });
  assert.equal(events.at(-1)!.kind, "end");
});

Deno.test("train() continues for more steps with the options of its start", async () => {
  const events = await run(await copyOfWhole("extended"), { steps: 22 });
  const start = events.find((event) => event.kind === "start");
  assert.ok(start?.kind === "start");
  assert.equal(start.options.dropout, 0.1);
  assert.equal(events.filter((event) => event.kind === "step").length, 2);
});

Deno.test("train() gives both learning rates when a longer schedule changes it", async () => {
  await run("lengthened", { steps: 2, warmupSteps: 1, evalEvery: 0, saveEvery: 0 });
  const notices = async (options: Partial<TrainOptions>) => {
    const { warmupSteps: _, ...given } = OPTIONS, out = join(directory, "lengthened");
    const messages: string[] = [];
    for await (const event of train({ ...given, device, out, saveEvery: 0, ...options })) {
      if (event.kind === "notice") messages.push(event.message);
      if (event.kind === "start") break;
    }
    return messages.filter((message) => message.includes("learning rate"));
  };
  assert.deepEqual(await notices({ steps: 2 }), []);
  assert.deepEqual(await notices({ steps: 40 }), [
    "the learning rate jumps: step 3 has 0.00499 instead of 0.00005; " +
    "the schedule now has 40 steps instead of 2",
  ]);
  // the minimum was not typed: it follows, and the rate never rises above what was asked for
  assert.deepEqual(await notices({ steps: 3, learningRate: 1e-3 }), [
    "the learning rate jumps: step 3 has 0.00001 instead of 0.00005; " +
    "the schedule now has 3 steps instead of 2",
  ]);
});

Deno.test("train() gives the same bits with a planned cool-down as with one that begins at a checkpoint, or is interrupted", async () => {
  const rates = (events: TrainEvent[]) =>
    events.flatMap((event) => event.kind === "step" ? [event.learningRate] : []);
  const common = { evalEvery: 0, saveEvery: 3, warmupSteps: 1, minLearningRate: undefined };
  const planned = { ...common, schedule: "wsd", steps: 5, cooldown: 3 } as const;
  const expected = rates(await run("planned", planned));
  assert.deepEqual(expected.map((rate) => Number((rate / 5e-3).toFixed(3))), [
    ...[0.5, 1],
    ...[0.5, 0.293, 0.134],
  ]);
  // its checkpoint before the cool-down is not one of those that were asked for
  assert.deepEqual(
    Object.keys(hashes("planned", "000002")),
    Object.keys(hashes("planned", "000003")),
  );

  await run("unplanned", { ...common, schedule: "constant", steps: 2 });
  const cooldown = { ...OPTIONS, ...common, steps: undefined, cooldown: 3 };
  for await (
    const event of train({ ...cooldown, device, out: join(directory, "unplanned") })
  ) {
    if (event.kind === "step" && event.step === 4) break; // after its checkpoint of step 3
  }
  assert.deepEqual(rates(await run("unplanned", cooldown)), expected.slice(3));
  const weights = (out: string) => {
    const { "model.safetensors": model, "optimizer.safetensors": state } = hashes(out, "000005");
    return { model, state };
  };
  assert.deepEqual(weights("unplanned"), weights("planned"));
  assert.deepEqual(rates(await run("unplanned", cooldown)), []);

  const extended = await run("planned", { ...planned, steps: 6, resumeFrom: "2" });
  assert.equal(rates(extended).length, 4);
  assert.ok(!extended.some((event) => event.kind === "notice" && /jumps/.test(event.message)));
});

Deno.test("train() refuses to resume when its text has changed where it lies", async () => {
  const changing = join(directory, "changing.txt"), stories = Deno.readTextFileSync(text);
  Deno.writeTextFileSync(changing, stories);
  const options = { data: [changing], steps: 1, evalEvery: 0, saveEvery: 0 };
  await run("changing", options);
  // a document to train on, and one that is held out; the text named again, and not
  for (const [story, data] of [["Story 3 ", [changing]], ["Story 19 ", "auto"]] as const) {
    Deno.writeTextFileSync(changing, stories.replace(story, story.toUpperCase()));
    await assert.rejects(
      run("changing", { ...options, data, steps: 2 }),
      /^UserError: Cannot resume .*changing\S* as (its data must be unchanged|--data must stay).*changing\.txt/,
      story,
    );
  }
  Deno.writeTextFileSync(changing, stories);
  assert.equal((await run("changing", { ...options, steps: 2 })).at(-1)!.kind, "end");
});

Deno.test("train() does not clip gradients when gradientClip is 0", async () => {
  const weights = [];
  for (const gradientClip of [0, 1e9, 1e-3]) {
    const out = `clip ${gradientClip}`;
    await run(out, { gradientClip, steps: 2, warmupSteps: 0, evalEvery: 0, saveEvery: 0 });
    weights.push(hashes(out, "000002")["model.safetensors"]);
  }
  const [none, loose, tight] = weights;
  assert.equal(none, loose);
  assert.notEqual(none, tight);
});

Deno.test("train() keeps the best evaluation as the best when it resumes", async () => {
  const bestOf = (events: TrainEvent[]) =>
    events.flatMap((event) => event.kind === "evaluation" ? [event.best] : []);
  const best = () => Deno.readTextFileSync(join(directory, "best", "best"));
  const options = { evalEvery: 5, saveEvery: 5, steps: 10, keep: 1, precision: "f32" } as const;
  assert.deepEqual(bestOf(await run("best", options)), [true, true]); // the loss falls at first
  assert.equal(best(), "000010\n");
  // and is worse with steps that are far too large
  const worse = { ...options, steps: 20, learningRate: 0.2, minLearningRate: 0.2 };
  assert.deepEqual(bestOf(await run("best", worse)), [false, false]);
  assert.equal(best(), "000010\n");
  const checkpoints = readdirSync(join(directory, "best", "checkpoints")).sort();
  assert.deepEqual(checkpoints, ["000010", "000020"]);
});

Deno.test("train() with epochs ends after that many passes over the data", async () => {
  const events = await run("epochs", { steps: undefined, epochs: 0.5, evalEvery: 0 });
  const end = events.at(-1)!;
  assert.ok(end.kind === "end" && end.reason === "epochs", JSON.stringify(end));
});

Deno.test("train() with fresh moves the old run aside", async () => {
  const events = await run(await copyOfWhole("old"), { fresh: true, steps: 1 });
  const notices = events.flatMap((event) => event.kind === "notice" ? [event.message] : []);
  assert.ok(notices.includes(`moved the old run to ${join(directory, "old-1")}`), notices.join());
});

Deno.test("train() refuses options out of range before it touches anything", async () => {
  await assert.rejects(run("never", { dropout: 1.5 }), {
    name: "OptionError",
    message: "Cannot train as dropout must be a number from 0 to 0.99: current value is 1.5",
  });
  assert.throws(() => readdirSync(join(directory, "never")), { code: "ENOENT" });
});

Deno.test("padded training runs and ignores its padding", async () => {
  const events = await run("padded", { sequence: "padded", steps: 2, evalEvery: 2 });
  const losses = events.filter((event) => event.kind === "step").map((event) => event.loss);
  assert.ok(losses.every((loss) => loss > 1 && loss < 20), `${losses}`);
});

Deno.test("train() with documents apart gives the same bits in 4 steps as in 2 and 2 more, which may join them", async () => {
  const short = { layers: 1, steps: 4, evalEvery: 0, saveEvery: 2, keep: 9 } as const;
  const lossesOf = (events: TrainEvent[]) =>
    events.flatMap((event) => event.kind === "step" ? [event.loss] : []);
  const apart = lossesOf(await run("apart", { ...short, documents: "apart" }));
  const resumeFrom = join(directory, "apart", "checkpoints", "000002");
  assert.deepEqual(lossesOf(await run("apart resumed", { ...short, resumeFrom })), apart.slice(2));
  const expected = hashes("apart", "000004"), resumed = hashes("apart resumed", "000004");
  for (const name of ["model.safetensors", "optimizer.safetensors"]) {
    assert.equal(resumed[name], expected[name], name);
  }
  const joined = lossesOf(await run("joined", { ...short, resumeFrom, documents: "joined" }));
  assert.ok(joined.every((loss, i) => loss !== apart[2 + i]), `${joined}`);
  const { options } = readFields(join(directory, "joined", "checkpoints", "000004"));
  assert.equal((options as JsonObject).documents, "joined");
});

Deno.test({
  name: "train() resumes with the provider of the checkpoint, or with the one that is given",
  // a checkpoint of Dawn is pretended, which this process may not load
  ignore: TEST_GPU !== "native" ||
    Deno.permissions.querySync({ name: "ffi" }).state === "granted",
  async fn() {
    const out = join(directory, "provider"), checkpoint = join(out, "checkpoints", "000001");
    const short = { ...OPTIONS, out, steps: 1, evalEvery: 0, precision: "f32" } as const;
    await run("provider", short);
    const { options, tuning } = readFields(checkpoint) as Record<string, JsonObject>;
    assert.equal(options!.gpu, "native");
    changeFields(checkpoint, {
      options: { ...options, gpu: "dawn" },
      tuning: { ...tuning, adapter: "a GPU, Dawn on Vulkan" },
    });
    const notices: string[] = [];
    const resume = async (options: Partial<TrainOptions>) => {
      notices.length = 0;
      for await (const event of train({ ...short, steps: 2, ...options })) {
        if (event.kind === "notice") notices.push(event.message);
      }
    };
    await assert.rejects(
      resume({}),
      ({ name, hint }: Error & { hint?: string }) =>
        name === "NotCapable" || name === "UserError" && hint!.includes("resume with --gpu native"),
    );
    assert.deepEqual(notices, ["--gpu dawn, as in the checkpoint"]);
    await resume({ gpu: "native" });
    assert.match(
      notices.join("\n"),
      /resuming on .* trained on a GPU, Dawn on Vulkan: the last bits/,
    );
    assert.equal(
      (readFields(newestCheckpoint(out, assert.fail)!).options as JsonObject).gpu,
      "native",
    );
  },
});

Deno.test("train() throws one sentence and leaves the last checkpoint whole when the device is lost", async () => {
  const own = await openTestDevice();
  const out = join(directory, "lost");
  await assert.rejects(async () => {
    for await (const event of train({ ...OPTIONS, device: own, out })) {
      if (event.kind === "checkpoint" && event.step === 10) own.gpu.destroy();
    }
  }, { name: "DeviceError", message: /^[^\n]+$/ });
  const newest = newestCheckpoint(out, assert.fail)!;
  assert.equal(verifyCheckpoint(newest).step, 10);
});

Deno.test({
  name: "train() throws after 100 skipped steps in a row, and says what to try",
  ignore: OPTIONS.precision !== "f16",
  async fn() {
    await run("overflowing", { steps: 1, evalEvery: 0 });
    // so large that a hundred halvings leave gradients beyond f16: as after 220,000 applied steps
    const step = 220_000, checkpoints = join(directory, "overflowing", "checkpoints");
    Deno.renameSync(join(checkpoints, "000001"), join(checkpoints, `${step}`));
    const checkpoint = join(checkpoints, `${step}`), { options } = readFields(checkpoint);
    changeFields(checkpoint, {
      step,
      optimizerSteps: step,
      batchIndex: 2 * step,
      lossScale: 2 ** 126,
      options: { ...options as JsonObject, steps: step },
    });
    await assert.rejects(run("overflowing", { steps: step + 200, evalEvery: 0, saveEvery: 0 }), {
      name: "UserError",
      message: /100 steps in a row had a gradient that is not finite: try a lower learningRate/,
    });
  },
});

Deno.test("train() reports no speed for the first step, which compiles the kernels", async () => {
  const steps = (await run("speed", { steps: 3, evalEvery: 0, saveEvery: 0 }))
    .filter((event) => event.kind === "step");
  assert.equal(steps.length, 3);
  assert.ok(!("tokensPerSecond" in steps[0]!) && !("secondsLeft" in steps[0]!));
  for (const { tokensPerSecond, secondsLeft } of steps.slice(1)) {
    assert.ok(tokensPerSecond! > 0 && secondsLeft! >= 0);
  }
});

Deno.test("no test of this file leaves a file open", () => {
  assert.deepEqual(leftOpen(directory), []);
});
