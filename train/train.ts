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
import { newestCheckpoint } from "../model/files/checkpoint.ts";
import { type GptConfig, type LoraConfig, type PresetName, PRESETS } from "../model/config.ts";
import { createGpt } from "../model/gpt.ts";
import { defaultTargets, isAdapter } from "../model/files/lora.ts";
import { countParameters, parameterTable } from "../model/parameters.ts";
import { type Precision, resolvePrecision } from "../model/precision.ts";
import { initializeParameters } from "../model/weights.ts";
import { UserError } from "../files/user_error.ts";
import { noteAdapters } from "./base.ts";
import { moveAside, openRunDirectory, type RunDirectory } from "./checkpoint.ts";
import { createEvaluator } from "./evaluate.ts";
import { type Hearing, noticesOf, reporting, type TrainEvent } from "./events.ts";
import { checkTraining } from "./limits.ts";
import { startMetric } from "./metrics.ts";
import { openRecord } from "./record.ts";
import {
  DEFAULT_OPTIONS,
  type ResolvedOptions,
  type TrainOptions,
  validateOptions,
} from "./options.ts";
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
import { createTrainStep } from "./step.ts";
import { learningRateAt, type Schedule } from "./schedule.ts";
import { steps } from "./steps.ts";
import { findRenamed, wholeSpec } from "./renamed.ts";
import { recordTuned, tuningFileIn } from "./tuning.ts";

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
 * @example Train the smallest model on the bundled stories
 * ```ts ignore
 * for await (const event of train({ preset: "nano", steps: 100 })) console.log(event);
 * ```
 */
export async function* train(
  { device: given, signal, environment, ...wanted }: Partial<TrainOptions> & {
    device?: Device;
    signal?: AbortSignal;
    /** Variables that say how to reach the hub, in place of the process's own; see `HubOptions`. */
    environment?: HubOptions["environment"];
  } = {},
): AsyncGenerator<TrainEvent> {
  validateOptions(wanted);
  checkRates(wanted);
  const out = wanted.out ?? DEFAULT_OPTIONS.out;
  const device = given ?? await openDevice();
  try {
    if (wanted.fresh) {
      const aside = moveAside(out);
      if (aside) yield { kind: "notice", message: `moved the old run to ${aside}` };
    }
    const run = openRunDirectory(out);
    try {
      const warnings: string[] = [];
      const path = newestCheckpoint(out, (sentence) => warnings.push(sentence), checkState);
      for (const message of warnings) yield { kind: "notice", message };
      const hub = environment ? { environment } : {};
      const { base, initFrom } = wanted, likely = initFrom === undefined ? [] : [initFrom];
      const resumed = path === undefined ? undefined : yield* reporting(
        (hearing) => readCheckpoint(path, { ...hub, ...hearing, base }, likely),
        signal,
      );
      yield* trainIn(run, { device, signal, hub, wanted, resumed });
    } finally {
      run.close();
    }
  } catch (error) {
    if (error instanceof DeviceError) error.hint ??= DEVICE_HINTS[error.kind];
    throw error;
  } finally {
    if (!given) device.destroy();
  }
}

/** What to do if the device fails during a training. */
const DEVICE_HINTS: Partial<Record<DeviceError["kind"], string>> = {
  memory: "Try a smaller --batch-size, --context-length or --preset",
  lost: "The last checkpoint is whole: the same command resumes from it",
};

