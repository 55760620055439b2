import { meterMemory } from "./memory.ts";
import { STEP_OPTIONS } from "./models.ts";
import { sampleBatch, sampleBatches } from "./text.ts";
import type { Result } from "./harness.ts";
import { UserError } from "../files/user_error.ts";
import type { Device } from "../kernels/device.ts";
import type { Program } from "../kernels/program.ts";
import { misfitOf, shortageOf } from "../generate/limits.ts";
import { clockOf, median, timePasses, warmUpMsOf } from "../kernels/timing.ts";
import { tune, untuned } from "../kernels/tune.ts";
import type { GptConfig } from "../model/config.ts";
import { createGpt } from "../model/gpt.ts";
import type { Precision } from "../model/precision.ts";
import { initializeParameters } from "../model/weights.ts";
import { createTrainStep, type TrainStep } from "../train/step.ts";

/** A training step to time. */
export interface TrainStepBench {
  /** Such as `mini`. */
  readonly model: string;
  readonly config: GptConfig;
  readonly batchSize: number;
  readonly sequenceLength: number;
  readonly precision: Precision;
}

/** What one training step was found to take. */
export interface TrainStepResult extends Result {
  /** Steps that the wall clock timed together. */
  readonly steps: number;
  /** Median on the device, where it has timestamps. */
  readonly gpuMs?: number;
  /** Share of the wall-clock time in which the device had nothing to do. */
  readonly idleShare?: number;
  readonly tokensPerSecond: number;
  /** Most bytes that the buffers of model, step and batches had together. */
  readonly peakBytes: number;
  readonly launches: number;
  /** Of the last step: a sign of life. */
  readonly loss: number;
}

/** The name of a training step's result: `train step f16 mini 32x128 V 50257`. */
export function trainStepName(bench: TrainStepBench): string {
  return `train step ${modelAndBatch(bench)}`;
}

/** V is named because the head's products are most of a small model's step: time follows it. */
function modelAndBatch(
  { model, config, batchSize, sequenceLength, precision }: TrainStepBench,
): string {
  return `${precision} ${model} ${batchSize}x${sequenceLength} V ${config.vocabularySize}`;
}

/** How a training step is timed. */
export interface TrainStepOptions {
  /** Wall-clock time that the steps take together, so that one wait of 11 ms does not matter. */
  readonly wallMs?: number;
  /** Whether the tuner chooses the kernels first; without it those run that it prefers unmeasured. */
  readonly tuned?: boolean;
  /** Is called with the number of kernels tuned and of all. */
  readonly onTuning?: (done: number, of: number) => void;
}

/** Steps whose time on the device is taken. */
const TIMED_STEPS = 15;

/** Everything but data, with a step recorded by the kernels that the tuner finds to be the fastest. */
async function createStep(
  anyDevice: Device,
  { config, batchSize, sequenceLength, precision }: TrainStepBench,
  { tuned = true, onTuning }: TrainStepOptions,
): Promise<{ step: TrainStep; destroy(): void }> {
  const device = tuned ? anyDevice : { ...anyDevice, choices: new Map<string, string>() };
  const options = { ...STEP_OPTIONS, batchSize, sequenceLength };
  const problem = misfitOf(device, (dry) => {
    createTrainStep(createGpt(dry, config, { precision }), options);
  });
  if (problem) {
    throw new UserError(
      `Cannot time a step of ${batchSize} rows as it must fit ${device.name} ${
        shortageOf(problem)
      }`,
    );
  }
  const gpt = createGpt(device, config, { precision });
  initializeParameters(gpt, { seed: 0 });
  const create = () => createTrainStep(gpt, options);
  let step = create();
  const { tunables } = step.program;
  if (tuned && untuned(device, tunables.values()).length > 0) {
    await tune(device, tunables.values(), onTuning);
    initializeParameters(gpt, { seed: 0 }); // the tuner wrote over them
    step.destroy();
    step = create();
  }
  return {
    step,
    destroy() {
      step.destroy();
      gpt.destroy();
    },
  };
}

/**
 * A step by the wall clock, batches and all, and on the device. The difference is time in which the
 * device had nothing to do.
 */
