import assert from "node:assert/strict";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import {
  CHECKPOINT_FORMAT,
  listCheckpoints,
  newestCheckpoint,
  readTrainerState,
  type TrainerState,
  upgradeState,
  verifyCheckpoint,
} from "../../model/checkpoint.ts";
import { moveAside, openRunDirectory } from "../../train/checkpoint.ts";

const directory = Deno.makeTempDirSync();
globalThis.addEventListener("unload", () => Deno.removeSync(directory, { recursive: true }));

const state = (step: number): Omit<TrainerState, "files"> => ({
  formatVersion: CHECKPOINT_FORMAT,
  step,
  epoch: 0,
  batchIndex: step,
  seed: 1,
  lossScale: 65536,
  growthTracker: 3,
  optimizerSteps: step,
  skippedSteps: 0,
  consecutiveSkips: 0,
  bestValidationLoss: null,
  schedule: { learningRate: 1, minLearningRate: 0, warmupSteps: 1, steps: 9 },
  options: { preset: "nano" },
  tokenizerHash: "x",
  data: { name: "sample", hash: "y" },
});
const content = (text: string) => [new TextEncoder().encode(text)];
const files = (text: string) => new Map([["a.bin", content(text)], ["b.txt", content("b")]]);

/** A run with checkpoints of steps 1 to `count`. */
function makeRun(name: string, count: number, keep = 9): string {
  const path = join(directory, name);
  const run = openRunDirectory(path);
  for (let step = 1; step <= count; step++) {
    run.save(files(`step ${step}`), state(step), { keep, best: step === 1 });
  }
  run.close();
  return path;
}

Deno.test("save() writes checkpoints that verify, with hints and nothing left over", () => {
  const path = makeRun("plain", 2);
  assert.deepEqual(listCheckpoints(path).map(({ step }) => step), [2, 1]);
  const newest = newestCheckpoint(path, assert.fail)!;
  const read = verifyCheckpoint(newest);
  assert.equal(read.step, 2);
  assert.deepEqual(Object.keys(read.files), ["a.bin", "b.txt"]);
  assert.equal(Deno.readTextFileSync(join(path, "latest")), "000002\n");
  assert.equal(Deno.readTextFileSync(join(path, "best")), "000001\n");
  assert.deepEqual(readdirSync(join(path, "checkpoints")).sort(), ["000001", "000002"]);
});

Deno.test("save() keeps the newest and the best and removes the others", () => {
  const path = makeRun("pruned", 6, 2);
  assert.deepEqual(listCheckpoints(path).map(({ step }) => step), [6, 5, 1]);
});

Deno.test("save() replaces a checkpoint of the same step", () => {
  const path = makeRun("same", 1);
  const run = openRunDirectory(path);
  run.save(files("again"), state(1), { keep: 3, best: false });
  run.close();
  assert.equal(Deno.readTextFileSync(join(path, "checkpoints", "000001", "a.bin")), "again");
});

Deno.test("newestCheckpoint() passes over damaged checkpoints with file and reason", () => {
  const damage: [string, (path: string) => void, RegExp][] = [
    ["missing", (path) => Deno.removeSync(join(path, "a.bin")), /a\.bin is missing/],
    [
      "truncated",
      (path) => Deno.truncateSync(join(path, "a.bin"), 3),
      /a\.bin must have 6 bytes: current size is 3/,
    ],
    [
      "changed",
      (path) => Deno.writeTextFileSync(join(path, "a.bin"), "step X"),
      /a\.bin is damaged/,
    ],
    [
      "without a state",
      (path) => Deno.removeSync(join(path, "trainer_state.json")),
      /trainer_state\.json is missing/,
    ],
    [
      "with half a state",
      (path) => Deno.truncateSync(join(path, "trainer_state.json"), 40),
      /is no JSON/,
    ],
  ];
  for (const [name, apply, message] of damage) {
    const path = makeRun(`damaged ${name}`, 2);
    apply(join(path, "checkpoints", "000002"));
    const warnings: string[] = [];
    const found = newestCheckpoint(path, (sentence) => warnings.push(sentence));
    assert.equal(found, join(path, "checkpoints", "000001"), name);
    assert.equal(warnings.length, 1);
    assert.match(warnings[0]!, message);
    assert.throws(() => verifyCheckpoint(join(path, "checkpoints", "000002")), message);
    apply(join(path, "checkpoints", "000001"));
    assert.throws(() => newestCheckpoint(path, () => {}), { name: "CheckpointError" });
  }
});

Deno.test("readTrainerState() names the field and value that is wrong", () => {
  const path = join(makeRun("fields", 1), "checkpoints", "000001");
  const file = join(path, "trainer_state.json");
  const good = JSON.parse(Deno.readTextFileSync(file));
  const cases: [Record<string, unknown>, RegExp][] = [
    [{ step: -1 }, /step must be a non-negative integer: current value is -1$/],
    [{ lossScale: 0 }, /lossScale must be a positive number: current value is 0$/],
    [{ options: [] }, /options must be an object: current value is \[\]$/],
    [{ schedule: { steps: "x" } }, /schedule\.learningRate must be a number/],
    [{ files: { "../x": { bytes: 1, sha256: "" } } }, /files\.\.\.\/x must be/],
    [
      { formatVersion: CHECKPOINT_FORMAT + 1 },
      /formatVersion must be at most 1.*current value is 2$/,
    ],
  ];
  for (const [change, message] of cases) {
    Deno.writeTextFileSync(file, JSON.stringify({ ...good, ...change }));
    assert.throws(() => readTrainerState(path), { name: "CheckpointError", message });
  }
});

