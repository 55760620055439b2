import { dirname, join, resolve } from "node:path";
import { DataError } from "../data/text/data_error.ts";
import { Batches } from "../data/tokens/batches.ts";
import { type Corpus, loadCorpus } from "../data/tokens/corpus.ts";
import type { HubOptions } from "../data/hub/hub.ts";
import { loadTokenizer } from "../data/tokenizer/load.ts";
import type { Tokenizer } from "../data/tokenizer/tokenizer.ts";
import { misfitsOf } from "../data/tokens/vocabulary_fit.ts";
import { KEPT_BASE } from "../generate/base.ts";
import {
  fillModel,
  findModel,
  hashModel,
  MODEL_NAMES,
  modelPaths,
  type ModelSource,
} from "../generate/source.ts";
import { type Device, DeviceError, openDevice } from "../kernels/device.ts";
import { size } from "../kernels/tensor.ts";
import { newestCheckpoint, type TrainerState } from "../model/files/checkpoint.ts";
import { type GptConfig, type LoraConfig, type PresetName, PRESETS } from "../model/config.ts";
import { createGpt, type Gpt } from "../model/gpt.ts";
import { defaultTargets, isAdapter } from "../model/files/lora.ts";
import { countParameters, parameterTable } from "../model/parameters.ts";
import { type Precision, resolvePrecision } from "../model/precision.ts";
import { initializeParameters } from "../model/weights.ts";
import { taskCommand } from "../files/command_line.ts";
import { UserError } from "../files/user_error.ts";
import { noteAdapters } from "./base.ts";
import { moveAside, openRunDirectory, type RunDirectory } from "./checkpoint.ts";
import { createEvaluator } from "./evaluate.ts";
import { type Callbacks, noticesOf, reporting, type TrainEvent } from "./events.ts";
import { checkTraining } from "./limits.ts";
import { startMetric } from "./metrics.ts";
import { openRecord } from "./record.ts";
import { DEFAULT_OPTIONS, type ResolvedOptions, type TrainOptions } from "./options.ts";
import {
  batchShapeOf,
  checkRates,
  fineTuningDefaults,
  NAME_THE_TEXT,
  presetDefaults,
  resolveOptions,
  resumeOptions,
  type TrainingDefaults,
  typedNames,
} from "./resolve.ts";
import { checkpointBytes, checkState, readCheckpoint, restore, type Resumed } from "./state.ts";
import { createTrainStep, type TrainStep } from "./step.ts";
import { learningRateAt, type Schedule } from "./schedule.ts";
import { steps } from "./steps.ts";
import { findRenamed, wholeSpec } from "./renamed.ts";
import { recordTuned, tuningFileIn } from "./tuning.ts";
import { validateOptions } from "./validate.ts";

export type { TrainEvent } from "./events.ts";

/**
 * Trains a model, or resumes its training, and reports what happens.
 *
 * The generator does the work as it is consumed: stop consuming and the training stops. When `signal`
 * aborts, the step under way is finished, a checkpoint saved, and the training ends as `interrupted`;
 * while data is still being prepared, the signal's reason is thrown, and the next call resumes there.
 *
 * @throws {UserError} if an option is out of range or contradicts the checkpoint that is resumed.
 * @throws {CheckpointError} if the run's checkpoints cannot be read or written.
 * @throws {DeviceError} if the device fails; the last checkpoint stays as it was.
 *
 * @example Train the smallest model on the built-in stories
 * ```ts
 * import { train } from "../mod.ts";
 *
 * for await (const event of train({ preset: "nano", steps: 3, out: "runs/nano" })) {
 *   if (event.kind === "step") console.log(event.step, event.loss);
 * }
 * ```
 */
