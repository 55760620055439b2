import { UserError } from "../files/user_error.ts";
import { misfitOf, shortageOf } from "../kernels/fit.ts";
import type { Device } from "../kernels/device.ts";
import { type DryDevice, dryDevice } from "../kernels/dry_device.ts";
import type { Program } from "../kernels/program.ts";
import type { Provider } from "../kernels/provider.ts";
import { clockOf, median, timePasses, warmUpMsOf } from "../kernels/timing.ts";
import { tune, untuned } from "../kernels/tune.ts";
import { createGpt } from "../model/gpt.ts";
import type { Precision } from "../model/precision.ts";
import { initializeParameters } from "../model/weights.ts";
import { createTrainStep, type TrainStep } from "../train/step.ts";
import { type CostedStep, muonFlops } from "./cost.ts";
import type { Result } from "./harness.ts";
import { meterMemory } from "./memory.ts";
import { benchConfig, type BenchModel, OWN_VOCABULARY, STEP_OPTIONS } from "./models.ts";
import { sampleBatch, sampleBatches } from "./text.ts";

/** A training step to time. */
export interface TrainStepBench extends CostedStep {
  /** Such as `mini`. */
  readonly model: string;
}

/** Measurements of one training step. */
export interface TrainStepResult extends Result {
  /** Steps that the wall clock timed together. */
  readonly steps: number;
  readonly tokensPerSecond: number;
  readonly peakBytes: number;
  readonly planned: { readonly activations: number; readonly step: number };
  readonly launches: number;
  /** Loss of the last step, as evidence that the steps trained. */
  readonly loss: number;
}

/** The name of a training step's result: `train step f16 mini 32x128 V 50257`. */
export function trainStepName(bench: TrainStepBench): string {
  return `train step ${modelAndBatch(bench)}`;
}

/** The training steps of a report, the smallest first. */
export function trainStepBenches(device: Device, precision: Precision): TrainStepBench[] {
  const step = (
    model: BenchModel,
    batchSize: number,
    { vocabularySize, ...options }:
      & { vocabularySize?: number }
      & Pick<TrainStepBench, "optimizer" | "recompute"> = {},
  ): TrainStepBench => {
    const config = benchConfig(model, vocabularySize), sequenceLength = config.contextLength;
    return { model, config, batchSize, sequenceLength, precision, ...options };
  };
  const muon = { optimizer: "muon" } as const, own = { vocabularySize: OWN_VOCABULARY };
  return device.isCpu ? [step("nano", 16), step("nano", 16, muon), step("nano-neox", 16, muon)] : [
    step("mini", 32),
    step("mini", 128),
    step("mini", 32, own),
    step("mini", 32, { ...own, ...muon }),
    step("mini-neox", 32, { ...own, ...muon }), // as `train` does by default
    step("gpt2", 8),
    step("gpt2", 8, { recompute: "mlp" }),
    step("gpt2", 8, { recompute: "block" }),
    step("gpt2", 8, muon),
    step("smollm2-135m", 8),
    step("smollm2-135m", 8, muon),
  ];
}

/** V is part of the name because the products of the head take most of a small model's step. */
function modelAndBatch(
  { model, config, batchSize, sequenceLength, precision, ...options }: TrainStepBench,
): string {
  const { optimizer = "adamw", recompute = "none" } = options;
  return `${precision} ${model} ${batchSize}x${sequenceLength} V ${config.vocabularySize}` +
    (optimizer === "adamw" ? "" : ` ${optimizer}`) +
    (recompute === "none" ? "" : ` recompute ${recompute}`);
}

/** How a training step is timed. */
export interface TrainStepOptions {
  /**
   * Wall-clock time of all steps together, beside which one wait of 11 ms is small; 3000 by default.
   */
  readonly wallMs?: number;
  /**
   * Whether the tuner chooses the kernels first; otherwise those run that are preferred without
   * measurements.
   */
  readonly tuned?: boolean;
  /** Operations per second at which Muon's part has its floor; without it the part is not timed. */
  readonly flopsPerSecond?: number;
  /** Called with the number of kernels that are tuned, and of all. */
  readonly onTuning?: (done: number, of: number) => void;
}

/** Most steps that are timed on the device. */
const TIMED_STEPS = 15;

/** The options of the step of a benchmark. */
function stepOptions(
  { batchSize, sequenceLength, optimizer = "adamw", recompute = "none" }: TrainStepBench,
) {
  return { ...STEP_OPTIONS, batchSize, sequenceLength, optimizer, recompute };
}

/** A model with random parameters and its training step. */
interface TimedStep extends Disposable {
  readonly step: TrainStep;
}

/** Makes a model and its training step, with the kernels that were chosen for the device. */
function createTimedStep(device: Device, bench: TrainStepBench): TimedStep {
  const { config, precision } = bench, gpt = createGpt(device, config, { precision });
  initializeParameters(gpt, { seed: 0 });
  const step = createTrainStep(gpt, stepOptions(bench));
  return {
    step,
    [Symbol.dispose]() {
      step.destroy();
      gpt.destroy();
    },
  };
}

