import { type Batch, placesInOrder } from "../data/tokens/batch.ts";
import { type ExchangeMs, TensorSum } from "../distributed/tensor_sum.ts";
import { oneRank, type Transport } from "../distributed/transport.ts";
import type { WireType } from "../distributed/wire.ts";
import { UserError } from "../files/user_error.ts";
import type { Arena } from "../kernels/arena.ts";
import { gradientNorm, gradientNormBlocks } from "../kernels/gradient_norm/gradient_norm.ts";
import { prepareStep } from "../kernels/prepare_step/prepare_step.ts";
import { Program } from "../kernels/program.ts";
import { sumForward } from "../kernels/sum/sum.ts";
import {
  createTensor,
  download,
  type DType,
  size,
  type Tensor,
  upload,
} from "../kernels/tensor.ts";
import { type Activations, createActivations, type RecomputeMode } from "../model/activations.ts";
import { backward, forward } from "../model/forward_backward.ts";
import type { Gpt } from "../model/gpt.ts";
import { firstTrainedBlock } from "../model/parameters.ts";
import { finalGradients } from "./final_gradients.ts";
import {
  createOptimizer,
  createTrainedArena,
  type Optimizer,
  type OptimizerName,
  type OptimizerOptions,
  OPTIMIZERS,
} from "./optimizer.ts";
import { EARLIER_DEFAULTS } from "./options.ts";
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

/** Loss scale of the first step in f16, and applied steps in a row after which it doubles. */
const INITIAL_SCALE = 65536, GROWTH_INTERVAL = 2000;

/** The state before the first step, as torch.amp.GradScaler's; without f16 nothing needs scaling. */
function initialState(precision: Gpt["precision"]): StepState {
  return {
    lossScale: precision === "f16" ? INITIAL_SCALE : 1,
    growthTracker: 0,
    optimizerSteps: 0,
    skippedSteps: 0,
    consecutiveSkips: 0,
  };
}

/**
 * Whether a training can reach a state. Each skipped step halves the scale, which doubles at most once per
 * `GROWTH_INTERVAL` applied steps, up to the largest power of two in f32.
 */
export function isReachable(
  { lossScale, growthTracker, optimizerSteps, skippedSteps, consecutiveSkips }: StepState,
  precision: Gpt["precision"],
): boolean {
  const tracks = growthTracker < GROWTH_INTERVAL && growthTracker <= optimizerSteps &&
    (growthTracker === 0 || consecutiveSkips === 0);
  if (precision === "f32") return tracks && lossScale === 1;
  const doublings = Math.log2(lossScale / INITIAL_SCALE) + skippedSteps;
  return tracks && lossScale < 2 ** 128 && Number.isInteger(doublings) && doublings >= 0 &&
    doublings <= optimizerSteps / GROWTH_INTERVAL;
}

/** Reports that the device stores; a newer one overwrites the oldest. */
export const REPORT_ROWS = 256;
const REPORT_COLUMNS = 8;

/** The batches of a step: an array, or an object that makes them one by one. */
export interface StepBatches {
  /** Number of micro-batches. */
  readonly length: number;
  /** Micro-batch `index`, from 0. */
  at(index: number): Batch | undefined;
}

