import assert from "node:assert/strict";
import { dirname, join } from "node:path";
import { Random } from "../../data/random.ts";
import { glance, RunReader } from "../../serve/run_reader.ts";
import { WatchedRun } from "../../serve/watched_run.ts";
import { directory } from "../checkpoints.ts";
import { leftOpen } from "../left_open.ts";
import { freshSeed } from "../seeds.ts";
import { readMetrics } from "../../train/record/metrics.ts";
import { evaluation, start, step, steps, writeRecord } from "./records.ts";

let runs = 0;

/** A new record with these lines. */
function record(lines: readonly string[], end?: string): string {
  return writeRecord(join(directory, `reader-${runs++}`), lines, end);
}

/** Reads all of a record. */
function readAll(reader: RunReader): RunReader {
  do reader.follow(Infinity); while (!reader.isComplete);
  return reader;
}

const append = (path: string, text: string) => Deno.writeTextFileSync(path, text, { append: true });
const lossesOf = ({ index }: RunReader) => index.curves()["step.loss"]?.value ?? [];

Deno.test("RunReader reads curves, samples, warnings and the end of a record", () => {
  const path = record([
    start(),
    step(1, 4),
    step(2, 3),
    evaluation(2, 2),
    '{"kind":"sample","step":2,"prompt":"Once","text":" upon <b>"}',
    '{"kind":"warning","step":2,"name":"overfitting","message":"learned by heart"}',
    '{"kind":"of a later version","step":2}',
    '{"kind":"end","step":2,"reason":"steps"}',
  ]);
  const { index } = readAll(new RunReader(path)), curves = index.curves();
  assert.deepEqual(curves["step.loss"], {
    step: [1, 2],
    seconds: [0.1, 0.2],
    tokens: [16, 32],
    value: [4, 3],
    mean: [4, 3],
  });
  assert.deepEqual(curves["evaluation.loss"]?.value, [2]);
  assert.deepEqual(curves["step.dataMs"]?.value, [0.5, 0.5]);
  assert.equal(index.tokensPerStep, 16);
  assert.equal(index.entropyPerToken, 0.1);
  assert.deepEqual(index.best, { step: 2, loss: 2 });
  assert.deepEqual(index.samples, [{ step: 2, prompt: "Once", text: " upon <b>" }]);
  assert.deepEqual(index.warnings, [
    { step: 2, name: "overfitting", message: "learned by heart" },
  ]);
  assert.equal(index.end?.reason, "steps");
});

Deno.test("RunReader keeps the newest sample, and of the others some at the same distance", () => {
  const sample = (step: number) => `{"kind":"sample","step":${step},"prompt":"","text":""}`;
  const steps = Array.from({ length: 998 }, (_, i) => i + 1);
  const { index } = readAll(new RunReader(record([start(), ...steps.map(sample)])));
  const kept = index.samples.map(({ step }) => step), [newest] = kept.splice(-1);
  assert.equal(newest, 998);
  assert.deepEqual(kept, Array.from({ length: 125 }, (_, i) => 1 + 8 * i));
});

Deno.test("RunReader reads what is appended, and half a line waits for its rest", () => {
  const path = record([start(), step(1, 4)]), reader = readAll(new RunReader(path));
  append(path, step(2, 3).slice(0, 20));
  assert.deepEqual(lossesOf(readAll(reader)), [4]);
  append(path, step(2, 3).slice(20));
  assert.deepEqual(lossesOf(readAll(reader)), [4, 3], "a whole object without its line break");
  append(path, `\n\n${step(3, 2)}\n`);
  assert.deepEqual(lossesOf(readAll(reader)), [4, 3, 2]);
  assert.equal(reader.index.damaged, 0);
  assert.equal(reader.generation, "0.0");
});

Deno.test("WatchedRun reads a record that is asked for again while it was being read and was forgotten", async () => {
  const run = new WatchedRun("a", dirname(record([start(), ...steps(40_000)])));
  const forgotten = run.curves();
  run.forget();
  const { isComplete, share } = await run.curves();
  assert.ok(isComplete || share < 1, "nothing was read");
  await forgotten;
});