/** The training itself, in a run directory that is ours. */
async function* trainIn(
  run: RunDirectory,
  { device, signal, hub, wanted, resumed: found }: {
    device: Device;
    signal: AbortSignal | undefined;
    hub: Pick<HubOptions, "environment">;
    wanted: Partial<TrainOptions>;
    resumed: Resumed | undefined;
  },
): AsyncGenerator<TrainEvent> {
  const places = { ...hub, cacheDirectory: cacheBeside(run.path) };
  const renamed = found &&
    (yield* reporting((hearing) => findRenamed(wanted, found, places, hearing), signal));
  const resumed = found && renamed?.source
    ? { ...found, state: { ...found.state, source: renamed.source } }
    : found;
  const { options: merged, typed } = resumed
    ? resumeOptions(wanted, resumed.state, resumed.path, renamed?.options)
    : { options: { ...DEFAULT_OPTIONS, ...wanted }, typed: typedNames(wanted) };
  const initial = resumed ? undefined : yield* findInitial(merged, { ...hub, signal });
  const beginning = resumed?.config ?? initial?.config;
  const given = withAdapters(merged, beginning);
  const lora = loraOf(given);
  if (beginning) parameterTable({ ...beginning, ...(lora ? { lora } : {}) }, given.freeze); // throws if they contradict each other
  if (given.keepBase && !lora) {
    throw new UserError(
      `Cannot train as --keep-base needs --lora-rank: current value is ${given.keepBase}`,
    );
  }
  const precision = resolvePrecision(device, given.precision);
  const { preset, reason, defaults } = beginning && given.initFrom !== undefined
    ? {
      preset: "auto" as const,
      reason: `starting from ${resumed?.state.source?.spec ?? initial!.spec}`,
      defaults: fineTuningDefaults({ ...beginning, ...(lora ? { lora } : {}) }),
    }
    : {
      ...choosePreset(device, given.preset),
      ...(resumed ? { reason: `preset ${given.preset}, as the run began` } : {}),
    };
  yield { kind: "notice", message: `${reason}; precision ${precision} on ${device.name}` };
  // before the data is read, which may take long; a vocabulary that is not known yet only adds to this
  checkTraining(device, {
    ...given,
    ...batchShapeOf(given, defaults),
    ...{ precision, isResumed: resumed !== undefined },
    config: beginning ? { ...beginning, ...(lora ? { lora } : {}) } : {
      ...PRESETS[preset as PresetName],
      contextLength: batchShapeOf(given, defaults).contextLength,
      vocabularySize: LEAST_VOCABULARY,
    },
  });
  if (lora) yield* holdBase(run, (resumed?.base ?? initial)!.directory, given);

  // data
  if (Array.isArray(given.data)) {
    yield { kind: "notice", message: `reading ${given.data.join(", ")}` };
  }
  const corpus = yield* reporting(async (hearing) =>
    await loadCorpus({
      ...places,
      ...hearing,
      data: given.data === "auto" ? "sample" : given.data,
      dataVersion: given.dataVersion,
      textField: given.textField,
      workers: given.workers,
      vocabulary: given.vocabulary,
      ...(resumed || initial
        ? { tokenizer: (resumed ?? initial)!.tokenizer }
        : { baseTokenizer: await tokenizerOf(given, hub, hearing) }),
    }).catch((error) => {
      if (!resumed || !(error instanceof DataError) || renamed?.options.data) throw error;
      throw new UserError(
        `Cannot resume ${resumed.path} as its data must be readable: ${error.reason}`,
        { hint: NAME_THE_TEXT },
      );
    }), signal);
  try {
    if (initial) {
      const { tokenizer, training } = corpus;
      for (const message of await misfitsOf(tokenizer, training, given.initFrom!)) {
        yield { kind: "notice", message };
      }
    }
    yield* trainOn(corpus, run, {
      ...{ device, signal, given, typed, preset, precision, defaults },
      ...{ resumed, initial, lora },
    });
  } finally {
    corpus.close();
  }
}

/** A vocabulary that is smaller than any, and a multiple of what kernels read together. */
const LEAST_VOCABULARY = 64;

/** The tokenizer that was asked for, unless it is GPT-2's, of which a part may do. */
async function tokenizerOf(
  { tokenizer }: TrainOptions,
  hub: Pick<HubOptions, "environment">,
  { onNotice, signal }: Hearing,
): Promise<Tokenizer | undefined> {
  if (tokenizer === undefined || tokenizer === "gpt2") return undefined;
  return await loadTokenizer(tokenizer, { ...hub, onNotice, signal });
}

