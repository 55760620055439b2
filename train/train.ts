import { join } from "node:path";
import { countAnswers } from "../data/tokens/token_dataset.ts";
import type { Corpus } from "../data/tokens/corpus.ts";
import type { HubOptions } from "../data/hub/hub.ts";
import { HubError } from "../data/hub/request.ts";
import { openTransport } from "../distributed/open_mpi.ts";
import { placementOf } from "../distributed/placement.ts";
import { checkSameCode } from "../distributed/same_code.ts";
import { dryTransport, type Transport } from "../distributed/transport.ts";
import { fillModel } from "../generate/source.ts";
import { type Device, DeviceError, openDevice } from "../kernels/device.ts";
import { size } from "../kernels/tensor.ts";
import { isAdapter } from "../model/files/lora.ts";
import { isSystemError } from "../files/disk.ts";
import { sentenceOf, UserError } from "../files/user_error.ts";
import { countParameters, parameterTable } from "../model/parameters.ts";
import { initializeParameters } from "../model/weights.ts";
import { chooseSize } from "./plan/choose_size.ts";
import { estimate, plannedSaves, timeSteps } from "./estimate.ts";
import { hasAborted, notice, notices, noticesOf, type TrainEvent } from "./events.ts";
import { findCheckpoint, isInRun } from "./find_checkpoint.ts";
import { checkGivenOnce, givenDocuments, type Texts } from "./given_documents.ts";
import { createHistograms } from "./histograms.ts";
import { costOf } from "./cost.ts";
import { METRICS_FILE, readMetrics } from "./record/metrics.ts";
import { DEFAULT_OPTIONS, tokensPerStepOf, type TrainOptions } from "./options.ts";
import type { Resumed, Run, Setup, Workplace } from "./run.ts";
import { finishSetup, makeSetup, openDeviceFor } from "./setup.ts";
import { fittingTo, notDownloaded, offline, openCorpus } from "./training_data.ts";
import { TrainingTime } from "./record/training_time.ts";
import {
  createEvaluation,
  createModel,
  createOuterStep,
  createStep,
  type RankTraining,
} from "./rank_training.ts";
import {
  announce,
  assign,
  describeDevices,
  devicesOf,
  follow,
  providerOf,
  withRank,
} from "./ranks.ts";
import { openRecord, type RunRecord } from "./record/record.ts";
import { PLAN_FILE } from "./plan/plan_file.ts";
import { noticesOfRanks } from "./rank_notices.ts";
import { checkRates } from "./resolve.ts";
import { checkRoom } from "./directory/retention.ts";
import {
  checkRunDirectory,
  moveAside,
  moveBack,
  openRunDirectory,
  type RunDirectory,
} from "./directory/run_directory.ts";
import { placeInRun } from "./directory/run_place.ts";
import { restore } from "./state.ts";
import { steps } from "./steps.ts";
import { recordTuned } from "./tuning.ts";
import { checkNames, validateOptions } from "./validate.ts";

export type { TrainEvent } from "./events.ts";

/**
 * Trains a model, or resumes its training, and reports what happens.
 *
 * The training stops when its consumer does. When `signal` aborts, the training finishes the step, saves a
 * checkpoint, and ends as `interrupted`; while data is being prepared or kernels are compiled, it throws the signal's
 * reason, and leaves the run as it was.
 *
 * @throws {UserError} if an option is unknown or out of range, or contradicts the checkpoint from which the run is resumed.
 * @throws {CheckpointError} if the run's checkpoints cannot be read or written.
 * @throws {DeviceError} if the device fails; the last checkpoint stays whole.
 *
 * @example Train the smallest model on the built-in stories
 * ```ts
 * import { train } from "../mod.ts";
 *
 * for await (const event of train({ preset: "nano", steps: 3, out: "runs/nano" })) {
 *   if (event.kind === "step") console.log(event.step, event.loss);
 * }
 * ```
 *
 * @example Train on texts of a program
 * ```ts
 * import { train } from "../mod.ts";
 *
 * const texts = Array.from({ length: 300 }, (_, i) => `${i} and ${i + 1} are ${2 * i + 1}.`);
 * const options = { preset: "nano", contextLength: 32, steps: 3, out: "runs/sums" } as const;
 * for await (const event of train({ texts, ...options })) {
 *   if (event.kind === "evaluation") console.log(event.step, event.loss);
 * }
 * ```
 */
