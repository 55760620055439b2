import assert from "node:assert/strict";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Device } from "../../kernels/device.ts";
import { readTrainerState } from "../../model/files/checkpoint.ts";
import type { TrainerState } from "../../model/files/trainer_state.ts";
import { PRESETS } from "../../model/config.ts";
import { createGpt } from "../../model/gpt.ts";
import { recordEvaluation } from "../../train/evaluate.ts";
import type { Run } from "../../train/run.ts";
import type { TrainStep } from "../../train/step.ts";
import type { TrainOptions } from "../../train/options.ts";
import { train, type TrainEvent } from "../../train/train.ts";
import {
  adapterOf,
  choicesOf,
  forgetUnavailable,
  readChoices,
  recordTuned,
  tuningFileIn,
  tuningOf,
  writeChoices,
} from "../../train/tuning.ts";
import { changeFields, directory } from "../checkpoints.ts";
import { device } from "../kernels/harness.ts";

/** The device with other choices, or as another adapter. */
const deviceWith = (choices: Record<string, string>, name = device.name) => ({
  ...device,
  name,
  choices: new Map(Object.entries(choices)),
});

const fileIn = (name: string) => tuningFileIn(join(directory, name));

Deno.test("writeChoices() stores the choices of each adapter, readChoices() returns those of one", () => {
  const file = fileIn("remembered");
  assert.deepEqual(readChoices(file, device, assert.fail), new Map());
  writeChoices(file, deviceWith({ b: "1", a: "1" }), assert.fail);
  writeChoices(file, deviceWith({ a: "3" }, "another GPU"), assert.fail);
  writeChoices(file, deviceWith({ b: "2", c: "2" }), assert.fail);
  assert.deepEqual(
    Object.fromEntries(readChoices(file, device, assert.fail)),
    { a: "1", b: "2", c: "2" },
  );
  const other = deviceWith({}, "another GPU");
  assert.deepEqual(readChoices(file, other, assert.fail), new Map([["a", "3"]]));
  assert.deepEqual(readdirSync(join(directory, "remembered")), ["tuning.json"]);
});

Deno.test("readChoices() ignores the file of another version, and says when one is damaged", () => {
  const file = fileIn("damaged");
  writeChoices(file, deviceWith({ a: "1" }), assert.fail);
  const good = readFileSync(file, "utf8"), adapter = adapterOf(device);
  const read = (text: string) => {
    writeFileSync(file, text);
    const warnings: string[] = [];
    return { choices: readChoices(file, device, (sentence) => warnings.push(sentence)), warnings };
  };
  const { madeBy } = JSON.parse(good);
  const none = new Map();
  assert.deepEqual(read(good.replace("Deno ", "Deno 9")), { choices: none, warnings: [] });
  const damaged = [
    good.slice(0, -9),
    "",
    JSON.stringify({ madeBy }),
    JSON.stringify({ madeBy, choices: { [adapter]: null } }),
    JSON.stringify({ madeBy, choices: { [adapter]: { a: 1 } } }),
  ];
  for (const text of damaged) {
    const { choices, warnings } = read(text);
    assert.deepEqual(choices, none, text);
    assert.equal(warnings.length, 1, text);
    assert.match(warnings[0]!, /tuning\.json is ignored as it [^\n]+$/, text);
    writeChoices(file, deviceWith({ a: "1" }), assert.fail); // and it is repaired
    assert.equal(readFileSync(file, "utf8"), good, text);
  }
});

Deno.test("writeChoices() warns in a sentence when it cannot write, and leaves no file", () => {
  const file = fileIn("a file");
  writeFileSync(join(directory, "a file"), "");
  const warnings: string[] = [];
  writeChoices(file, deviceWith({ a: "1" }), (sentence) => warnings.push(sentence));
  assert.equal(warnings.length, 1);
  assert.match(
    warnings[0]!,
    /^the fastest kernels are not stored for other runs: Cannot write [^\n]+$/,
  );

  const taken = fileIn("taken");
  mkdirSync(taken, { recursive: true }); // a directory in the file's place
  writeChoices(taken, deviceWith({ a: "1" }), (sentence) => warnings.push(sentence));
  assert.equal(warnings.length, 2);
  assert.deepEqual(readdirSync(join(directory, "taken")), ["tuning.json"]);
});

Deno.test("choicesOf() returns a checkpoint's choices only on the adapter that made them", () => {
  const chosen = deviceWith({ b: "2", a: "1" });
  const tuning = tuningOf(chosen);
  assert.deepEqual(Object.keys(tuning.choices), ["a", "b"]);
  assert.deepEqual(choicesOf({ tuning }, device), new Map([["a", "1"], ["b", "2"]]));
  assert.equal(choicesOf({ tuning }, deviceWith({}, "another GPU")), undefined);
  const unknown = { adapter: null, choices: {} }; // from before anybody noted it
  assert.deepEqual(choicesOf({ tuning: unknown }, device), new Map());
});

