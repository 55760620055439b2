import assert from "node:assert/strict";
import { join } from "node:path";
import { Random } from "../../data/random.ts";
import {
  CHECKPOINT_FORMAT,
  listCheckpoints,
  newestCheckpoint,
  readTrainerState,
  upgradeState,
  verifyCheckpoint,
} from "../../model/checkpoint.ts";
import { directory, exampleState, makeRun } from "../checkpoints.ts";
import { freshSeed } from "../seeds.ts";

/** Rewrites the state of a checkpoint. */
function changeState(checkpoint: string, change: (text: string) => string): void {
  const file = join(checkpoint, "trainer_state.json");
  Deno.writeTextFileSync(file, change(Deno.readTextFileSync(file)));
}

Deno.test("listCheckpoints() sorts by step and passes over other names", () => {
  const path = join(directory, "listed");
  const names = ["000002", "000010", "1000000", ".tmp-000011", ".trash-000001-x", "12", "notes"];
  for (const name of names) Deno.mkdirSync(join(path, "checkpoints", name), { recursive: true });
  assert.deepEqual(listCheckpoints(path).map(({ step }) => step), [1000000, 10, 2]);
  assert.deepEqual(listCheckpoints(join(directory, "nowhere")), []);
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
      "replaced by a directory",
      (path) => {
        Deno.removeSync(join(path, "a.bin"));
        Deno.mkdirSync(join(path, "a.bin"));
      },
      /a\.bin cannot be read: /,
    ],
    [
      "without a state",
      (path) => Deno.removeSync(join(path, "trainer_state.json")),
      /trainer_state\.json is missing/,
    ],
    [
      "with half a state",
      (path) => Deno.truncateSync(join(path, "trainer_state.json"), 40),
      /trainer_state\.json is no JSON/,
    ],
    [
      "with a state that is null",
      (path) => changeState(path, () => "null"),
      /formatVersion must be an integer: current value is undefined/,
    ],
    [
      "with a bit flipped in the name of its version",
      (path) => changeState(path, (text) => text.replace("formatVersion", "formatVershon")),
      /formatVersion must be an integer: current value is undefined/,
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
    assert.throws(() => newestCheckpoint(path, () => {}), { name: "CheckpointError" }, name);
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
  const state = join(path, "trainer_state.json"), good = Deno.readFileSync(state);
  for (let round = 0; round < 20; round++) {
    Deno.writeFileSync(state, good.subarray(0, random.below(good.length - 2)));
    assert.throws(() => verifyCheckpoint(path), /trainer_state\.json is no JSON/, `seed ${seed}`);
  }
  Deno.writeFileSync(state, good);
  assert.equal(verifyCheckpoint(path).step, 1);
});

Deno.test("readTrainerState() names the field and value that is wrong", () => {
  const path = join(makeRun("fields", { count: 1 }), "checkpoints", "000001");
  const good = JSON.parse(Deno.readTextFileSync(join(path, "trainer_state.json")));
  const digest = { bytes: 1, sha256: "" };
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
    [{ bestValidationLoss: "1" }, /bestValidationLoss must be a number or null: .* is "1"$/],
    [{ tokenizerHash: 1 }, /tokenizerHash must be text: current value is 1$/],
    [{ options: [] }, /options must be an object: current value is \[\]$/],
    [{ schedule: null }, /schedule must be an object: current value is null$/],
    [{ schedule: { steps: "x" } }, /schedule\.learningRate must be a number/],
    [{ tuning: undefined }, /tuning must be an object: current value is undefined$/],
    [{ tuning: { choices: {} } }, /tuning\.adapter must be text or null: .* is undefined$/],
    [
      { tuning: { adapter: null, choices: { work: 1 } } },
      /tuning\.choices must be names of kernels: current value is \{"work":1\}$/,
    ],
    [{ data: { name: "x" } }, /data\.hash must be text: current value is undefined$/],
    [{ files: { "../x": digest } }, /files\.\.\.\/x must be .*current value is \{"bytes":1/],
    [{ files: { "..": digest } }, /files\.\.\. must be the size and hash of a file/],
    [{ files: { "a.bin": null } }, /files\.a\.bin must be .*: current value is null$/],
    [
      { formatVersion: CHECKPOINT_FORMAT + 1 },
      /formatVersion must be at most 2.*current value is 3$/,
    ],
    [{ formatVersion: "1" }, /formatVersion must be an integer: current value is "1"$/],
    [{ formatVersion: -1 }, /format -1 is too old$/],
  ];
  for (const [change, message] of cases) {
    changeState(path, () => JSON.stringify({ ...good, ...change }));
    assert.throws(() => readTrainerState(path), (error: Error) => {
      assert.equal(error.name, "CheckpointError");
      assert.match(error.message, message);
      assert.ok(error.message.startsWith(`Cannot load ${path}`), error.message);
      return true;
    });
  }
});

Deno.test("upgradeState() brings formats 0 and 1 up to date", () => {
  const { tuning: _, ...format1 } = exampleState(7);
  const { optimizerSteps: __, skippedSteps: ___, consecutiveSkips: ____, ...format0 } = format1;
  for (const [formatVersion, old] of [format0, format1].entries()) {
    assert.deepEqual(upgradeState({ ...old, formatVersion }, "x"), {
      ...exampleState(7),
      tuning: { adapter: null, choices: {} },
    });
  }
});

Deno.test("upgradeState() goes from format to format, and refuses one that no upgrade knows", () => {
  const seen: unknown[] = [];
  const upgrade = (to: number) => (state: Record<string, unknown>) => {
    seen.push(state.formatVersion);
    return { ...state, formatVersion: to };
  };
  const upgrades = { [-1]: upgrade(0), 0: upgrade(1), 1: upgrade(2) };
  assert.deepEqual(upgradeState({ formatVersion: -1 }, "x", upgrades), { formatVersion: 2 });
  assert.deepEqual(seen, [-1, 0, 1]);
  assert.throws(() => upgradeState({ formatVersion: -2 }, "x", upgrades), {
    name: "CheckpointError",
    message: "Cannot load x as format -2 is too old",
  });
});

Deno.test("newestCheckpoint() does not fall back from a newer format", () => {
  const path = makeRun("newer", { count: 2 });
  changeState(
    join(path, "checkpoints", "000002"),
    (text) => text.replace('"formatVersion": 2', '"formatVersion": 9'),
  );
  assert.throws(() => newestCheckpoint(path, assert.fail), /must be at most 2.*is 9$/);
});

Deno.test("newestCheckpoint() is undefined when a run has no checkpoint", () => {
  assert.equal(newestCheckpoint(join(directory, "nowhere"), assert.fail), undefined);
});
