import { checkSameValues } from "../distributed/same_bits.ts";
import type { ExchangeMs } from "../distributed/tensor_sum.ts";
import type { Transport } from "../distributed/transport.ts";
import { F16Wire, type WireType } from "../distributed/wire.ts";
import { elementOffset } from "../kernels/arena.ts";
import { download, size, type Tensor, upload } from "../kernels/tensor.ts";
import type { Gpt } from "../model/gpt.ts";
import { trainedParts } from "./optimizer.ts";
import type { TrainStep } from "./step.ts";

/**
 * DiLoCo, training for slow networks (Douillard et al. 2023, https://arxiv.org/abs/2311.08105): each rank trains on its
 * own for some steps, the inner steps, with its own batches and its own optimizer. Then the ranks average how far their
 * weights have moved, and an outer optimizer takes this average as its gradient.
 *
 * @module
 */

/** Settings of an outer step. */
export interface OuterOptions {
  /** Learning rate of the outer optimizer; 0.7 by default, the best of the paper. */
  readonly outerLearningRate?: number | undefined;
  /** Its Nesterov momentum; 0.9 by default, the best of the paper. */
  readonly outerMomentum?: number | undefined;
  /** Type in which differences of weights travel between ranks; f32 by default. */
  readonly wire?: WireType | undefined;
}

/**
 * The outer step: SGD with Nesterov momentum. It is arithmetic on the host, where MPI needs the differences anyway. On the device it would take 8
 * bytes of memory per parameter, for weights and momentum, to save one second per exchange of 124 M parameters, and ranks
 * whose devices round differently would get different weights.
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
 * const outer = new OuterStep(transport, { gpt, trainStep });
 * await outer.start();
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
export class OuterStep {
  readonly #gpt: Gpt;
  readonly #transport: Transport;
  /** The trained parameters on the device. */
  readonly #parts: readonly Tensor[];
  /** The trained parameters after the last exchange, in the layout of the gradients; the same on every rank. */
  readonly #weights: Float32Array<ArrayBuffer>;
  /** Those that have an f16 copy. */
  readonly #copies: readonly { copy: Tensor; values: Float32Array }[];
  /** Momentum of the outer optimizer, in the layout of the gradients; the same on every rank. */
  readonly momentum: Float32Array<ArrayBuffer>;
  /** What this rank has rounded away of differences, and not sent yet; undefined unless they travel in f16. */
  readonly residual: Float32Array<ArrayBuffer> | undefined;
  readonly #wire: F16Wire | undefined;
  readonly #learningRate: number;
  readonly #momentumDecay: number;
  #ms: ExchangeMs = { wait: 0, download: 0, sum: 0, upload: 0 };

  /**
   * Allocates weights and momentum on the host.
   *
   * @param model.trainStep its steps, of `syncEvery` above 1; weights and momentum have the layout of its gradients.
   */
  constructor(
    transport: Transport,
    { gpt, trainStep: { gradients } }: { gpt: Gpt; trainStep: Pick<TrainStep, "gradients"> },
    { outerLearningRate = 0.7, outerMomentum = 0.9, wire = "f32" }: OuterOptions = {},
  ) {
    this.#learningRate = outerLearningRate;
    this.#momentumDecay = outerMomentum;
    this.#gpt = gpt;
    this.#transport = transport;
    this.#parts = trainedParts(gpt);
    this.#weights = new Float32Array(size(gradients.flat.shape));
    this.momentum = new Float32Array(this.#weights.length);
    if (wire === "f16" && transport.size > 1) this.#wire = new F16Wire(this.#weights.length);
    this.residual = this.#wire?.residual;
    this.#copies = [...gpt.copies?.tensors ?? []]
      .filter(([name]) => gradients.tensors.has(name))
      .map(([name, copy]) => {
        const start = elementOffset(gradients, name);
        return { copy, values: this.#weights.subarray(start, start + size(copy.shape)) };
      });
  }

  /** Notes the weights from which the ranks start, which are the same on every rank. */
  async start(): Promise<void> {
    this.#weights.set(await this.#download());
  }

  /**
   * Averages over all ranks how far the weights have moved, and gives every rank the weights of the outer step. Waits for
   * the device and for the slowest rank.
   *
   * @throws {DeviceError} if the device has failed; {Error} if ranks get different weights, naming them.
   */
  async run(): Promise<void> {
    const weights = this.#weights, momentum = this.momentum, { size } = this.#transport;
    const learningRate = this.#learningRate, decay = this.#momentumDecay;
    let since = performance.now();
    const lap = (part: keyof ExchangeMs) => {
      const now = performance.now();
      this.#ms[part] += now - since;
      since = now;
    };
    const moved = await this.#download();
    for (let i = 0; i < moved.length; i++) moved[i] = weights[i]! - moved[i]!;
    lap("wait");
    if (this.#wire) await this.#wire.sum(this.#transport, [moved]);
    else await this.#transport.sum(moved);
    lap("sum");
    for (let i = 0; i < moved.length; i++) { // as torch.optim.SGD(nesterov=True)
      const gradient = moved[i]! / size;
      momentum[i] = decay * momentum[i]! + gradient;
      weights[i] = weights[i]! - learningRate * (gradient + decay * momentum[i]!);
    }
    await checkSameValues(this.#transport, "parameters", weights);
    this.#upload();
    lap("upload");
  }

  /** What `run()` took since the last call of this; undefined on one rank. */
  takeMs(): ExchangeMs | undefined {
    const ms = this.#ms;
    this.#ms = { wait: 0, download: 0, sum: 0, upload: 0 };
    return this.#transport.size > 1 ? ms : undefined;
  }

  /** The trained parameters of this rank. */
  async #download(): Promise<Float32Array<ArrayBuffer>> {
    const parts = await download(this.#gpt.device, ...this.#parts) as Float32Array<ArrayBuffer>[];
    if (parts.length === 1) return parts[0]!;
    const all = new Float32Array(this.#weights.length);
    let start = 0;
    for (const part of parts) {
      all.set(part, start);
      start += part.length;
    }
    return all;
  }

  #upload(): void {
    const { device } = this.#gpt;
    let start = 0;
    for (const part of this.#parts) {
      const end = start + size(part.shape);
      upload(device, part, this.#weights.subarray(start, end));
      start = end;
    }
    for (const { copy, values } of this.#copies) upload(device, copy, values);
  }
}
