import assert from "node:assert/strict";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "../../../files/user_error.ts";
import { openRunDirectory } from "../../../train/directory/run_directory.ts";
import { readLines } from "../../../train/record/metrics.ts";
import { openRecord } from "../../../train/record/record.ts";
import { directory, makeRun } from "../../checkpoints.ts";

const start = (step: number) => ({ kind: "start", step });
const step = (step: number, loss = step) => ({ kind: "step", step, loss });
const evaluation = (step: number, loss: number) => ({ kind: "evaluation", step, loss });
const textOf = (metrics: object[]) =>
  metrics.map((metric) => `${JSON.stringify(metric)}\n`).join("");
const read = (run: string, name = "metrics.jsonl") => Deno.readTextFileSync(join(run, name));
const asides = (run: string) =>
  readdirSync(run).filter((name) => name.startsWith("metrics-after-")).sort();

/** A run with such metrics and checkpoints of steps 1 to `count`, the first of them the best. */
function makeRecorded(name: string, text: string, count = 4): string {
  const run = makeRun(name, { count });
  Deno.mkdirSync(run, { recursive: true }); // one without a checkpoint is removed
  Deno.writeTextFileSync(join(run, "metrics.jsonl"), text);
  return run;
}

/** Opens the record as a training does that continues after `step`, and returns what it is told. */
async function resume(path: string, step: number): Promise<string[]> {
  const run = openRunDirectory(path);
  try {
    await openRecord(run, step);
    return run.notices;
  } finally {
    run.close();
  }
}

const before = [start(0), step(1), evaluation(1, 5), step(2), evaluation(2, 4)];
const after = [step(3), evaluation(3, 3), step(4), evaluation(4, 2)];

Deno.test("openRecord() moves the lines after its step into another file", async () => {
  const run = makeRecorded("gone back", textOf([...before, ...after]));
  Deno.writeTextFileSync(join(run, "best"), "000004\n");
  for (const step of ["000003", "000004"]) {
    Deno.removeSync(join(run, "checkpoints", step), { recursive: true });
  }
  const notices = await resume(run, 2);
  assert.deepEqual(notices, [
    `the lines of ${join(run, "metrics.jsonl")} for steps after 2 are in ` +
    `${join(run, "metrics-after-000002.jsonl")} now`,
  ]);
  assert.equal(read(run), textOf(before));
  assert.equal(read(run, "metrics-after-000002.jsonl"), textOf(after));
  assert.equal(read(run, "latest"), "000002\n");
  assert.equal(read(run, "best"), "000002\n");
  assert.match(read(run, "loss.svg"), /validation 4\.000/);
  assert.doesNotMatch(readdirSync(run).join(), /tmp/);
});

Deno.test("openRecord() leaves a record unchanged when no step is repeated", async () => {
  const run = makeRecorded("true", textOf([...before, ...after]));
  const { ino } = Deno.statSync(join(run, "metrics.jsonl"));
  assert.deepEqual(await resume(run, 4), []);
  assert.equal(Deno.statSync(join(run, "metrics.jsonl")).ino, ino);
  assert.deepEqual(asides(run), []);
  assert.equal(read(run, "best"), "000001\n");
});

Deno.test("openRecord() keeps or moves a sample, warning and end with the step that they are about", async () => {
  const about = (step: number) => [
    { kind: "warning", step, name: "x", message: "y" },
    { kind: "sample", step, prompt: "a", text: "b" },
  ];
  const end = (step: number) => ({ kind: "end", step, reason: "interrupted" });
  // a warning about an earlier step does not mean that the steps after it were repeated
  const kept = [...before, ...about(2), ...about(1), end(2), start(2)];
  const moved = [step(3), ...about(3), end(3)], late = about(1);
  const run = makeRecorded("kinds", textOf([...kept, ...moved, ...late]));
  await resume(run, 2);
  assert.equal(read(run), textOf([...kept, ...late]));
  assert.equal(read(run, "metrics-after-000002.jsonl"), textOf(moved));
  await resume(run, 2);
  assert.equal(read(run), textOf([...kept, ...late]));
});