export async function* train(
  {
    device: givenDevice,
    transport: givenTransport,
    signal,
    environment,
    texts,
    validationTexts,
    ...wanted
  }:
    & Partial<TrainOptions>
    & {
      device?: Device;
      /** The transport to the other ranks of the training, in place of the one that `distributed` finds. */
      transport?: Transport;
      signal?: AbortSignal;
      /** Documents to train on, all texts or all conversations, in place of `data`; they are held in memory. */
      texts?: Texts;
      /** Documents to validate with, in place of `validationData`; they are held in memory. */
      validationTexts?: Texts;
      /** Environment variables for access to the hub, instead of the process's; see `HubOptions`. */
      environment?: HubOptions["environment"];
    } = {},
): AsyncGenerator<TrainEvent> {
  const since = performance.now();
  using resources = new DisposableStack();
  const opened: Opened = { device: givenDevice };
  let rank = 0, reason = "its training was stopped";
  try {
    const { out = DEFAULT_OPTIONS.out, dryRun = false } = wanted;
    const { distributed = DEFAULT_OPTIONS.distributed, timeout = DEFAULT_OPTIONS.timeout } = wanted;
    const placement = givenTransport ?? (distributed === "off" ? undefined : placementOf());
    rank = placement?.rank ?? 0;
    if (dryRun && rank > 0) return; // rank 0 estimates for all
    const transport = opened.transport = dryRun
      ? dryTransport(placement?.size ?? 1)
      : givenTransport ?? openTransport(distributed, { timeout });
    const leave = async () => {
      if (!givenTransport) await transport.close();
      delete opened.transport;
    };
    if (rank === 0) { // which decides for all, and ends all
      checkNames(wanted);
      validateOptions(wanted);
      checkRates(wanted);
      checkGivenOnce({ ...wanted, texts, validationTexts });
    }
    if (!dryRun && transport.size > 1) await checkSameCode(transport);
    const documents = await givenDocuments("the given text", texts, signal);
    const validationDocuments = await givenDocuments(
      "the given validation text",
      validationTexts,
      signal,
    );
    const given = { out, transport, documents, validationDocuments };
    if (rank > 0) { // rank 0 reports for all
      const gpu = await providerOf(transport);
      const device = opened.device ??= resources.adopt(
        await openDevice({ gpu }),
        (device) => device.destroy(),
      );
      await follow(transport, { ...given, device, hub: environment ? { environment } : {} });
      return await leave();
    }
    const hub = dryRun ? { environment: offline(environment) } : environment ? { environment } : {};
    yield* lead({ ...given, signal, hub }, wanted, { since, resources, opened, leave });
  } catch (thrown) {
    const error = await causeOf(thrown, opened.device);
    opened.record?.noteError(error);
    if (error instanceof DeviceError) error.hint ??= DEVICE_HINTS[error.kind];
    if (error instanceof Error) reason = sentenceOf(error);
    if (rank > 0) throw withRank(rank, error);
    if (error instanceof HubError && wanted.dryRun) throw notDownloaded(error);
    throw error;
  } finally {
    opened.transport?.leave(reason);
  }
}

/** What a training has opened, for the case that it fails. */
interface Opened {
  device?: Device | undefined;
  record?: RunRecord;
  /** Until no other rank waits for this one. */
  transport?: Transport;
}

/** How long a training lives, and what ends with it. */
interface Lifetime {
  /** Time at which it began, see `performance.now()`. */
  readonly since: number;
  readonly resources: DisposableStack;
  readonly opened: Opened;
  /** Leaves the other ranks in peace: none of them waits for this one. */
  readonly leave: () => Promise<void>;
}

