import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { join } from "node:path";
import { Random } from "../../../data/random.ts";
import type { JsonObject } from "../../../files/json.ts";
import { UserError } from "../../../files/user_error.ts";
import {
  checkpointNamed,
  isWeightsOnly,
  listCheckpoints,
  newestCheckpoint,
  readHint,
  readTrainerState,
  STATE_FILE,
  verifyCheckpoint,
} from "../../../model/files/checkpoint.ts";
import {
  CHECKPOINT_FORMAT,
  CheckpointError,
  serializeState,
  upgradeState,
} from "../../../model/files/trainer_state.ts";
import {
  changeFields,
  directory,
  exampleFiles,
  exampleState,
  makeRun,
  readFields,
} from "../../checkpoints.ts";
import { freshSeed } from "../../seeds.ts";
import { openRunDirectory } from "../../../train/directory/run_directory.ts";

/** Rewrites the text of a checkpoint's state. */
function changeState(checkpoint: string, change: (text: string) => string): void {
  const file = join(checkpoint, "trainer_state.json");
  Deno.writeTextFileSync(file, change(Deno.readTextFileSync(file)));
}

Deno.test("listCheckpoints() sorts by step and passes over other names", () => {
  const path = join(directory, "listed");
  const names = [
    "000002",
    "000010",
    "1000000",
    "999999",
    ".tmp-000011",
    ".trash-000001-x",
    "12",
    "0000004",
    "notes",
  ];
  for (const name of names) Deno.mkdirSync(join(path, "checkpoints", name), { recursive: true });
  assert.deepEqual(listCheckpoints(path).map(({ step }) => step), [1000000, 999999, 10, 2]);
  assert.deepEqual(listCheckpoints(join(directory, "nowhere")), []);
});

Deno.test("verifyCheckpoint() accepts a checkpoint without the state of its optimizer, and no damaged state", () => {
  const path = makeRun("weights only", { count: 3 });
  const [third, second, first] = listCheckpoints(path).map(({ path }) => path);
  const state = verifyCheckpoint(first!), optimizer = join(first!, "optimizer.safetensors");
  Deno.removeSync(optimizer);
  assert.deepEqual(verifyCheckpoint(first!), state);
  assert.deepEqual([third, second, first].map((path) => isWeightsOnly(path!)), [
    false,
    false,
    true,
  ]);
  Deno.writeTextFileSync(join(second!, "optimizer.safetensors"), "zet");
  assert.throws(() => verifyCheckpoint(second!), /optimizer\.safetensors must have 4 bytes/);
  Deno.removeSync(join(third!, "optimizer.safetensors"));
  assert.equal(newestCheckpoint(path, assert.fail), third);
  // a caller that needs the optimizer takes an older one
  const warnings: string[] = [];
  Deno.writeTextFileSync(optimizer, "zeta");
  const whole = newestCheckpoint(path, (warning) => warnings.push(warning), (_, path) => {
    if (isWeightsOnly(path)) throw new CheckpointError("it holds only weights");
  });
  assert.equal(whole, first);
  assert.match(warnings.join("\n"), /^it holds only weights; taking .*1 instead\n.*4 bytes.*$/);
  Deno.removeSync(join(third!, "model.safetensors"));
  assert.throws(() => verifyCheckpoint(third!), /model\.safetensors is missing/);
});

Deno.test("readTrainerState() reads a state of any depth, and names what it should be", () => {
  const checkpoint = join(makeRun("deep", { count: 1 }), "checkpoints", "000001");
  const text = serializeState(
    { ...readFields(checkpoint), data: "here" } as unknown as Parameters<typeof serializeState>[0],
  );
  const deep = '{"a":'.repeat(1e5) + "1" + "}".repeat(1e5);
  const body = text.slice(0, text.lastIndexOf(",\n")).replace('"here"', () => deep);
  const sha256 = createHash("sha256").update(body).digest("hex");
  Deno.writeTextFileSync(join(checkpoint, STATE_FILE), `${body},\n  "sha256": "${sha256}"\n}\n`);
  assert.throws(() => readTrainerState(checkpoint), { message: /data\.name must be a text: / });
});