const text = join(directory, "stories.txt");
writeFileSync(
  text,
  Array.from({ length: 40 }, (_, i) => `Story ${i} continues.`).join("\n<|endoftext|>\n"),
);

/** A short training in DIRECTORY/runs/name, with the cache DIRECTORY/runs/cache. */
async function run(
  runs: string,
  name: string,
  options: Partial<TrainOptions> & { device?: Device },
): Promise<{ events: TrainEvent[]; state: TrainerState; weights: Uint8Array }> {
  const events: TrainEvent[] = [];
  const out = join(directory, runs, name);
  const small: Partial<TrainOptions> = {
    preset: "nano",
    data: [text],
    contextLength: 16,
    batchSize: 2,
    precision: "f32",
    evalEvery: 0,
    sampleEvery: 0,
    saveEvery: 0,
  };
  for await (const event of train({ ...small, device, out, ...options })) events.push(event);
  const { path } = events.at(-1) as TrainEvent & { kind: "end" };
  const weights = readFileSync(join(path, "model.safetensors"));
  return { events, state: readTrainerState(path), weights };
}

/** Rewrites what the checkpoint of step 1 says of its kernels. */
function changeTuning(runs: string, name: string, tuning: TrainerState["tuning"]): void {
  changeFields(join(directory, runs, name, "checkpoints", "000001"), { tuning });
}

/** A product that the training has, and a kernel that sums it in another order than the preferred. */
const CHOICE = { "matmul NN f32,f32,f32 [32,256]x[256,64]": "64x64/2" };

/** The device as a GPU, whose kernels sum in various orders; a CPU's all sum in one. */
const gpu = { ...device, isCpu: false, subgroupSize: undefined };

Deno.test({
  name: "train() tunes every kind of work once, and stores the choices in cache and checkpoint",
  ignore: !device.features.has("timestamp-query"),
  async fn() {
    const first = await run("tuned", "first", { steps: 1, tune: "on" });
    const tuning = first.events.filter((event) => event.kind === "tuning");
    const { adapter, choices } = first.state.tuning;
    assert.equal(adapter, adapterOf(device));
    assert.ok(Object.keys(CHOICE)[0]! in choices, JSON.stringify(choices));
    const { length } = Object.keys(choices);
    assert.deepEqual(tuning.map(({ done, of }) => [done, of]), [
      ...Array.from({ length }, (_, i) => [i, length]),
    ]);
    const file = tuningFileIn(join(directory, "tuned", "cache"));
    assert.deepEqual(Object.fromEntries(readChoices(file, device, assert.fail)), choices);

    const second = await run("tuned", "second", { steps: 1, tune: "on" });
    assert.ok(second.events.every(({ kind }) => kind !== "tuning"));
    assert.deepEqual(second.state.tuning, first.state.tuning);
    assert.deepEqual(second.weights, first.weights);
  },
});

Deno.test({
  name: "train() tunes by default only on a GPU, and only for a long run",
  ignore: !device.features.has("timestamp-query"),
  async fn() {
    let parameters = 0;
    const firstOf = async (steps: number, isCpu: boolean) => {
      const out = join(directory, "unasked", `${steps} ${isCpu}`);
      const on = { ...device, isCpu, choices: new Map<string, string>() };
      const sizes = {
        contextLength: 16,
        batchSize: 2,
        precision: "f32",
        documents: "joined",
      } as const;
      const options = { preset: "nano", data: [text], steps, evalEvery: 0, ...sizes } as const;
      for await (const event of train({ ...options, device: on, out, sampleEvery: 0 })) {
        if (event.kind === "start") parameters = event.parameters;
        if (event.kind === "tuning" || event.kind === "step") return event.kind;
      }
    };
    assert.equal(await firstOf(1, false), "step");
    // from 1e16 operations on: per token 6 per parameter, and 12 · layers · T · C
    const longest = Math.floor(1e16 / ((6 * parameters + 12 * 2 * 16 * 64) * 2 * 16));
    assert.equal(await firstOf(longest - 1, false), "step");
    assert.equal(await firstOf(longest + 1, false), "tuning");
    assert.equal(await firstOf(1e9, true), "step");
  },
});