/** The training of rank 0, which decides, reports and saves for all. */
async function* lead(
  given: Omit<Workplace, "device" | "directory">,
  wanted: Partial<TrainOptions>,
  lifetime: Lifetime,
): AsyncGenerator<TrainEvent> {
  const { out, transport, hub, signal } = given, { resources, opened, since } = lifetime;
  const { dryRun = false } = wanted;
  if (dryRun) checkRunDirectory(out);
  const aside = wanted.fresh && !dryRun ? moveAside(out) : undefined;
  if (aside) resources.defer(() => moveBack(aside, out)); // unless something was saved in its place
  const directory = dryRun
    ? undefined
    : resources.adopt(openRunDirectory(out), (directory) => directory.close());
  // --fresh would move the checkpoints aside
  const checkpoint = dryRun && wanted.fresh
    ? undefined
    : yield* findCheckpoint({ out, hub, signal }, wanted);
  const device = opened.device ??= resources.adopt(
    yield* openDeviceFor(wanted, checkpoint),
    (device) => device.destroy(),
  );
  if (transport.size > 1) await providerOf(transport, device);
  const place = { ...given, device, directory };

  const chosen = yield* makeSetup(place, wanted, checkpoint);
  const corpus = resources.adopt(yield* openCorpus(place, chosen), (corpus) => corpus.close());
  const setup = yield* fittingTo(chosen, corpus);
  const { minutes } = setup.given, before = secondsBefore(setup);
  const seconds = () => (before || 0) + (performance.now() - since) / 1000;
  const secondsLeft = minutes === undefined ? undefined : () => 60 * minutes - seconds();
  const sized = yield* chooseSize(place, setup, corpus, secondsLeft);
  const run = yield* finishSetup(place, sized, corpus), { start } = run.share;

  const ours = checkpoint && isInRun(checkpoint.path, out) ? checkpoint : undefined;
  if (checkpoint && !ours && start.step > run.options.steps) {
    throw new UserError(
      `Cannot continue ${checkpoint.path} as --steps must be above its ${start.step}: ` +
        `current value is ${run.options.steps}`,
    );
  }
  if (aside) yield notice(`moved the old run to ${aside}`);
  yield* notices(...noticesOfRanks(run));
  if (transport.size > 1) yield notice(describeDevices(await devicesOf(transport, device)));
  yield startOf(run);
  if (directory) yield* noticesOf(directory);
  yield* notices(checkRoom(out, plannedSaves(run)));
  if (!directory) return yield* estimateRun(run);
  yield* trainModel({ ...run, directory }, {
    ...lifetime,
    secondsBefore: before,
    seconds,
    secondsLeft,
    ours,
    isGoingBack: wanted.resumeFrom !== undefined,
  });
}

/** Allocates the model and what trains it, and takes the steps. */
async function* trainModel(
  run: Run & { directory: RunDirectory },
  { resources, opened, leave, secondsBefore, seconds, secondsLeft, ours, isGoingBack }: Lifetime & {
    secondsBefore: number;
    seconds: () => number;
    secondsLeft: (() => number) | undefined;
    /** The checkpoint of this run from which it is resumed. */
    ours: Resumed | undefined;
    /** Whether the run may have later checkpoints than that. */
    isGoingBack: boolean;
  },
): AsyncGenerator<TrainEvent> {
  const { directory, options, transport, signal, resumed } = run, { start } = run.share;
  const gpt = resources.adopt(createModel(run), (gpt) => gpt.destroy());
  const trainStep = resources.use(yield* recordTuned(() => createStep(run, gpt), run));
  const histograms = options.histogramEvery > 0
    ? resources.use(createHistograms(gpt, trainStep))
    : undefined;
  const evaluator = resources.adopt(
    createEvaluation(run, gpt),
    (evaluator) => evaluator.destroy(),
  );
  if (await hasAborted(signal)) throw signal!.reason;

  if (isGoingBack) directory.moveLaterAside(start.step);
  const { tensorboard } = options;
  const record = opened.record = await openRecord(directory, start.step, { tensorboard });
  if (start.step <= options.steps) { // else there is nothing to do
    record.note([{
      kind: "start",
      step: start.step,
      ...(resumed && !ours ? { tokensBefore: tokensBefore(run), secondsBefore } : {}),
      ...costOf(run.config, run),
      device: run.device.name,
      memoryBytes: run.memory.total,
      options,
    }]);
  }
  if (run.plan) directory.write(PLAN_FILE, `${JSON.stringify(run.plan, null, 2)}\n`);
  yield* noticesOf(directory);
  const outer = resources.use(createOuterStep(run, { gpt, trainStep }));
  const training = { gpt, trainStep, outer };
  setParameters(run, training);
  if (transport.size > 1) await assign(run, training);
  outer?.start();
  let hasFailed = false;
  try {
    yield* steps({
      ...run,
      ...training,
      seconds,
      secondsLeft,
      record,
      ...(histograms ? { histograms } : {}),
      async evaluate() {
        await announce(transport, { kind: "evaluation" });
        return await evaluator.run({ signal });
      },
      bestLoss: ours?.state.bestValidationLoss ?? null,
      ...(ours ? { path: ours.path } : {}),
    });
  } catch (error) {
    hasFailed = true; // the others may be in the midst of a step
    throw error;
  } finally {
    if (!hasFailed) { // also if the consumer has stopped
      await announce(transport, { kind: "end" });
      await leave();
    }
  }
}

