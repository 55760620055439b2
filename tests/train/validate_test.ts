import assert from "node:assert/strict";
import { UserError } from "../../files/user_error.ts";
import type { TrainOptions } from "../../train/options.ts";
import { trainingShapes } from "../../train/shapes.ts";
import { train } from "../../train/train.ts";
import { checkNames, validateOptions } from "../../train/validate.ts";

Deno.test("validateOptions() throws on a value of another type, and names the flag", () => {
  const cases: [object, string][] = [
    [
      { data: "stories.txt" },
      "data must be auto, sample, conversations, tinystories or a list of files",
    ],
    [{ data: [] }, "data must be auto, sample, conversations, tinystories or a list of files"],
    [{ steps: "3" }, "steps must be an integer from 1"],
    [{ textField: 1 }, "textField must be text"],
    [{ dataVersion: "v3" }, "dataVersion must be one of v1, v2"],
  ];
  for (const [options, start] of cases) {
    assert.throws(() => validateOptions(options), (error: Error) => {
      assert.ok(error.message.startsWith(`Cannot train as ${start}`), error.message);
      return error instanceof UserError;
    });
  }
  for (
    const data of [
      "auto",
      "sample",
      "conversations",
      "tinystories",
      "tinystories@abc",
      ["x"],
    ] as const
  ) {
    validateOptions({ data });
  }
});

Deno.test("checkNames() throws on a name that is no option", () => {
  checkNames({ steps: 3, out: "runs/a" });
  for (const name of ["stpes", "learning_rate", "toString"]) {
    assert.throws(() => checkNames({ steps: 3, [name]: 1 }), (error: Error) => {
      assert.equal(
        error.message,
        `Cannot train as every option must be one of train(): "${name}" is none`,
      );
      return error instanceof UserError && /--help lists the options/.test(error.hint!);
    });
  }
});

Deno.test("train() and trainingShapes() refuse names that are no options before they do anything", async () => {
  const options = { preset: "nano", stpes: 3 } as Partial<TrainOptions>,
    expected = /"stpes" is none/;
  await assert.rejects(() => train(options).next(), expected);
  await assert.rejects(() => trainingShapes(options), expected);
});

Deno.test("validateOptions() accepts the values from the least to the greatest, and no others", () => {
  const EDGES: [name: keyof TrainOptions, good: unknown[], bad: unknown[]][] = [
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
    ["keep", [1, 1e6, "auto"], [0, 1.5, "all", "1"]],
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

Deno.test("validateOptions() throws when options contradict each other", () => {
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
