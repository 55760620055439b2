import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { type Metric, readMetrics } from "../../../train/record/metrics.ts";
import { openRecord } from "../../../train/record/record.ts";
import { openRunDirectory } from "../../../train/directory/run_directory.ts";
import { train } from "../../../train/train.ts";
import { directory } from "../../checkpoints.ts";
import { device } from "../../kernels/harness.ts";
import { fromFileUrl } from "../../paths.ts";
import { eventFiles, type ReadEvent, readEvents, type ReadHistogram } from "./event_files.ts";

const step = (step: number): Metric => ({
  ...{
    kind: "step",
    step,
    loss: 3 / step,
    learningRate: 1e-3 / step,
    gradientNorm: Math.sqrt(step),
  },
  ...{ lossScale: 65536, skipped: step - 1, dataMs: 0.125 * step },
  ...(step > 1 ? { tokensPerSecond: 1000 * step } : {}),
});
const evaluation = (step: number): Metric => (
  {
    kind: "evaluation",
    step,
    loss: 4 / step,
    bitsPerByte: 2 / step,
    entropyPerToken: 0.85,
    tokens: 9,
  }
);
const sample = (step: number): Metric => ({
  kind: "sample",
  step,
  prompt: "Once",
  text: ` at ${step}`,
});
const start = (step: number): Metric => (
  { kind: "start", step, options: { preset: "nano", learningRate: 0.005 }, device: "a GPU" }
);

const histogram = (step: number): Metric => ({
  ...{
    kind: "histogram",
    step,
    name: "wte.weight",
    of: "gradient",
    count: 28,
    zeros: 7,
    notFinite: 2,
  },
  ...{
    min: -5,
    max: 3.5,
    positive: { "-20": 4, "0": 3, "1": 2 },
    negative: { "-149": 1, "2": 5, "1": 4 },
  },
});

/** Opens the record of a run after `step` and notes metrics; returns the notices. */
async function note(
  name: string,
  after: number,
  metrics: readonly Metric[],
  { tensorboard = true, seconds = 1000 } = {},
): Promise<string[]> {
  const run = openRunDirectory(join(directory, name));
  try {
    const now = () => new Date(1000 * seconds++);
    const record = await openRecord(run, after, { tensorboard, now });
    for (const metric of metrics) record.note([metric]);
    return run.notices;
  } finally {
    run.close();
  }
}

/** By tag, the steps with their values. */
function pointsOf(events: readonly ReadEvent[]): Record<string, [step: number, value: unknown][]> {
  const points: Record<string, [number, unknown][]> = {};
  for (const { step, values } of events) {
    for (const [tag, value] of Object.entries(values)) (points[tag] ??= []).push([step, value]);
  }
  return points;
}

/** What a line of kind `histogram` counts: the least and greatest number, and buckets that are not empty. */
function bucketsOf({ count, notFinite, min, max, zeros, positive, negative }: Metric) {
  const buckets: [from: number, to: number, count: number][] = [];
  for (const [e, count] of Object.entries(positive!)) buckets.push([2 ** +e, 2 ** (+e + 1), count]);
  for (const [e, count] of Object.entries(negative!)) {
    buckets.push([-(2 ** (+e + 1)), -(2 ** +e), count]);
  }
  if (zeros! > 0) buckets.push([0, 0, zeros!]);
  buckets.sort(([a], [b]) => a - b);
  if (buckets.length > 0) buckets[0]![0] = -Infinity; // where the first bucket of an event begins is not in the file
  return { min, max, count: count! - notFinite!, buckets };
}

/** The same of an event; a bucket of zeros ends at the least number that is not zero. */
function shownBuckets({ min, max, count, limits, counts }: ReadHistogram) {
  assert.deepEqual(limits, limits.toSorted((a, b) => a - b));
  const rounded = (limit: number) => Math.abs(limit) === Number.MIN_VALUE ? 0 : limit;
  const buckets = counts.map((
    count,
    i,
  ) => [rounded(limits[i - 1] ?? -Infinity), rounded(limits[i]!), count]);
  return { min, max, count, buckets: buckets.filter(([, , count]) => count! > 0) };
}

