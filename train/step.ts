import type { Batch } from "../data/tokens/batch.ts";
import type { ExchangeMs } from "../distributed/tensor_sum.ts";
import { oneRank, type Transport } from "../distributed/transport.ts";
import type { WireType } from "../distributed/wire.ts";
import { UserError } from "../files/user_error.ts";
import type { Arena } from "../kernels/arena.ts";
import { dryDevice } from "../kernels/dry_device.ts";
import { Program } from "../kernels/program.ts";
import { sumForward } from "../kernels/sum/sum.ts";
import { createTensor, type Tensor } from "../kernels/tensor.ts";
import { type Activations, createActivations, type RecomputeMode } from "../model/activations.ts";
import { backward, forward } from "../model/forward_backward.ts";
import type { Gpt } from "../model/gpt.ts";
import { firstTrainedBlock } from "../model/parameters.ts";
import { GradientExchange } from "./gradient_exchange.ts";
import {
  createOptimizer,
  createTrainedArena,
  type Optimizer,
  type OptimizerName,
  type OptimizerOptions,
  OPTIMIZERS,
} from "./optimizer.ts";
import { EARLIER_DEFAULTS } from "./options.ts";
import { StepInputs } from "./step_inputs.ts";
import { DeviceState, type StepReport, type StepState } from "./step_state.ts";
import { checkValue } from "./validate.ts";

/** Options that are the same for all steps of a training. */
export interface StepOptions extends OptimizerOptions {
  /** B: sequences in one micro-batch. */
  readonly batchSize: number;
  /** T: tokens in a sequence. */
  readonly sequenceLength: number;
  /** Micro-batches whose gradients are added up before one update; 1 by default. */
  readonly gradientAccumulation: number;
  /** `apart`: batches may have `positions`, so that each document of a row sees only itself; `joined` by default. */
  readonly documents: "joined" | "apart";
  /** Share of activations dropped; 0 by default. */
  readonly dropout: number;
  /** Share of the target's probability spread over the vocabulary; 0 by default. */
  readonly labelSmoothing: number;
  /** What updates the parameters: `adamw` by default, or `muon`. */
  readonly optimizer: OptimizerName;
  /** Norm to which a larger gradient is clipped, 1 by default; 0 for no clipping. */
  readonly gradientClip: number;
  /** Seed of dropout; 1 by default. */
  readonly seed: number;
  /** Above 1, ranks do not exchange gradients: an `OuterStep` averages their weights. 1 by default. */
  readonly syncEvery: number;
  /** Type in which gradients travel between ranks; f32 by default. */
  readonly wire: WireType;
  /** What the backward pass computes again, which saves memory and changes no bit of the gradients; nothing by default. */
  readonly recompute: RecomputeMode;
}

/** Step options that are options of a training, too, and have their ranges. */
const STEP_OPTIONS = [
  "batchSize",
  "gradientAccumulation",
  "documents",
  "dropout",
  "labelSmoothing",
  "gradientClip",
  "seed",
  "syncEvery",
  "optimizer",
  "weightDecay",
  "beta1",
  "beta2",
  "muonMomentum",
  "muonWeightDecay",
] as const;

/** The batches of a step: an array, or an object that makes them one by one. */
export interface StepBatches {
  /** Number of micro-batches. */
  readonly length: number;
  /** Micro-batch `index`, from 0. */
  at(index: number): Batch | undefined;
}

/** Bytes of batches that are queued for the device, at most: they are in memory until it reads them. */
const MOST_WAITING_BYTES = 256 * 2 ** 20;

