import { type Batch, placesInOrder } from "../data/tokens/batch.ts";
import type { Device } from "../kernels/device.ts";
import type { Dropout } from "../kernels/random.ts";
import { createTensor, type DType, type Tensor, tensorBytes, upload } from "../kernels/tensor.ts";
import type { Gpt } from "../model/gpt.ts";

/** What decides the inputs of a step. */
interface StepInputsOptions {
  readonly batchSize: number;
  readonly sequenceLength: number;
  readonly documents: "joined" | "apart";
  /** Share of activations dropped. */
  readonly dropout: number;
  /** Seed of dropout. */
  readonly seed: number;
}

/** What the host writes before the launches of a step: its rates, and one micro-batch after the other. */
export class StepInputs {
  /** The tensors of a micro-batch, as `ForwardInputs` and `BackwardInputs` have them. */
  readonly batch: {
    readonly tokens: Tensor;
    readonly targets: Tensor;
    readonly order: Tensor;
    readonly positions: Tensor | undefined;
    readonly positionOrder: Tensor | undefined;
  };
  /** f32 [3]: the `stepInputs` of `prepareStep()`. */
  readonly step: Tensor;
  /** Dropout without its sites; undefined if nothing is dropped. */
  readonly dropout: Omit<Dropout, "site"> | undefined;
  /** u32 [1]: the place of the micro-batch in its step. */
  readonly place: Tensor;
  /** All its tensors. */
  readonly tensors: readonly Tensor[];
  /** Bytes that are uploaded per micro-batch. */
  readonly batchBytes: number;
  readonly #device: Device;
  readonly #seed: number;
  /** The positions of rows that hold one document each; the tuner of kernels finds them there, too. */
  readonly #oneDocument: Uint32Array;

  /** Allocates the tensors. */
  constructor(
    { device, parameters }: Gpt,
    { batchSize, sequenceLength: T, documents, dropout, seed }: StepInputsOptions,
  ) {
    const M = batchSize * T, tensors: Tensor[] = [], isApart = documents === "apart";
    const learnsPositions = parameters.tensors.has("wpe.weight");
    const tensor = (name: string, length: number, dtype: DType = "u32") => {
      const created = createTensor(device, name, { shape: [length], dtype });
      tensors.push(created);
      return created;
    };
    this.#device = device;
    this.#seed = seed;
    this.batch = {
      tokens: tensor("tokens", M),
      targets: tensor("targets", M),
      order: tensor("order", M),
      positions: isApart ? tensor("positions", M) : undefined,
      positionOrder: isApart && learnsPositions ? tensor("positionOrder", M) : undefined,
    };
    this.batchBytes = tensors.reduce((sum, tensor) => sum + tensorBytes(tensor), 0);
    this.step = tensor("stepInputs", 3, "f32");
    this.dropout = dropout > 0 ? { rate: dropout, random: tensor("random", 2) } : undefined;
    this.place = tensor("place", 1);
    this.tensors = tensors;
    this.#oneDocument = Uint32Array.from({ length: isApart ? M : 0 }, (_, m) => m % T);
    this.#uploadPositions(undefined);
  }

  /** Writes the rates of a step, and the number of targets over which its loss is a mean. */
  uploadStep(
    { learningRate, muonLearningRate, counted }: {
      learningRate: number;
      muonLearningRate: number;
      counted: number;
    },
  ): void {
    const values = [learningRate, counted > 0 ? 1 / counted : 0, muonLearningRate];
    upload(this.#device, this.step, values);
  }

  /**
   * Writes a micro-batch.
   *
   * @param options.place its place in the step.
   * @param options.number its number among those of the training, also of other ranks, which decides what dropout drops.
   */
  uploadBatch(batch: Batch, { place, number }: { place: number; number: number }): void {
    const { tokens, targets, order } = this.batch;
    upload(this.#device, tokens, batch.inputs);
    upload(this.#device, targets, batch.targets);
    upload(this.#device, order, batch.order);
    this.#uploadPositions(batch.positions);
    if (this.dropout) upload(this.#device, this.dropout.random, [this.#seed, number]);
    upload(this.#device, this.place, [place]);
  }

  #uploadPositions(given: Uint32Array | undefined): void {
    const { positions, positionOrder } = this.batch, values = given ?? this.#oneDocument;
    if (positions) upload(this.#device, positions, values);
    else if (given) {
      throw new RangeError(
        "Cannot submit a batch with positions as the step must keep documents apart: " +
          "current value is joined",
      );
    }
    if (positionOrder) upload(this.#device, positionOrder, placesInOrder(values));
  }
}
