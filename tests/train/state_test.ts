import assert from "node:assert/strict";
import { join } from "node:path";
import type { Tokenizer } from "../../data/tokenizer/tokenizer.ts";
import type { UserError } from "../../files/user_error.ts";
import type { TrainerState } from "../../model/files/trainer_state.ts";
import { baseOf, checkpointSizes, checkResumable, checkState } from "../../train/state.ts";
import { directory, exampleState, makeRun } from "../checkpoints.ts";

const OPTIONS = {
  preset: "nano",
  data: "sample",
  precision: "f16",
  contextLength: 64,
  batchSize: 2,
  gradientAccumulation: 2,
  learningRate: 1,
  minLearningRate: 0,
  warmupSteps: 1,
  steps: 9000,
  seed: 1,
};

/** What a training in f16 saves after 7 steps, and what is changed in it. */
function stateWith(change: Partial<TrainerState>): TrainerState {
  const state = exampleState(7);
  return { ...state, batchIndex: 14, options: OPTIONS, files: {}, ...change };
}

Deno.test("checkState() accepts the states that trainings save", () => {
  const applied = (optimizerSteps: number, skippedSteps: number, lossScale: number) => {
    const step = optimizerSteps + skippedSteps;
    return { step, optimizerSteps, skippedSteps, batchIndex: 2 * step, lossScale };
  };
  const f32 = { options: { ...OPTIONS, precision: "f32" }, lossScale: 1 };
  const states: Partial<TrainerState>[] = [
    {},
    { batchIndex: 3 * 14 }, // on three ranks
    {
      otherRanks: [{ ...exampleState(7), lossScale: 2 ** 15, optimizerSteps: 6, skippedSteps: 1 }],
    },
    f32,
    applied(7, 1, 2 ** 15),
    { ...applied(7, 3, 2 ** 13), growthTracker: 0, consecutiveSkips: 2 },
    applied(2000, 0, 2 ** 17),
    applied(4001, 2, 2 ** 16),
    applied(4001, 2, 2 ** 14), // the applied steps never came 2000 in a row
    { ...applied(0, 0, 2 ** 16), growthTracker: 0 },
  ];
  for (const change of states) assert.doesNotThrow(() => checkState(stateWith(change), "x"));
});

Deno.test("checkState() names the field when no training reaches a state", () => {
  const options = (change: object) => ({ options: { ...OPTIONS, ...change } });
  const cases: [Partial<TrainerState>, RegExp][] = [
    [options({ dropout: 2 }), /its options must be valid: dropout must be .* value is 2$/],
    [options({ learningRate: null }), /options must be valid: learningRate must be a number/],
    [options({ tune: "never" }), /options must be valid: tune must be one of/],
    [options({ data: [] }), /options must be valid: data must be .* value is \[\]$/],
    [options({ data: ["x", 1] }), /options must be valid: data must be /],
    [options({ data: "stories.txt" }), /options must be valid: data must be /],
    [options({ tokenizer: 7 }), /options must be valid: tokenizer must be text: .* is 7$/],
    [options({ precision: "auto" }), /its options must name the precision$/],
    [options({ batchSize: undefined }), /its options must give the size of batches$/],
    [options({ seed: 2 }), /seed must be that of its options, 2: it is 1$/],
    ...[12, 13, 15].map((batchIndex): [object, RegExp] => [
      { batchIndex },
      new RegExp(`batchIndex must be 14 after 7 steps, or .* value is ${batchIndex}$`),
    ]),
    [options({ gradientAccumulation: undefined }), /batchIndex must be NaN after 7 steps/],
    [options({ steps: undefined }), /its options must give steps$/],
    [options({ minLearningRate: undefined }), /its options must give minLearningRate$/],
    ...[1e300, 65535, 2 ** 17, 2 ** 15, 2 ** -200, 1].map((lossScale): [object, RegExp] => [
      { lossScale },
      /its loss scale must be one that f16 reaches: current value is /,
    ]),
    [options({ precision: "f32" }), /loss scale must be one that f32 reaches: .* is 65536$/],
    [{ growthTracker: 2000, optimizerSteps: 2000 }, /its loss scale must be one that f16 reaches/],
    [{ growthTracker: 8 }, /its loss scale must be one that f16 reaches/],
    [
      { optimizerSteps: 6, skippedSteps: 1, consecutiveSkips: 1, lossScale: 2 ** 15 },
      /its loss scale must be one that f16 reaches/, // a skip begins the count anew
    ],
    [{ otherRanks: [{ ...exampleState(7), lossScale: 1 }] }, /scale must be one that f16 reaches/],
  ];
  for (const [change, message] of cases) {
    assert.throws(() => checkState(stateWith(change), "x"), (error: Error) => {
      assert.equal(error.name, "CheckpointError");
      assert.match(error.message, message);
      assert.match(error.message, /^Cannot load x.trainer_state\.json as [^\n]+$/);
      return true;
    });
  }
});

Deno.test("checkResumable() names the nearest whole checkpoints when one holds only weights", () => {
  const path = makeRun("weights only", { count: 5 });
  const at = (step: number) => join(path, "checkpoints", `00000${step}`);
  const reject = (step: number, nearest: string) =>
    assert.throws(() => checkResumable(stateWith({ step }), at(step)), (error: UserError) => {
      assert.equal(
        error.sentence,
        `Cannot resume from ${at(step)} as it must hold the state of the optimizer: ` +
          `it holds only weights, from which --init-from starts another run${nearest}`,
      );
      return error.name === "CheckpointError";
    });
  const strip = (step: number) => Deno.removeSync(join(at(step), "optimizer.safetensors"));
  for (const step of [2, 3, 5]) strip(step);
  reject(3, "; the nearest whole checkpoints are those of steps 1 and 4");
  reject(5, "; the nearest whole checkpoint is that of step 4");
  for (const step of [1, 4]) strip(step);
  reject(5, "");
  assert.throws(
    () =>
      checkResumable(
        stateWith({ seed: 2 }),
        join(makeRun("whole", { count: 1 }), "checkpoints", "000001"),
      ),
    /seed must be/,
  );
});

Deno.test("checkpointSizes() counts the bytes of a tokenizer, not its characters", () => {
  const tokenizer = { json: "é".repeat(1e6) } as Tokenizer;
  const how = { ranks: 1, syncEvery: 1, wire: "f32" } as const;
  assert.ok(checkpointSizes([], "adamw", tokenizer, how).weightsOnlyBytes >= 2e6);
});

Deno.test("baseOf() names a base below the working directory relative to it, and no other", () => {
  const here = Deno.cwd();
  assert.deepEqual(baseOf(join(here, "runs", "a", "checkpoints", "000001")), {
    base: `./${join("runs", "a", "checkpoints", "000001")}`,
  });
  for (const path of [join(here, "..", "beside"), directory]) {
    assert.deepEqual(baseOf(path), { base: path });
  }
  assert.deepEqual(baseOf("hf:tiny/model@abc"), { base: "tiny/model", revision: "abc" });
});