/** A recorded training step: gradients, optimizer, and the program that is replayed every step. */
export interface TrainStep extends Disposable {
  /** The optimizer, with its state. */
  readonly optimizer: Optimizer;
  /** Activations of the last micro-batch, and their gradients. */
  readonly activations: Activations;
  /** Gradients of the last step, with the loss scale. */
  readonly gradients: Arena;
  /**
   * The launches of a step: a micro-batch that sets the gradients; if there are several, another one that adds to
   * them; and the update. For the tuner and the benchmarks.
   */
  readonly program: Program;
  /**
   * What this rank has rounded away of its gradients and not sent yet, without the loss scale; undefined unless gradients
   * travel in f16.
   */
  readonly residual: Float32Array<ArrayBuffer> | undefined;
  /** What the sums over all ranks took since the last call of this; undefined on one rank. */
  takeExchangeMs(): ExchangeMs | undefined;
  /** Launches of `program` at which its parts begin, each of which may be empty but the first and the last. */
  readonly parts: { readonly first: number; readonly others: number; readonly update: number };
  /** Tensors beside the optimizer's whose values outlast a step. */
  readonly lasting: readonly Tensor[];
  /** Bytes on the device beside the model's parameters. */
  readonly bytes: number;
  /**
   * Submits one step. Waits for the device only if many bytes of batches are queued, and for gradients that ranks add up.
   *
   * @param step counts from 0 and decides, with the seed, what dropout drops.
   * @param batches the micro-batches; each is made when it is submitted.
   * @param options.learningRate AdamW's.
   * @param options.muonLearningRate Muon's; by default AdamW's.
   * @param options.counted number of targets in all batches whose gradients are added up, also those of other ranks,
   * without those that are ignored; by default, which those exclude, all batches are made to count them before the first
   * is submitted.
   * @returns milliseconds in which the batches were made and uploaded, without any wait for the device.
   */
  submit(
    step: number,
    batches: StepBatches,
    options: { learningRate: number; muonLearningRate?: number; counted?: number },
  ): Promise<number>;
  /**
   * Waits for the device and returns the reports on the last `count` steps, oldest first.
   *
   * @throws {RangeError} if fewer steps were submitted, or for more than the 256 reports that the device stores.
   */
  reports(count: number): Promise<StepReport[]>;
  /** Waits for the device and returns the state that the next step begins with. */
  state(): Promise<StepState>;
  /** Sets the state that the next step begins with, from a checkpoint. */
  restore(state: StepState): void;
  /** Frees everything but the model. */
  destroy(): void;
}

/**
 * Allocates what training needs and records the whole step as one program: forward and backward of a
 * micro-batch, then the gradient's norm, the decision to apply or skip the step, and the optimizer.
 * Micro-batches share their launches and inputs, so that thousands of them need no more memory than two.
 *
 * The loss scale enters in the backward pass of the cross-entropy and leaves in the optimizer. The device
 * decides whether a step is skipped, so that the host never waits for it.
 *
 * With a transport each rank submits its own micro-batches. Before the update the host adds up the gradients and losses of
 * all ranks, so that every rank holds the same bits and decides alike what is clipped or skipped: a value that is not
 * finite on one rank is in the sum of all. With `syncEvery` above 1 it does not: each rank clips, skips and scales by its
 * own gradients.
 *
 * @param options sizes, and what differs from the defaults; `transport` is that between the ranks of the training.
 * @throws {UserError} if an option is out of its range or no parameter is trained; {LimitError} if the step leaves the
 * device's limits. Nothing is allocated then.
 *
 * @example Train in a loop of one's own, with one's own data and learning rates
 * ```ts
 * import { batchOf, createGpt, createTrainStep, initializeParameters, openDevice } from "../mod.ts";
 *
 * const config = { vocabularySize: 64, contextLength: 16, width: 32, layers: 2, heads: 2 };
 * using gpt = createGpt(await openDevice(), config, { precision: "f32" });
 * initializeParameters(gpt, { seed: 1 });
 * using trainStep = createTrainStep(gpt, { batchSize: 8, sequenceLength: 16 });
 *
 * // rows of 17 numbers, each one more than the one before
 * const rows = Array.from({ length: 8 }, (_, b) => Array.from({ length: 17 }, (_, t) => b + t));
 * for (let step = 0; step < 20; step++) {
 *   const batch = batchOf(rows, { contextLength: 16, padding: 0 });
 *   await trainStep.submit(step, [batch], { learningRate: 3e-3 * (1 - step / 20) });
 * }
 * console.log(await trainStep.reports(20)); // waits for the device: losses, gradient norms
 * ```
 */
export function createTrainStep(
  model: Gpt,
  options:
    & Partial<StepOptions>
    & Pick<StepOptions, "batchSize" | "sequenceLength">
    & { transport?: Transport },
): TrainStep {
  // on a dry device first, which throws before anything is allocated, and finds the sizes of scratch tensors
  const dry = { ...model, device: dryDevice(model.device) };
  const { program } = recordStep(dry, { ...options, transport: oneRank });
  return recordStep(model, options, program);
}