/** The training itself, once the data is there. */
async function* trainOn(
  corpus: Corpus,
  run: RunDirectory,
  { device, signal, given, typed, resumed, initial, lora, preset, precision, defaults }: {
    device: Device;
    signal: AbortSignal | undefined;
    given: TrainOptions;
    typed: readonly string[];
    resumed: Resumed | undefined;
    initial: ModelSource | undefined;
    lora: LoraConfig | undefined;
    preset: PresetName | "auto";
    precision: Precision;
    defaults: TrainingDefaults;
  },
): AsyncGenerator<TrainEvent> {
  if (resumed && corpus.hash !== resumed.state.data.hash) {
    throw new UserError(
      `Cannot resume ${resumed.path} as the data must stay what it was: ` +
        `${corpus.name} has changed since`,
      { hint: NAME_THE_TEXT },
    );
  }
  const { tokenizer } = corpus;
  const shape = batchShapeOf(given, defaults);
  const batches = new Batches(corpus.training, {
    ...shape,
    sequence: given.sequence,
    seed: given.seed,
    padding: tokenizer.endOfText,
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
  if (resumed) {
    const { step, schedule } = resumed.state;
    const message = step < options.steps
      ? jumpOf(step, { before: schedule, now: options })
      : undefined;
    if (message !== undefined) yield { kind: "notice", message };
  }

  // model
  const config: GptConfig = resumed?.config ??
    (initial ? { ...initial.config, ...(lora ? { lora } : {}) } : {
      ...PRESETS[preset as PresetName],
      contextLength: options.contextLength,
      vocabularySize: tokenizer.vocabularySize,
    });
  const isResumed = resumed !== undefined;
  checkTraining(device, { ...options, config, isResumed });
  const table = parameterTable(config, options.freeze);
  const source = resumed?.state.source ??
    (initial && { spec: initial.spec, sha256: hashModel(initial) });
  yield {
    kind: "start",
    ...(resumed ? { resumedFrom: resumed.state.step } : {}),
    steps: options.steps,
    options,
    device: device.name,
    parameters: countParameters(config),
    trainedParameters: table
      .reduce((sum, { trained, shape }) => sum + (trained ? size(shape) : 0), 0),
    corpus: describe(corpus),
  };
  const first = resumed?.state.step ?? 0;
  const { saveEvery, keep } = options;
  run.checkRoom({
    checkpointBytes: checkpointBytes(table, tokenizer),
    keep,
    saves: first === options.steps
      ? 0
      : saveEvery === 0
      ? 1
      : Math.ceil(options.steps / saveEvery) - Math.floor(first / saveEvery),
  });
  const runRecord = await openRecord(run, first);
  runRecord.note([startMetric(config, first)]);
  yield* noticesOf(run);
  const gpt = createGpt(device, config, { precision, freeze: options.freeze ?? "" });
  const owned: { destroy(): void }[] = [gpt];
  try {
    const record = () =>
      createTrainStep(gpt, {
        ...options,
        sequenceLength: options.contextLength,
        gradientClip: options.gradientClip === 0 ? Infinity : options.gradientClip,
      });
    const trainStep = yield* recordTuned(record, {
      device,
      tune: options.tune === "on" ||
        options.tune === "auto" && !device.isCpu && operationsOf(config, options) >= WORTH_TUNING,
      remember: options.tune !== "off",
      file: tuningFileIn(cacheBeside(run.path)),
      saved: resumed?.state,
    });
    owned.push(trainStep);
    const evaluator = createEvaluator(gpt, tokenizer, corpus.validation, {
      batchSize: options.batchSize,
      sequenceLength: options.contextLength,
      maxTokens: options.evalTokens || Infinity,
    });
    owned.push(evaluator);
    if (resumed) {
      restore(resumed, gpt, trainStep);
    } else {
      const parameters = gpt.table.filter(({ name }) => !initial || isAdapter(name));
      initializeParameters(gpt, { seed: options.seed, parameters });
      if (initial) fillModel(gpt, initial);
    }
    yield* steps({
      run,
      record: runRecord,
      options,
      typed,
      corpus,
      batches,
      gpt,
      trainStep,
      evaluate: () => evaluator.run({ signal }),
      signal,
      source,
      first,
      bestLoss: resumed?.state.bestValidationLoss ?? null,
      ...(resumed ? { path: resumed.path } : {}),
    });
  } finally {
    for (const resource of owned.reverse()) resource.destroy();
  }
}

/** Share of a learning rate by which another one differs noticeably. */
const NOTICEABLE = 0.1;

/** Says if the next step of a resumed run has another learning rate than it would have had. */
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
 * Operations from which on a training is tuned unasked: five minutes of a large GPU's time. Tuning took
 * it 17 s, nearly all of it compiling (mini on an H200, November 2026).
 */
const WORTH_TUNING = 1e16;

/** Operations of a whole training: 6 a parameter and token (Kaplan et al. 2020, arXiv 2001.08361). */
function operationsOf(
  config: GptConfig,
  { steps, batchSize, contextLength, gradientAccumulation }: ResolvedOptions,
): number {
  return 6 * countParameters(config) * steps * batchSize * contextLength * gradientAccumulation;
}

/** Where the runs beside this one, and `prepare`, keep their token files. */
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

/** Finds the model to begin with, if one is asked for. */
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
    (hearing) => findModel(initFrom, { ...hub, ...hearing, base, contextLength }),
    signal,
  );
  if (source.adapters && loraRank !== undefined) {
    throw new UserError(
      `Cannot put adapters beside ${initFrom} as it must be a whole model: it has adapters, ` +
        `which "deno task export" merges`,
    );
  }
  return source;
}

/** Sees to it that the base of a run's adapters is there when the run is resumed or its model loaded. */
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

/** Options with what is open about adapters chosen. */
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