Deno.test("train() uses the kernels of the checkpoint when it resumes, whatever the cache says", async () => {
  const started = await run("resumed", "preferred", { device: gpu, steps: 1, tune: "off" });
  assert.deepEqual(started.state.tuning.choices, {});
  await run("resumed", "chosen", { device: gpu, steps: 1, tune: "off" });
  changeTuning("resumed", "chosen", { adapter: adapterOf(device), choices: CHOICE });

  const chosen = await run("resumed", "chosen", { device: gpu, steps: 2 });
  assert.deepEqual(chosen.state.tuning.choices, CHOICE);
  // of the cache the other run would take the very same choice
  const file = tuningFileIn(join(directory, "resumed", "cache"));
  writeChoices(file, deviceWith({ ...CHOICE, "other work": "1" }), assert.fail);
  const preferred = await run("resumed", "preferred", { device: gpu, steps: 2, tune: "on" });
  assert.deepEqual(preferred.state.tuning.choices, {});
  assert.ok(preferred.events.every(({ kind }) => kind !== "tuning"));
  assert.notDeepEqual(preferred.weights, chosen.weights, "the choice changes no bit");

  // a new run does take it, and leaves what it has no use for
  const fresh = await run("resumed", "fresh", { device: gpu, steps: 1 });
  const [[key, variant]] = Object.entries(CHOICE) as [[string, string]];
  assert.equal(fresh.state.tuning.choices[key], variant);
  assert.ok(!("other work" in fresh.state.tuning.choices));
});

Deno.test("train() names the GPU adapter of a checkpoint when it resumes on another, and does not use its kernels", async () => {
  await run("moved", "run", { steps: 1, tune: "off" });
  changeTuning("moved", "run", { adapter: "another GPU, Vulkan", choices: CHOICE });
  const { events, state } = await run("moved", "run", { steps: 2, tune: "off" });
  const notices = events.flatMap((event) => event.kind === "notice" ? [event.message] : []);
  assert.equal(
    notices.at(-1),
    `resuming on ${adapterOf(device)} a run that was trained on another GPU, Vulkan: ` +
      `the last bits of the results may differ`,
  );
  assert.deepEqual(state.tuning, { adapter: adapterOf(device), choices: {} });
});

Deno.test("train() names the kernels of a checkpoint or cache that were removed, and uses the defaults", async () => {
  const [key] = Object.keys(CHOICE) as [string], removed = { [key]: "quads" };
  const noticesOf = (events: TrainEvent[]) =>
    events.flatMap((event) => event.kind === "notice" ? [event.message] : []);
  const notice = (of: string) =>
    `${of} names kernels that this version does not have here: quads; ` +
    `the default kernels are used instead`;
  const expected = await run("removed", "default", { steps: 2, tune: "off" });
  assert.ok(!noticesOf(expected.events).some((message) => message.includes("does not have")));

  await run("removed", "run", { steps: 1, tune: "off" });
  changeTuning("removed", "run", { adapter: adapterOf(device), choices: removed });
  const resumed = await run("removed", "run", { steps: 2, tune: "off" });
  assert.ok(noticesOf(resumed.events).includes(notice("the checkpoint")));
  assert.deepEqual(resumed.state.tuning.choices, {});

  const file = tuningFileIn(join(directory, "removed", "cache"));
  writeChoices(file, deviceWith(removed), assert.fail);
  const fresh = await run("removed", "fresh", { steps: 1 });
  assert.ok(noticesOf(fresh.events).includes(notice(file)));
  assert.deepEqual(fresh.state.tuning.choices, {});
});

Deno.test("forgetUnavailable() names the kernels that an evaluation lacks, and removes their choices; recordTuned() frees the step when it is stopped there", async () => {
  const other = deviceWith({});
  const gpt = createGpt(other, { ...PRESETS.nano, vocabularySize: 64 }, { precision: "f32" });
  const record = () => recordEvaluation(gpt, { batchSize: 2, sequenceLength: 16 });
  const found = record();
  assert.equal(forgetUnavailable(found.program, "the checkpoint"), undefined);
  const [key] = found.program.tunables.keys();
  other.choices.set(key!, "quads").set("other work", "2");
  const replaced = record();
  assert.equal(
    forgetUnavailable(replaced.program, "the checkpoint"),
    "the checkpoint names kernels that this version does not have here: quads",
  );
  assert.deepEqual([...other.choices.keys()], ["other work"]);
  const file = fileIn("cache");
  writeChoices(file, deviceWith({ [key!]: "quads" }), assert.fail);
  let isFreed = false;
  const step = { program: replaced.program, [Symbol.dispose]: () => isFreed = true };
  const run = { device: other, out: join(directory, "run"), options: { tune: "auto" } };
  const events = recordTuned(() => step as unknown as TrainStep, run as Run);
  assert.equal((await events.next()).done, false); // a notice
  await events.return(undefined as never);
  assert.ok(isFreed, "when the consumer stops at the notice");
  for (const owner of [found, replaced, gpt]) owner.destroy();
});

Deno.test("train() ignores a damaged cache of choices with a notice", async () => {
  const file = tuningFileIn(join(directory, "damaged cache", "cache"));
  mkdirSync(join(directory, "damaged cache", "cache"), { recursive: true });
  writeFileSync(file, "{");
  const { events } = await run("damaged cache", "run", { steps: 1 });
  assert.ok(events.some((event) => event.kind === "notice" && event.message.startsWith(file)));
  assert.ok(existsSync(file));
});
