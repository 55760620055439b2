import assert from "node:assert/strict";
import { benchConfig } from "../../bench/models.ts";
import { measureTrainStep } from "../../bench/train_step.ts";
import { device } from "../kernels/harness.ts";

Deno.test("measureTrainStep() throws before it computes if the device has too little memory", async () => {
  const small = { ...device, maxBindingBytes: 2 ** 20, choices: new Map() };
  const config = benchConfig("nano"), { contextLength: sequenceLength } = config;
  const bench = { model: "nano", config, batchSize: 64, sequenceLength, precision: "f32" as const };
  await assert.rejects(measureTrainStep(small, bench), {
    name: "UserError",
    message:
      /^Cannot time a step of 64 rows as it must fit .* \(a kernel can bind at most 1\.05 MB/,
  });
});
