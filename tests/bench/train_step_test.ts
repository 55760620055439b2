import assert from "node:assert/strict";
import { benchConfig } from "../../bench/models.ts";
import {
  coldStartName,
  measureTrainStep,
  trainStepBenches,
  trainStepName,
} from "../../bench/train_step.ts";
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

Deno.test("trainStepBenches() keeps the names by which reports are compared", () => {
  const names = (isCpu: boolean, precision: "f16" | "f32") =>
    trainStepBenches({ ...device, isCpu }, precision).flatMap((bench) => [
      trainStepName(bench),
      coldStartName(bench),
    ]);
  assert.deepEqual(names(true, "f32"), [
    "train step f32 nano 16x64 V 1048",
    "cold start to first step f32 nano 16x64 V 1048",
    "train step f32 nano 16x64 V 1048 muon",
    "cold start to first step f32 nano 16x64 V 1048 muon",
  ]);
  assert.deepEqual(names(false, "f16"), [
    "train step f16 mini 32x128 V 50257",
    "cold start to first step f16 mini 32x128 V 50257",
    "train step f16 mini 32x128 V 4096",
    "cold start to first step f16 mini 32x128 V 4096",
    "train step f16 mini 32x128 V 4096 muon",
    "cold start to first step f16 mini 32x128 V 4096 muon",
    "train step f16 gpt2 8x1024 V 50257",
    "cold start to first step f16 gpt2 8x1024 V 50257",
    "train step f16 gpt2 8x1024 V 50257 muon",
    "cold start to first step f16 gpt2 8x1024 V 50257 muon",
  ]);
});
