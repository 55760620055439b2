import assert from "node:assert/strict";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { Random } from "../../data/random.ts";
import {
  listCheckpoints,
  newestCheckpoint,
  verifyCheckpoint,
} from "../../model/files/checkpoint.ts";
import { moveAside, openRunDirectory } from "../../train/run_directory.ts";
import { directory, exampleFiles, exampleState, makeRun } from "../checkpoints.ts";
import { withFreeBytes } from "../free_bytes.ts";
import { freshSeed } from "../seeds.ts";

Deno.test("save() writes checkpoints that verify, with hints, and leaves no temporary file", () => {
  const path = makeRun("plain", { count: 2 });
  assert.deepEqual(listCheckpoints(path).map(({ step }) => step), [2, 1]);
  const newest = newestCheckpoint(path, assert.fail)!;
  const read = verifyCheckpoint(newest);
  assert.equal(read.step, 2);
  assert.deepEqual(Object.keys(read.files), [...exampleFiles("").keys()]);
  assert.equal(Deno.readTextFileSync(join(path, "latest")), "000002\n");
  assert.equal(Deno.readTextFileSync(join(path, "best")), "000001\n");
  assert.deepEqual(readdirSync(join(path, "checkpoints")).sort(), ["000001", "000002"]);
});

Deno.test({
  name: "newestCheckpoint() passes over one whose files are none, which might never end",
  ignore: Deno.build.os === "windows",
  fn() {
    const path = makeRun("devices", { count: 3 });
    for (
      const [step, name] of [["000003", "trainer_state.json"], ["000002", "model.safetensors"]]
    ) {
      const file = join(path, "checkpoints", step!, name!);
      Deno.removeSync(file);
      Deno.symlinkSync("/dev/null", file);
    }
    const warnings: string[] = [];
    const newest = newestCheckpoint(path, (warning) => warnings.push(warning));
    assert.equal(newest, join(path, "checkpoints", "000001"));
    assert.match(
      warnings.join("\n"),
      /state\.json cannot be read: it is no file.*\n.*it is no file/,
    );
  },
});

Deno.test("save() keeps the newest and the best checkpoints, and removes the others", () => {
  const path = makeRun("pruned", { count: 6, keep: 2 });
  assert.deepEqual(listCheckpoints(path).map(({ step }) => step), [6, 5, 1]);
});

Deno.test("copy() replaces a folder as a whole, or leaves it unchanged when there is no room", () => {
  const path = makeRun("copying", { count: 1 }), other = join(directory, "weights.bin");
  const leftover = join(path, `.tmp-base-${crypto.randomUUID()}`); // of a process that was killed
  Deno.mkdirSync(leftover);
  Deno.writeTextFileSync(join(leftover, "weights.bin"), "half");
  using disk = withFreeBytes(Infinity);
  const run = openRunDirectory(path);
  const read = () => Deno.readTextFileSync(join(path, "base", "weights.bin"));
  Deno.writeTextFileSync(other, "first");
  run.copy("base", [other]);
  Deno.writeTextFileSync(other, "second");
  disk.bytes = 0;
  assert.throws(() => run.copy("base", [other]), {
    message: /copying.base as it needs .* are free/,
  });
  assert.equal(read(), "first");
  disk.bytes = Infinity;
  run.copy("base", [other]);
  assert.equal(read(), "second");
  assert.deepEqual(readdirSync(path).filter((name) => name.startsWith(".tmp")), []);
  run.close();
});

Deno.test("save() replaces a checkpoint of the same step", () => {
  const path = makeRun("same", { count: 1 });
  const run = openRunDirectory(path);
  run.save(exampleFiles("again"), exampleState(1), { keep: 3, best: false });
  run.close();
  assert.equal(
    Deno.readTextFileSync(join(path, "checkpoints", "000001", "model.safetensors")),
    "again",
  );
});

Deno.test("save() never removes the checkpoint that it has just written, whatever others there are", () => {
  const path = makeRun("older", { count: 3 });
  Deno.writeTextFileSync(join(path, "checkpoints", "000003", "model.safetensors"), "step X");
  const run = openRunDirectory(path);
  run.save(exampleFiles("branch"), exampleState(2), { keep: 1, best: false });
  run.close();
  assert.deepEqual(listCheckpoints(path).map(({ step }) => step), [3, 2, 1]);
  assert.equal(newestCheckpoint(path, () => {}), join(path, "checkpoints", "000002"));
});