Deno.test("RunReader forgets the steps that a resumed training repeats", () => {
  const path = record([start(), ...[1, 2, 3].map((i) => step(i, i)), evaluation(3, 1)]);
  const reader = readAll(new RunReader(path)), before = reader.generation;
  append(path, `${JSON.stringify({ ...JSON.parse(start()), step: 1 })}\n${step(2, 20)}\n`);
  const { index } = readAll(reader);
  assert.deepEqual(lossesOf(reader), [1, 20]);
  assert.deepEqual(index.curves()["step.loss"]?.seconds.map((s) => s?.toFixed(2)), [
    "0.10",
    "0.20",
  ]);
  assert.deepEqual(index.curves()["evaluation.loss"]?.value, []);
  assert.equal(index.best, undefined);
  assert.notEqual(reader.generation, before);
  // a run that continues another one has the seconds of both, also if it was killed and repeats its first step
  const branch = { ...JSON.parse(start()), step: 10, secondsBefore: 7, tokensBefore: 80 };
  const options = { ...branch.options, ranks: 2 }; // and continues on more ranks
  const again = { ...branch, options, secondsBefore: undefined, tokensBefore: undefined };
  const lines = [branch, JSON.parse(step(11)), again];
  const other = readAll(
    new RunReader(record([...lines.map((line) => JSON.stringify(line)), step(11)])),
  );
  const { seconds, tokens } = other.index.curves()["step.loss"]!;
  assert.deepEqual([seconds, tokens], [[7.2], [112]]);
});

Deno.test("RunReader has the same index whether it reads all at once or what is appended", () => {
  const seed = freshSeed(), random = new Random(seed);
  const below = (limit: number) => Math.floor(limit * random.uniform());
  const lines = [start()];
  for (let i = 1; lines.length < 300; i++) {
    if (below(20) === 0) i = Math.max(1, i - below(10)); // the training was resumed
    lines.push(below(30) === 0 ? "{" : step(i, 1 + random.uniform()));
    if (below(9) === 0) lines.push(evaluation(i, random.uniform()));
  }
  const bytes = new TextEncoder().encode(lines.join("\n") + "\n");
  const path = record([], ""), reader = new RunReader(path);
  for (let at = 0; at < bytes.length;) {
    const chunk = bytes.subarray(at, at += 1 + below(900));
    Deno.writeFileSync(path, chunk, { append: true });
    readAll(reader);
  }
  const { index } = readAll(new RunReader(record(lines)));
  assert.deepEqual(reader.index.curves(), index.curves(), `seed ${seed}`);
  assert.deepEqual(reader.index.best, index.best, `seed ${seed}`);
  assert.equal(reader.index.damaged, index.damaged, `seed ${seed}`);
  const told = [...readMetrics(path, () => {})].filter(({ kind }) => kind === "step");
  assert.deepEqual(lossesOf(reader), told.map(({ loss }) => loss), `seed ${seed}`);
});

Deno.test("RunReader begins anew if the record was replaced, cut or changed", () => {
  const path = record([start(), step(1, 1), step(2, 2)]), reader = readAll(new RunReader(path));
  const write = (lines: string[]) => Deno.writeTextFileSync(path, lines.join("\n") + "\n");
  let { generation } = reader;
  for (const [time, losses] of [[1], [5, 6, 7, 8], [9, 6, 7, 8]].entries()) {
    write([start(), ...losses.map((loss, i) => step(i + 1, loss))]);
    Deno.utimeSync(path, time, time); // file systems count it in ticks, which may be longer than a write
    assert.deepEqual(lossesOf(readAll(reader)), losses);
    assert.notEqual(reader.generation, generation);
    generation = reader.generation;
  }
  Deno.renameSync(record([start(), ...[3, 2, 1, 0, -1].map((loss, i) => step(i + 1, loss))]), path);
  assert.deepEqual(lossesOf(readAll(reader)), [3, 2, 1, 0, -1]);
  Deno.removeSync(path);
  assert.deepEqual(lossesOf(readAll(reader)), []);
});

