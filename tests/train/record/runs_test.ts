import assert from "node:assert/strict";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { listRuns, runsTable } from "../../../train/record/runs.ts";
import { openRunDirectory } from "../../../train/directory/run_directory.ts";
import { changeFields, directory, exampleFiles, exampleState } from "../../checkpoints.ts";

const OPTIONS = { batchSize: 4, contextLength: 50, gradientAccumulation: 2, steps: 9 };
const noWarning = (sentence: string) => assert.fail(sentence);

const folder = join(directory, "runs");
Deno.mkdirSync(folder);

Deno.test("listRuns() says how far, how good and how large each run is, and skips what is no run", () => {
  const path = join(folder, "good"), run = openRunDirectory(path);
  for (const step of [3, 6]) {
    run.save(exampleFiles(""), { ...exampleState(step), options: OPTIONS }, {
      keep: 9,
      best: step === 3,
    });
  }
  const lines = [
    { kind: "start", step: 0, parameters: 1000, flopsPerToken: 1 },
    { kind: "step", step: 1, loss: 9, tokensPerSecond: 5 },
    { kind: "evaluation", step: 3, loss: 2, bitsPerByte: 1 },
    { kind: "evaluation", step: 6, loss: 2.5, bitsPerByte: 1.25 },
  ];
  run.append("metrics.jsonl", lines.map((line) => JSON.stringify(line)).join("\n"));
  Deno.mkdirSync(join(folder, "cache"));
  Deno.writeTextFileSync(join(folder, "file.txt"), "");
  const [{ bytes, savedMs, ...rest }, ...others] = listRuns(folder, noWarning) as [
    ReturnType<typeof listRuns>[number],
  ];
  assert.deepEqual(others, []);
  assert.deepEqual(rest, {
    run: path,
    isTraining: true, // this test holds the lock
    step: 6,
    steps: 9,
    parameters: 1000,
    data: "sample",
    last: { step: 6, loss: 2.5, bitsPerByte: 1.25 },
    best: { step: 3, loss: 2 },
  });
  const size = [...Deno.readDirSync(join(path, "checkpoints"))].flatMap(({ name }) =>
    [...Deno.readDirSync(join(path, "checkpoints", name))].map((file) =>
      Deno.statSync(join(path, "checkpoints", name, file.name)).size
    )
  ).reduce((a, b) => a + b, 0);
  assert.ok(bytes > size && bytes < size + 1000);
  assert.ok(Math.abs(savedMs! - Date.now()) < 60_000);
  run.close();
  assert.equal(listRuns(path, noWarning)[0]!.isTraining, false);
});

Deno.test("listRuns() lists a run that has no checkpoint yet, and one that is damaged with a warning", () => {
  const folder = join(directory, "young");
  openRunDirectory(join(folder, "empty")).append("metrics.jsonl", '{"kind":"start","step":0}');
  const damaged = openRunDirectory(join(folder, "damaged"));
  damaged.save(exampleFiles(""), exampleState(1), { keep: 1, best: false });
  Deno.writeTextFileSync(join(folder, "damaged/checkpoints/000001/trainer_state.json"), "{");
  const warnings: string[] = [];
  const runs = listRuns(folder, (sentence) => warnings.push(sentence));
  assert.deepEqual(runs.map(({ run, step, steps, last }) => [run, step, steps, last]).sort(), [
    [join(folder, "damaged"), 0, null, null],
    [join(folder, "empty"), 0, null, null],
  ]);
  assert.ok(warnings.some((sentence) => sentence.includes("trainer_state.json")), `${warnings}`);
});

Deno.test("listRuns() lists a run whose training removes the checkpoint meanwhile", () => {
  const path = join(directory, "removed"), run = openRunDirectory(path);
  run.save(exampleFiles(""), exampleState(1), { keep: 1, best: false });
  run.append("metrics.jsonl", "damaged");
  run.close();
  const checkpoints = join(path, "checkpoints");
  const remove = () => rmSync(checkpoints, { recursive: true, force: true });
  const [listed] = listRuns(path, remove); // which warns of the damaged line
  assert.deepEqual([listed!.step, listed!.savedMs], [1, null]);
});