Deno.test("newestCheckpoint() passes over damaged checkpoints with file and reason", () => {
  const damage: [string, (path: string) => void, RegExp][] = [
    [
      "missing",
      (path) => Deno.removeSync(join(path, "model.safetensors")),
      /model\.safetensors is missing/,
    ],
    [
      "truncated",
      (path) => Deno.truncateSync(join(path, "model.safetensors"), 3),
      /model\.safetensors must have 6 bytes: current size is 3/,
    ],
    [
      "changed",
      (path) => Deno.writeTextFileSync(join(path, "model.safetensors"), "step X"),
      /model\.safetensors is damaged/,
    ],
    [
      "replaced by a directory",
      (path) => {
        Deno.removeSync(join(path, "model.safetensors"));
        Deno.mkdirSync(join(path, "model.safetensors"));
      },
      /model\.safetensors cannot be read: /,
    ],
    [
      "without a state",
      (path) => Deno.removeSync(join(path, "trainer_state.json")),
      /trainer_state\.json is missing/,
    ],
    [
      "with half a state",
      (path) => Deno.truncateSync(join(path, "trainer_state.json"), 40),
      /trainer_state\.json as it is no JSON/,
    ],
    [
      "with a state that is null",
      (path) => changeState(path, () => "null"),
      /formatVersion must be an integer: current value is undefined/,
    ],
    [
      "with a bit flipped in the name of its version",
      (path) => changeState(path, (text) => text.replace("formatVersion", "formatVershon")),
      /trainer_state\.json as it is damaged: its SHA-256 differs/,
    ],
    [
      "with a state that says another version and has lost its hash",
      (path) =>
        changeState(
          path,
          (text) => text.replace('Version": 4', 'Version": 7').slice(0, -80) + "0}",
        ),
      /trainer_state\.json as it is no JSON/,
    ],
    [
      "with a newer version and no hash",
      (path) => {
        const fields = { ...readFields(path), formatVersion: CHECKPOINT_FORMAT + 1 };
        changeState(path, () => JSON.stringify(fields, null, 2) + "\n");
      },
      /is damaged: with formatVersion 5 it must end with its own SHA-256/,
    ],
    [
      "with the state of another step",
      (path) => changeFields(path, { step: 7, optimizerSteps: 7 }),
      /step must be \d, as its directory says: current value is 7/,
    ],
    [
      "with a state that names no files",
      (path) => changeFields(path, { files: {} }),
      /its files must include optimizer\.safetensors, .*: current files are none/,
    ],
    [
      "with weights that it does not list",
      (path) => Deno.writeTextFileSync(join(path, "adapter_config.json"), "{}"),
      /adapter_config\.json must be listed in trainer_state\.json if it is there/,
    ],
  ];
  for (const [name, apply, message] of damage) {
    const path = makeRun(`damaged ${name}`, { count: 2 });
    apply(join(path, "checkpoints", "000002"));
    const warnings: string[] = [];
    const found = newestCheckpoint(path, (sentence) => warnings.push(sentence));
    assert.equal(found, join(path, "checkpoints", "000001"), name);
    assert.equal(warnings.length, 1, name);
    assert.match(warnings[0]!, message, name);
    assert.throws(() => verifyCheckpoint(join(path, "checkpoints", "000002")), message, name);
    apply(join(path, "checkpoints", "000001"));
    const unusable = {
      name: "CheckpointError",
      hint: /to train anew.*: .* train --out .* --fresh$/,
    };
    assert.throws(() => newestCheckpoint(path, () => {}), unusable, name);
  }
});

Deno.test("verifyCheckpoint() finds any file cut short or with one bit flipped", () => {
  const seed = freshSeed();
  const random = new Random(seed);
  const path = join(makeRun("bits", { count: 1 }), "checkpoints", "000001");
  const { files } = verifyCheckpoint(path);
  for (const name of Object.keys(files)) {
    const file = join(path, name), good = Deno.readFileSync(file);
    for (let round = 0; round < 20; round++) {
      Deno.writeFileSync(file, good.subarray(0, random.below(good.length)));
      assert.throws(
        () => verifyCheckpoint(path),
        new RegExp(`${name} must have ${good.length} bytes`),
        `seed ${seed}`,
      );
      const flipped = good.slice();
      flipped[random.below(good.length)]! ^= 1 << random.below(8);
      Deno.writeFileSync(file, flipped);
      assert.throws(() => verifyCheckpoint(path), new RegExp(`${name} is damaged`), `seed ${seed}`);
    }
    Deno.writeFileSync(file, good);
  }
});