Deno.test("save() writes the same bytes for the same training", () => {
  const [a, b] = ["once", "twice"].map((name) => {
    const checkpoint = join(makeRun(name, { count: 1 }), "checkpoints", "000001");
    return readdirSync(checkpoint).sort().map((file) => [
      file,
      Deno.readTextFileSync(join(checkpoint, file)),
    ]);
  });
  assert.deepEqual(a, b);
});

Deno.test("save() leaves the old files when it fails", () => {
  const path = makeRun("broken off", { count: 1 });
  const before = verifyCheckpoint(join(path, "checkpoints", "000001"));
  const run = openRunDirectory(path);
  const files = new Map([...exampleFiles("x"), ["no/such/directory", []]]);
  for (const step of [1, 2]) {
    assert.throws(() => run.save(files, exampleState(step), { keep: 1, best: false }), {
      name: "CheckpointError",
      message: /^Cannot save checkpoint .*00000\d as the system refuses: [^\n]*$/,
    });
  }
  run.close();
  assert.deepEqual(readdirSync(join(path, "checkpoints")), ["000001"]);
  assert.deepEqual(verifyCheckpoint(join(path, "checkpoints", "000001")), before);
});

Deno.test("save() completes, and names once what it could not write or remove", () => {
  const path = makeRun("obstructed", { count: 3 });
  for (const name of ["latest", "best"]) {
    Deno.removeSync(join(path, name));
    Deno.mkdirSync(join(path, name));
  }
  const run = openRunDirectory(path);
  for (const step of [4, 5]) {
    run.save(exampleFiles("x"), exampleState(step), { keep: 1, best: true });
  }
  run.save(exampleFiles("x"), exampleState(6), { keep: 1, best: false });
  const refused = (name: string) =>
    `Cannot write ${
      join(path, name)
    } as a directory is in its place: training continues without it`;
  assert.deepEqual(run.notices, [refused("latest"), refused("best")]);
  run.close();
  // the best is known without the hint
  assert.deepEqual(listCheckpoints(path).map(({ step }) => step), [6, 5]);
  assert.ok(readdirSync(path).every((name) => !name.includes("tmp")));
});

Deno.test("write() and append() name once a file that cannot be written, and append() writes the lines later", () => {
  const path = makeRun("unwritable", { count: 1 });
  const run = openRunDirectory(path);
  for (const name of ["notes", "log"]) Deno.mkdirSync(join(path, name));
  for (const text of ["a", "b"]) {
    run.write("notes", text);
    run.append("log", text);
  }
  assert.deepEqual(
    run.notices.splice(0),
    ["notes", "log"].map((name) =>
      `Cannot write ${join(path, name)} as a directory is in its place: ` +
      `training continues without it`
    ),
  );
  Deno.removeSync(join(path, "log"));
  Deno.writeTextFileSync(join(path, "log"), "torn");
  run.append("log", "c");
  run.close();
  assert.deepEqual(run.notices, []);
  assert.equal(Deno.readTextFileSync(join(path, "log")), "torn\na\nb\nc\n");
});

Deno.test("openRunDirectory() throws when the path is that of a file", () => {
  const path = join(directory, "file");
  Deno.writeTextFileSync(path, "");
  assert.throws(() => openRunDirectory(path), {
    name: "CheckpointError",
    message: `Cannot open run ${path} as a file is in its place`,
  });
});

Deno.test("save() leaves the older checkpoints and no partial one when there is no room", () => {
  const path = makeRun("full", { count: 1 });
  const run = openRunDirectory(path);
  using _ = withFreeBytes(1e6);
  assert.throws(() => run.save(exampleFiles("x"), exampleState(2), { keep: 3, best: false }), {
    name: "CheckpointError",
    message:
      /Cannot save checkpoint .*000002 as it needs 16\.8 MB in .*checkpoints: 1\.00 MB are free; make room, or choose another out$/,
  });
  run.close();
  assert.deepEqual(readdirSync(join(path, "checkpoints")), ["000001"]);
});

