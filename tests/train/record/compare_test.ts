import assert from "node:assert/strict";
import { join } from "node:path";
import type { TrainerState } from "../../../model/files/trainer_state.ts";
import { PRESETS } from "../../../model/config.ts";
import { toHuggingFaceConfig } from "../../../model/files/hugging_face.ts";
import { EARLIER_DEFAULTS } from "../../../train/options.ts";
import { openRunDirectory } from "../../../train/directory/run_directory.ts";
import {
  caveats,
  compareTable,
  differences,
  drawComparison,
} from "../../../train/record/compare.ts";
import { readRun } from "../../../train/record/compared_run.ts";
import { flopsPerToken } from "../../../train/cost.ts";
import { directory, exampleFiles, exampleState } from "../../checkpoints.ts";

const config = { ...PRESETS.nano, vocabularySize: 300 };
const OPTIONS = {
  batchSize: 4,
  contextLength: 50,
  gradientAccumulation: 2,
  learningRate: 1,
  keep: 3,
};

/** A run with a checkpoint and such metrics. */
function makeRun(
  name: string,
  metrics: (object | string)[],
  state: Partial<TrainerState> = {},
): string {
  const path = join(directory, name);
  const run = openRunDirectory(path);
  const json = new TextEncoder().encode(
    JSON.stringify(toHuggingFaceConfig(config, { endOfText: 0 })),
  );
  run.save(
    exampleFiles("").set("config.json", [json]),
    { ...exampleState(9), options: OPTIONS, ...state },
    { keep: 1, best: false },
  );
  for (const line of metrics) {
    run.append("metrics.jsonl", typeof line === "string" ? line : JSON.stringify(line));
  }
  run.close();
  return path;
}

const step = (step: number, tokensPerSecond: number) => ({
  kind: "step",
  step,
  loss: 9,
  tokensPerSecond,
});
const evaluation = (step: number, loss: number | null) => ({
  kind: "evaluation",
  step,
  loss,
  bitsPerByte: loss && loss / 2,
});
const start = { kind: "start", step: 0, parameters: 1000, flopsPerToken: 7000 };
const noWarning = (sentence: string) => assert.fail(sentence);

Deno.test("readRun() counts tokens, seconds and operations up to each evaluation", () => {
  // 400 tokens a step; after the first evaluation the run was killed and went on from step 1
  const path = makeRun("counted", [
    start,
    step(1, 400),
    step(2, 200),
    evaluation(2, 5),
    step(3, 1),
    start,
    step(2, 100),
    evaluation(2, 4.5),
    step(3, 400),
    evaluation(3, null),
    step(5, 200),
    evaluation(5, 3),
    step(6, 400),
  ]);
  const { points, last, best, ...run } = readRun(path, noWarning);
  assert.deepEqual([last, best], [points[1], points[1]]);
  assert.deepEqual(points, [
    { step: 2, tokens: 800, seconds: 1 + 4, flops: 800 * 7000, loss: 4.5, bitsPerByte: 2.25 },
    // the fourth step was not noted
    {
      step: 5,
      tokens: 2000,
      seconds: 5 + 1 + 1 + 2,
      flops: 2000 * 7000,
      loss: 3,
      bitsPerByte: 1.5,
    },
  ]);
  assert.deepEqual(run, {
    name: path,
    parameters: 1000,
    options: { ...EARLIER_DEFAULTS, ranks: 1, ...OPTIONS },
    adapter: "a GPU",
    dataHash: "y",
    tokenizerHash: "x",
  });
});

Deno.test("readRun() counts steps that were not noted as fast as the noted one before them, or else the first", () => {
  const path = makeRun("seldom noted", [
    start,
    evaluation(2, 6),
    step(3, 200),
    evaluation(5, 5),
    step(6, 400),
    evaluation(6, 4),
  ]);
  const { points } = readRun(path, noWarning);
  assert.deepEqual(points.map(({ seconds }) => seconds), [4, 4 + 2 + 4, 4 + 2 + 4 + 1]);
});

