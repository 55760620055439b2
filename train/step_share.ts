import type { Batches } from "../data/tokens/batches.ts";
import { checkSameBits } from "../distributed/same_bits.ts";
import type { Transport } from "../distributed/transport.ts";
import type { Gpt } from "../model/gpt.ts";
import type { OuterStep } from "./diloco.ts";
import type { Rates } from "./schedule.ts";
import type { TrainStep } from "./step.ts";

/** Steps between checks that all ranks hold the same weights, which are read back for that. */
const STEPS_PER_CHECK = 100;

/** A step, with its learning rates. */
export interface AnnouncedStep extends Rates {
  readonly kind: "step";
  readonly step: number;
}

/** Where a training begins or is resumed. */
export interface Start {
  /** Steps already done. */
  readonly step: number;
  /** Micro-batches that these have used. */
  readonly batchIndex: number;
  /** Micro-batches of each rank in a step. */
  readonly gradientAccumulation: number;
  /** Steps between exchanges: above 1 each rank computes its own steps. */
  readonly syncEvery: number;
}

/** What a rank computes of each step. */
export class StepShare {
  readonly #transport: Transport;
  readonly #batches: Batches;
  /** Where the training began or was resumed. */
  readonly start: Start;
  /** Steps of the training up to the one that was submitted last. */
  #submitted: number;
  /** Multiples of `STEPS_PER_CHECK` among them up to the last comparison of weights. */
  #checks: number;

  constructor(transport: Transport, batches: Batches, start: Start) {
    this.#transport = transport;
    this.#batches = batches;
    this.start = start;
    this.#submitted = start.step;
    this.#checks = Math.floor(start.step / STEPS_PER_CHECK);
  }

  /** Micro-batches per step, those of all ranks. */
  get batchesPerStep(): number {
    return this.#transport.size * this.start.gradientAccumulation;
  }

  /** Micro-batches of all ranks before a step, also of those before a resume on another number of ranks. */
  batchesBefore(step: number): number {
    const { step: first, batchIndex } = this.start;
    return batchIndex + (step - first) * this.batchesPerStep;
  }

  /** Submits the rank's share of a step, which rank 0 has announced. @returns milliseconds, see `TrainStep.submit()`. */
  async submit(
    { gpt, trainStep }: { gpt: Gpt; trainStep: TrainStep },
    { kind: _, step, ...rates }: AnnouncedStep,
  ): Promise<number> {
    const transport = this.#transport, batches = this.#batches;
    const { gradientAccumulation: length, syncEvery } = this.start;
    const all = this.batchesBefore(step), first = all + transport.rank * length;
    const since = performance.now();
    const counted = syncEvery === 1
      ? batches.counted(all, this.batchesPerStep)
      : batches.counted(first, length);
    const countMs = performance.now() - since;
    const own = { length, at: (i: number) => batches.at(first + i) };
    const dataMs = await trainStep.submit(step, own, { ...rates, counted });
    this.#submitted = step + 1;
    if (syncEvery === 1) await this.#check(gpt);
    return countMs + dataMs;
  }

  /** Gives all ranks the same weights by DiLoCo, after the step that was submitted last. */
  async exchange({ gpt, outer }: { gpt: Gpt; outer: OuterStep }): Promise<void> {
    await outer.run();
    await this.#check(gpt);
  }

  /** Compares the weights of all ranks if there was a multiple of `STEPS_PER_CHECK` since they were compared. */
  async #check(gpt: Gpt): Promise<void> {
    const checks = Math.floor(this.#submitted / STEPS_PER_CHECK);
    if (this.#transport.size === 1 || checks === this.#checks) return;
    this.#checks = checks;
    await checkSameBits(this.#transport, gpt.device, gpt.parameters.flat);
  }
}