/** Asserts that the event file of a run has every figure and text of its record, and nothing else. */
function assertSameAsRecord(run: string): void {
  const expected: ReturnType<typeof pointsOf> = {};
  const add = (tag: string, step: number, value: unknown) => {
    if (value !== undefined) (expected[tag] ??= []).push([step, value]);
  };
  const times: number[] = [];
  for (const metric of readMetrics(join(run, "metrics.jsonl"), assert.fail)) {
    const { kind, step, time } = metric;
    if (kind !== "end") times.push(Date.parse(time!) / 1000);
    const figures = {
      step: {
        "loss/training": metric.loss,
        "optimizer/learning_rate": metric.learningRate,
        "optimizer/muon_learning_rate": metric.muonLearningRate,
        "optimizer/gradient_norm": metric.gradientNorm,
        "optimizer/loss_scale": metric.lossScale,
        "optimizer/skipped_steps": metric.skipped,
        "speed/tokens_per_second": metric.tokensPerSecond,
        "speed/data_ms": metric.dataMs,
      },
      evaluation: {
        "loss/validation": metric.loss,
        "loss/bits_per_byte": metric.bitsPerByte,
        "loss/entropy": metric.entropyPerToken,
      },
    }[kind] ?? {};
    for (const [tag, figure] of Object.entries(figures)) {
      add(tag, step, figure === undefined ? undefined : Math.fround(figure ?? NaN));
    }
    const hasNumbers = typeof metric.min === "number";
    if (hasNumbers) add(`${metric.of}/${metric.name}`, step, bucketsOf(metric));
    if (kind === "sample") add("sample", step, true);
    if (kind === "warning") add(`warning/${metric.name}`, step, true);
    if (kind === "start") add("options", step, true);
  }
  const events = readEvents(run);
  assert.deepEqual(events.map(({ wallSeconds }) => wallSeconds), times);
  const found = Object.entries(pointsOf(events)).map(([tag, points]) => [
    tag,
    points.map(([step, value]) => [
      step,
      typeof value === "string"
        ? true
        : typeof value === "object"
        ? shownBuckets(value as ReadHistogram)
        : value,
    ]),
  ]);
  assert.deepEqual(Object.fromEntries(found), expected);
}

Deno.test("note() appends every figure and text to the event file", async () => {
  const run = join(directory, "shown");
  const low = { ...step(2), loss: null, lossScale: 0.5 }; // causes a warning
  const empty = { ...{ positive: {}, negative: {}, zeros: 0, count: 2, min: null, max: null } };
  await note("shown", 0, [
    ...[start(0), step(1), low, evaluation(2), sample(2), step(3)],
    ...[histogram(3), { ...histogram(3), name: "x", negative: {} }],
    { ...histogram(3), name: "y", of: "weight", zeros: 3, positive: {}, negative: {} },
    { ...histogram(3), name: "none", ...empty },
  ]);
  assertSameAsRecord(run);
  const { options, sample: samples, ...others } = pointsOf(readEvents(run));
  assert.deepEqual(options, [[
    0,
    "| option | value |\n| --- | --- |\n| --preset | nano |\n| --learning-rate | 0.005 |\n| device | a GPU |",
  ]]);
  assert.deepEqual(samples, [[2, "**Once** at 2"]]);
  assert.deepEqual(others["warning/overflowing-gradients"]?.map(([step]) => step), [2]);
  assert.deepEqual(others["loss/training"], [[1, 3], [2, NaN], [3, 1]]);
});

Deno.test("the event file shows texts as they are, whatever Markdown or HTML they hold", async () => {
  const texts: [text: string, markdown: string][] = [
    ["<b>&amp;</b>", "&#60;b&#62;&#38;amp;&#60;/b&#62;"],
    ["\n# a_b_ `c` [d](e)", "  \n&#35; a&#95;b&#95; &#96;c&#96; &#91;d&#93;(e)"],
    ["\n1. x\n- y\n\n    z", "  \n&#49;. x  \n&#45; y\n\n&#32;   z"],
    [" 1. - x", " 1. - x"],
  ];
  const samples = texts.map(([text], step) => ({ kind: "sample", step, prompt: "A *", text }));
  await note("escaped", 0, [
    ...samples,
    { kind: "sample", step: 9, prompt: "one\n\n two ", text: "three" },
    { kind: "start", step: 9, options: { data: "a|b\n*", seed: 1 } },
  ]);
  const points = pointsOf(readEvents(join(directory, "escaped")));
  assert.deepEqual(points.sample!.map(([, markdown]) => markdown), [
    ...texts.map(([, markdown]) => `**A &#42;**${markdown}`),
    "**one**\n\n&#32;**two** three",
  ]);
  assert.match(
    points.options![0]![1] as string,
    /\n\| --data \| a&#124;b &#42; \|\n\| --seed \| 1 \|$/,
  );
});

