import assert from "node:assert/strict";
import { flagOf } from "../../files/command_line.ts";
import { UserError } from "../../files/user_error.ts";
import {
  DEFAULT_OPTIONS,
  OPTION_NAMES,
  type OptionName,
  optionNamed,
  type ResolvedOptions,
  type TrainOptions,
  validateOptions,
} from "../../train/options.ts";

Deno.test("TRAIN_OPTIONS gives every option a default that it accepts, and names options that exist", () => {
  for (const name of OPTION_NAMES) {
    const { type, range, choices, needs, excludes } = optionNamed(name);
    assert.equal(range !== undefined, type === "integer" || type === "real", name);
    assert.equal(choices !== undefined, type === "choice", name);
    for (const other of [needs, excludes?.[0]]) {
      assert.ok(other === undefined || OPTION_NAMES.includes(other as OptionName), name);
    }
    assert.throws(() => validateOptions({ [name]: [] }), {
      message: new RegExp(`^Cannot train as ${flagOf(name)} must be `),
    });
  }
  assert.doesNotThrow(() => validateOptions(DEFAULT_OPTIONS));
});

Deno.test("validateOptions() refuses a value of another type, with the flag's name", () => {
  const cases: [object, string][] = [
    [{ data: "stories.txt" }, "--data must be auto, sample, tinystories or a list of files"],
    [{ data: [] }, "--data must be auto, sample, tinystories or a list of files"],
    [{ steps: "3" }, "--steps must be an integer from 1"],
    [{ textField: 1 }, "--text-field must be text"],
    [{ dataVersion: "v3" }, "--data-version must be one of v1, v2"],
  ];
  for (const [options, start] of cases) {
    assert.throws(() => validateOptions(options), (error: Error) => {
      assert.ok(error.message.startsWith(`Cannot train as ${start}`), error.message);
      return error instanceof UserError;
    });
  }
  for (const data of ["auto", "sample", "tinystories", "tinystories@abc", ["x"]] as const) {
    validateOptions({ data });
  }
});

Deno.test("validateOptions() takes what trainings can mean, from the least to the greatest, and no more", () => {
  const EDGES: [name: keyof TrainOptions, good: number[], bad: number[]][] = [
    ["dropout", [0, 0.99], [-0.01, 1]],
    ["labelSmoothing", [0, 0.99], [-0.01, 1]],
    ["beta1", [0, 0.99999], [-0.1, 1]],
    ["beta2", [0, 0.999999], [-0.1, 1]],
    ["weightDecay", [0, 10], [-1]],
    ["gradientClip", [0, 1e9], [-1, Infinity]],
    ["learningRate", [0, 10], [-1, 10.1, NaN]],
    ["steps", [1, 1e9], [0, 1.5]],
    ["epochs", [1e-9, 0.5, 1e6], [0, -1]],
    ["warmupSteps", [0, 7], [-1, 0.5]],
    ["gradientAccumulation", [1, 4096], [0, 4097]],
    ["seed", [0, 2 ** 32 - 1], [-1, 2 ** 32, 0.5]],
    ["keep", [1], [0]],
    ["workers", [1], [0]],
    ["loraRank", [1, 1024], [0, 1025]],
    ...(["evalEvery", "saveEvery", "sampleEvery", "logEvery", "evalTokens"] as const).map((name) =>
      [name, [0, 1], [-1, 0.5]] as [keyof TrainOptions, number[], number[]]
    ),
  ];
  for (const [name, good, bad] of EDGES) {
    for (const value of good) {
      assert.doesNotThrow(() => validateOptions({ [name]: value }), `${name} ${value}`);
    }
    for (const value of bad) {
      assert.throws(() => validateOptions({ [name]: value }), UserError, `${name} ${value}`);
    }
  }
});

Deno.test("validateOptions() refuses options that say different things about the same", () => {
  const initFrom = "gpt2", lora = { loraRank: 4 };
  const contradictions: Partial<TrainOptions>[] = [
    { initFrom, preset: "mini" },
    { initFrom, vocabulary: "compact" },
    { initFrom, tokenizer: "gpt2" },
    { initFrom, ...lora, freeze: "0" },
    { loraAlpha: 4 },
    { loraTargets: "c_attn" },
  ];
  for (const options of contradictions) {
    assert.throws(() => validateOptions(options), UserError, JSON.stringify(options));
  }
  const open = { preset: "auto", vocabulary: "auto", tokenizer: undefined } as const;
  assert.doesNotThrow(() => validateOptions({ initFrom, ...open, ...lora, loraAlpha: 4 }));
});

Deno.test("TrainOptions and ResolvedOptions get their types from the table", () => {
  type Is<A, B> = [A] extends [B] ? ([B] extends [A] ? true : false) : false;
  type Types = [
    Is<TrainOptions["steps"], number | undefined>,
    Is<ResolvedOptions["steps"], number>,
    Is<ResolvedOptions["warmupSteps"], number>,
    Is<ResolvedOptions["epochs"], number | undefined>,
    Is<TrainOptions["precision"], "auto" | "f16" | "f32">,
    Is<ResolvedOptions["precision"], "f16" | "f32">,
    Is<TrainOptions["dropout"], number>,
    Is<TrainOptions["freeze"], string | undefined>,
    Is<TrainOptions["fresh"], boolean>,
  ];
  const types: Types = [true, true, true, true, true, true, true, true, true];
  assert.ok(types.every((is) => is));
});