Deno.test("newestCheckpoint() takes the older checkpoint whichever byte of a state is damaged", () => {
  const seed = freshSeed(), random = new Random(seed);
  const path = makeRun("damaged states", { count: 2 });
  const [newest, older] = ["000002", "000001"].map((name) => join(path, "checkpoints", name));
  const file = join(newest!, STATE_FILE), good = Deno.readFileSync(file);
  const ways: [string, (at: number) => Uint8Array<ArrayBuffer>][] = [
    ["flipped", (at) => good.with(at, good[at]! ^ 1 << random.below(8))],
    ["replaced", (at) => good.with(at, good[at]! + 1 + random.below(255))],
    ["removed", (at) => new Uint8Array([...good.subarray(0, at), ...good.subarray(at + 1)])],
    ["doubled", (at) => new Uint8Array([...good.subarray(0, at + 1), ...good.subarray(at)])],
    ["the first missing", (at) => good.slice(0, at)],
  ];
  for (let at = 0; at < good.length; at++) {
    const [name, damage] = ways[(at + seed) % ways.length]!;
    const bytes = damage(at);
    Deno.writeFileSync(file, bytes);
    const what = `byte ${at} ${name}, seed ${seed}`;
    assert.throws(() => readTrainerState(newest!), { name: "CheckpointError" }, what);
    if (random.below(20) > 0) continue;
    const warnings: string[] = [];
    const found = newestCheckpoint(path, (sentence) => warnings.push(sentence));
    assert.equal(found, older, what);
    assert.match(warnings.join(), /^Cannot load [^\n]+; taking [^\n]+000001 instead$/, what);
  }
  Deno.writeFileSync(file, Uint8Array.of(...good, 0x0a));
  assert.throws(() => verifyCheckpoint(newest!), /must end with its own SHA-256/);
  Deno.writeFileSync(file, good);
  assert.equal(newestCheckpoint(path, assert.fail), newest);
});

