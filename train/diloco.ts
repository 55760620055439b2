import { type ExchangeMs, TensorSum } from "../distributed/tensor_sum.ts";
import type { Transport } from "../distributed/transport.ts";
import type { WireType } from "../distributed/wire.ts";
import { outerGradient, outerStep } from "../kernels/outer_step/outer_step.ts";
import { Program } from "../kernels/program.ts";
import { type Tensor, tensorBytes, viewTensor } from "../kernels/tensor.ts";
import type { Gpt } from "../model/gpt.ts";
import { createTrainedArena, rangeOf, trainedSpans } from "./optimizer.ts";
import { OUTER_DEFAULTS } from "./options.ts";
import type { TrainStep } from "./step.ts";

/**
 * DiLoCo, training for slow networks (Douillard et al. 2023, https://arxiv.org/abs/2311.08105): each rank trains on its
 * own for some steps, the inner steps, with its own batches and its own optimizer. Then the ranks average how far their
 * weights have moved, and an outer optimizer takes this average as its gradient.
 *
 * @module
 */

/** Settings of an outer step. */
export interface OuterStepOptions {
  /** Learning rate of the outer optimizer; 0.7 by default, the best of the paper. */
  readonly outerLearningRate?: number | undefined;
  /** Its Nesterov momentum; 0.9 by default, the best of the paper. */
  readonly outerMomentum?: number | undefined;
  /** Type in which differences of weights travel between ranks; f32 by default. */
  readonly wire?: WireType | undefined;
}

/**
 * The outer step: SGD with Nesterov momentum, on the device. It keeps 8 bytes there per trained parameter: the weights
 * after the last exchange, and the momentum. Gradients keep their values, which histograms count after an exchange.
 *
 * @example Train in a loop of one's own, and exchange weights after every five steps
 * ```ts
 * import { batchOf, createGpt, createTrainStep, initializeParameters, openDevice } from "../mod.ts";
 * import { openTransport, OuterStep } from "../mod.ts";
 *
 * const transport = openTransport("off"); // "auto" joins the other ranks under mpirun
 * const config = { vocabularySize: 64, contextLength: 16, width: 32, layers: 2, heads: 2 };
 * using gpt = createGpt(await openDevice(), config, { precision: "f32" });
 * initializeParameters(gpt, { seed: 1 });
 * const sizes = { batchSize: 8, sequenceLength: 16 };
 * using trainStep = createTrainStep(gpt, { ...sizes, transport, syncEvery: 5 });
 * using outer = new OuterStep(transport, { gpt, trainStep });
 * outer.start();
 *
 * // rows of 17 numbers, each one more than the one before, other ones on each rank
 * const rows = Array.from(
 *   { length: 8 },
 *   (_, b) => Array.from({ length: 17 }, (_, t) => 8 * transport.rank + b + t),
 * );
 * for (let step = 0; step < 20; step++) {
 *   const batch = batchOf(rows, { contextLength: 16, padding: 0 });
 *   await trainStep.submit(step, [batch], { learningRate: 3e-3 });
 *   if ((step + 1) % 5 === 0) await outer.run();
 * }
 * console.log(await trainStep.reports(20)); // of this rank
 * ```
 */
export class OuterStep implements Disposable {
  readonly #gpt: Gpt;
  /** The trained parameters: the first of the model's arena, in the layout of the gradients. */
  readonly #weights: Tensor;
  /** Their values after the last exchange, the same on every rank. */
  readonly #start: Tensor;
  /** f32 [N]: the momentum of the outer optimizer, in the layout of the gradients; the same on every rank. */
  readonly momentum: Tensor;
  /** What this rank has rounded away of outer gradients, and not sent yet; undefined unless they travel in f16. */
  readonly residual: Float32Array<ArrayBuffer> | undefined;
  /** Adds up the outer gradients of all ranks; undefined on one rank. */
  readonly #sum: TensorSum | undefined;
  /** The launches of an exchange: before the sum, and from `#stepFrom` on after it. */
  readonly #program: Program;
  readonly #stepFrom: number;

  /**
   * Allocates weights and momentum on the device.
   *
   * @param model.trainStep its steps, of `syncEvery` above 1; weights and momentum have the layout of its gradients.
   */
  constructor(
    transport: Transport,
    { gpt, trainStep: { gradients } }: { gpt: Gpt; trainStep: Pick<TrainStep, "gradients"> },
    {
      outerLearningRate = OUTER_DEFAULTS.outerLearningRate,
      outerMomentum = OUTER_DEFAULTS.outerMomentum,
      wire = "f32",
    }: OuterStepOptions = {},
  ) {
    const { device, parameters, copies } = gpt, { shape } = gradients.flat;
    this.#gpt = gpt;
    const start = createTrainedArena(gpt, "weights of the last exchange");
    const momentum = createTrainedArena(gpt, "outer momentum");
    this.#start = start.flat;
    this.momentum = momentum.flat;
    // trained parameters come first in the table
    const weights = viewTensor(parameters.flat, { offset: 0, shape });
    this.#weights = weights;
    if (transport.size > 1) {
      this.#sum = wire === "f16"
        ? new TensorSum(device, transport, [[]], { tensor: weights })
        : new TensorSum(device, transport, [[weights]]);
    }
    this.residual = this.#sum?.residual;
    this.#program = new Program(device);
    outerGradient(this.#program, { start: start.flat }, { weights });
    this.#stepFrom = this.#program.length;
    for (const span of trainedSpans(gpt)) {
      outerStep(this.#program, {
        weights: rangeOf(parameters, span),
        start: rangeOf(start, span),
        momentum: rangeOf(momentum, span),
        copy: copies && span[0].decayed ? rangeOf(copies, span) : undefined,
      }, { ranks: transport.size, outerLearningRate, outerMomentum });
    }
  }

  /** Notes the weights from which the ranks start, which are the same on every rank. Does not wait for the device. */
  start(): void {
    const { gpu } = this.#gpt.device, from = this.#weights, to = this.#start;
    const encoder = gpu.createCommandEncoder();
    encoder.copyBufferToBuffer(from.buffer, from.offsetBytes, to.buffer, 0, tensorBytes(to));
    gpu.queue.submit([encoder.finish()]);
  }

  /**
   * Averages over all ranks how far the weights have moved, and gives every rank the weights of the outer step. Several
   * ranks wait for their devices and for the slowest rank. If it throws, the weights are lost: in their place is how far
   * they have moved.
   *
   * @throws {DeviceError} if the device has failed.
   */
  async run(): Promise<void> {
    const compiling = this.#program.compiling();
    if (compiling) await compiling;
    this.#program.run({ to: this.#stepFrom });
    await this.#sum?.run();
    this.#program.run({ from: this.#stepFrom });
  }

  /** What the sums over all ranks took since the last call of this; undefined on one rank. */
  takeMs(): ExchangeMs | undefined {
    return this.#sum?.takeMs();
  }

  /** Frees all of it. */
  [Symbol.dispose](): void {
    this.#program.destroy();
    this.#sum?.[Symbol.dispose]();
    for (const { buffer } of [this.#start, this.momentum]) buffer.destroy();
  }
}