export async function* train(
  { device: given, signal, environment, ...wanted }: Partial<TrainOptions> & {
    device?: Device;
    signal?: AbortSignal;
    /** Environment variables for access to the hub, instead of the process's; see `HubOptions`. */
    environment?: HubOptions["environment"];
  } = {},
): AsyncGenerator<TrainEvent> {
  validateOptions(wanted);
  checkRates(wanted);
  const out = wanted.out ?? DEFAULT_OPTIONS.out;
  using resources = new DisposableStack();
  try {
    const device = given ?? resources.adopt(await openDevice(), (device) => device.destroy());
    if (wanted.fresh) {
      const aside = moveAside(out);
      if (aside) yield { kind: "notice", message: `moved the old run to ${aside}` };
    }
    const directory = resources.adopt(openRunDirectory(out), (directory) => directory.close());
    const place: Place = { device, directory, signal, hub: environment ? { environment } : {} };

    const resumed = yield* findCheckpoint(place, wanted);
    const plan = yield* makePlan(place, wanted, resumed);
    const corpus = resources.adopt(yield* openCorpus(place, plan), (corpus) => corpus.close());
    const run = yield* settle(place, plan, corpus);
    yield startOf(run);
    checkRoom(run);
    const record = await openRecord(directory, run.first);
    record.note([startMetric(run.config, run.first)]);
    yield* noticesOf(directory);

    const { options, config } = run;
    const gpt = createGpt(device, config, {
      precision: options.precision,
      freeze: options.freeze ?? "",
    });
    resources.defer(() => gpt.destroy());
    const trainStep = resources.adopt(
      yield* recordStep(run, gpt),
      (trainStep) => trainStep.destroy(),
    );
    const evaluator = createEvaluator(gpt, corpus.tokenizer, corpus.validation, {
      batchSize: options.batchSize,
      sequenceLength: options.contextLength,
      maxTokens: options.evalTokens || Infinity,
    });
    resources.defer(() => evaluator.destroy());
    setParameters(run, gpt, trainStep);
    yield* steps({
      ...run,
      run: directory,
      record,
      gpt,
      trainStep,
      evaluate: () => evaluator.run({ signal }),
      bestLoss: resumed?.state.bestValidationLoss ?? null,
      ...(resumed ? { path: resumed.path } : {}),
    });
  } catch (error) {
    if (error instanceof DeviceError) error.hint ??= DEVICE_HINTS[error.kind];
    throw error;
  }
}

/** What to do if the device fails during a training. */
const DEVICE_HINTS: Partial<Record<DeviceError["kind"], string>> = {
  memory: "Try a smaller --batch-size, --context-length or --preset",
  lost: "The last checkpoint is whole: the same command resumes from it",
};

/** The device and directory of a training, and the signal that ends it early. */
interface Place {
  readonly device: Device;
  readonly directory: RunDirectory;
  readonly signal: AbortSignal | undefined;
  readonly hub: Pick<HubOptions, "environment">;
}

/** The choices of a training that are made before its data is read. */
interface Plan {
  /** The options given now, and for all others those of the checkpoint, if there is one, or the defaults. */
  readonly given: TrainOptions;
  /** Names of the options that were typed, now or before. */
  readonly typed: readonly string[];
  /** The checkpoint of this run that it resumes from. */
  readonly resumed: Resumed | undefined;
  /** Whether the options name its data differently than the checkpoint does. */
  readonly hasNewData: boolean;
  /** The model that a new run starts from, if it does not start from random parameters. */
  readonly initial: ModelSource | undefined;
  /** The configuration of the resumed or initial model, with the adapters that are trained. */
  readonly config: GptConfig | undefined;
  readonly preset: PresetName | "auto";
  readonly precision: Precision;
  readonly defaults: TrainingDefaults;
}

/** A training with every choice made. */
interface Run extends Place, Plan {
  readonly corpus: Corpus;
  readonly batches: Batches;
  readonly options: ResolvedOptions;
  readonly config: GptConfig;
  /** The model that the run began with, as its checkpoints name it. */
  readonly source: TrainerState["source"] | undefined;
  /** Steps already done. */
  readonly first: number;
}

/** Reads the newest whole checkpoint of the run, if it has one. */
async function* findCheckpoint(
  { directory, hub, signal }: Place,
  { base, initFrom }: Partial<TrainOptions>,
): AsyncGenerator<TrainEvent, Resumed | undefined> {
  const warnings: string[] = [];
  const path = newestCheckpoint(directory.path, (sentence) => warnings.push(sentence), checkState);
  for (const message of warnings) yield { kind: "notice", message };
  if (path === undefined) return undefined;
  const likely = initFrom === undefined ? [] : [initFrom];
  return yield* reporting(
    (callbacks) => readCheckpoint(path, { ...hub, ...callbacks, base }, likely),
    signal,
  );
}

