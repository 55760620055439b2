import copy from "./copy.wgsl" with { type: "text" };
import { type Machine, modelledMs, type StepCost, stepCost } from "./cost.ts";
import type { Roofline } from "./harness.ts";
import { OWN_VOCABULARY, STORIES_VOCABULARY } from "./models.ts";
import { measureTrainStep, type TrainStepBench, type TrainStepResult } from "./train_step.ts";
import type { Device } from "../kernels/device.ts";
import { Program } from "../kernels/program.ts";
import { createTensor } from "../kernels/tensor.ts";
import { median, timePasses } from "../kernels/timing.ts";
import { PRESETS } from "../model/config.ts";
import type { Precision } from "../model/precision.ts";

/**
 * How a training step's time grows with batch, context, width and layers, one at a time, beside what
 * the cost model says.
 *
 * @module
 */

/** What grows. */
export type Axis = "batch" | "context" | "width" | "layers";

/** All axes, in the order of reports. */
export const AXES: readonly Axis[] = ["batch", "context", "width", "layers"];

/** One step to time: a value on an axis. */
export interface ScalingStep {
  readonly axis: Axis;
  readonly value: number;
  readonly bench: TrainStepBench;
}

/** One step as it was timed, and as the cost model has it. */
export interface ScalingPoint
  extends Omit<ScalingStep, "bench">, TrainStepBench, StepCost, TrainStepResult {
  readonly modelMs: number;
}

/** Everything that a scaling run found. */
export interface Scaling {
  /** Milliseconds of a tiny launch that waits for the one before it. */
  readonly launchMs: number;
  readonly points: readonly ScalingPoint[];
}

/** Values on each axis, and the step from which they start, which must lie on all of them. */
interface Grid extends Record<Axis, readonly number[]> {
  readonly model: "mini" | "nano";
  readonly batchSize: number;
  readonly vocabularySize: number;
}

/**
 * For GPUs. Of mini's matrices a vocabulary of 50,257 would be four fifths, and every axis would show
 * the head; with 4,096 it is a quarter, near the three tenths that it is of GPT-2's.
 */
const MINI: Grid = {
  model: "mini",
  batchSize: 32,
  vocabularySize: OWN_VOCABULARY,
  batch: [8, 16, 32, 64, 128, 256],
  context: [64, 128, 256, 512, 1024, 2048],
  width: [128, 256, 512, 1024],
  layers: [2, 4, 8, 16],
};

/** For CPU adapters: half a minute. */
const NANO: Grid = {
  model: "nano",
  batchSize: 16,
  vocabularySize: STORIES_VOCABULARY,
  batch: [4, 8, 16, 32],
  context: [32, 64, 128],
  width: [32, 64, 128],
  layers: [1, 2, 4],
};

/**
 * The steps of a device, axis by axis; the one that all axes share comes once for each.
 *
 * Along the context a batch keeps its tokens, so that nothing but attention grows; along the width
 * heads keep their size, and there are more of them.
 */
export function scalingSteps(device: Device, precision: Precision): ScalingStep[] {
  const grid = device.isCpu ? NANO : MINI;
  const { model, batchSize, vocabularySize } = grid;
  const { contextLength, width, heads, layers } = PRESETS[model];
  const step = (axis: Axis, value: number): ScalingStep => {
    const at = { batch: batchSize, context: contextLength, width, layers, [axis]: value };
    return {
      axis,
      value,
      bench: {
        model,
        config: {
          vocabularySize,
          contextLength: at.context,
          width: at.width,
          layers: at.layers,
          heads: at.width / (width / heads),
        },
        batchSize: axis === "context" ? batchSize * contextLength / value : at.batch,
        sequenceLength: at.context,
        precision,
      },
    };
  };
  return AXES.flatMap((axis) => grid[axis].map((value) => step(axis, value)));
}

/** Such as `scaling width 512`. */
export function scalingName({ axis, value }: Pick<ScalingStep, "axis" | "value">): string {
  return `scaling ${axis} ${value}`;
}

/** Launches that wait for each other, in a row. */
const LAUNCHES = 200;

/** Rows of them before it counts, so that a GPU has time to raise its clock, and those that count. */
const WARM_UPS = 100, SAMPLES = 15;

/** Milliseconds of a launch with next to no work that waits for the one before it. */
export async function measureLaunchMs(device: Device): Promise<number> {
  const shape = [256], dtype = "f32";
  const x = createTensor(device, "x", { shape, dtype });
  const y = createTensor(device, "y", { shape, dtype });
  using program = new Program(device);
  for (let i = 0; i < LAUNCHES; i++) {
    program.dispatch({
      shader: { "bench/copy.wgsl": copy },
      tensors: i % 2 === 0 ? { x, y } : { x: y, y: x },
      uniforms: { N: 64 },
      workgroups: [1],
    });
  }
  const rounds = await timePasses(device, [{ program, repeats: 1 }], {
    rounds: WARM_UPS + SAMPLES,
  });
  for (const { buffer } of [x, y]) buffer.destroy();
  return median(rounds.slice(WARM_UPS).map(([ms]) => ms!)) / LAUNCHES;
}

/**
 * Wall-clock time for the steps of one point, of which a read-back takes 11 ms: the model is about time
 * on the device, which needs few steps.
 */
const WALL_MS = 400;

/**
 * Times the steps, each with the kernels that are preferred unmeasured: tuning every shape would take
 * longer than all the rest. Equal steps are timed once.
 *
 * @param attempt runs each measurement and may survive its failure; it has the step's name.
 * @param onPoint is called with each point once it is measured.
 * @throws {DeviceError} if the device fails.
 */
export async function measureScaling(
  device: Device,
  steps: readonly ScalingStep[],
  { roofline, attempt, onPoint }: {
    readonly roofline: Roofline;
    readonly attempt: (name: string, measure: () => Promise<void>) => Promise<void>;
    readonly onPoint: (point: ScalingPoint) => void;
  },
): Promise<Scaling> {
  const launchMs = await measureLaunchMs(device);
  const machine: Machine = { ...roofline, launchMs };
  const measured = new Map<string, TrainStepResult>();
  const points: ScalingPoint[] = [];
  for (const { bench, ...place } of steps) {
    const name = scalingName(place), key = JSON.stringify(bench);
    await attempt(name, async () => {
      const result = measured.get(key) ??
        await measureTrainStep(device, bench, { wallMs: WALL_MS, tuned: false });
      measured.set(key, result);
      const cost = stepCost(bench), modelMs = modelledMs({ ...cost, ...result }, machine);
      points.push({ ...bench, ...result, ...cost, ...place, name, modelMs });
      onPoint(points.at(-1)!);
    });
  }
  return { launchMs, points };
}

/** What the model is about: the time on the device, or by the wall clock where it has no clock. */
export function deviceMs({ ms, gpuMs }: Pick<ScalingPoint, "ms" | "gpuMs">): number {
  return gpuMs ?? ms;
}