/** Groups of gradients that are exchanged, the first while the backward pass still computes the others. */
const GRADIENT_GROUPS = 8;

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
  /** Waits for the device and returns the reports on the last `count` steps, oldest first. */
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
 * @param given sizes, and what differs from the defaults; `transport` is that between the ranks of the training.
 * @throws {UserError} if an option is out of its range or no parameter is trained; {LimitError} if the step leaves the
 * device's limits.
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
  { transport = oneRank, ...given }:
    & Partial<StepOptions>
    & Pick<StepOptions, "batchSize" | "sequenceLength">
    & { transport?: Transport },
): TrainStep {
  const { device, config, precision } = model, options = { ...EARLIER_DEFAULTS, ...given };
  const { batchSize: B, sequenceLength: T, gradientAccumulation, dropout, labelSmoothing } =
    options;
  for (const name of STEP_OPTIONS) checkValue(name, options[name]);
  checkValue("contextLength", T, "--sequence-length");
  const M = B * T;
  if (!model.table.some(({ trained }) => trained)) {
    throw new UserError(
      "Cannot train as --freeze must leave something to train: it leaves nothing",
    );
  }
  const gradients = createTrainedArena(model, "gradients");
  const optimizer = createOptimizer(model, OPTIMIZERS[options.optimizer], options);
  const activations = createActivations(device, config, {
    batch: { batchSize: B, sequenceLength: T },
    precision,
    purpose: "training",
    firstLayer: firstTrainedBlock(model),
    hasDropout: dropout > 0,
    recompute: given.recompute ?? "none",
  });

  const owned: Tensor[] = [gradients.flat];
  const tensor = (name: string, shape: number[], dtype: DType) => {
    const created = createTensor(device, name, { shape, dtype });
    owned.push(created);
    return created;
  };
  const stepInputs = tensor("stepInputs", [3], "f32");
  const lossScale = tensor("lossScale", [1], "f32");
  const counters = tensor("counters", [5], "u32");
  const update = tensor("update", [5], "u32");
  const reports = tensor("reports", [REPORT_ROWS, REPORT_COLUMNS], "u32");
  const lossSums = tensor("lossSums", [gradientAccumulation], "f32");

  const program = new Program(device);
  const isApart = options.documents === "apart";
  const inputs = {
    tokens: tensor("tokens", [M], "u32"),
    targets: tensor("targets", [M], "u32"),
    order: tensor("order", [M], "u32"),
    positions: isApart ? tensor("positions", [M], "u32") : undefined,
    positionOrder: isApart && model.parameters.tensors.has("wpe.weight")
      ? tensor("positionOrder", [M], "u32")
      : undefined,
  };
  const inputBytes = 4 * M * Object.values(inputs).filter((input) => input).length;
  /** The positions of rows that hold one document each, which the tuner of kernels finds there, too. */
  const oneDocument = Uint32Array.from({ length: isApart ? M : 0 }, (_, m) => m % T);
  const uploadPositions = (positions: Uint32Array | undefined) => {
    if (inputs.positions) upload(device, inputs.positions, positions ?? oneDocument);
    else if (positions) {
      throw new RangeError(
        "Cannot submit a batch with positions as the step must keep documents apart: " +
          `current value is ${options.documents}`,
      );
    }
    if (!inputs.positionOrder) return;
    upload(device, inputs.positionOrder, placesInOrder(positions ?? oneDocument));
  };
  uploadPositions(undefined);
  const random = dropout > 0 ? tensor("random", [2], "u32") : undefined;
  const place = tensor("place", [1], "u32"); // of a micro-batch in the step
  const recordMicroBatch = ({ accumulate }: { accumulate: boolean }) => {
    const drop = random && { rate: dropout, random };
    forward(program, model, inputs, activations, { dropout: drop });
    backward(program, model, { ...inputs, stepInputs, lossScale }, activations, gradients, {
      dropout: drop,
      labelSmoothing,
      accumulate,
    });
    sumForward(program, { x: activations.at("losses"), place }, { y: lossSums });
  };
  recordMicroBatch({ accumulate: false }); // the first of a step
  const othersFrom = program.length;
  if (gradientAccumulation > 1) recordMicroBatch({ accumulate: true }); // each of the others
  const updateFrom = program.length;

  const blocks = gradientNormBlocks(device, size(gradients.flat.shape));
  const partials = tensor("gradient norm partials", [blocks, 2], "f32");
  gradientNorm(program, { gradient: gradients.flat, lossScale }, { partials });
  const scaled = precision === "f16";
  prepareStep(
    program,
    { partials, stepInputs, lossSums },
    { lossScale, counters, update, reports },
    {
      gradientClip: options.gradientClip || Infinity,
      growthFactor: scaled ? 2 : 1,
      backoffFactor: scaled ? 0.5 : 1,
      growthInterval: GROWTH_INTERVAL,
    },
  );
  optimizer.record(program, { gradients, update });

  const isExchanging = transport.size > 1 && options.syncEvery === 1;
  const isRounded = options.wire === "f16";
  // the launches of the last micro-batch, after each part of which some gradients are final
  const lastFrom = gradientAccumulation > 1 ? othersFrom : 0;
  const lastParts = isExchanging && !isRounded
    ? finalGradients(program, gradients, {
      from: lastFrom,
      to: updateFrom,
      groups: device.provider === "dawn" ? GRADIENT_GROUPS : 1, // natively a read-back waits for the whole device
    })
    : [{ to: updateFrom, parts: [] }];
  const groups = lastParts.map(({ parts }, i) =>
    i === lastParts.length - 1 ? [lossSums, ...parts] : parts
  );
  const exchange = isExchanging
    ? new TensorSum(
      device,
      transport,
      groups,
      isRounded ? { tensor: gradients.flat, scale: lossScale } : undefined,
    )
    : undefined;

  let submitted = 0; // rows of `reports` written so far
  let waitingBytes = 0; // uploaded since the device was last waited for
  const restore = (state: StepState) => {
    upload(device, lossScale, [state.lossScale]);
    upload(device, counters, [
      state.growthTracker,
      state.optimizerSteps,
      state.skippedSteps,
      state.consecutiveSkips,
      submitted,
    ]);
  };
  restore(initialState(precision));
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
    parts: { first: 0, others: othersFrom, update: updateFrom },
    lasting: [lossScale, counters, reports],
    bytes: activations.bytes + optimizer.bytes + program.scratchBytes +
      owned.reduce((sum, t) => sum + t.buffer.size, 0),
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
      upload(device, stepInputs, [learningRate, counted > 0 ? 1 / counted : 0, muonLearningRate]);
      // of this step's micro-batches, those of this rank begin here
      const first = (step * transport.size + transport.rank) * gradientAccumulation;
      let dataMs = 0;
      for (let i = 0; i < batches.length; i++) {
        const since = performance.now();
        const batch = batches.at(i)!;
        upload(device, inputs.tokens, batch.inputs);
        upload(device, inputs.targets, batch.targets);
        upload(device, inputs.order, batch.order);
        uploadPositions(batch.positions);
        if (random) upload(device, random, [options.seed, first + i]);
        upload(device, place, [i]);
        dataMs += performance.now() - since;
        const isLast = i === batches.length - 1;
        let from = i === 0 ? 0 : othersFrom;
        if (isLast && exchange) {
          for (const { to } of lastParts) {
            program.run({ from, to });
            exchange.read();
            from = to;
          }
        } else {
          // on one rank the last micro-batch and the update are submitted together
          program.run({ from, to: isLast ? program.length : i === 0 ? othersFrom : updateFrom });
        }
        waitingBytes += inputBytes;
        if (waitingBytes < MOST_WAITING_BYTES) continue;
        await device.gpu.queue.onSubmittedWorkDone();
        waitingBytes = 0;
      }
      if (exchange) {
        await exchange.run();
        waitingBytes = 0;
        program.run({ from: updateFrom, to: program.length });
      }
      submitted++;
      return dataMs;
    },
    async reports(count) {
      const [values] = await download(device, reports);
      waitingBytes = 0;
      return Array.from({ length: count }, (_, i) => {
        const row = (submitted - count + i) % REPORT_ROWS * REPORT_COLUMNS;
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
    },
    async state() {
      const [scale, counts] = await download(device, lossScale, counters);
      const [growthTracker, optimizerSteps, skippedSteps, consecutiveSkips] = counts!;
      return {
        lossScale: scale![0]!,
        growthTracker: growthTracker!,
        optimizerSteps: optimizerSteps!,
        skippedSteps: skippedSteps!,
        consecutiveSkips: consecutiveSkips!,
      };
    },
    restore,
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
