import { type Device, openDevice } from "../kernels/device.ts";
import type { Provider } from "../kernels/provider.ts";
import { createGpt } from "../model/gpt.ts";
import { initializeParameters } from "../model/weights.ts";
import { createTrainStep } from "../train/step.ts";
import { STEP_OPTIONS } from "./models.ts";
import { sampleBatch } from "./text.ts";
import type { ColdStart, TrainStepBench } from "./train_step.ts";

/**
 * The process that `measureColdStart()` times: it opens the device, creates parameters, compiles, runs one
 * training step, and prints a `ColdStart` as JSON. Its arguments are a `TrainStepBench` as JSON
 * and the provider.
 *
 * @module
 */

/** Shaders that are reported, those that take the longest to compile. */
const MOST_SHADERS = 6;

const bench: TrainStepBench = JSON.parse(Deno.args[0]!);
const { config, batchSize, sequenceLength, precision, optimizer = "adamw" } = bench;
const parts: Record<string, number> = { modules: performance.now() };
let since = performance.now();
const part = (name: string) => {
  const now = performance.now();
  parts[name] = now - since;
  since = now;
};

const device = await openDevice({ gpu: Deno.args[1] as Provider });
const compiling = meterCompilation(device);
part("device");
const gpt = createGpt(device, config, { precision });
initializeParameters(gpt, { seed: 0 });
part("parameters");
const step = createTrainStep(gpt, { ...STEP_OPTIONS, batchSize, sequenceLength, optimizer });
await step.program.compiling();
part("compilation");
const batch = sampleBatch({ batchSize, sequenceLength, vocabularySize: config.vocabularySize });
part("batch");
await step.submit(0, [batch], { learningRate: 1e-4 });
await step.reports(1);
part("step");
const doneAt = performance.timeOrigin + performance.now();
const result: ColdStart = { doneAt, parts, compile: longest(compiling) };
console.log(JSON.stringify(result));

/**
 * Measures from now on how long shaders take to compile, by WebGPU and by the driver: milliseconds by
 * label.
 */
function meterCompilation({ gpu }: Device): Map<string, number> {
  const spent = new Map<string, number>();
  const metered = <D extends GPUObjectDescriptorBase, R>(create: (descriptor: D) => R) =>
  (
    descriptor: D,
  ): R => {
    const start = performance.now();
    const created = create.call(gpu, descriptor);
    const { label = "" } = descriptor;
    const add = () => spent.set(label, (spent.get(label) ?? 0) + performance.now() - start);
    if (created instanceof Promise) created.finally(add);
    else add();
    return created;
  };
  gpu.createShaderModule = metered(gpu.createShaderModule);
  gpu.createComputePipeline = metered(gpu.createComputePipeline);
  gpu.createComputePipelineAsync = metered(gpu.createComputePipelineAsync); // several at once
  return spent;
}

/** The labels with the longest times, in descending order. */
function longest(spent: ReadonlyMap<string, number>): Record<string, number> {
  return Object.fromEntries([...spent].sort(([, a], [, b]) => b - a).slice(0, MOST_SHADERS));
}