/** Makes all choices that do not need the data, which may take long to read, and refuses what cannot run. */
async function* makePlan(
  place: Place,
  wanted: Partial<TrainOptions>,
  found: Resumed | undefined,
): AsyncGenerator<TrainEvent, Plan> {
  const { device, directory, signal, hub } = place;
  const renamed = found && (yield* reporting(
    (callbacks) => findRenamed(wanted, found, dataPlaces(place), callbacks),
    signal,
  ));
  const resumed = found && renamed?.source
    ? { ...found, state: { ...found.state, source: renamed.source } }
    : found;
  const { options, typed } = resumed
    ? resumeOptions(wanted, resumed.state, resumed.path, renamed?.options)
    : { options: { ...DEFAULT_OPTIONS, ...wanted }, typed: typedNames(wanted) };
  const initial = resumed ? undefined : yield* findInitial(options, { ...hub, signal });
  const given = withAdapters(options, resumed?.config ?? initial?.config);
  const lora = loraOf(given);
  const config = resumed?.config ?? (initial && { ...initial.config, ...(lora ? { lora } : {}) });
  if (config) parameterTable(config, given.freeze); // throws if adapters, freezing and model contradict
  if (given.keepBase && !lora) {
    throw new UserError(
      `Cannot train as --keep-base needs --lora-rank: current value is ${given.keepBase}`,
    );
  }
  const precision = resolvePrecision(device, given.precision);
  const { preset, reason, defaults } = config && given.initFrom !== undefined
    ? {
      preset: "auto" as const,
      reason: `starting from ${resumed?.state.source?.spec ?? initial!.spec}`,
      defaults: fineTuningDefaults(config),
    }
    : {
      ...choosePreset(device, given.preset),
      ...(resumed ? { reason: `preset ${given.preset}, as the run began` } : {}),
    };
  yield { kind: "notice", message: `${reason}; precision ${precision} on ${device.name}` };
  const shape = batchShapeOf(given, defaults);
  checkTraining(device, {
    ...given,
    ...shape,
    ...{ precision, isResumed: resumed !== undefined },
    config: config ?? {
      ...PRESETS[preset as PresetName],
      contextLength: shape.contextLength,
      vocabularySize: LEAST_VOCABULARY, // what the data needs beyond that is checked when it is known
    },
  });
  if (lora) yield* holdBase(directory, (resumed?.base ?? initial)!.directory, given);
  const hasNewData = renamed?.options.data !== undefined;
  return { given, typed, resumed, hasNewData, initial, config, preset, precision, defaults };
}

/** Tokens of the smallest vocabulary: a lower bound, and a multiple of what kernels read together. */
const LEAST_VOCABULARY = 64;

/** The cache directory and the hub of a training's data. */
function dataPlaces({ hub, directory }: Place) {
  return { ...hub, cacheDirectory: cacheBeside(directory.path) };
}

/** Finds and tokenizes the data, or finds its tokens in the cache. */
async function* openCorpus(
  place: Place,
  { given, resumed, hasNewData, initial }: Plan,
): AsyncGenerator<TrainEvent, Corpus> {
  const { data, dataVersion, textField, workers, vocabulary } = given;
  if (Array.isArray(data)) yield { kind: "notice", message: `reading ${data.join(", ")}` };
  const corpus = yield* reporting(async (callbacks) =>
    await loadCorpus({
      ...dataPlaces(place),
      ...callbacks,
      ...{ dataVersion, textField, workers, vocabulary },
      data: data === "auto" ? "sample" : data,
      ...(resumed || initial
        ? { tokenizer: (resumed ?? initial)!.tokenizer }
        : { baseTokenizer: await tokenizerOf(given, place.hub, callbacks) }),
    }).catch((error) => {
      if (!resumed || !(error instanceof DataError) || hasNewData) throw error;
      throw new UserError(
        `Cannot resume ${resumed.path} as its data must be readable: ${error.reason}`,
        { hint: NAME_THE_TEXT },
      );
    }), place.signal);
  try {
    if (initial) {
      const { tokenizer, training } = corpus;
      for (const message of await misfitsOf(tokenizer, training, given.initFrom!)) {
        yield { kind: "notice", message };
      }
    }
    if (resumed && corpus.hash !== resumed.state.data.hash) {
      throw new UserError(
        `Cannot resume ${resumed.path} as the data must stay what it was: ` +
          `${corpus.name} has changed since`,
        { hint: NAME_THE_TEXT },
      );
    }
  } catch (error) {
    corpus.close();
    throw error;
  }
  return corpus;
}

/** The tokenizer that the options name; none for GPT-2's, of which the data may need only a part. */
async function tokenizerOf(
  { tokenizer }: TrainOptions,
  hub: Pick<HubOptions, "environment">,
  { onNotice, signal }: Callbacks,
): Promise<Tokenizer | undefined> {
  if (tokenizer === undefined || tokenizer === "gpt2") return undefined;
  return await loadTokenizer(tokenizer, { ...hub, onNotice, signal });
}