Deno.test("the event file has no record of lines that cannot be shown", async () => {
  const run = join(directory, "foreign");
  await note("foreign", 0, [
    { kind: "start", step: 0, options: null as unknown as object },
    { kind: "start", step: 0, options: [1, { a: "b" }] },
    { ...step(1), step: -1 },
    { kind: "toString", step: 1 },
    { ...step(1), time: "no time" },
  ]);
  const events = readEvents(run);
  assert.deepEqual(events.map(({ step }) => step), [0, 0, 1]);
  assert.equal(events[0]!.values.options, "| option | value |\n| --- | --- |");
});

Deno.test("openRecord() continues an event file, also one whose last record is torn", async () => {
  const run = join(directory, "continued");
  await note("continued", 0, [start(0), step(1), step(2), sample(2)]);
  const [name] = eventFiles(run), path = join(run, name!);
  const { ino, size } = Deno.statSync(path);
  for (const torn of [[], [1], new Array(100).fill(0)]) {
    Deno.writeFileSync(path, Uint8Array.from(torn), { append: true });
    await note("continued", 2, [], { seconds: 2000 });
    await note("continued", 2, [start(2)], { seconds: 3000 });
    assert.deepEqual(readdirSync(run).filter((file) => file.includes("tfevents")), [name]);
    assertSameAsRecord(run);
  }
  assert.equal(Deno.statSync(path).ino, ino);
  assert.ok(Deno.statSync(path).size > size);
});

Deno.test("openRecord() leaves nothing after its step in the event file", async () => {
  const run = join(directory, "back");
  const all = [start(0), step(1), step(2), evaluation(2), sample(2), step(3), sample(3), step(4)];
  await note("back", 0, all);
  const [first] = eventFiles(run);
  for (const [after, count] of [[3, 7], [2, 5], [0, 1]] as const) {
    const [before] = eventFiles(run);
    await note("back", after, []);
    // a TensorBoard that reads the earlier file finds that empty and continues with the later one
    assert.ok(eventFiles(run).at(-1)! > before!);
    assert.equal(Deno.statSync(join(run, before!)).size, 0);
    assert.equal(readEvents(run).length, count);
    assertSameAsRecord(run);
  }
  const names = readdirSync(run).filter((file) => file.includes("tfevents"));
  assert.deepEqual([names.length, names.includes(first!)], [2, false]);
});

Deno.test("openRecord() writes an event file anew that lacks lines, or does not agree with them", async () => {
  const run = join(directory, "anew"), metrics = [start(0), step(1), step(2), evaluation(2)];
  await note("anew", 0, metrics, { tensorboard: false });
  assert.deepEqual(eventFiles(run), []);
  await note("anew", 2, [sample(2)]);
  assertSameAsRecord(run);
  await note("anew", 2, [start(2), step(3)], { tensorboard: false }); // the event file lacks these
  await note("anew", 3, [step(4)]);
  assertSameAsRecord(run);
  // another last line
  const path = join(run, "metrics.jsonl"), lines = Deno.readTextFileSync(path);
  Deno.writeTextFileSync(path, lines.replace('"step":4,"loss":0.75', '"step":4,"loss":0.5'));
  await note("anew", 4, []);
  assertSameAsRecord(run);
  // a process that was killed had written a part of a later file
  const [name] = eventFiles(run), later = name!.replace(/\d{10}/, "0000009999");
  Deno.writeFileSync(join(run, later), Deno.readFileSync(join(run, name!)).subarray(0, 300));
  await note("anew", 4, [step(5)]);
  assert.deepEqual(eventFiles(run), [name!.replace(/\d{10}/, "0000010000")]);
  assertSameAsRecord(run);
  // somebody else's
  Deno.writeTextFileSync(join(run, "events.out.tfevents.1.host"), "x");
  Deno.writeTextFileSync(join(run, eventFiles(run)[0]!), "not a record at all");
  await note("anew", 5, []);
  assert.equal(Deno.readTextFileSync(join(run, "events.out.tfevents.1.host")), "x");
  Deno.removeSync(join(run, "events.out.tfevents.1.host"));
  assertSameAsRecord(run);
});