Deno.test("openRecord() moves the steps that an earlier training repeated, and a torn last line", async () => {
  const again = [start(2), step(3, 30), step(4, 40)];
  const torn = '{"kind":"step","ste';
  const run = makeRecorded("torn", textOf([...before, ...after, ...again, step(5)]) + torn);
  await resume(run, 4);
  assert.equal(read(run), textOf([...before, ...again]));
  assert.equal(read(run, "metrics-after-000004.jsonl"), `${textOf([...after, step(5)])}${torn}\n`);
});

Deno.test("openRecord() overwrites no lines that were moved before", async () => {
  const run = makeRecorded("moved", textOf([...before, ...after]));
  await resume(run, 2);
  for (const loss of [7, 8]) {
    Deno.writeTextFileSync(join(run, "metrics.jsonl"), textOf([...before, step(3, loss)]));
    await resume(run, 2);
  }
  const names = ["metrics-after-000002-1.jsonl", "metrics-after-000002-2.jsonl"];
  assert.deepEqual(asides(run), [...names, "metrics-after-000002.jsonl"]);
  assert.equal(read(run, "metrics-after-000002.jsonl"), textOf(after));
  assert.deepEqual(names.map((name) => read(run, name)), [7, 8].map((l) => textOf([step(3, l)])));
});

Deno.test("openRecord() completes the move that a killed process began, without duplicates", async () => {
  const run = makeRecorded("killed", textOf([...before, ...after]));
  // it had the names of the moved lines, not yet that of those which stay
  Deno.writeTextFileSync(join(run, "metrics-after-000002.jsonl"), textOf(after));
  const left = join(run, `.tmp-metrics.jsonl-${crypto.randomUUID()}`);
  Deno.writeTextFileSync(left, textOf(before));
  await resume(run, 2);
  assert.deepEqual(asides(run), ["metrics-after-000002.jsonl"]);
  assert.equal(read(run), textOf(before));
  assert.ok(!existsSync(left));
});

Deno.test("openRecord() moves lines that are longer together than it reads at a time", async () => {
  const note = "x".repeat(999);
  const steps = (from: number, to: number) =>
    Array.from({ length: to - from }, (_, i) => ({ ...step(from + i), note }));
  const kept = [start(0), ...steps(1, 2500)], moved = steps(2500, 5000); // each above two MiB
  const run = makeRecorded("long", textOf([...kept, ...moved]));
  const target = join(run, "metrics-after-002499.jsonl");
  Deno.writeTextFileSync(target, textOf(moved)); // by a process that was killed
  await resume(run, 2499);
  assert.deepEqual(asides(run), ["metrics-after-002499.jsonl"]);
  assert.ok(read(run) === textOf(kept));
  assert.ok(Deno.readTextFileSync(target) === textOf(moved));
});

Deno.test("openRecord() removes the hint of the best checkpoint when that does not exist", async () => {
  const run = makeRecorded("best gone", textOf([...before, ...after]));
  Deno.writeTextFileSync(join(run, "best"), "000003\n");
  Deno.removeSync(join(run, "checkpoints", "000002"), { recursive: true });
  await resume(run, 2);
  assert.ok(!existsSync(join(run, "best")));
});

Deno.test("openRecord() moves all lines when a training starts over", async () => {
  const run = makeRecorded("over", textOf([...before, ...after]), 0);
  Deno.writeTextFileSync(join(run, "latest"), "000004\n");
  await resume(run, 0);
  assert.equal(read(run), textOf([start(0)]));
  assert.ok(!existsSync(join(run, "latest")));
});

