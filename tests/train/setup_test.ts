import assert from "node:assert/strict";
import type { Corpus } from "../../data/tokens/corpus.ts";
import { choosePreset } from "../../train/setup.ts";
import { littleHeldOut } from "../../train/training_data.ts";
import { device } from "../kernels/harness.ts";

Deno.test("choosePreset() chooses nano on a CPU adapter and mini on a GPU, unless a preset is given", () => {
  const cpu = { ...device, isCpu: true }, gpu = { ...device, isCpu: false };
  const of = (on: typeof device, asked: "auto" | "gpt2") => {
    const { preset, reason, defaults: { batchSize, steps, learningRate } } = choosePreset(
      on,
      asked,
    );
    return [preset, reason, batchSize, steps, learningRate];
  };
  assert.deepEqual(of(cpu, "auto"), [
    ...["nano", "preset nano, as no GPU was found and the CPU computes"],
    ...[16, 1700, 5e-3],
  ]);
  assert.deepEqual(of(gpu, "auto"), ["mini", "preset mini, as there is a GPU", 32, 2000, 1e-3]);
  for (const on of [cpu, gpu]) {
    assert.deepEqual(of(on, "gpt2"), ["gpt2", "preset gpt2, as asked", 8, 50000, 3e-4]);
  }
});

Deno.test("littleHeldOut() names the tokens of a text to validate with that has fewer than 1,000", () => {
  const of = (length: number) => littleHeldOut({ validation: { length } } as Corpus);
  assert.equal(of(1000), undefined);
  assert.equal(
    of(999),
    "the validation text has only 999 tokens: its loss, and which checkpoint is the best, are partly chance; " +
      "--validation-data names more text",
  );
});
