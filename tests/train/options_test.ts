import assert from "node:assert/strict";
import {
  DEFAULT_OPTIONS,
  OPTION_NAMES,
  type OptionName,
  optionNamed,
  type ResolvedOptions,
  type TrainOptions,
} from "../../train/options.ts";
import { validateOptions } from "../../train/validate.ts";

Deno.test("TRAIN_OPTIONS has an allowed default for every option, and names only options that exist", () => {
  for (const name of OPTION_NAMES) {
    const { type, range, choices, needs, excludes } = optionNamed(name);
    assert.equal(range !== undefined, ["integer", "autoInteger", "real"].includes(type), name);
    assert.equal(choices !== undefined, type === "choice", name);
    for (const other of [needs, ...Object.keys(excludes ?? {})]) {
      assert.ok(other === undefined || OPTION_NAMES.includes(other as OptionName), name);
    }
    assert.throws(() => validateOptions({ [name]: [] }), {
      message: new RegExp(`^Cannot train as ${name} must be `),
    });
  }
  assert.doesNotThrow(() => validateOptions(DEFAULT_OPTIONS));
});

Deno.test("an interval, a patience or a timeout may be 0 only if the help says what that means", () => {
  const intervals = OPTION_NAMES.filter((name) => /Every$|^patience$|^timeout$/.test(name));
  assert.equal(intervals.length, 8);
  for (const name of intervals) {
    const { range, help, group } = optionNamed(name);
    assert.equal(range![0], /\b0: /.test(`${group}; ${help}`) ? 0 : 1, name);
  }
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

Deno.test("the documentation of a training step states the defaults of its options", () => {
  for (const file of ["step.ts", "optimizer.ts"]) {
    const text = Deno.readTextFileSync(new URL(`../../train/${file}`, import.meta.url));
    const stated = [...text.matchAll(/\b([\d.]+) by default[^\n]*\n {2}readonly (\w+): number;/g)];
    assert.ok(stated.length >= 3, file);
    for (const [, value, name] of stated) {
      assert.equal(Number(value), DEFAULT_OPTIONS[name as "seed"], name);
    }
  }
});