export async function measureTrainStep(
  device: Device,
  bench: TrainStepBench,
  { wallMs = 3000, ...options }: TrainStepOptions = {},
): Promise<TrainStepResult> {
  const memory = meterMemory(device);
  const { step, destroy } = await createStep(device, bench, options).catch((error) => {
    memory.stop();
    throw error;
  });
  try {
    const batches = sampleBatches({ ...bench, vocabularySize: bench.config.vocabularySize });
    let next = 0;
    const submit = () => {
      const batch = batches.at(next);
      return step.submit(next++, [batch], { learningRate: 1e-4 });
    };
    const timed = async (count: number) => {
      const start = performance.now();
      for (let i = 0; i < count; i++) await submit();
      const [report] = await step.reports(1);
      return { ms: (performance.now() - start) / count, loss: report!.loss };
    };
    await timed(2); // compiles
    let once = await timed(3);
    const warmUps = Math.ceil(warmUpMsOf(device) / once.ms);
    if (warmUps > 0) once = await timed(warmUps);
    const steps = Math.max(3, Math.min(1000, Math.round(wallMs / once.ms)));
    const { ms, loss } = await timed(steps);
    const peakBytes = memory.peakBytes; // before the buffers of the next measurement
    const passes = await timePasses(device, [{ program: step.program, repeats: 1 }], {
      rounds: Math.min(steps, TIMED_STEPS),
    });
    const samples = passes.map(([ms]) => ms!), gpuMs = median(samples);
    return {
      name: trainStepName(bench),
      ms,
      // single steps on the device spread more than the mean of many by the wall clock
      rangeMs: [ms + Math.min(...samples) - gpuMs, ms + Math.max(...samples) - gpuMs],
      steps,
      ...(clockOf(device) === "timestamps" ? { gpuMs, idleShare: 1 - gpuMs / ms } : {}),
      tokensPerSecond: bench.batchSize * bench.sequenceLength / ms * 1e3,
      peakBytes,
      launches: step.program.length,
      loss,
    };
  } finally {
    memory.stop();
    destroy();
  }
}

/** A kernel's part of a program. */
export interface ProfileRow {
  readonly label: string;
  readonly launches: number;
  readonly ms: number;
  readonly share: number;
}

/** Where a training step's time goes. */
export async function profileTrainStep(
  device: Device,
  bench: TrainStepBench,
): Promise<ProfileRow[]> {
  const { step, destroy } = await createStep(device, bench, {});
  try {
    const batch = sampleBatch({ ...bench, vocabularySize: bench.config.vocabularySize });
    await step.submit(0, [batch], { learningRate: 1e-4 });
    return await profile(step.program);
  } finally {
    destroy();
  }
}

/**
 * Where a program's time goes: each launch in a pass of its own, so that the sum is somewhat more than
 * the program takes.
 */
export async function profile(
  program: Program,
  { warmUpMs = warmUpMsOf(program.device) }: { warmUpMs?: number } = {},
): Promise<ProfileRow[]> {
  const { device, labels } = program;
  const runs = labels.map((_, place) => ({ program, repeats: 1, launches: [place] }));
  const rounds = await timePasses(device, runs, { rounds: 3, warmUpMs });
  const byLabel = new Map<string, { launches: number; ms: number }>();
  labels.forEach((label, place) => {
    const row = byLabel.get(label) ?? { launches: 0, ms: 0 };
    byLabel.set(label, {
      launches: row.launches + 1,
      ms: row.ms + median(rounds.map((round) => round[place]!)),
    });
  });
  const total = [...byLabel.values()].reduce((sum, { ms }) => sum + ms, 0);
  return [...byLabel].map(([label, row]) => ({ label, ...row, share: row.ms / total }))
    .sort((a, b) => b.ms - a.ms);
}

/** What cold_start.ts writes to stdout. */
export interface ColdStart {
  /** When the first step was done, in milliseconds since 1970. */
  readonly doneAt: number;
  /** Milliseconds of each part. */
  readonly parts: Readonly<Record<string, number>>;
  /** Milliseconds of the shaders that take the longest to compile, by label. */
  readonly compile: Readonly<Record<string, number>>;
}

/** The name of a cold start's result: `cold start to first step f16 mini 32x128 V 50257`. */
export function coldStartName(bench: TrainStepBench): string {
  return `cold start to first step ${modelAndBatch(bench)}`;
}

/** A process that starts, opens the device, compiles, and takes one step. */
export async function measureColdStart(bench: TrainStepBench): Promise<Result> {
  const started = performance.timeOrigin + performance.now();
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "--no-prompt",
      import.meta.resolve("./cold_start.ts"),
      JSON.stringify(bench),
    ],
  }).output();
  if (code !== 0) {
    throw new Error(`Cannot time a cold start: ${new TextDecoder().decode(stderr).trim()}`);
  }
  const { doneAt, parts, compile } = JSON.parse(new TextDecoder().decode(stdout)) as ColdStart;
  return { name: coldStartName(bench), ms: doneAt - started, parts, compile };
}