/** Makes the choices that depend on the data. */
function* settle(place: Place, plan: Plan, corpus: Corpus): Generator<TrainEvent, Run> {
  const { given, typed, resumed, initial, preset, precision, defaults } = plan;
  const batches = new Batches(corpus.training, {
    ...batchShapeOf(given, defaults),
    sequence: given.sequence,
    seed: given.seed,
    padding: corpus.tokenizer.endOfText,
  });
  const named = {
    data: corpus.data,
    tokenizer: wholeSpec(given.tokenizer, ["gpt2"]),
    initFrom: wholeSpec(given.initFrom, Object.keys(MODEL_NAMES)),
    vocabulary: resumed || initial ? given.vocabulary : corpus.vocabulary,
  };
  const options = resolveOptions({ ...given, ...named }, {
    preset,
    precision,
    defaults,
    stepsPerEpoch: batches.perEpoch / given.gradientAccumulation,
    typed,
    began: resumed?.state.options as ResolvedOptions | undefined,
  });
  const first = resumed?.state.step ?? 0;
  const message = resumed && first < options.steps
    ? jumpOf(first, { before: resumed.state.schedule, now: options })
    : undefined;
  if (message !== undefined) yield { kind: "notice", message };
  const config = plan.config ?? {
    ...PRESETS[preset as PresetName],
    contextLength: options.contextLength,
    vocabularySize: corpus.tokenizer.vocabularySize,
  };
  checkTraining(place.device, { ...options, config, isResumed: resumed !== undefined });
  const source = resumed?.state.source ??
    (initial && { spec: initial.spec, sha256: hashModel(initial) });
  return { ...place, ...plan, corpus, batches, options, config, source, first };
}

/** The event that begins a training. */
function startOf({ resumed, options, device, config, corpus, first }: Run): TrainEvent {
  const trained = parameterTable(config, options.freeze).filter(({ trained }) => trained);
  return {
    kind: "start",
    ...(resumed ? { resumedFrom: first } : {}),
    steps: options.steps,
    options,
    device: device.name,
    parameters: countParameters(config),
    trainedParameters: trained.reduce((sum, { shape }) => sum + size(shape), 0),
    corpus: describe(corpus),
  };
}

/** Makes sure that the disk has room for the checkpoints that will be saved. */
function checkRoom({ directory, options, config, corpus, first }: Run): void {
  const { steps, saveEvery, keep } = options;
  const saves = Math.ceil(steps / saveEvery) - Math.floor(first / saveEvery);
  directory.checkRoom({
    checkpointBytes: checkpointBytes(parameterTable(config, options.freeze), corpus.tokenizer),
    keep,
    saves: first === steps ? 0 : saveEvery === 0 ? 1 : saves,
  });
}

/** Records the step with the fastest kernels, or with those that the run began with. */
async function* recordStep(
  { device, directory, options, config, resumed }: Run,
  gpt: Gpt,
): AsyncGenerator<TrainEvent, TrainStep> {
  const record = () =>
    createTrainStep(gpt, {
      ...options,
      sequenceLength: options.contextLength,
      gradientClip: options.gradientClip === 0 ? Infinity : options.gradientClip,
    });
  return yield* recordTuned(record, {
    device,
    tune: options.tune === "on" ||
      options.tune === "auto" && !device.isCpu && operationsOf(config, options) >= WORTH_TUNING,
    remember: options.tune !== "off",
    file: tuningFileIn(cacheBeside(directory.path)),
    saved: resumed?.state,
  });
}

/** Loads model and optimizer from the checkpoint, or initializes them. */
function setParameters({ resumed, initial, options }: Run, gpt: Gpt, trainStep: TrainStep): void {
  if (resumed) return restore(resumed, gpt, trainStep);
  const parameters = gpt.table.filter(({ name }) => !initial || isAdapter(name));
  initializeParameters(gpt, { seed: options.seed, parameters });
  if (initial) fillModel(gpt, initial);
}

/** Relative change of the learning rate that is reported. */
const NOTICEABLE = 0.1;

/** A sentence if new options change the learning rate of a resumed run's next step. */
function jumpOf(
  step: number,
  { before, now }: { before: Schedule; now: Schedule },
): string | undefined {
  const [old, rate] = [learningRateAt(step, before), learningRateAt(step, now)];
  if (Math.abs(rate - old) <= NOTICEABLE * old) return undefined;
  const figure = (value: number) => `${Number(value.toPrecision(3))}`;
  return `the learning rate jumps: step ${step + 1} has ${figure(rate)} in place of ${
    figure(old)
  }` +
    (now.steps === before.steps
      ? ""
      : `; the schedule now has ${now.steps} steps in place of ${before.steps}`);
}