Deno.test("listRuns() lists a run that has just begun, without a warning", () => {
  const folder = join(directory, "begun"), run = openRunDirectory(join(folder, "run"));
  const [begun] = listRuns(folder, noWarning);
  assert.deepEqual([begun!.isTraining, begun!.step, begun!.last], [true, 0, null]);
  run.close();
});

Deno.test("listRuns() and runsTable() show what others wrote into a run escaped, and wait for no pipe", () => {
  const folder = join(directory, "hostile");
  const evil = "\x1b[31m\n", object = { toString: 1, valueOf: 1 };
  const names = ["options", "steps", "data", "metrics", "pipes"] as const;
  const changes = {
    options: { options: { ...OPTIONS, batchSize: object } },
    steps: { options: { ...OPTIONS, steps: evil } },
    data: { data: { name: `a/${evil}`, hash: "y" } },
    metrics: {},
    pipes: {},
  } as const;
  for (const name of names) {
    const path = join(folder, name), run = openRunDirectory(path);
    run.save(exampleFiles(""), { ...exampleState(1), options: OPTIONS }, { keep: 1, best: true });
    run.append(
      "metrics.jsonl",
      JSON.stringify({ kind: "start", step: 0, parameters: name === "metrics" ? object : 1000 }),
    );
    run.close();
    changeFields(join(path, "checkpoints/000001"), changes[name] as never);
  }
  if (Deno.build.os !== "windows") {
    const pipes = ["lock", "best", "metrics.jsonl", "checkpoints/000001/config.json"]
      .map((name) => join(folder, "pipes", name));
    for (const pipe of pipes) Deno.removeSync(pipe);
    new Deno.Command("mkfifo", { args: pipes }).outputSync();
  }
  const warnings: string[] = [];
  const table = runsTable(listRuns(folder, (sentence) => warnings.push(sentence)));
  // deno-lint-ignore no-control-regex
  assert.match(table, /^([^\x00-\x09\x0b-\x1f]*\n){6}$/);
  assert.match(table, /\\u\{1b\}\[31m\\u\{a\}\n/);
  assert.ok(
    warnings.some((sentence) => sentence.includes("options.batchSize must be a text, a nu")),
  );
  assert.ok(warnings.some((sentence) => /metrics.jsonl is damaged in line 1/.test(sentence)));
});

Deno.test("listRuns() throws when there is no such folder", () => {
  assert.throws(() => listRuns(join(directory, "none"), noWarning), {
    name: "UserError",
    message: `Cannot list the runs in ${join(directory, "none")} as there is no such directory`,
    hint: "To make a run: deno task train",
  });
});

Deno.test("runsTable() has a line per run, with a dash for what is not known", () => {
  const savedMs = new Date(2026, 10, 29, 9, 58).getTime();
  const best = { step: 3, loss: 2 }, last = { step: 6, loss: 2.5, bitsPerByte: 1.25 };
  const known = { step: 6, steps: 9, parameters: 1000, data: "/home/a/text.txt", last, best };
  const unknown = { step: 0, steps: null, parameters: null, data: null, last: null, best: null };
  assert.equal(
    runsTable([
      { run: "runs/a", isTraining: true, ...known, bytes: 1234, savedMs },
      { run: "runs/b", isTraining: false, ...unknown, bytes: 0, savedMs: null },
    ]),
    "run              steps  params  validation loss  bits/byte        best loss     size             saved  text\n" +
      "runs/a  6/9 (training)     1 k            2.500      1.250  2.000 at step 3  1.23 kB  2026-11-29 09:58  text.txt\n" +
      "runs/b               0       —                —          —                —  0 bytes                 —  —\n",
  );
  const HEADS = { 80: /^run .* best loss/, 40: /^run +steps +best loss$/, 30: /^run +best loss$/ };
  for (const width of [80, 40, 30] as const) {
    const runs = [{ run: "runs/a", isTraining: true, ...known, bytes: 1234, savedMs }];
    const [head, ...rows] = runsTable(runs, width).trimEnd().split("\n");
    assert.ok([head!, ...rows].every(({ length }) => length <= width), head);
    assert.match(head!, HEADS[width]);
  }
});