Deno.test("readRun() reads the size of older runs' models from their checkpoint", () => {
  const path = makeRun("older", [step(1, 400), evaluation(1, 5)]);
  const { parameters, points } = readRun(path, noWarning);
  assert.ok(parameters > 100_000);
  assert.equal(points[0]!.flops, 400 * flopsPerToken(config));
});

Deno.test("readRun() counts tokens, seconds and operations of both when a run continues another one", () => {
  // 400 tokens per step; the steps of the other run had twice as many
  const branch = { ...start, step: 10, tokensBefore: 8000, secondsBefore: 7 };
  const path = makeRun("branch", [branch, step(11, 400), evaluation(11, 5)]);
  const { last } = readRun(path, noWarning), { tokens, seconds, flops } = last;
  assert.deepEqual([last.step, tokens, seconds, flops], [11, 8400, 8, 8400 * 7000]);

  const older = readRun(
    makeRun("older branch", [{ ...start, step: 10 }, step(11, 400), evaluation(11, 5)]),
    noWarning,
  );
  assert.deepEqual([older.last.tokens, older.last.seconds], [4400, NaN]);
  assert.match(compareTable([older]), / 11 +4\.4 k +— +3\.1e7 /);
});

Deno.test("readRun() skips damaged lines with a warning", () => {
  const path = makeRun("damaged", [start, '{"kind":"st', step(1, 1), evaluation(1, 5), '{"ki']);
  const warnings: string[] = [];
  assert.equal(readRun(path, (sentence) => warnings.push(sentence)).points.length, 1);
  assert.deepEqual(warnings, [
    `${join(path, "metrics.jsonl")} is damaged in line 2, 5, which is skipped`,
  ]);
});

Deno.test("readRun() thins 150,000 evaluations, and keeps the last and the best", () => {
  const lines: object[] = [start];
  for (let i = 1; i <= 150_000; i++) {
    lines.push(step(i, 400), evaluation(i, i === 77_777 ? 0.25 : 1 + i));
  }
  const path = makeRun("long", [lines.map((line) => JSON.stringify(line)).join("\n")]);
  const run = readRun(path, noWarning);
  assert.ok(run.points.length > 250 && run.points.length <= 500, `${run.points.length} points`);
  const spent = { tokens: 400, seconds: 1, flops: 400 * 7000 };
  const point = (step: number, loss: number) => ({
    ...Object.fromEntries(Object.entries(spent).map(([name, each]) => [name, each * step])),
    ...{ step, loss, bitsPerByte: loss / 2 },
  });
  assert.deepEqual(run.last, point(150_000, 150_001));
  assert.deepEqual(run.best, point(77_777, 0.25));
  assert.match(compareTable([run]), /150000 .* 0\.250 +31\.1 M\n$/);
});

Deno.test("readRun() skips a checkpoint when its state is damaged", () => {
  const path = makeRun("unreadable", [start, step(1, 400), evaluation(1, 5)]);
  Deno.mkdirSync(join(path, "checkpoints", "000010"));
  const warnings: string[] = [];
  assert.equal(readRun(path, (sentence) => warnings.push(sentence)).last.step, 1);
  assert.match(warnings.join("\n"), /^[^\n]*000010 .* is missing; using .*000009 instead$/);
});

Deno.test("readRun() reads the options of the checkpoint to which the record belongs", () => {
  const path = makeRun("gone back", [start, step(1, 400), evaluation(1, 5), step(9, 400)]);
  const run = openRunDirectory(path);
  const later = { ...exampleState(12), options: { ...OPTIONS, learningRate: 7 } };
  run.save(exampleFiles(""), later, { keep: 9, best: false });
  run.close();
  assert.equal(readRun(path, noWarning).options.learningRate, 1);
});