Deno.test("openRecord() and note() give a notice each when a record cannot be read or written", async () => {
  const path = join(directory, "obstructed record");
  const file = join(path, "metrics.jsonl");
  Deno.mkdirSync(file, { recursive: true });
  const run = openRunDirectory(path);
  let seconds = 0;
  const record = await openRecord(run, 2, { now: () => new Date(1000 * seconds++) });
  record.note([start(2)]);
  record.note([step(3)]);
  const [read, written, ...others] = run.notices.splice(0);
  assert.match(
    read!,
    /^Cannot make .*metrics\.jsonl end at step 2 as a directory is in its place: /,
  );
  assert.match(
    written!,
    /^Cannot write .*metrics\.jsonl as a directory is in its place: training /,
  );
  assert.deepEqual(others, []);
  Deno.removeSync(file);
  record.note([step(4)]);
  run.close();
  const lines = [start(2), step(3), step(4)].map(({ kind, ...rest }, i) => (
    { kind, time: `1970-01-01T00:00:0${i}.000Z`, ...rest }
  ));
  assert.equal(Deno.readTextFileSync(file), textOf(lines));
  // a mistake of the program is no notice
  const other = openRunDirectory(join(directory, "no clock"));
  const now = () => assert.fail("no clock");
  await assert.rejects(() => openRecord(other, 0, { tensorboard: true, now }), /no clock/);
  other.close();
});

Deno.test("note() appends a warning of losses that rise, over several starts, and opening appends none", async () => {
  const path = join(directory, "rising");
  const evaluated = (step: number, loss: number) => ({ kind: "evaluation", step, loss });
  const run = openRunDirectory(path);
  const first = await openRecord(run, 0);
  assert.deepEqual(first.note([evaluated(1, 3), evaluated(2, 3.5)]), []);
  assert.deepEqual(first.note([evaluated(3, 3.5)]), []);
  const second = await openRecord(run, 3);
  const [warning, ...others] = second.note([evaluated(4, 3.5), step(5)]);
  assert.deepEqual([warning!.name, warning!.step, others], ["overfitting", 4, []]);
  assert.match(warning!.message, /^the validation loss has been rising: [^\n]*$/);
  await openRecord(run, 5);
  assert.deepEqual(run.notices, []);
  run.close();
  const lines = [...readLines(join(path, "metrics.jsonl"))].map(({ metric }) => metric!);
  assert.deepEqual(lines.map(({ kind, step }) => `${kind} ${step}`), [
    ...["evaluation 1", "evaluation 2", "evaluation 3", "evaluation 4", "warning 4", "step 5"],
  ]);
  assert.equal(lines[4]!.message, warning!.message);
});

Deno.test("note() cuts lists of thousands of names and long texts, so that readers can hold the line", async () => {
  const path = join(directory, "many names");
  const run = openRunDirectory(path), record = await openRecord(run, 0);
  const data = Array.from({ length: 2000 }, (_, i) => `/${"x".repeat(600)}${i}`);
  record.note([{ kind: "start", step: 0, options: { data, seed: 1 } }]);
  const prompt = "\x01".repeat(2 ** 20);
  record.note([{ kind: "sample", step: 0, prompt, text: prompt }]);
  run.close();
  const [line, sample] = [...readLines(join(path, "metrics.jsonl"))].map(({ metric }) => metric!);
  const options = line!.options as { data: string[]; seed: number };
  assert.deepEqual(options.data, [...data.slice(0, 200), "and 1800 more"]);
  const cut = `${prompt.slice(0, 2 ** 16)} and ${2 ** 20 - 2 ** 16} more characters`;
  assert.ok(sample!.prompt === cut && sample!.text === cut);
});

Deno.test("noteError() appends the end of a training after its last step", async () => {
  const path = join(directory, "failed");
  const run = openRunDirectory(path), record = await openRecord(run, 0);
  record.note([start(0), step(1), step(2)]);
  record.noteError(new RangeError("no"));
  record.noteError(new UserError("Cannot train as --learning-rate is too high"));
  run.close();
  const ends = [...readLines(join(path, "metrics.jsonl"))].slice(-2).map(({ metric }) => metric!);
  assert.deepEqual(ends.map(({ time: _, ...end }) => end), [
    { kind: "end", step: 2, reason: "error", message: "no" },
    {
      ...{ kind: "end", step: 2, reason: "error" },
      message: "Cannot train as --learning-rate is too high",
    },
  ]);
});
