import copy from "./copy.wgsl" with { type: "text" };
import type { Device } from "../kernels/device.ts";
import { Program } from "../kernels/program.ts";
import { createTensor } from "../kernels/tensor.ts";
import { median, timePasses } from "../kernels/timing.ts";
import { PRESETS } from "../model/config.ts";
import type { Precision } from "../model/precision.ts";
import { type Machine, modelledMs, type StepCost, stepCost } from "./cost.ts";
import type { Roofline } from "./harness.ts";
import { OWN_VOCABULARY, STORIES_VOCABULARY } from "./models.ts";
import { measureTrainStep, type TrainStepBench, type TrainStepResult } from "./train_step.ts";

/**
 * Measures how the time of a training step grows with batch, context, width and layers, one at a time, and
 * compares it with the cost model.
 *
 * @module
 */

/** A dimension that grows. */
export type Axis = "batch" | "context" | "width" | "layers";

/** All axes, in the order of reports. */
export const AXES: readonly Axis[] = ["batch", "context", "width", "layers"];

/** One step to time: a value on an axis. */
export interface ScalingStep {
  readonly axis: Axis;
  readonly value: number;
  readonly bench: TrainStepBench;
}

/** One step with its measured time, and its time by the cost model. */
export interface ScalingPoint
  extends Omit<ScalingStep, "bench">, TrainStepBench, StepCost, TrainStepResult {
  readonly modelMs: number;
}

/** Results of a scaling run. */
export interface Scaling {
  /** Milliseconds of a tiny launch that waits for the previous one. */
  readonly launchMs: number;
  readonly points: readonly ScalingPoint[];
}

/**
 * Values on each axis, and the step from which one axis at a time departs; it must lie on all axes.
 */
interface Grid extends Record<Axis, readonly number[]> {
  readonly model: "mini" | "nano";
  readonly batchSize: number;
  readonly vocabularySize: number;
}

/**
 * Grid for GPUs. With a vocabulary of 50,257 the head would be four fifths of mini's matrices and dominate
 * every axis; with 4,096 it is a quarter, near the three tenths in GPT-2.
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

/** Grid for CPU adapters, which takes half a minute. */
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
 * The steps of a device, axis by axis; the step that all axes share occurs once per axis.
 *
 * Along the context a batch keeps its number of tokens, so that only attention grows; along the width heads
 * keep their size and grow in number.
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

/** Launches in the program that is timed, each of which waits for the previous one. */
const LAUNCHES = 200;

/** Runs of that program before timing, so that a GPU raises its clock, and runs that are timed. */
const WARM_UPS = 100, SAMPLES = 15;

/** Measures the milliseconds of a launch with next to no work that waits for the previous one. */
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
 * Wall-clock milliseconds for the steps of one point, of which a read-back takes 11. Few steps suffice,
 * because the cost model concerns the time on the device.
 */
const WALL_MS = 400;

/**
 * Times the steps with untuned kernels, because tuning every shape would take longer than all measurements.
 * Equal steps are timed once.
 *
 * @param options.guarded runs each measurement, of the step of that name, and may catch its error.
 * @param options.onPoint is called with each point after it is measured.
 * @throws {DeviceError} if the device fails.
 */
export async function measureScaling(
  device: Device,
  steps: readonly ScalingStep[],
  { roofline, guarded, onPoint }: {
    readonly roofline: Roofline;
    readonly guarded: (name: string, measure: () => Promise<void>) => Promise<void>;
    readonly onPoint: (point: ScalingPoint) => void;
  },
): Promise<Scaling> {
  const launchMs = await measureLaunchMs(device);
  const machine: Machine = { ...roofline, launchMs };
  const measured = new Map<string, TrainStepResult>();
  const points: ScalingPoint[] = [];
  for (const { bench, ...place } of steps) {
    const name = scalingName(place), key = JSON.stringify(bench);
    await guarded(name, async () => {
      const result = measured.get(key) ??
        await measureTrainStep(device, bench, { wallMs: WALL_MS, tuned: false });
      measured.set(key, result);
      const cost = stepCost(bench, device), modelMs = modelledMs({ ...cost, ...result }, machine);
      points.push({ ...bench, ...result, ...cost, ...place, name, modelMs });
      onPoint(points.at(-1)!);
    });
  }
  return { launchMs, points };
}

/** Time on the device, or by the wall clock if the device has no timestamps. */
export function deviceMs({ ms, gpuMs }: Pick<ScalingPoint, "ms" | "gpuMs">): number {
  return gpuMs ?? ms;
}
