import assert from "node:assert/strict";
import { benchConfig } from "../../bench/models.ts";
import {
  type ColdStart,
  coldStartName,
  measureTrainStep,
  type TrainStepBench,
  trainStepBenches,
  trainStepName,
} from "../../bench/train_step.ts";
import { dryDevice } from "../../kernels/dry_device.ts";
import { clockOf } from "../../kernels/timing.ts";
import { countParameters } from "../../model/parameters.ts";
import { memoryOf, recordTraining } from "../../train/limits.ts";
import { device } from "../kernels/harness.ts";
import { withLiveBuffers } from "./live_buffers.ts";
import { withStandingClock } from "./standing_clock.ts";

Deno.test("measureTrainStep() throws before it computes if the device has too little memory", async () => {
  const small = { ...device, maxBindingBytes: 2 ** 20, choices: new Map() };
  const config = benchConfig("nano"), { contextLength: sequenceLength } = config;
  const bench = { model: "nano", config, batchSize: 64, sequenceLength, precision: "f32" as const };
  const { left } = await withLiveBuffers(() =>
    assert.rejects(measureTrainStep(small, bench), {
      name: "UserError",
      message:
        /^Cannot time a step of 64 rows as it must fit .* \(a kernel can bind at most 1\.05 MB/,
    })
  );
  assert.deepEqual(left, []);
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
    "train step f32 nano-neox 16x64 V 1048 muon",
    "cold start to first step f32 nano-neox 16x64 V 1048 muon",
  ]);
  assert.deepEqual(
    names(false, "f16").filter((name) => name.startsWith("train")),
    [
      "mini 32x128 V 50257",
      "mini 128x128 V 50257",
      "mini 32x128 V 4096",
      "mini 32x128 V 4096 muon",
      "mini-neox 32x128 V 4096 muon",
      "gpt2 8x1024 V 50257",
      "gpt2 8x1024 V 50257 recompute mlp",
      "gpt2 8x1024 V 50257 recompute block",
      "gpt2 8x1024 V 50257 muon",
      "smollm2-135m 8x512 V 49152",
      "smollm2-135m 8x512 V 49152 muon",
    ].map((name) => `train step f16 ${name}`),
  );
});

Deno.test("measureTrainStep() returns planned bytes, and the time of Muon beside its floor", async () => {
  const config = { vocabularySize: 64, contextLength: 8, width: 8, layers: 2, heads: 1 };
  const bench: TrainStepBench = {
    ...{ model: "tiny", config, batchSize: 2, sequenceLength: 8, precision: "f32" },
    ...{ optimizer: "muon", recompute: "block" },
  };
  const options = { wallMs: 90, tuned: false, flopsPerSecond: 1e9 };
  // without timestamps, and with a submission for each step and pass, and for what is read back
  const untimed = { ...device, isCpu: true, features: new Set<string>() };
  const { result, left } = await withLiveBuffers(() =>
    withStandingClock((n) => 10 + n / 1e4, () => measureTrainStep(untimed, bench, options))
  );
  assert.deepEqual(left, []);
  assert.equal(result.name, "train step f32 tiny 2x8 V 64 muon recompute block");
  const { planned, muon, ms, rangeMs } = result;
  assert.deepEqual(planned, plannedBytes(bench));
  assert.ok(planned.activations < plannedBytes({ ...bench, recompute: "none" }).activations);
  // of 2 blocks, 4 matrices with 5 · 6 · 8³, and 2 with 5 · (4 · 8² · 32 + 2 · 8³)
  assert.equal(muon!.floorMs, 1e3 * 307200 / 1e9);
  assert.equal(Math.round(muon!.ms), 10);
  // three steps and a report take 40 ms, so that seven fit
  assert.equal(result.steps, 7);
  near(ms, (7 + 1) * 10 / 7);
  assert.equal(result.tokensPerSecond, 1e3 * 2 * 8 / ms);
  // seven passes, of which each is 0.1 µs slower than the one before
  assert.deepEqual(rangeMs!.map((end) => (1e4 * (end - ms)).toFixed(3)), ["-3.000", "3.000"]);
  assert.equal(result.gpuMs, undefined);

  const timed = await measureTrainStep(device, bench, { wallMs: 1, tuned: false });
  assert.equal(timed.muon, undefined);
  assert.equal(timed.gpuMs !== undefined, clockOf(device) === "timestamps");
  if (timed.gpuMs !== undefined) assert.equal(timed.idleShare, 1 - timed.gpuMs / timed.ms);
});

/** Asserts that a time is another one within a thousandth. */
function near(actual: number, expected: number): void {
  assert.ok(Math.abs(actual - expected) < 1e-3 * expected, `${actual} is not ${expected}`);
}

Deno.test("cold_start.ts divides the time to the first step, and names the shaders that take the longest", async () => {
  const config = { vocabularySize: 64, contextLength: 8, width: 8, layers: 2, heads: 1 };
  const bench: TrainStepBench = {
    ...{ model: "tiny", config, batchSize: 2, sequenceLength: 8, precision: "f32" },
  };
  const time = () => performance.timeOrigin + performance.now(), before = time();
  const script = new URL("../../bench/cold_start.ts", import.meta.url).href;
  const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-check", script, JSON.stringify(bench), device.provider],
  }).output();
  const after = time(), text = new TextDecoder();
  assert.match(text.decode(stdout), /^\{/, text.decode(stderr));
  const { doneAt, parts, compile }: ColdStart = JSON.parse(text.decode(stdout));
  assert.ok(before < doneAt && doneAt < after);
  const names = ["modules", "device", "parameters", "compilation", "batch", "step"];
  assert.deepEqual(Object.keys(parts), names);
  const sum = (values: readonly number[]) => values.reduce((sum, ms) => sum + ms, 0);
  const all = Object.values(parts), shaders = Object.entries(compile);
  assert.ok(all.every((ms) => ms > 0) && sum(all) < doneAt - before, `${all}`);
  // the last part ends the process's time, which begins a little after that of its parent
  assert.ok(sum(all) > (doneAt - before) / 4, `${all} of ${doneAt - before}`);
  assert.equal(shaders.length, 6);
  assert.ok(shaders.every(([label]) => /^kernels\/.+\.wgsl$/.test(label)));
  const times = shaders.map(([, ms]) => ms);
  assert.deepEqual(times, times.toSorted((a, b) => b - a));
  assert.ok(times[5]! > 0 && times[0]! < parts.compilation!, `${times} of ${parts.compilation}`);
});

/** The bytes that `train --dry-run` plans. */
function plannedBytes({ config, ...bench }: TrainStepBench) {
  const { allocations } = recordTraining(dryDevice(device), {
    ...{ config, precision: bench.precision, batchSize: bench.batchSize, isResumed: false },
    ...{ contextLength: bench.sequenceLength, gradientAccumulation: 1, dropout: 0, freeze: "" },
    ...{ optimizer: bench.optimizer!, beta1: 0.9, beta2: 0.95, histogramEvery: 0 },
    ...{ documents: "joined", recompute: bench.recompute!, syncEvery: 1 },
  });
  const { activations, total } = memoryOf(allocations.filter(({ work }) => work === "step"));
  return { activations, step: total };
}

Deno.test("benchConfig() has the parameters of SmolLM2-135M", () => {
  assert.equal(countParameters(benchConfig("smollm2-135m")), 134_515_008);
});