Deno.test("upgradeState() brings format 0 up to date", () => {
  const { optimizerSteps: _, skippedSteps: __, consecutiveSkips: ___, ...old } = state(7);
  const upgraded = upgradeState({ ...old, formatVersion: 0 }, "x");
  assert.deepEqual(upgraded, { ...state(7), formatVersion: 1 });
});

Deno.test("newestCheckpoint() does not fall back from a newer format", () => {
  const path = makeRun("newer", 2);
  const file = join(path, "checkpoints", "000002", "trainer_state.json");
  const text = Deno.readTextFileSync(file).replace('"formatVersion": 1', '"formatVersion": 9');
  Deno.writeTextFileSync(file, text);
  assert.throws(() => newestCheckpoint(path, () => {}), /formatVersion must be at most 1/);
});

Deno.test("save() without room leaves the older checkpoints and no half one", () => {
  const path = makeRun("full", 1);
  const run = openRunDirectory(path, { freeBytes: () => 1_000_000 });
  assert.throws(() => run.save(files("x"), state(2), { keep: 3, best: false }), {
    name: "CheckpointError",
    message: /Cannot save checkpoint .*000002 as it needs 16\.8 MB: 1\.0 MB are free$/,
  });
  run.close();
  assert.deepEqual(readdirSync(join(path, "checkpoints")), ["000001"]);
});

Deno.test("openRunDirectory() clears what a dead process left", () => {
  const path = makeRun("leftovers", 1);
  for (const name of [".tmp-000002", ".trash-000000-x"]) {
    Deno.mkdirSync(join(path, "checkpoints", name));
  }
  openRunDirectory(path).close();
  assert.deepEqual(readdirSync(join(path, "checkpoints")), ["000001"]);
});

/** A process that saves checkpoint after checkpoint until it is killed. */
const SAVER = `
import { openRunDirectory } from ${
  JSON.stringify(new URL("../../train/checkpoint.ts", import.meta.url).href)
};
const run = openRunDirectory(Deno.args[0]);
const state = JSON.parse(Deno.args[1]);
console.log("ready");
for (let step = state.step; ; step++) {
  const data = new Uint8Array(200_000).fill(step);
  run.save(new Map([["a.bin", [data]], ["b.bin", [data]]]), { ...state, step }, { keep: 2, best: false });
}`;

function spawnSaver(path: string, step: number): Deno.ChildProcess {
  const script = join(directory, "saver.ts");
  Deno.writeTextFileSync(script, SAVER);
  return new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "--no-check",
      "--allow-read",
      "--allow-write",
      "--allow-sys",
      script,
      path,
      JSON.stringify(state(step)),
    ],
    stdout: "piped",
    stderr: "null",
  }).spawn();
}

Deno.test("a run that is killed at any moment keeps a whole checkpoint", async () => {
  const path = makeRun("killed", 1);
  let step = 1;
  for (let round = 0; round < 6; round++) {
    const child = spawnSaver(path, step + 1);
    const reader = child.stdout.getReader();
    await reader.read(); // ready
    await new Promise((resolve) => setTimeout(resolve, 20 + Math.random() * 60));
    child.kill("SIGKILL");
    await reader.cancel();
    await child.status;
    const newest = newestCheckpoint(path, assert.fail)!;
    const reached = verifyCheckpoint(newest).step;
    assert.ok(reached >= step, `step ${reached} after ${step}`);
    step = reached;
  }
  openRunDirectory(path).close();
  assert.ok(readdirSync(join(path, "checkpoints")).every((name) => /^\d{6}$/.test(name)));
});

Deno.test("openRunDirectory() refuses a run in which another process trains", async () => {
  const path = makeRun("locked", 1);
  const child = spawnSaver(path, 2);
  const reader = child.stdout.getReader();
  await reader.read();
  assert.throws(() => openRunDirectory(path), {
    name: "CheckpointError",
    message: `Cannot open run ${path} as another process is training there`,
  });
  assert.throws(() => moveAside(path), /another process is training there/);
  child.kill("SIGKILL");
  await reader.cancel();
  await child.status;
  openRunDirectory(path).close();
});

Deno.test("moveAside() takes the next free name", () => {
  const path = makeRun("moved", 1);
  assert.equal(moveAside(path), `${path}-1`);
  assert.equal(moveAside(path), undefined);
  makeRun("moved", 1);
  assert.equal(moveAside(path), `${path}-2`);
  assert.ok(existsSync(join(`${path}-1`, "checkpoints", "000001")));
});
