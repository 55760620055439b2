import assert from "node:assert/strict";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { bytesBelow } from "../../../files/disk.ts";
import { Random } from "../../../data/random.ts";
import {
  isWeightsOnly,
  listCheckpoints,
  newestCheckpoint,
  OPTIMIZER_FILE,
  verifyCheckpoint,
} from "../../../model/files/checkpoint.ts";
import { noteAdapters } from "../../../train/directory/adapter_notes.ts";
import { checkRoom, type Keep } from "../../../train/directory/retention.ts";
import { moveAside, openRunDirectory } from "../../../train/directory/run_directory.ts";
import { directory, exampleFiles, exampleState, makeRun } from "../../checkpoints.ts";
import { withFreeBytes } from "../../free_bytes.ts";
import { freshSeed } from "../../seeds.ts";

Deno.test("openRunDirectory() waits while a reader asks whether the run is locked", () => {
  const path = join(directory, "asked");
  openRunDirectory(path).close();
  Deno.mkdirSync(path, { recursive: true });
  Deno.writeTextFileSync(join(path, "lock"), "");
  const reader = Deno.openSync(join(path, "lock"));
  assert.ok(reader.tryLockSync(false));
  const { wait } = Atomics;
  let waits = 0;
  Atomics.wait = () => {
    if (++waits === 3) reader.close(); // it has its answer
    return "timed-out";
  };
  try {
    openRunDirectory(path).close();
  } finally {
    Atomics.wait = wait;
  }
  assert.equal(waits, 3);
});

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

/** Files of a checkpoint whose optimizer state is most of it. */
function largeFiles(text: string): ReturnType<typeof exampleFiles> {
  return exampleFiles(text).set(OPTIMIZER_FILE, [new Uint8Array(LARGE)]);
}

const LARGE = 200_000;

/** Steps of the checkpoints of a run that are whole, and of those with only weights, each of which must verify. */
function stepsOf(path: string): { whole: number[]; weightsOnly: number[] } {
  const checkpoints = listCheckpoints(path);
  for (const { path, step } of checkpoints) assert.equal(verifyCheckpoint(path).step, step);
  const steps = (isOne: (path: string) => boolean) =>
    checkpoints.filter(({ path }) => isOne(path)).map(({ step }) => step);
  return { whole: steps((path) => !isWeightsOnly(path)), weightsOnly: steps(isWeightsOnly) };
}

Deno.test("save() with keep auto keeps all checkpoints while they are small, and then the weights of ten", () => {
  const path = join(directory, "auto"), run = openRunDirectory(path);
  using disk = withFreeBytes(1e9);
  const save = (step: number, best: boolean) =>
    run.save(largeFiles(`${step}`), exampleState(step), { keep: "auto", best });
  for (let step = 1; step <= 14; step++) save(step, step === 2);
  assert.deepEqual(stepsOf(path).weightsOnly, []);
  assert.equal(stepsOf(path).whole.length, 14);
  disk.bytes = 1e8; // five checkpoints are 1 % of it
  for (let step = 15; step <= 20; step++) {
    save(step, false);
    const { whole, weightsOnly } = stepsOf(path);
    assert.deepEqual(whole, [step, step - 1, step - 2, 2]);
    assert.equal(weightsOnly.length, 10);
  }
  const before = stepsOf(path);
  disk.bytes = 1e12; // what is left is small again
  save(21, true);
  assert.deepEqual(stepsOf(path), { ...before, whole: [21, ...before.whole] });
  assert.equal(newestCheckpoint(path, assert.fail), join(path, "checkpoints", "000021"));
  assert.equal(
    Deno.readTextFileSync(join(path, "checkpoints", "000002", "model.safetensors")),
    "2",
  );
  run.save(largeFiles("22"), exampleState(22), { keep: 1, best: false });
  assert.deepEqual(stepsOf(path), { whole: [22, 21], weightsOnly: [] }); // 21 is the best
  run.close();
  assert.deepEqual(run.notices, []);
});