/** Does what `createTrainStep()` says, with the scratch tensors of a program of the same launches if one is given. */
function recordStep(
  model: Gpt,
  { transport = oneRank, ...given }: Parameters<typeof createTrainStep>[1],
  planned?: Program,
): TrainStep {
  const { device, config, precision } = model;
  const options = { ...EARLIER_DEFAULTS, recompute: "none" as const, ...given };
  const { batchSize, sequenceLength, gradientAccumulation, dropout, labelSmoothing } = options;
  for (const name of STEP_OPTIONS) checkValue(name, options[name]);
  checkValue("contextLength", sequenceLength, "--sequence-length");
  if (!model.table.some(({ trained }) => trained)) {
    throw new UserError(
      "Cannot train as --freeze must leave something to train: it leaves nothing",
    );
  }
  const gradients = createTrainedArena(model, "gradients");
  const optimizer = createOptimizer(model, OPTIMIZERS[options.optimizer], options);
  const activations = createActivations(device, config, {
    batch: { batchSize, sequenceLength },
    precision,
    purpose: "training",
    firstLayer: firstTrainedBlock(model),
    hasDropout: dropout > 0,
    recompute: options.recompute,
  });
  const inputs = new StepInputs(model, options);
  const state = new DeviceState(device, { gradients: gradients.flat, precision });
  const lossSums = createTensor(device, "lossSums", {
    shape: [gradientAccumulation],
    dtype: "f32",
  });

  const { lossScale } = state;
  const recordMicroBatch = ({ accumulate }: { accumulate: boolean }) => {
    const { batch, step: stepInputs, dropout, place } = inputs;
    forward(program, model, batch, activations, { dropout });
    backward(program, model, { ...batch, stepInputs, lossScale }, activations, gradients, {
      dropout,
      labelSmoothing,
      accumulate,
    });
    sumForward(program, { x: activations.at("losses"), place }, { y: lossSums });
  };
  const program = new Program(device);
  if (planned) program.reserveScratch(planned);
  recordMicroBatch({ accumulate: false }); // the first of a step
  const others = program.length;
  if (gradientAccumulation > 1) recordMicroBatch({ accumulate: true }); // each of the others
  const update = program.length;
  const sums = { gradients: gradients.flat, lossSums, stepInputs: inputs.step };
  state.record(program, sums, options);
  optimizer.record(program, { gradients, update: state.update });

  const exchange = transport.size > 1 && options.syncEvery === 1
    ? new GradientExchange(transport, program, { gradients, lossSums, lossScale }, {
      wire: options.wire,
      from: gradientAccumulation > 1 ? others : 0,
      to: update,
    })
    : undefined;

  const owned = [gradients.flat, lossSums, ...inputs.tensors, ...state.tensors];
  let waitingBytes = 0; // uploaded since the device was last waited for
  const destroy = () => {
    for (const owner of [program, activations, optimizer, exchange]) owner?.[Symbol.dispose]();
    for (const { buffer } of owned) buffer.destroy();
  };
  return {
    optimizer,
    activations,
    gradients,
    program,
    residual: exchange?.residual,
    takeExchangeMs: () => exchange?.takeMs(),
    parts: { first: 0, others, update },
    lasting: state.lasting,
    bytes: activations.bytes + optimizer.bytes + program.scratchBytes +
      owned.reduce((sum, { buffer }) => sum + buffer.size, 0),
    async submit(
      step,
      batches,
      {
        learningRate,
        muonLearningRate = learningRate,
        counted = exchange ? undefined : countedOf(batches),
      },
    ) {
      if (batches.length !== gradientAccumulation) {
        throw new RangeError(
          `Cannot submit a step as it must have ${gradientAccumulation} micro-batches: ` +
            `current number is ${batches.length}`,
        );
      }
      if (counted === undefined) {
        throw new RangeError(
          `Cannot submit a step of ${transport.size} ranks as counted must be given, the targets of all: ` +
            "current value is undefined",
        );
      }
      const compiling = program.compiling();
      if (compiling) await compiling;
      inputs.uploadStep({ learningRate, muonLearningRate, counted });
      // of this step's micro-batches, those of this rank begin here
      const first = (step * transport.size + transport.rank) * gradientAccumulation;
      let dataMs = 0;
      for (let i = 0; i < batches.length; i++) {
        const since = performance.now(), isLast = i === batches.length - 1;
        inputs.uploadBatch(batches.at(i)!, { place: i, number: first + i });
        dataMs += performance.now() - since;
        if (isLast && exchange) exchange.submit();
        else if (i === 0) program.run({ from: 0, to: isLast ? program.length : others });
        else program.run({ from: others, to: isLast ? program.length : update });
        waitingBytes += inputs.batchBytes;
        if (waitingBytes < MOST_WAITING_BYTES) continue;
        await device.gpu.queue.onSubmittedWorkDone();
        waitingBytes = 0;
      }
      if (exchange) {
        await exchange.run();
        waitingBytes = 0;
        program.run({ from: update, to: program.length });
      }
      state.noteSubmitted();
      return dataMs;
    },
    reports(count) {
      waitingBytes = 0;
      return state.reports(count);
    },
    state: () => state.read(),
    restore: (saved) => state.restore(saved),
    destroy,
    [Symbol.dispose]: destroy,
  };
}

/** Number of targets in all micro-batches, without those that are ignored. */
function countedOf(batches: StepBatches): number {
  let counted = 0;
  for (let i = 0; i < batches.length; i++) counted += batches.at(i)!.counted;
  return counted;
}
