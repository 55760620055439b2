import type { Device } from "../kernels/device.ts";
import { gradientNorm, gradientNormBlocks } from "../kernels/gradient_norm/gradient_norm.ts";
import { prepareStep } from "../kernels/prepare_step/prepare_step.ts";
import type { Program } from "../kernels/program.ts";
import { createTensor, download, size, type Tensor, upload } from "../kernels/tensor.ts";
import type { Precision } from "../model/precision.ts";

/**
 * What one step passes to the next on the device, beside parameters and the optimizer's state, and what it reports.
 *
 * @module
 */

/** Scalars on the device that one step passes to the next. */
export interface StepState {
  /** Loss scale. */
  lossScale: number;
  /** Good steps since the loss scale changed. */
  growthTracker: number;
  /** Steps that were applied. */
  optimizerSteps: number;
  /** Steps that were skipped because a gradient was not finite. */
  skippedSteps: number;
  /** Skipped steps in a row up to now. */
  consecutiveSkips: number;
}

/** The device's report on one step. */
export interface StepReport {
  /** Mean loss over all targets of the step, in nats. */
  loss: number;
  /** Norm of the unscaled gradient before clipping. */
  gradientNorm: number;
  /** Loss scale that the step used. */
  lossScale: number;
  /** Whether the step was skipped for a non-finite gradient. */
  skipped: boolean;
  /** Skipped steps in a row up to this one. */
  consecutiveSkips: number;
  /** Skipped steps in all. */
  skippedSteps: number;
}

/** Loss scale of the first step in f16, as torch.amp.GradScaler has. */
export const INITIAL_SCALE = 65536;

/** Applied steps in a row after which the loss scale doubles, as in torch.amp.GradScaler. */
const GROWTH_INTERVAL = 2000;

/** Reports that the device stores, of which a newer one overwrites the oldest, and numbers of a report. */
export const REPORT_ROWS = 256;
const REPORT_COLUMNS = 8;

/**
 * Whether a training can reach a state. Each skipped step halves the scale, which doubles at most once per
 * `GROWTH_INTERVAL` applied steps, up to the largest power of two in f32.
 */
export function isReachable(
  { lossScale, growthTracker, optimizerSteps, skippedSteps, consecutiveSkips }: StepState,
  precision: Precision,
): boolean {
  const tracks = growthTracker < GROWTH_INTERVAL && growthTracker <= optimizerSteps &&
    (growthTracker === 0 || consecutiveSkips === 0);
  if (precision === "f32") return tracks && lossScale === 1;
  const doublings = Math.log2(lossScale / INITIAL_SCALE) + skippedSteps;
  return tracks && lossScale < 2 ** 128 && Number.isInteger(doublings) && doublings >= 0 &&
    doublings <= optimizerSteps / GROWTH_INTERVAL;
}

/** The state of the steps on the device, which decides there whether a step is applied, and the ring of reports. */
export class DeviceState {
  /** f32 [1] */
  readonly lossScale: Tensor;
  /** u32 [5]: what the optimizer reads, see `prepareStep()`. */
  readonly update: Tensor;
  /** All its tensors, and those of them whose values outlast a step. */
  readonly tensors: readonly Tensor[];
  readonly lasting: readonly Tensor[];
  readonly #device: Device;
  readonly #isScaled: boolean;
  readonly #counters: Tensor;
  readonly #reports: Tensor;
  readonly #partials: Tensor;
  #submitted = 0; // steps, whose reports are written

  /** @param gradients f32 [N] */
  constructor(
    device: Device,
    { gradients, precision }: { gradients: Tensor; precision: Precision },
  ) {
    this.#device = device;
    this.#isScaled = precision === "f16";
    const blocks = gradientNormBlocks(device, size(gradients.shape));
    this.lossScale = createTensor(device, "lossScale", { shape: [1], dtype: "f32" });
    this.#counters = createTensor(device, "counters", { shape: [5], dtype: "u32" });
    this.update = createTensor(device, "update", { shape: [5], dtype: "u32" });
    const shape = [REPORT_ROWS, REPORT_COLUMNS];
    this.#reports = createTensor(device, "reports", { shape, dtype: "u32" });
    const partials = { shape: [blocks, 2], dtype: "f32" } as const;
    this.#partials = createTensor(device, "gradient norm partials", partials);
    this.lasting = [this.lossScale, this.#counters, this.#reports];
    this.tensors = [...this.lasting, this.update, this.#partials];
    this.restore({
      lossScale: this.#isScaled ? INITIAL_SCALE : 1, // without f16 nothing needs scaling
      growthTracker: 0,
      optimizerSteps: 0,
      skippedSteps: 0,
      consecutiveSkips: 0,
    });
  }

  /** Records the gradient's norm, the decision to apply or skip the step, and the report. */
  record(
    program: Program,
    { gradients, stepInputs, lossSums }: Record<"gradients" | "stepInputs" | "lossSums", Tensor>,
    { gradientClip }: { gradientClip: number },
  ): void {
    const { lossScale, update } = this, partials = this.#partials;
    gradientNorm(program, { gradient: gradients, lossScale }, { partials });
    prepareStep(
      program,
      { partials, stepInputs, lossSums },
      { lossScale, counters: this.#counters, update, reports: this.#reports },
      {
        gradientClip: gradientClip || Infinity,
        growthFactor: this.#isScaled ? 2 : 1,
        backoffFactor: this.#isScaled ? 0.5 : 1,
        growthInterval: GROWTH_INTERVAL,
      },
    );
  }

  /** Notes that a step was submitted. */
  noteSubmitted(): void {
    this.#submitted++;
  }

  /** Waits for the device and returns the reports on the last `count` steps, oldest first. */
  async reports(count: number): Promise<StepReport[]> {
    const most = Math.min(this.#submitted, REPORT_ROWS);
    if (count > most) {
      throw new RangeError(
        `Cannot read the reports on the last steps as the device has at most ${most} of them: ` +
          `current number is ${count}`,
      );
    }
    const [values] = await download(this.#device, this.#reports);
    return Array.from({ length: count }, (_, i) => {
      const row = (this.#submitted - count + i) % REPORT_ROWS * REPORT_COLUMNS;
      const [loss, gradientNorm, lossScale] = new Float32Array(values!.buffer, 4 * row, 3);
      const [skipped, , consecutiveSkips, skippedSteps] = values!.subarray(row + 3);
      return {
        loss: loss!,
        gradientNorm: gradientNorm!,
        lossScale: lossScale!,
        skipped: skipped === 1,
        consecutiveSkips: consecutiveSkips!,
        skippedSteps: skippedSteps!,
      };
    });
  }

  /** Waits for the device and returns the state that the next step begins with. */
  async read(): Promise<StepState> {
    const [scale, counts] = await download(this.#device, this.lossScale, this.#counters);
    const [growthTracker, optimizerSteps, skippedSteps, consecutiveSkips] = counts!;
    return {
      lossScale: scale![0]!,
      growthTracker: growthTracker!,
      optimizerSteps: optimizerSteps!,
      skippedSteps: skippedSteps!,
      consecutiveSkips: consecutiveSkips!,
    };
  }

  /** Sets the state that the next step begins with. */
  restore(
    { lossScale, growthTracker, optimizerSteps, skippedSteps, consecutiveSkips }: StepState,
  ): void {
    upload(this.#device, this.lossScale, [lossScale]);
    const counts = [growthTracker, optimizerSteps, skippedSteps, consecutiveSkips];
    upload(this.#device, this.#counters, [...counts, this.#submitted]);
  }
}