Deno.test("openRecord() empties the event file when it goes back without TensorBoard", async () => {
  const run = join(directory, "off");
  await note("off", 0, [start(0), step(1), step(2)]);
  await note("off", 2, [step(3)], { tensorboard: false });
  assert.equal(readEvents(run).length, 3);
  await note("off", 1, [], { tensorboard: false });
  assert.deepEqual(eventFiles(run), []);
});

Deno.test("note() gives one notice when the event file cannot be written, and catches up", async () => {
  const path = join(directory, "obstructed events"), run = openRunDirectory(path);
  const record = await openRecord(run, 0, { tensorboard: true });
  record.note([start(0)]);
  const file = join(path, eventFiles(path)[0]!), elsewhere = join(directory, "events");
  const noteTwice = (from: number) => {
    record.note([step(from)]);
    record.note([step(from + 1)]);
    return run.notices.splice(0);
  };
  Deno.renameSync(file, elsewhere);
  Deno.mkdirSync(file);
  const refused = (reason: string) => [
    `Cannot write ${file} as ${reason}: training continues without it`,
  ];
  assert.deepEqual(noteTwice(1), refused("a directory is in its place"));
  Deno.removeSync(file);
  Deno.renameSync(elsewhere, file);
  assert.deepEqual(noteTwice(3), []);
  assertSameAsRecord(path);
  Deno.removeSync(file);
  assert.deepEqual(noteTwice(5), refused("the system refuses: the file became shorter"));
  run.close();
  await note("obstructed events", 6, []);
  assertSameAsRecord(path);
});

/** Whether python3 has TensorBoard. */
function hasTensorBoard(): boolean {
  const find = "import importlib.util as i, sys; sys.exit(i.find_spec('tensorboard') is None)";
  try {
    return new Deno.Command("python3", { args: ["-c", find], stderr: "null" }).outputSync().success;
  } catch {
    return false; // there is no python3
  }
}

Deno.test({
  name: "TensorBoard reads every point of metrics.jsonl from the event file",
  ignore: !hasTensorBoard(),
  fn: async () => {
    const run = join(directory, "read back");
    const odd =
      "a_b_ *c* `d`  <script>e</script> &amp; [f](g) \\ ~~h~~ | \x07 \f \u2028 \x85\n1. i\n2. j\n\n\n    k\n# l";
    const texts = { prompt: odd, text: `${odd}\n${odd}` };
    const options = {
      data: ["a b", "c|d"],
      samplePrompt: odd,
      learningRate: 0.005,
      seed: 1,
      fresh: false,
    };
    await note("read back", 0, [
      { kind: "start", step: 0, options, device: odd },
      ...[1, 2, 3].flatMap((
        i,
      ) => [step(i), histogram(i), evaluation(i), { kind: "sample", step: i, ...texts }]),
      { ...step(4), loss: null, gradientNorm: null, lossScale: 0.5 },
      { ...evaluation(4), loss: 0.1, tokens: 1e6 },
    ]);
    const script = fromFileUrl(new URL("../../parity/event_files.py", import.meta.url));
    const { stdout, success } = new Deno.Command("python3", { args: [script, run] }).outputSync();
    const report = new TextDecoder().decode(stdout);
    assert.ok(success && /^all the same$/m.test(report), report);
    for (
      const tag of [
        "sample: 3",
        "gradient/wte.weight: 3",
        "warning/below-entropy: 1",
        "loss/training: 4",
      ]
    ) {
      assert.match(report, new RegExp(`^ok +${tag} of `, "m"));
    }
  },
});

Deno.test("train() writes an event file with all that its record has, unless tensorboard is false", async () => {
  const run = join(directory, "trained");
  const options = {
    ...{ device, out: run, preset: "nano", contextLength: 16, batchSize: 2, steps: 4 } as const,
    texts: Array.from({ length: 60 }, (_, i) => `Story ${i} is about number ${i * i}.`),
    ...{ evalEvery: 2, evalTokens: 32, sampleEvery: 2, saveEvery: 2, logEvery: 0 },
  };
  for await (const _ of train(options));
  assertSameAsRecord(run);
  assert.equal(pointsOf(readEvents(run))["loss/training"]!.length, 4);
  for await (const _ of train({ ...options, resumeFrom: "2", steps: 3 }));
  assertSameAsRecord(run);
  assert.deepEqual(pointsOf(readEvents(run))["loss/training"]!.map(([step]) => step), [1, 2, 3]);
  const off = join(directory, "trained without");
  for await (const _ of train({ ...options, out: off, steps: 1, tensorboard: false }));
  assert.deepEqual(eventFiles(off), []);
});