/**
 * Seconds that the steps of a training have taken before it is resumed, by the record of the run that has the
 * checkpoint, which may be another one; NaN if unknown.
 */
function secondsBefore({ resumed }: Setup): number {
  if (!resumed) return 0;
  const { path, state } = resumed, time = new TrainingTime(tokensPerStepOf(state.options));
  const place = placeInRun(path);
  try {
    for (const metric of place ? readMetrics(join(place.run, METRICS_FILE), () => {}) : []) {
      if (metric.step <= state.step) time.add(metric);
    }
  } catch (error) {
    if (!isSystemError(error)) throw error; // the record is missing, or cannot be read
  }
  return time.upTo(state.step);
}

/** Tokens of the steps of a training before it is resumed. */
function tokensBefore({ options, share }: Run): number {
  return share.start.batchIndex * options.batchSize * options.contextLength;
}

/** Reports what a training would need, and then how long it would take. */
async function* estimateRun(run: Run): AsyncGenerator<TrainEvent> {
  yield { kind: "estimate", ...estimate(run) };
  const steps = run.options.steps - run.share.start.step;
  if (steps <= 0 || run.signal?.aborted) return;
  using gpt = createModel(run);
  using trainStep = yield* recordTuned(() => createStep(run, gpt), run);
  const timed = await timeSteps(run, { gpt, trainStep });
  if (timed) yield { kind: "time", ...timed, steps, seconds: timed.secondsPerStep * steps };
}

/** The failure of the device, if an error follows from it: the calls of a lost device throw errors of WebGPU. */
async function causeOf(error: unknown, device: Device | undefined): Promise<unknown> {
  if (!(error instanceof DOMException)) return error;
  await new Promise((resolve) => setTimeout(resolve)); // an event reports a lost device
  try {
    device?.check();
    return error;
  } catch (failure) {
    return failure;
  }
}

/** What to do if the device fails during a training. */
const DEVICE_HINTS: Partial<Record<DeviceError["kind"], string>> = {
  memory: "Try --recompute block, or a smaller --batch-size, --context-length or --preset",
  lost: "The last checkpoint is whole: the same command resumes from it",
};

/** The event that begins a training. */
function startOf(
  { resumed, options, device, config, corpus, batches, share }: Run,
): TrainEvent {
  const trained = parameterTable(config, options.freeze).filter(({ trained }) => trained);
  return {
    kind: "start",
    ...(resumed ? { resumedFrom: share.start.step } : {}),
    steps: options.steps,
    epochs: batches.epochsBefore(share.batchesBefore(options.steps)),
    options,
    device: device.name,
    parameters: countParameters(config),
    trainedParameters: trained.reduce((sum, { shape }) => sum + size(shape), 0),
    corpus: describe(corpus),
  };
}

/** Loads model and optimizer from the checkpoint, or initializes the model. */
function setParameters({ resumed, initial, options }: Run, training: RankTraining): void {
  if (resumed) return restore(resumed, training, options);
  const { gpt } = training;
  const parameters = gpt.table.filter(({ name }) => !initial || isAdapter(name));
  const zeroProjections = options.zeroInit === "on";
  initializeParameters(gpt, { seed: options.seed, parameters, zeroProjections });
  if (initial) fillModel(gpt, initial);
}

/** The data of a training, for its first event. */
function describe(corpus: Corpus) {
  const { name, tokenizer, documents, training, validation } = corpus;
  const { cached, entropyPerToken } = corpus, answerTokens = countAnswers(training);
  return {
    name,
    vocabularySize: tokenizer.vocabularySize,
    documents,
    trainingTokens: training.length,
    validationTokens: validation.length,
    ownValidation: corpus.validationHash !== undefined,
    cached,
    ...(answerTokens === undefined ? {} : { answerTokens }),
    ...(entropyPerToken === undefined ? {} : { entropyPerToken }),
  };
}