Deno.test("readRun() knows the options that the checkpoint of an earlier version does not name, also the dimensions of its preset", () => {
  const metrics = [start, step(1, 400), evaluation(1, 5)];
  const read = (name: string, options: object) =>
    readRun(makeRun(name, metrics, { options: { ...OPTIONS, ...options } }), noWarning);
  const old = read("preset", { preset: "nano" });
  const wide = read("wide", { preset: "nano", layers: 2, width: 64, heads: 2, hidden: 300 });
  assert.deepEqual(differences([old, wide]), [["--hidden", ["256", "300"]]]);
  const later = read("later", { preset: "nano", syncEvery: 1, dropout: 0.1 });
  assert.deepEqual(differences([old, later]), [["--dropout", ["0", "0.1"]]]);
});

Deno.test("readRun() throws one sentence when something is missing", () => {
  const none = makeRun("none", [start, step(1, 1), evaluation(1, null)]);
  const silent = makeRun("silent", []);
  const bare = join(directory, "bare");
  Deno.mkdirSync(bare);
  Deno.writeTextFileSync(join(bare, "metrics.jsonl"), "");
  const shapeless = makeRun("shapeless", [start, evaluation(1, 2)], { options: {} });
  const file = join(directory, "file"), empty = join(directory, "empty");
  Deno.writeTextFileSync(file, "");
  Deno.mkdirSync(join(empty, "tokens of a text"), { recursive: true }); // as in a cache
  Deno.writeTextFileSync(join(empty, "tokens of a text", "lock"), "");
  const cases: [string, string][] = [
    [join(directory, "absent"), "there is no such run"],
    [file, "it is a file, and a run is a directory"],
    [directory, "it is no run, but holds runs"],
    [empty, "it is no run"],
    [none, "it has no evaluation yet"],
    [silent, "it has no metrics.jsonl that can be read"],
    [`${silent}/`, "it has no metrics.jsonl that can be read"],
    [bare, "it has no checkpoint yet, which would hold its options"],
    [shapeless, "its checkpoint does not name the batch size"],
  ];
  for (const [path, reason] of cases) {
    assert.throws(() => readRun(path, noWarning), {
      name: "CheckpointError",
      message: `Cannot compare ${path} as ${reason}`,
    });
  }
});

const runs = [
  readRun(
    makeRun("a", [start, step(1, 400), evaluation(1, 5), step(2, 400), evaluation(2, 6)]),
    noWarning,
  ),
  readRun(
    makeRun("b", [{ ...start, parameters: 1_234_567 }, step(1, 4), evaluation(1, 2)], {
      options: { ...OPTIONS, learningRate: 0.5, keep: 9, data: ["x.txt", "y.txt"] },
    }),
    noWarning,
  ),
];

Deno.test("differences() names the options that differ, except those of reports", () => {
  const [a, b] = runs;
  assert.deepEqual(differences([a!, { ...b!, dataHash: "other" }]), [
    ["--data", ["auto", "x.txt y.txt"]],
    ["--learning-rate", ["1", "0.5"]],
  ]);
  // the same text under two names
  assert.deepEqual(differences(runs), [["--learning-rate", ["1", "0.5"]]]);
  assert.deepEqual(differences([runs[0]!, runs[0]!]), []);
  const seeds = [1_234_567_891, 1_234_567_892].map((seed) => ({ ...a!, options: { seed } }));
  assert.deepEqual(differences(seeds), [["--seed", ["1234567891", "1234567892"]]]);
  // neither the preset beside a model to start from nor the vocabulary of one tokenizer has an effect
  const tuned = {
    ...a!,
    options: { ...OPTIONS, preset: "auto", vocabulary: "full", initFrom: "m" },
  };
  const scratch = { ...a!, options: { ...OPTIONS, preset: "nano", vocabulary: "auto" } };
  assert.deepEqual(differences([tuned, scratch]), [["--init-from", ["m", "—"]]]);
});