/**
 * Operations of a training from which `--tune auto` tunes: five minutes of a large GPU. Tuning took 17 s,
 * mostly compilation (mini on an H200, November 2026).
 */
const WORTH_TUNING = 1e16;

/** Operations of a whole training: 6 per parameter and token (Kaplan et al. 2020, arXiv 2001.08361). */
function operationsOf(
  config: GptConfig,
  { steps, batchSize, contextLength, gradientAccumulation }: ResolvedOptions,
): number {
  return 6 * countParameters(config) * steps * batchSize * contextLength * gradientAccumulation;
}

/** The cache directory of all runs beside this one; `prepare` fills it. */
export function cacheBeside(runDirectory: string): string {
  return join(dirname(runDirectory), "cache");
}

/** The preset that `auto` stands for on a device, and why. */
export function choosePreset(
  device: Device,
  preset: PresetName | "auto",
): { preset: PresetName; reason: string; defaults: TrainingDefaults } {
  const [chosen, reason] = preset !== "auto"
    ? [preset, `preset ${preset}, as asked`] as const
    : device.isCpu
    ? ["nano", "preset nano, as no GPU was found and the CPU computes"] as const
    : ["mini", "preset mini, as there is a GPU"] as const;
  return { preset: chosen, reason, defaults: presetDefaults(chosen) };
}

/** Finds the model that `--init-from` names, if it is given. */
async function* findInitial(
  { initFrom, base, contextLength, loraRank }: TrainOptions,
  { signal, ...hub }: Pick<HubOptions, "environment"> & { signal: AbortSignal | undefined },
): AsyncGenerator<TrainEvent, ModelSource | undefined> {
  if (initFrom === undefined) {
    if (base !== undefined) {
      throw new UserError(
        `Cannot train as --base needs adapters to start from or to resume: current value is ${base}`,
      );
    }
    if (loraRank === undefined) return undefined;
    throw new UserError(
      `Cannot train as --lora-rank needs --init-from, a model to put adapters beside: ` +
        `current value is ${loraRank}`,
    );
  }
  yield { kind: "notice", message: `looking for ${initFrom}` };
  const source = yield* reporting(
    (callbacks) => findModel(initFrom, { ...hub, ...callbacks, base, contextLength }),
    signal,
  );
  if (source.adapters && loraRank !== undefined) {
    throw new UserError(
      `Cannot put adapters beside ${initFrom} as it must be a whole model: it has adapters, ` +
        `which ${taskCommand("export")} merges`,
    );
  }
  return source;
}

/** Keeps the base model of a run's adapters, which a resumed run and a loaded model need. */
function* holdBase(
  run: RunDirectory,
  base: string,
  { keepBase }: TrainOptions,
): Generator<TrainEvent> {
  const kept = join(run.path, KEPT_BASE);
  if (resolve(base) === resolve(kept)) return;
  if (keepBase) {
    yield { kind: "notice", message: `copying ${base} to ${kept}` };
    run.copy(KEPT_BASE, modelPaths(base));
    return;
  }
  const message = noteAdapters(run.path, base);
  if (message !== undefined) yield { kind: "notice", message };
}

/** The options with alpha and targets of adapters chosen. */
function withAdapters(options: TrainOptions, config: GptConfig | undefined): TrainOptions {
  const { loraRank, loraAlpha, loraTargets } = options;
  if (loraRank === undefined || !config) return options;
  return {
    ...options,
    loraAlpha: loraAlpha ?? 2 * loraRank,
    loraTargets: loraTargets ?? defaultTargets(config).join(","),
  };
}

function loraOf({ loraRank, loraAlpha, loraTargets }: TrainOptions): LoraConfig | undefined {
  if (loraRank === undefined) return undefined;
  return { rank: loraRank, alpha: loraAlpha!, targets: loraTargets!.split(",") };
}

function describe(corpus: Corpus) {
  const { name, vocabulary, tokenizer, training, validation, ownValidation } = corpus;
  const { cached, entropyPerToken } = corpus;
  return {
    name,
    vocabulary,
    vocabularySize: tokenizer.vocabularySize,
    trainingTokens: training.length,
    validationTokens: validation.length,
    ownValidation,
    cached,
    ...(entropyPerToken === undefined ? {} : { entropyPerToken }),
  };
}