Deno.test("readTrainerState() names the field and value that is wrong", () => {
  const path = join(makeRun("fields", { count: 1 }), "checkpoints", "000001");
  const good = readFields(path), files = good.files as JsonObject;
  const digest = { bytes: 1, sha256: "0".repeat(64) }, ofRank = exampleState(1);
  const counts = ["step", "epoch", "batchIndex", "seed", "growthTracker", "optimizerSteps"];
  const cases: [Record<string, unknown>, RegExp][] = [
    ...[...counts, "skippedSteps", "consecutiveSkips"].flatMap((name) =>
      [-1, 1.5, "1", null].map((value): [Record<string, unknown>, RegExp] => [
        { [name]: value },
        new RegExp(
          `${name} must be a non-negative integer: current value is ${JSON.stringify(value)}$`,
        ),
      ])
    ),
    [{ lossScale: 0 }, /lossScale must be a positive number: current value is 0$/],
    [{ lossScale: "1" }, /lossScale must be a positive number: current value is "1"$/],
    [
      { bestValidationLoss: "1" },
      /bestValidationLoss must be a non-negative number or null: .* "1"$/,
    ],
    [
      { bestValidationLoss: -1 },
      /bestValidationLoss must be a non-negative number or null: .* -1$/,
    ],
    [{ step: 2 }, /step must be the 1 steps that were applied or skipped: current value is 2$/],
    [
      { step: 5, optimizerSteps: 3, skippedSteps: 2 },
      /step must be 1, as its directory says: current value is 5$/,
    ],
    [{ consecutiveSkips: 1 }, /consecutiveSkips must be at most the 0 steps skipped: .* is 1$/],
    [{ otherRanks: {} }, /otherRanks must be a list of objects: current value is /],
    [{ otherRanks: [null] }, /otherRanks must be a list of objects: current value is /],
    [
      { otherRanks: [{ ...ofRank, growthTracker: -1 }] },
      /otherRanks\[0\]\.growthTracker must be a non-negative integer: current value is -1$/,
    ],
    [
      { otherRanks: [ofRank, { ...ofRank, lossScale: 0 }] },
      /otherRanks\[1\]\.lossScale must be a positive number: current value is 0$/,
    ],
    [
      { otherRanks: [{ ...ofRank, optimizerSteps: 2 }] },
      /step must be the 2 steps that were applied or skipped: current value is 1$/,
    ],
    [{ typed: ["x", 1] }, /typed must be a list of texts: current value is \["x",1\]$/],
    [{ tokenizerHash: 1 }, /tokenizerHash must be a text: current value is 1$/],
    [{ options: [] }, /options must be an object: current value is \[\]$/],
    [{ tuning: undefined }, /tuning must be an object: current value is undefined$/],
    [{ tuning: { choices: {} } }, /tuning\.adapter must be text or null: .* is undefined$/],
    [
      { tuning: { adapter: null, choices: { work: 1 } } },
      /tuning\.choices must be names of kernels: current value is \{"work":1\}$/,
    ],
    [{ data: { name: "x" } }, /data\.hash must be a text: current value is undefined$/],
    [{ files: { ...files, "optimizer.safetensors": undefined } }, /must include optimizer\.saf/],
    [{ files: { ...files, "config.json": undefined } }, /model\.safetensors with config\.json, or/],
    [
      { files: { ...files, "adapter_config.json": digest, "adapter_model.safetensors": digest } },
      /files must include model\.safetensors with config\.json, or adapter_model/,
    ],
    [{ files: { "a.bin": { bytes: 1, sha256: "" } } }, /files\.a\.bin must be the size and hash/],
    [{ files: { "../x": digest } }, /files\.\.\.\/x must be .*current value is \{"bytes":1/],
    [{ files: { "..": digest } }, /files\.\.\. must be the size and hash of a file/],
    [
      { files: { "model.safetensors": null } },
      /files\.model\.safetensors must be .*: current value is null$/,
    ],
    [
      { formatVersion: CHECKPOINT_FORMAT + 1 },
      /formatVersion must be at most 4.*current value is 5$/,
    ],
    [{ formatVersion: "1" }, /formatVersion must be an integer: current value is "1"$/],
    [{ formatVersion: -1 }, /format -1 is too old$/],
  ];
  for (const [change, message] of cases) {
    changeFields(path, { ...good, otherRanks: undefined, ...change });
    assert.throws(() => readTrainerState(path), (error: Error) => {
      assert.equal(error.name, "CheckpointError");
      assert.match(error.message, message);
      assert.ok(error.message.startsWith(`Cannot load ${path}`), error.message);
      return true;
    });
  }
});

Deno.test("readTrainerState() refuses a field that is there twice, and what follows the state", () => {
  const path = join(makeRun("twice", { count: 1 }), "checkpoints", "000001");
  const { typed: _, ...fields } = readFields(path);
  const old = JSON.stringify({ ...fields, formatVersion: 2 }, null, 2);
  const cases: [string, RegExp][] = [
    [old.replace('"step"', '"seed": 1, "step"'), /has a field twice/],
    [old.replace('"bytes"', '"byt\\u0065s": 1, "bytes"'), /has a field twice/],
    [`${old} 1`, /is no JSON/],
    [`\ufeff${old}`, /is no JSON/],
  ];
  for (const [text, message] of cases) {
    changeState(path, () => text);
    assert.throws(() => readTrainerState(path), { name: "CheckpointError", message });
  }
  changeState(path, () => old);
  assert.equal(readTrainerState(path).step, 1);
});

/** Options as format 2 resolved them, of which the seed and the last two were typed. */
const OPTIONS_OF_FORMAT_2 = {
  preset: "nano",
  data: "sample",
  seed: 5,
  steps: 2000,
  endsWith: "steps",
  learningRate: 3e-4,
  minLearningRate: 3e-4 / 10,
  warmupSteps: 100,
  saveEvery: 200,
  sampleEvery: 400,
  logEvery: 20,
  tune: "auto",
  evalEvery: 7,
  keep: 3,
};

/** A state as formats 0 to 3 knew it. */
function oldState(format: 0 | 1 | 2 | 3): JsonObject {
  const schedule = { learningRate: 3e-4, minLearningRate: 3e-5, warmupSteps: 100, steps: 2000 };
  const format3 = { ...exampleState(7), typed: TYPED, schedule };
  const { typed: _, ...format2 } = format3;
  const { tuning: __, ...format1 } = format2;
  const { optimizerSteps: ___, skippedSteps: ____, consecutiveSkips: _____, ...format0 } = format1;
  const state = [format0, format1, format2, format3][format]!;
  return { ...state, options: OPTIONS_OF_FORMAT_2, formatVersion: format };
}

/** What was typed of `OPTIONS_OF_FORMAT_2`, or may have been. */
const TYPED = ["preset", "data", "seed", "steps", "learningRate", "evalEvery", "keep"];

Deno.test("upgradeState() brings formats 0 to 3 up to date", () => {
  for (const format of [0, 1, 2, 3] as const) {
    const { tuning } = exampleState(7);
    assert.deepEqual(upgradeState(oldState(format), "x"), {
      ...exampleState(7),
      options: OPTIONS_OF_FORMAT_2,
      typed: TYPED,
      tuning: format >= 2 ? tuning : { adapter: null, choices: {} },
    });
  }
});

Deno.test("upgradeState() finds a newer format that says it is an older one", () => {
  for (const format of [0, 1]) {
    const state = { ...oldState(2), formatVersion: format, skippedSteps: 2, optimizerSteps: 5 };
    assert.throws(() => upgradeState(state, "x"), {
      name: "CheckpointError",
      message: /^Cannot load x as it is damaged: a state of format \d has no \w+$/,
    });
  }
});

Deno.test("newestCheckpoint() takes checkpoints of formats 0, 1 and 2", () => {
  for (const format of [0, 1, 2] as const) {
    const path = join(directory, `format ${format}`);
    const run = openRunDirectory(path);
    const checkpoint = run.save(exampleFiles("old"), exampleState(7), { keep: 1, best: false });
    run.close();
    const { files } = readFields(checkpoint);
    changeState(checkpoint, () => JSON.stringify({ ...oldState(format), files }, null, 2) + "\n");
    assert.equal(newestCheckpoint(path, assert.fail), checkpoint);
    const state = verifyCheckpoint(checkpoint);
    assert.deepEqual(
      [state.formatVersion, state.step, state.optimizerSteps, state.typed],
      [CHECKPOINT_FORMAT, 7, 7, TYPED],
    );
  }
});

Deno.test("upgradeState() goes from format to format, and refuses one that no upgrade knows", () => {
  const seen: unknown[] = [];
  const upgrade = (to: number) => (state: Record<string, unknown>) => {
    seen.push(state.formatVersion);
    return { ...state, formatVersion: to };
  };
  const formats = Array.from({ length: CHECKPOINT_FORMAT + 1 }, (_, i) => i - 1);
  const upgrades = Object.fromEntries(formats.map((from) => [from, upgrade(from + 1)]));
  const upgraded = upgradeState({ formatVersion: -1 }, "x", upgrades);
  assert.deepEqual(upgraded, { formatVersion: CHECKPOINT_FORMAT });
  assert.deepEqual(seen, formats);
  assert.throws(() => upgradeState({ formatVersion: -2 }, "x", upgrades), {
    name: "CheckpointError",
    message: "Cannot load x as format -2 is too old",
  });
});

Deno.test("newestCheckpoint() does not fall back from a newer format", () => {
  const path = makeRun("newer", { count: 2 });
  const newest = join(path, "checkpoints", "000002");
  changeFields(newest, { formatVersion: 9, typed: undefined, somethingNew: 1 });
  assert.throws(() => newestCheckpoint(path, assert.fail), /must be at most 4.*is 9$/);
  changeState(newest, (text) => text.replace("somethingNew", "somethingNex"));
  assert.equal(newestCheckpoint(path, () => {}), join(path, "checkpoints", "000001"));
});

Deno.test("newestCheckpoint() passes over a checkpoint that its caller refuses", () => {
  const path = makeRun("refused", { count: 2 });
  const warnings: string[] = [];
  const found = newestCheckpoint(path, (sentence) => warnings.push(sentence), ({ step }, where) => {
    if (step === 2) throw new UserError(`Cannot use ${where}`);
  });
  assert.equal(found, join(path, "checkpoints", "000001"));
  assert.match(warnings.join(), /^Cannot use \S+000002; taking \S+000001 instead$/);
});

Deno.test("newestCheckpoint() throws a programmer's mistake as it is", () => {
  const path = makeRun("mistaken", { count: 2 }), mistake = new TypeError("not a function");
  const check = () => {
    throw mistake;
  };
  assert.throws(() => newestCheckpoint(path, assert.fail, check), (error) => error === mistake);
});

Deno.test("newestCheckpoint() is undefined when a run has no checkpoint", () => {
  assert.equal(newestCheckpoint(join(directory, "nowhere"), assert.fail), undefined);
});

Deno.test("checkpointNamed() follows a file best that names a checkpoint, and no other", () => {
  const path = makeRun("hints", { count: 3 }), file = join(path, "best");
  assert.equal(checkpointNamed(path, "best"), join(path, "checkpoints", "000001"));
  for (const text of ["../../x", "\x1b[31m1", "1e0", "-1", "1".repeat(1000), ""]) {
    Deno.writeTextFileSync(file, text);
    assert.equal(readHint(path, "best"), "");
    assert.throws(() => checkpointNamed(path, "best"), {
      message: /"best" of .* as it must be evaluated and saved: its checkpoints are 1, 2, 3$/,
    });
  }
  Deno.writeTextFileSync(file, "000007\n");
  assert.throws(() => checkpointNamed(path, "best"), {
    message: /"best" of .* as it must be the one of step 7: its checkpoints are 1, 2, 3$/,
  });
});