Deno.test("save() removes older checkpoints before it writes, if that is what makes enough room", () => {
  const path = join(directory, "tight"), run = openRunDirectory(path);
  const spare = 2 ** 24, checkpoints = join(path, "checkpoints");
  let capacity = Infinity;
  using _ = withFreeBytes(() => capacity - bytesBelow(checkpoints));
  const save = (step: number, keep: Keep, best = false) =>
    run.save(largeFiles(`${step}`), exampleState(step), { keep, best });
  for (let step = 1; step <= 5; step++) save(step, 9, step === 2);
  const size = bytesBelow(join(checkpoints, "000005"));

  capacity = 5.5 * size + spare;
  save(6, 5); // 1 would be removed after the save
  assert.deepEqual(stepsOf(path).whole, [6, 5, 4, 3, 2]);
  capacity = 4.5 * size + spare;
  assert.throws(() => save(7, 5), /as it needs .* are free/); // one of them would not be enough
  assert.deepEqual(stepsOf(path).whole, [6, 5, 4, 3, 2]);
  save(7, 3);
  assert.deepEqual(stepsOf(path).whole, [7, 6, 5, 2]);
  capacity = 3.5 * size + spare;
  save(8, 1);
  assert.deepEqual(stepsOf(path).whole, [8, 2]);
  capacity = 2.5 * size + spare;
  assert.throws(() => save(9, 1), /as it needs .* are free/); // the newest stays until there is a newer one
  assert.deepEqual(stepsOf(path).whole, [8, 2]);

  capacity = Infinity;
  for (let step = 9; step <= 20; step++) save(step, 99);
  const weights = size - LARGE;
  for (const [step, most] of [[21, 7], [22, 2], [23, 0]] as const) {
    // the state file, most of these small weights, is not counted ahead
    capacity = 4 * size + (most - 0.5) * weights + spare;
    save(step, "auto");
    const { whole, weightsOnly } = stepsOf(path);
    assert.deepEqual([whole, weightsOnly.length], [[step, step - 1, step - 2, 2], most]);
  }
  run.close();
});

