import { benchConfig } from "./models.ts";
import { sampleBatch } from "./text.ts";
import type { ColdStart } from "./train_step.ts";
import { openDevice } from "../kernels/device.ts";
import { createGpt } from "../model/gpt.ts";
import { initializeParameters } from "../model/weights.ts";
import { createTrainStep, initialScaler } from "../train/step.ts";

/**
 * A process of its own: device, parameters, compilation, one training step, and a line of JSON that
 * says when it was done. Its argument is the JSON of a `TrainStepBench` without the dimensions.
 *
 * @module
 */

const { model, batchSize, sequenceLength, precision } = JSON.parse(Deno.args[0]!);
const parts: Record<string, number> = { modules: performance.now() };
let since = performance.now();
const part = (name: string) => {
  const now = performance.now();
  parts[name] = now - since;
  since = now;
};

const device = await openDevice();
part("device");
const config = benchConfig(model);
const gpt = createGpt(device, config, { precision });
initializeParameters(gpt, { seed: 0 });
part("parameters");
const step = createTrainStep(gpt, {
  batchSize,
  sequenceLength,
  gradientAccumulation: 1,
  dropout: 0,
  labelSmoothing: 0,
  gradientClip: 1,
  weightDecay: 0.1,
  beta1: 0.9,
  beta2: 0.95,
  seed: 0,
});
step.restoreScaler(initialScaler(precision));
part("compilation");
const batch = sampleBatch({ batchSize, sequenceLength, vocabularySize: config.vocabularySize });
part("batch");
step.submit(0, [batch], { learningRate: 1e-4 });
await step.reports(1);
part("step");
const result: ColdStart = { doneAt: performance.timeOrigin + performance.now(), parts };
console.log(JSON.stringify(result));