Deno.test("checkRoom() throws when no checkpoint fits, and gives a notice when not all do", () => {
  const path = makeRun("room", { count: 1 });
  const notices = (free: number, { keep = 3, saves = 9 } = {}) => {
    const run = openRunDirectory(path);
    using _ = withFreeBytes(free);
    try {
      run.checkRoom({ checkpointBytes: 1e9, keep, saves });
      return run.notices;
    } finally {
      run.close();
    }
  };
  const spare = 2 ** 24;
  // three to keep, the best and the one being written, of which one is there
  assert.deepEqual(notices(4e9 + spare), []);
  assert.deepEqual(notices(4e9 + spare - 1), [
    "Cannot save 4 checkpoints of 1.00 GB each as it needs 4.016777216 GB in " +
    `${join(path, "checkpoints")}: 4.016777215 GB are free; ` +
    "make room, or lower --keep: current value is 3",
  ]);
  assert.deepEqual(notices(2e9 + spare, { saves: 2 }), []);
  assert.deepEqual(notices(3e9, { keep: 1 }), []);
  assert.deepEqual(notices(0, { saves: 0 }), []);
  assert.throws(() => notices(1e9), {
    name: "CheckpointError",
    message: `Cannot save a checkpoint as it needs 1.02 GB in ${join(path, "checkpoints")}: ` +
      "1.00 GB are free; make room, or choose another out",
  });
});

Deno.test("openRunDirectory() removes the leftovers of a killed process, and nothing else", () => {
  const path = makeRun("leftovers", { count: 1 });
  const checkpoints = join(path, "checkpoints"), uuid = crypto.randomUUID();
  const ours = [
    `.tmp-000002-${uuid}`,
    `.trash-000000-${uuid}`,
    `.old-000001-${uuid}`,
    ".tmp-000002",
  ];
  const others = [".tmp-mine", ".old-000001-x", ".trash-000000", `.tmp-2-${uuid}`, ".old-backup"];
  for (const name of [...ours, ...others]) Deno.mkdirSync(join(checkpoints, name));
  const files = [".tmp-000003", ".old-000004", `.trash-000005-${uuid}`];
  for (const name of files) Deno.writeTextFileSync(join(checkpoints, name), "mine");
  Deno.writeTextFileSync(join(path, `.tmp-latest-${uuid}`), "");
  Deno.writeTextFileSync(join(path, "latest.tmp"), "mine");
  const run = openRunDirectory(path);
  run.save(exampleFiles("x"), exampleState(1), { keep: 1, best: false });
  run.close();
  assert.deepEqual(readdirSync(checkpoints).sort(), [...others, ...files, "000001"].sort());
  assert.ok(!existsSync(join(path, `.tmp-latest-${uuid}`)));
  assert.equal(Deno.readTextFileSync(join(path, "latest.tmp")), "mine");
});

Deno.test("openRunDirectory() throws when a run cannot be there, and says what to type", () => {
  const path = makeRun("whole", { count: 1 });
  const checkpoint = join(path, "checkpoints", "000001");
  const before = readdirSync(checkpoint);
  const full = join(directory, "full of files");
  Deno.mkdirSync(full);
  for (const name of "abcd") Deno.writeTextFileSync(join(full, name), "");
  const link = join(directory, "link");
  Deno.symlinkSync(checkpoint, link);
  const inside = (place: string) =>
    `it is in ${checkpoint}: to resume that run use out ${path}, ` +
    `to start from its model initFrom ${checkpoint} and another out` + place;
  const cases: [string, string][] = [
    [checkpoint, inside("")],
    [`${checkpoint}/`, inside("")],
    [join(checkpoint, "a", "b"), inside("")],
    [join(link, "a"), inside("")],
    ...["", "/new", "/000009"].map((name): [string, string] => [
      join(path, "checkpoints") + name,
      `it is in ${join(path, "checkpoints")}: to resume that run use out ${path}, ` +
      `for another run choose another out`,
    ]),
    [
      full,
      `it must be a run or an empty directory: it holds a, b, c, …; choose another, ` +
      `such as out '${join(full, "my-run")}'`,
    ],
  ];
  for (const [out, reason] of cases) {
    for (
      const open of [() => openRunDirectory(out), () => moveAside(out) ?? openRunDirectory(out)]
    ) {
      assert.throws(open, {
        name: "CheckpointError",
        message: `Cannot open run ${out} as ${reason}`,
      });
    }
  }
  assert.throws(() => openRunDirectory(""), {
    name: "CheckpointError",
    message: "Cannot open a run as out must name a directory: it is empty",
  });
  assert.deepEqual(readdirSync(checkpoint), before);
  assert.equal(readdirSync(full).length, 4);
});

Deno.test("openRunDirectory() opens a new directory, an empty one, and a run", () => {
  const path = makeRun("parent", { count: 1 });
  const hidden = join(directory, "hidden");
  Deno.mkdirSync(join(hidden, "lost+found"), { recursive: true });
  Deno.writeTextFileSync(join(hidden, ".gitignore"), "*");
  const begun = join(directory, "begun"); // killed before it had its lock
  Deno.mkdirSync(join(begun, "checkpoints"), { recursive: true });
  const places = [
    path,
    hidden,
    begun,
    join(path, "variants", "a"),
    join(directory, "checkpoints", "a"),
  ];
  Deno.writeTextFileSync(join(path, "notes.txt"), "");
  for (const place of places) {
    assert.doesNotThrow(() => openRunDirectory(place).close(), place);
  }
});