/** Plans a training step, with the kernels that were chosen for the device. */
function planStep(device: Device, bench: TrainStepBench) {
  const plan = (dry: DryDevice) => {
    const { config, precision } = bench;
    const { activations, program: { tunables } } = createTrainStep(
      createGpt(dry, config, { precision }),
      stepOptions(bench),
    );
    const logits = activations.at("logits").buffer.size; // a chunk, whatever the batch
    return { planned: { activations: activations.bytes - logits, step: dry.bytes }, tunables };
  };
  const problem = misfitOf(device, plan);
  if (problem) {
    throw new UserError(
      `Cannot time a step of ${bench.batchSize} rows as it must fit ${device.name} ${
        shortageOf(problem)
      }`,
    );
  }
  return plan(dryDevice(device));
}

/** Finds the fastest kernels for a training step, by a step of its own: the tuner writes over its tensors. */
async function tuneStep(
  device: Device,
  bench: TrainStepBench,
  onTuning: TrainStepOptions["onTuning"],
): Promise<void> {
  if (untuned(device, planStep(device, bench).tunables.values()).length === 0) return;
  using made = createTimedStep(device, bench);
  await tune(device, made.step.program.tunables.values(), onTuning);
}

/**
 * Times a training step by the wall clock, including its batches, and on the device. The difference is the
 * device's idle time.
 */
export async function measureTrainStep(
  anyDevice: Device,
  bench: TrainStepBench,
  { wallMs = 3000, tuned = true, flopsPerSecond, onTuning }: TrainStepOptions = {},
): Promise<TrainStepResult> {
  const device = tuned ? anyDevice : { ...anyDevice, choices: new Map<string, string>() };
  if (tuned) await tuneStep(device, bench, onTuning);
  const { planned } = planStep(device, bench);
  const memory = meterMemory(device);
  try {
    using made = createTimedStep(device, bench);
    const { step } = made;
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
    const muon = bench.optimizer === "muon" && flopsPerSecond !== undefined
      ? { ms: await muonMs(step), floorMs: 1e3 * muonFlops(bench.config) / flopsPerSecond }
      : undefined;
    return {
      name: trainStepName(bench),
      ms,
      // the range is that of single steps on the device, around the wall clock's mean of many
      rangeMs: [ms + Math.min(...samples) - gpuMs, ms + Math.max(...samples) - gpuMs],
      steps,
      ...(clockOf(device) === "timestamps" ? { gpuMs, idleShare: 1 - gpuMs / ms } : {}),
      tokensPerSecond: bench.batchSize * bench.sequenceLength / ms * 1e3,
      peakBytes,
      planned,
      ...(muon ? { muon } : {}),
      launches: step.program.length,
      loss,
    };
  } finally {
    memory.stop();
  }
}

/** Milliseconds of Muon in a training step: of its own kernels, and of the products of the update. */
async function muonMs({ program, parts }: TrainStep): Promise<number> {
  const launches = program.labels.flatMap((label, i) =>
    i >= parts.update && /^kernels\/(muon|matmul)\//.test(label) ? [i] : []
  );
  const passes = await timePasses(program.device, [{ program, repeats: 1, launches }], {
    rounds: TIMED_STEPS,
    warmUpMs: warmUpMsOf(program.device),
  });
  return median(passes.map(([ms]) => ms!));
}

/** One kernel's part of a program's time. */
export interface ProfileRow {
  readonly label: string;
  readonly launches: number;
  readonly ms: number;
  readonly share: number;
}

/** The time of each kernel of a training step. */
export async function profileTrainStep(
  device: Device,
  bench: TrainStepBench,
): Promise<ProfileRow[]> {
  await tuneStep(device, bench, undefined);
  using made = createTimedStep(device, bench);
  const batch = sampleBatch({ ...bench, vocabularySize: bench.config.vocabularySize });
  await made.step.submit(0, [batch], { learningRate: 1e-4 });
  return await profile(made.step.program);
}

/**
 * The time of each kernel of a program. Every launch is timed in a separate pass, so the sum is somewhat
 * longer than the program takes.
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
  /** End of the first step, in milliseconds since 1970. */
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

/** Variables that say where the drivers of NVIDIA, and of Mesa, keep what they have compiled. */
const DRIVER_CACHES = ["__GL_SHADER_DISK_CACHE_PATH", "MESA_SHADER_CACHE_DIR"];

/** Times a new process that opens the device, compiles without what its driver has kept, and runs one step. */
export async function measureColdStart(bench: TrainStepBench, gpu: Provider): Promise<Result> {
  const cache = await Deno.makeTempDir();
  const started = performance.timeOrigin + performance.now();
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "--no-prompt",
      ...(gpu === "dawn" ? ["--allow-read", "--allow-ffi=dawn"] : []),
      import.meta.resolve("./cold_start.ts"),
      JSON.stringify(bench),
      gpu,
    ],
    env: Object.fromEntries(DRIVER_CACHES.map((name) => [name, cache])),
  }).output();
  await Deno.remove(cache, { recursive: true });
  if (code !== 0) {
    throw new Error(`Cannot time a cold start: ${new TextDecoder().decode(stderr).trim()}`);
  }
  const { doneAt, parts, compile } = JSON.parse(new TextDecoder().decode(stdout)) as ColdStart;
  return { name: coldStartName(bench), ms: doneAt - started, parts, compile };
}