Deno.test("RunReader skips lines that are damaged or too long, and counts them", () => {
  const path = record([
    start(),
    "not JSON",
    "x".repeat(2 ** 20 + 5),
    '{"kind":"step","step":1,"loss":"<b>"}',
    '{"kind":"step","step":1,"loss":3,"gradientNorm":null}',
    "[1]",
  ]);
  const reader = readAll(new RunReader(path));
  assert.deepEqual(lossesOf(reader), [3]);
  assert.deepEqual(reader.index.curves()["step.gradientNorm"]?.value, [null]);
  assert.ok(reader.index.damaged >= 4, `${reader.index.damaged}`);
});

Deno.test("RunReader reads a long record in slices, and has a sample of it meanwhile", () => {
  const path = record([start(3000), ...steps(3000)]), reader = new RunReader(path);
  reader.follow(-Infinity);
  assert.ok(!reader.isComplete && reader.share > 0 && reader.share < 0.1, `${reader.share}`);
  const sampled = reader.best.curves()["step.loss"]!;
  assert.ok(sampled.step.length > 300, `${sampled.step.length}`);
  assert.equal(sampled.step.at(-1), 3000);
  sampled.step.forEach((step, i) => assert.equal(sampled.value[i], 1 / step));
  readAll(reader);
  assert.equal(reader.best, reader.index);
  assert.equal(reader.index.last("step.loss")?.step, 3000);
});

Deno.test("glance() finds the last step and evaluation of a long record", () => {
  const lines = [start(5000), ...steps(1000), evaluation(1000, 0.5)];
  const rest = Array.from({ length: 1000 }, (_, i) => step(1001 + i));
  const index = glance(record([...lines, ...rest]));
  assert.equal(index.last("step.loss")?.step, 2000);
  assert.deepEqual(index.last("evaluation.loss")?.value, 0.5);
  assert.equal((index.start?.options as Record<string, unknown>).steps, 5000);
});

Deno.test("glance() finds the last step before long lines of other kinds", () => {
  const histogram = `{"kind":"histogram","step":100,"positive":"${"x".repeat(9000)}"}`;
  const lines = [start(500), ...steps(100), evaluation(100, 0.5), ...Array(9).fill(histogram)];
  const index = glance(record(lines));
  assert.equal(index.last("step.loss")?.step, 100);
  assert.equal(index.last("evaluation.loss")?.value, 0.5);
});

Deno.test("glance() has the options of the last start if the run was made longer or shorter", () => {
  const stepsOf = (lines: string[]) => {
    const { options } = glance(record(lines)).start!;
    return (options as Record<string, unknown>).steps;
  };
  const resumed = (steps: number) => JSON.stringify({ ...JSON.parse(start(steps)), step: 100 });
  const later = Array.from({ length: 200 }, (_, i) => step(101 + i));
  assert.equal(stepsOf([start(100), ...steps(100), resumed(300), ...later]), 300);
  const end = '{"kind":"end","step":300,"reason":"steps"}';
  assert.equal(stepsOf([start(900), ...steps(100), resumed(300), ...later, end]), 300);
  assert.equal(stepsOf([start(900), ...steps(100), end]), 900);
});

Deno.test("RunReader waits for no pipe", async () => {
  const path = join(directory, "reader-pipe");
  const made = Deno.build.os !== "windows" &&
    (await new Deno.Command("mkfifo", { args: [path] }).output()).success;
  if (!made) return;
  const reader = readAll(new RunReader(path));
  assert.deepEqual(lossesOf(reader), []);
  assert.throws(() => glance(path), /no file/);
});

Deno.test("no test of this file leaves a file open", () => {
  assert.deepEqual(leftOpen(directory), []);
});