Deno.test("openRunDirectory() restores a checkpoint when its replacement was not completed", () => {
  const path = makeRun("displaced", { count: 2 });
  const at = (name: string) => join(path, "checkpoints", name);
  Deno.renameSync(at("000002"), at(".old-000002")); // died before the new one had its name
  Deno.mkdirSync(at(".tmp-000002"));
  Deno.mkdirSync(at(".old-000001")); // died before the old one was removed
  openRunDirectory(path).close();
  assert.deepEqual(readdirSync(join(path, "checkpoints")).sort(), ["000001", "000002"]);
  assert.equal(verifyCheckpoint(at("000001")).step, 1);
  assert.equal(verifyCheckpoint(at("000002")).step, 2);
});

/** A process that saves checkpoint after checkpoint, or one again and again, until it is killed. */
const SAVER = `
import { openRunDirectory } from ${
  JSON.stringify(new URL("../../train/run_directory.ts", import.meta.url).href)
};
const run = openRunDirectory(Deno.args[0]);
const state = JSON.parse(Deno.args[1]);
const names = ${JSON.stringify([...exampleFiles("").keys()])};
console.log("ready");
for (let step = state.step, round = 0;; round++) {
  const data = new Uint8Array(200_000).fill(round);
  const files = new Map(names.map((name) => [name, [data]]));
  const save = { ...state, step, optimizerSteps: step };
  run.save(files, save, { keep: 1, best: false });
  if (Deno.args[2] === "onward") step++;
}`;

function spawnSaver(path: string, step: number, mode: "onward" | "again"): Deno.ChildProcess {
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
      JSON.stringify(exampleState(step)),
      mode,
    ],
    stdout: "piped",
    stderr: "null",
  }).spawn();
}

for (const mode of ["onward", "again"] as const) {
  Deno.test(`a run that is killed while it saves ${mode} keeps a whole checkpoint`, async () => {
    const seed = freshSeed(), random = new Random(seed);
    const path = makeRun(`killed ${mode}`, { count: 1, keep: 1 });
    let step = 1;
    for (let round = 0; round < 8; round++) {
      const child = spawnSaver(path, mode === "onward" ? step + 1 : step, mode);
      const reader = child.stdout.getReader();
      await reader.read(); // ready
      const delayMs = 5 + random.uniform() * 60;
      await new Promise((resolve) => setTimeout(resolve, delayMs));
      child.kill("SIGKILL");
      await reader.cancel();
      await child.status;
      if (mode === "again") openRunDirectory(path).close(); // as the next training would
      const newest = newestCheckpoint(path, assert.fail);
      assert.ok(newest, `nothing is left after ${delayMs} ms, seed ${seed}`);
      const reached = verifyCheckpoint(newest).step;
      assert.ok(
        reached >= step,
        `step ${reached} after ${step}, killed after ${delayMs} ms, seed ${seed}`,
      );
      step = reached;
    }
    openRunDirectory(path).close();
    assert.ok(readdirSync(join(path, "checkpoints")).every((name) => /^\d{6}$/.test(name)));
  });
}

Deno.test("openRunDirectory() throws when another process trains there", async () => {
  const path = makeRun("locked", { count: 1 });
  const child = spawnSaver(path, 2, "onward");
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

Deno.test("moveAside() renames a run to the next free name", () => {
  const path = makeRun("moved", { count: 1 });
  assert.equal(moveAside(path), `${path}-1`);
  assert.equal(moveAside(path), undefined);
  makeRun("moved", { count: 1 });
  assert.equal(moveAside(`${path}/`), `${path}-2`);
  assert.ok(existsSync(join(`${path}-1`, "checkpoints", "000001")));
});

Deno.test("close() removes a run directory only when it is new and unused", () => {
  const path = join(directory, "unused", "run");
  openRunDirectory(path).close();
  assert.ok(!existsSync(path));
  Deno.mkdirSync(path);
  openRunDirectory(path).close();
  assert.ok(existsSync(path), "a directory that was there stays");
  const noted = join(directory, "unused", "noted"), run = openRunDirectory(noted);
  run.append("metrics.jsonl", "{}");
  run.close();
  assert.ok(existsSync(join(noted, "metrics.jsonl")));
});