Deno.test("save() keeps a checkpoint that adapters of another run need, with keep auto at least its weights", () => {
  const path = join(directory, "needed"), run = openRunDirectory(path);
  const adapters = makeRun("with adapters", { count: 1 });
  using _ = withFreeBytes(2e7);
  const at = (step: number) => join(path, "checkpoints", `${step}`.padStart(6, "0"));
  for (let step = 1; step <= 20; step++) {
    run.save(largeFiles(`${step}`), exampleState(step), { keep: "auto", best: false });
    if (step === 3) noteAdapters(adapters, at(3));
    if (step >= 3) assert.equal(verifyCheckpoint(at(3)).step, 3);
  }
  assert.deepEqual(run.notices, [`keeping ${at(3)}: the adapters in ${adapters} need it`]);
  run.close();
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

Deno.test({
  name: "a run waits for no pipe in the place of one of its files",
  ignore: Deno.build.os === "windows",
  fn() {
    const path = makeRun("pipes", { count: 2 }), at = (name: string) => join(path, name);
    const put = (...names: string[]) => {
      for (const name of names) if (existsSync(at(name))) Deno.removeSync(at(name));
      assert.ok(new Deno.Command("mkfifo", { args: names.map(at) }).outputSync().success);
    };
    put("latest", "best", "metrics.jsonl", "adapters.jsonl");
    const run = openRunDirectory(path);
    run.append("metrics.jsonl", "{}");
    run.save(exampleFiles("x"), exampleState(3), { keep: 1, best: true });
    assert.deepEqual(
      run.notices.splice(0).map((notice) => notice.replace(path, "")),
      ["metrics.jsonl", "latest", "best"].map((name) =>
        `Cannot write /${name} as the system refuses: it is a pipe: training continues without it`
      ),
    );
    assert.match(
      noteAdapters(directory, join(path, "checkpoints", "000003"))!,
      /^Cannot note in .*adapters\.jsonl .* as the system refuses: it is a pipe: /,
    );
    run.close();
    put("lock");
    assert.throws(() => openRunDirectory(path), {
      message: `Cannot open run ${path} as the system refuses: it is a pipe`,
    });
  },
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

Deno.test("checkRoom() throws when no checkpoint fits, and gives a sentence when not all do", () => {
  const path = makeRun("room", { count: 1 });
  const shortage = (
    free: number,
    { keep = 3, saves = 9 }: { keep?: Keep; saves?: number } = {},
  ) => {
    using _ = withFreeBytes(free);
    const bytes = { checkpointBytes: 1e9, weightsOnlyBytes: 3e8 };
    return checkRoom(path, { ...bytes, keep, others: 1, saves, startsOver: false });
  };
  const spare = 2 ** 24;
  // three to keep, the best and the one being written, of which one is there
  assert.equal(shortage(4e9 + spare), undefined);
  assert.equal(
    shortage(4e9 + spare - 1),
    "Cannot save 4 checkpoints of 1.00 GB each as it needs 4.016777216 GB in " +
      `${join(path, "checkpoints")}: 4.016777215 GB are free; ` +
      "make room, or lower --keep: current value is 3",
  );
  assert.equal(shortage(2e9 + spare, { saves: 2 }), undefined);
  assert.equal(shortage(3e9, { keep: 1 }), undefined);
  // auto: likewise three, the best and the one being written, and then six of ten with only weights
  assert.equal(shortage(5.8e9 + spare, { keep: "auto" }), undefined);
  assert.equal(
    shortage(5.8e9 + spare - 1, { keep: "auto" }),
    "Cannot save 4 checkpoints of 1.00 GB each and 6 of 300 MB with only weights as it needs 5.816777216 GB in " +
      `${join(path, "checkpoints")}: 5.816777215 GB are free; ` +
      "make room, or give --keep a number: current value is auto",
  );
  assert.equal(shortage(0, { saves: 0 }), undefined);
  assert.throws(() => shortage(1e9), {
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

/**
 * A process that saves checkpoint after checkpoint, or one again and again, until it is killed. With `keep` auto the
 * free disk is so small that most checkpoints have only weights.
 */
const SAVER = `
import fs from "node:fs";
import { openRunDirectory } from ${
  JSON.stringify(new URL("../../../train/directory/run_directory.ts", import.meta.url).href)
};
const run = openRunDirectory(Deno.args[0]);
const state = JSON.parse(Deno.args[1]);
const names = ${JSON.stringify([...exampleFiles("").keys()])};
const keep = Deno.args[2] === "thinning" ? "auto" : 1;
fs.statfsSync = () => ({ bavail: 2e7, bsize: 1 });
console.log("ready");
for (let step = state.step, round = 0;; round++) {
  const data = new Uint8Array(200_000).fill(round);
  const files = new Map(names.map((name) => [name, [data]]));
  const save = { ...state, step, optimizerSteps: step };
  run.save(files, save, { keep, best: false });
  if (Deno.args[2] !== "again") step++;
}`;

type Mode = "onward" | "again" | "thinning";

function spawnSaver(path: string, step: number, mode: Mode): Deno.ChildProcess {
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

for (const mode of ["onward", "again", "thinning"] as const) {
  Deno.test(`a run that is killed while it saves ${mode} keeps a whole checkpoint, and no damaged one`, async () => {
    const seed = freshSeed(), random = new Random(seed);
    const path = makeRun(`killed ${mode}`, { count: 1, keep: 1 });
    let step = 1;
    for (let round = 0; round < 8; round++) {
      const child = spawnSaver(path, mode === "again" ? step : step + 1, mode);
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
      assert.ok(!isWeightsOnly(newest));
      stepsOf(path); // each verifies
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
    hint: "Wait until it ends, or choose another --out",
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