Deno.test("caveats() names the figures that cannot be compared", () => {
  const [a] = runs;
  assert.deepEqual(caveats(runs), []);
  assert.match(
    caveats([a!, { ...a!, tokenizerHash: "other" }])[0]!,
    /bits per byte can be compared, losses/,
  );
  assert.match(caveats([a!, { ...a!, dataHash: "other" }])[0]!, /different texts/);
  const [apart, other] = [{ ...a!, validationHash: "v" }, { ...a!, dataHash: "other" }];
  assert.deepEqual(caveats([apart, { ...other, validationHash: "v" }]), []);
  assert.match(caveats([apart, { ...other, validationHash: "w" }])[0]!, /different texts/);
  assert.deepEqual(caveats([a!, apart]), [], "a version that did not save the second hash");
});

Deno.test("compareTable() puts the runs' last and best figures in columns", () => {
  const named = runs.map((run, i) => ({ ...run, name: "ab"[i]! }));
  assert.equal(
    compareTable(named),
    [
      "run  params  steps  tokens   time  FLOPs   loss  bits/byte  best loss  at tokens",
      "a       1 k      2     800   2.0s  5.6e6  6.000      3.000      5.000        400",
      "b    1.23 M      1     400  1m40s  2.8e6  2.000      1.000      2.000        400",
      "",
      "differs in       a    b",
      "--learning-rate  1  0.5",
      "",
    ].join("\n"),
  );
  assert.doesNotMatch(compareTable([named[0]!]), /differs/);
  assert.equal(compareTable(named, { columns: 80 }), compareTable(named));
  const turned = compareTable(named, { columns: 40 });
  assert.match(turned, /^run +a +b\nparams +1 k +1\.23 M\nsteps +2 +1\n[^]*\n\ndiffers in +a +b\n/);
  for (const line of turned.split("\n")) assert.ok(line.length <= 40, line);
  const narrow = compareTable(named, { columns: 22 });
  assert.match(narrow, /^a\n +params +1 k\n[^]*\n +--learning-rate +1\n\nb\n +params +1\.23 M\n/);
  for (const line of narrow.split("\n")) assert.ok(line.length <= 26, line);
});

Deno.test("drawComparison() draws loss and bits per byte over tokens, time and FLOPs", async () => {
  const svg = await drawComparison([...runs, { ...runs[0]!, name: "<b> & c" }]);
  assert.match(svg, /^<svg xmlns="[^"]+" width="\d+" .*<\/svg>\n$/s);
  for (const label of ["tokens", "training time, seconds", "FLOPs"]) {
    assert.equal(svg.split(`${label} (log) →`).length - 1, 2, label);
  }
  for (const label of ["validation loss, nats per token", "bits per byte"]) {
    assert.equal(svg.split(`↑ ${label}`).length - 1, 3, label);
  }
  assert.ok(svg.includes("&lt;b&gt; &amp; c: loss 6.000"));
  assert.equal(svg.split("<circle").length - 1, 6 * (2 + 1 + 2));
  assert.doesNotMatch(svg, /NaN|undefined|no points|compared/);

  const minutes = runs[0]!.points.map((point, i) => ({ ...point, seconds: 60 * (i + 1) }));
  const long = await drawComparison([{ ...runs[0]!, points: minutes.slice(0, 2) }]);
  assert.match(long, /training time, minutes/); // from two on

  const still = runs[0]!.points.map((point) => ({ ...point, seconds: NaN }));
  const other = await drawComparison([{ ...runs[0]!, points: still, dataHash: "other" }, {
    ...runs[0]!,
    points: still,
  }]);
  assert.equal(other.split("no points").length - 1, 2, "two panels over time");
  assert.doesNotMatch(other, /dasharray|dashed/);
  const [first] = runs[0]!.points;
  const start = { ...first!, step: 0, tokens: 0, flops: 0, seconds: 0, loss: 7 };
  const tuned = await drawComparison([{ ...runs[0]!, points: [start, ...runs[0]!.points] }]);
  assert.equal(tuned.split('stroke-dasharray="4 3"').length - 1, 6, "one line per panel");
  assert.match(tuned, /dashed: the model from which a run started/);
  assert.match(other, /different texts: neither losses nor bits per byte can be compared/);
});
