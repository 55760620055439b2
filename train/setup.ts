import { dirname, join, resolve } from "node:path";
import type { Documents } from "../data/text/documents.ts";
import type { PackingCounts } from "../data/tokens/batch.ts";
import { DataError } from "../data/text/data_error.ts";
import { Batches } from "../data/tokens/batches.ts";
import { type Corpus, loadCorpus } from "../data/tokens/corpus.ts";
import type { HubOptions } from "../data/hub/hub.ts";
import { type HubError, processEnvironment } from "../data/hub/request.ts";
import { loadTokenizer } from "../data/tokenizer/load.ts";
import type { Tokenizer } from "../data/tokenizer/tokenizer.ts";
import { misfitsOf } from "../data/tokens/vocabulary_fit.ts";
import { taskCommand } from "../files/command_line.ts";
import type { Transport } from "../distributed/transport.ts";
import { UserError } from "../files/user_error.ts";
import { KEPT_BASE } from "../generate/base.ts";
import {
  findModel,
  hashModel,
  MODEL_NAMES,
  modelPaths,
  type ModelSource,
} from "../generate/source.ts";
import { shortageOf } from "../generate/limits.ts";
import { type Device, openDevice } from "../kernels/device.ts";
import type { RecomputeMode } from "../model/activations.ts";
import type { GptConfig, LoraConfig, PresetName } from "../model/config.ts";
import type { TrainerState } from "../model/files/checkpoint.ts";
import { defaultTargets } from "../model/files/lora.ts";
import { parameterTable } from "../model/parameters.ts";
import { type Precision, resolvePrecision } from "../model/precision.ts";
import { newModel } from "./architecture.ts";
import { noteAdapters } from "./base.ts";
import { type Callbacks, reporting, type TrainEvent } from "./events.ts";
import { checkTraining, type TrainingMemory } from "./limits.ts";
import { OPTIMIZERS } from "./optimizer.ts";
import {
  DEFAULT_OPTIONS,
  EARLIER_DEFAULTS,
  type ResolvedOptions,
  type TrainOptions,
} from "./options.ts";
import { DEPTHS, describePlan, type Plan, withFigures } from "./plan.ts";
import { checkSamePlan, planOptions } from "./plan_file.ts";
import { findRenamed, wholeSpec } from "./renamed.ts";
import {
  checkInitial,
  checkOptimizer,
  defaultsForData,
  fineTuningDefaults,
  NAME_THE_TEXT,
  presetDefaults,
  resolveOptions,
  resumeOptions,
  sizesOf,
  type TrainingDefaults,
  typedNames,
} from "./resolve.ts";
import type { RunDirectory } from "./run_directory.ts";
import { jumpOf } from "./schedule.ts";
import { allowedDepths, checkSizes, isPlanned, isSizeOpen, sizeReason, withSizes } from "./size.ts";
import { StepShare } from "./step_share.ts";
import type { Resumed } from "./state.ts";

/**
 * Every choice of a training, before anything is allocated: first those that do not need its data, which may take
 * long to read, then the data, then the rest.
 *
 * @module
 */

/** The device and directory of a training, and the signal that ends it early. */
export interface Workplace {
  readonly device: Device;
  /** The path of the run directory. */
  readonly out: string;
  /** The run directory; undefined for a dry run, which changes nothing on the disk. */
  readonly directory: RunDirectory | undefined;
  readonly signal: AbortSignal | undefined;
  readonly hub: Pick<HubOptions, "environment">;
  /** The transport to the other ranks of the training. */
  readonly transport: Transport;
  /** The documents that the caller has given in place of a name. */
  readonly documents?: Documents | undefined;
  /** Likewise those to validate with. */
  readonly validationDocuments?: Documents | undefined;
}

/**
 * Opens a device of the provider that is given, or of the one that the checkpoint names.
 *
 * @throws {UserError} if it cannot be opened; the hint says how to resume a training of another provider.
 */
export async function* openDeviceFor(
  { gpu }: Partial<Pick<TrainOptions, "gpu">>,
  checkpoint: Resumed | undefined,
): AsyncGenerator<TrainEvent, Device> {
  const saved = { ...DEFAULT_OPTIONS, ...checkpoint?.state.options } as TrainOptions;
  const isKept = gpu === undefined && saved.gpu === "dawn";
  if (isKept) yield { kind: "notice", message: "--gpu dawn, as in the checkpoint" };
  try {
    return await openDevice({ gpu: gpu ?? saved.gpu });
  } catch (error) {
    if (isKept && error instanceof UserError) {
      const native = "Or resume with --gpu native; the last bits of the results may differ";
      error.hint = error.hint === undefined ? native : `${error.hint}\n${native}`;
    }
    throw error;
  }
}

/** The choices of a training that do not depend on its data. */
export interface Setup {
  /** The options that are given; the others have the values of the checkpoint, if there is one, or their defaults. */
  readonly given: TrainOptions & Pick<ResolvedOptions, "optimizer">;
  /** Names of the options that the user typed, now or at an earlier start. */
  readonly typed: readonly string[];
  /** The checkpoint of this run from which it is resumed. */
  readonly resumed: Resumed | undefined;
  /** Whether the options give the data another name than the checkpoint does. */
  readonly hasNewData: boolean;
  /** The model from which a new run starts, unless it starts from random parameters. */
  readonly initial: ModelSource | undefined;
  /** The configuration of the resumed or initial model, with the adapters that are trained. */
  readonly config: GptConfig | undefined;
  readonly preset: PresetName | "auto";
  readonly precision: Precision;
  readonly defaults: TrainingDefaults;
  /** The plan that decides sizes and steps, if one does. */
  readonly plan?: Plan;
}

/** A training with every choice made. */
export interface Run extends Workplace, Setup {
  readonly corpus: Corpus;
  readonly batches: Batches;
  readonly options: ResolvedOptions;
  readonly config: GptConfig;
  /** What the backward pass computes again. */
  readonly recompute: RecomputeMode;
  /** Bytes on the device. */
  readonly memory: TrainingMemory;
  /** The model from which the run started, as its checkpoints record it. */
  readonly source: TrainerState["source"] | undefined;
  /** What this rank computes of each step. */
  readonly share: StepShare;
}

/** Makes the choices that do not depend on the data, and throws if the training cannot run. */
export async function* makeSetup(
  place: Workplace,
  wanted: Partial<TrainOptions>,
  checkpoint: Resumed | undefined,
): AsyncGenerator<TrainEvent, Setup> {
  const { device, directory, signal, hub } = place;
  const renamed = checkpoint && (yield* reporting(
    (callbacks) => findRenamed(wanted, checkpoint, dataPlaces(place), callbacks),
    signal,
  ));
  const resumed = checkpoint && withSource(checkpoint, renamed?.source);
  const { options, typed } = resumed
    ? resumeOptions(wanted, resumed.state, resumed.path, renamed?.options)
    : { options: { ...DEFAULT_OPTIONS, ...wanted }, typed: typedNames(wanted) };
  if (resumed && options.plan !== undefined) checkSamePlan(options.plan, resumed);
  const sized = resumed ? options : withSizes(options, typed);
  // most published models were trained with AdamW, and fine-tuning them with Muon gains nothing (docs/checkpoints.md)
  const { optimizer = sized.initFrom === undefined ? "muon" : "adamw" } = sized;
  checkOptimizer(wanted, { optimizer });
  const initial = resumed ? undefined : yield* findInitial(sized, { ...hub, signal });
  const given = { ...withAdapters(sized, resumed?.config ?? initial?.config), optimizer };
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
    ? fineTuningOf(config, resumed?.state.source?.spec ?? initial!.spec)
    : chooseDefaults(device, given, resumed !== undefined);
  yield {
    kind: "notice",
    message:
      `${resumed && preset !== "auto" ? `preset ${preset}, as in the checkpoint` : reason}; ` +
      `precision ${precision} on ${device.name}` +
      (device.provider === "dawn" ? " through Dawn" : ""),
  };
  if (initial?.adapters) {
    const message =
      `the adapters of ${initial.spec} are merged into their base, ${initial.adapters.base}`;
    yield { kind: "notice", message };
  }
  if (config) checkInitial(given, config);
  // the least that the time may choose
  const least = !resumed && isSizeOpen(given)
    ? withSizes(
      { ...given, depth: allowedDepths(given, typed, defaults)[0] ?? DEPTHS.at(-1)! },
      typed,
    )
    : given;
  const sizes = sizesOf(least, defaults);
  if (!config) checkSizes(least, defaults, preset);
  checkTraining(device, {
    ...given,
    ...sizes,
    ...(!resumed && isPlanned(given) ? { batchSize: given.batchSize ?? LEAST_BATCH } : {}),
    precision,
    isResumed: resumed !== undefined,
    config: config ?? newModel({ ...given, ...sizes, vocabularySize: LEAST_VOCABULARY }),
  });
  if (lora && directory) yield* holdBase(directory, (resumed?.base ?? initial)!.directory, given);
  const { data, validationData } = renamed?.options ?? {};
  const hasNewData = (data ?? validationData) !== undefined;
  return { given, typed, resumed, hasNewData, initial, config, preset, precision, defaults };
}

/** Tokens of the smallest vocabulary, a lower bound until the data is known; a multiple of a kernel's vectors. */
const LEAST_VOCABULARY = 64;

/** Rows of the smallest batch, a lower bound until a plan decides. */
const LEAST_BATCH = 1;

/** A checkpoint whose model source has a new name, if it has one. */
function withSource(checkpoint: Resumed, source: TrainerState["source"] | undefined): Resumed {
  return source ? { ...checkpoint, state: { ...checkpoint.state, source } } : checkpoint;
}

/** The cache directory and the hub of a training's data. */
function dataPlaces({ hub, out, directory }: Workplace) {
  return { ...hub, cacheDirectory: cacheBeside(out), readOnly: directory === undefined };
}

/** Finds and tokenizes the data, or finds its tokens in the cache. */
export async function* openCorpus(
  place: Workplace,
  { given, resumed, hasNewData, initial }: Setup,
): AsyncGenerator<TrainEvent, Corpus> {
  const { data, dataVersion, textField, workers, vocabulary } = given;
  const { documents, validationDocuments } = place;
  const validationData = validationDocuments ??
    (given.validationData === "auto" ? undefined : given.validationData);
  const files = [documents ?? data, validationData].filter((named) => Array.isArray(named)).flat();
  if (files.length > 0) yield { kind: "notice", message: `reading ${files.join(", ")}` };
  const corpus = yield* reporting(async (callbacks) =>
    await loadCorpus({
      ...dataPlaces(place),
      ...callbacks,
      validationData,
      dataVersion,
      textField,
      workers,
      vocabulary,
      data: documents ?? (data === "auto" ? "sample" : data),
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
        `Cannot resume ${resumed.path} as its data must be unchanged: ` +
          `${corpus.name} has changed since`,
        { hint: documents ?? validationDocuments ? GIVE_THE_TEXTS : NAME_THE_TEXT },
      );
    }
  } catch (error) {
    corpus.close();
    throw error;
  }
  return corpus;
}

/**
 * The choices with those that the kind of the documents decides, whatever a plan says: each conversation sees only
 * itself.
 *
 * @throws {UserError} if the options contradict that.
 */
export function* fittingTo(
  setup: Setup,
  { name, training }: Corpus,
): Generator<TrainEvent, Setup> {
  const { given, typed } = setup;
  if (!training.answersOf || given.documents === "apart") return setup;
  if (typed.includes("documents")) {
    throw new UserError(
      `Cannot train on ${name} with --documents ${given.documents} as each conversation must see ` +
        `only itself: use --documents apart`,
    );
  }
  yield { kind: "notice", message: `--documents apart, as ${name} holds conversations` };
  return { ...setup, given: { ...given, documents: "apart" } };
}

/** A sentence about conversations that rows are too short for. */
function shortRows(
  { cut, leftOut, used }: PackingCounts,
  contextLength: number,
): string | undefined {
  if (cut === 0 && leftOut === 0) return undefined;
  const parts = [
    ...(leftOut > 0
      ? [`left out ${leftOut} of ${used + leftOut} conversations, whose first answer is not in it`]
      : []),
    ...(cut > 0 ? [`left out the last messages of ${cut} conversations`] : []),
  ];
  return `--context-length ${contextLength}: ${parts.join("; ")}`;
}

/** What to do if a program gives other texts than before. */
const GIVE_THE_TEXTS = "Give the same texts, choose another out, or start over with fresh: true";

/** The tokenizer that the options name; undefined for GPT-2's, of which the data may need only a part. */
async function tokenizerOf(
  { tokenizer }: TrainOptions,
  hub: Pick<HubOptions, "environment">,
  { onNotice, signal }: Callbacks,
): Promise<Tokenizer | undefined> {
  if (tokenizer === undefined || tokenizer === "gpt2") return undefined;
  return await loadTokenizer(tokenizer, { ...hub, onNotice, signal });
}

/** Makes the choices that depend on the data. */
export function* finishSetup(
  place: Workplace,
  setup: Setup,
  corpus: Corpus,
): Generator<TrainEvent, Run> {
  const { given, typed, resumed, initial, preset, precision, defaults } = setup;
  const batches = new Batches(corpus.training, {
    ...sizesOf(given, defaults),
    sequence: given.sequence,
    documents: given.documents,
    seed: given.seed,
    padding: corpus.tokenizer.endOfText,
    beginOfText: corpus.tokenizer.beginOfText,
  });
  const short = batches.conversations &&
    shortRows(batches.conversations, sizesOf(given, defaults).contextLength);
  if (short !== undefined) yield { kind: "notice", message: short };
  const named = {
    data: corpus.data,
    validationData: corpus.validationData,
    tokenizer: wholeSpec(given.tokenizer, ["gpt2"]),
    initFrom: wholeSpec(given.initFrom, Object.keys(MODEL_NAMES)),
    vocabulary: resumed || initial ? given.vocabulary : corpus.vocabulary,
  };
  const { step: first = 0, batchIndex = 0 } = resumed?.state ?? {};
  const ranks = place.transport.size, batchesPerStep = ranks * given.gradientAccumulation;
  const began = resumed && { ...EARLIER_DEFAULTS, ...resumed.state.options } as ResolvedOptions;
  const options = resolveOptions({ ...given, ...named }, {
    gpu: place.device.provider,
    preset,
    precision,
    defaults,
    stepsIn: (epochs) => first + (epochs * batches.perEpoch - batchIndex) / batchesPerStep,
    ranks,
    typed,
    began,
  });
  const plan = setup.plan && {
    ...setup.plan,
    ...withFigures(options, {
      given,
      blockParameters: setup.plan.blockParameters,
      trainingTokens: corpus.training.length,
      ranks,
    }),
    options: planOptions(given, options),
  };
  if (plan) yield { kind: "notice", message: describePlan(plan) };
  const message = began && first < options.steps
    ? jumpOf(first, { before: began, now: options })
    : undefined;
  if (message !== undefined) yield { kind: "notice", message };
  const little = littleHeldOut(corpus);
  if (little !== undefined) yield { kind: "notice", message: little };
  const { vocabularySize } = corpus.tokenizer;
  const config = setup.config ?? newModel({ ...options, vocabularySize });
  const { memory, recompute, shortage } = checkTraining(place.device, {
    ...options,
    config,
    isResumed: resumed !== undefined,
  });
  if (shortage) {
    const message =
      `--recompute ${recompute}, as there is too little memory to keep all activations ` +
      shortageOf(shortage);
    yield { kind: "notice", message };
  }
  const { optimizer, freeze } = options;
  if (!parameterTable(config, freeze).some((p) => p.trained && OPTIMIZERS[optimizer].updates(p))) {
    const message =
      `--optimizer ${optimizer} has nothing to update, as no matrix of a block is trained: ` +
      "AdamW updates all that is";
    yield { kind: "notice", message };
  }
  const source = resumed?.state.source ??
    (initial && { spec: initial.spec, sha256: hashModel(initial) });
  return {
    ...place,
    ...setup,
    ...(plan ? { plan } : {}),
    corpus,
    batches,
    options,
    config,
    recompute,
    memory,
    source,
    share: new StepShare(place.transport, batches, {
      step: first,
      batchIndex,
      gradientAccumulation: options.gradientAccumulation,
      syncEvery: options.syncEvery,
    }),
  };
}

/** The environment of a dry run, which downloads nothing. */
export function offline(environment = processEnvironment()): Record<string, string | undefined> {
  return { ...environment, HF_HUB_OFFLINE: "1" };
}

/** The error of a dry run if data or a model are not on this machine. */
export function notDownloaded({ message }: HubError): UserError {
  const [, what = "its data"] = /^Cannot \w+ (\S+)/.exec(message) ?? [];
  return new UserError(
    `Cannot estimate the training as ${what} must be on this machine: a dry run downloads nothing`,
    {
      hint: `${taskCommand("prepare")} downloads data, ${
        taskCommand("generate", "--model")
      } a model`,
    },
  );
}

/**
 * Tokens of held-out text below which its loss is a rough figure: the loss of single tokens spreads by about two nats,
 * so that the mean of so many has a standard error of 0.06.
 */
const FEW_TOKENS = 1000;

/** A sentence if there is little text to validate with. */
export function littleHeldOut({ validation }: Corpus): string | undefined {
  if (validation.length >= FEW_TOKENS) return undefined;
  return `the validation text has only ${validation.length} tokens: its loss, and which checkpoint is the best, ` +
    `are partly chance; --validation-data names more text`;
}

/** The cache directory of all runs in the same folder, which `prepare` also fills. */
export function cacheBeside(runDirectory: string): string {
  return join(dirname(runDirectory), "cache");
}

/** What determines the defaults of a training, and a notice about it. */
interface ChosenDefaults {
  preset: PresetName | "auto";
  reason: string;
  defaults: TrainingDefaults;
}

/** The defaults of a training that starts from a model. */
function fineTuningOf(config: GptConfig, spec: string): ChosenDefaults {
  return { preset: "auto", reason: `starting from ${spec}`, defaults: fineTuningDefaults(config) };
}

/** The preset that a training uses on a device, which `auto` leaves open, and the reason. */
export function choosePreset(
  device: Device,
  preset: PresetName | "auto",
): ChosenDefaults {
  const [chosen, reason] = preset !== "auto"
    ? [preset, `preset ${preset}, as asked`] as const
    : device.isCpu
    ? ["nano", "preset nano, as no GPU was found and the CPU computes"] as const
    : ["mini", "preset mini, as there is a GPU"] as const;
  return { preset: chosen, reason, defaults: presetDefaults(chosen) };
}

/** What determines the defaults of a model with random parameters: a preset, or the depth or plan that replaces it. */
function chooseDefaults(
  device: Device,
  given: TrainOptions,
  isResumed: boolean,
): ChosenDefaults {
  const reason = isResumed && given.depth !== undefined
    ? `depth ${given.depth}, as in the checkpoint`
    : sizeReason(given);
  const chosen: ChosenDefaults = reason === undefined
    ? choosePreset(device, given.preset)
    : { preset: "auto", reason, defaults: presetDefaults("nano") };
  return { ...chosen, defaults: defaultsForData(chosen.defaults, given.data) };
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
      `Cannot train as --lora-rank needs --init-from, a model to train adapters for: ` +
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
      `Cannot train adapters for ${initFrom} as it must be a whole model: it has adapters, ` +
        `which ${taskCommand("export")} merges`,
    );
  }
  return source;
}

/** Copies the base of a run's adapters, or notes that it is needed: a resumed run and a loaded model need it. */
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

/** The options, with alpha and targets of adapters chosen. */
function withAdapters(options: TrainOptions, config: GptConfig | undefined): TrainOptions {
  const { loraRank, loraAlpha, loraTargets } = options;
  if (loraRank === undefined || !config) return options;
  return {
    ...options,
    loraAlpha: loraAlpha ?? 2 * loraRank,
    loraTargets: loraTargets ?? defaultTargets(config).join(","),
  };
}

/** The adapters that the options describe, if they do. */
function loraOf({ loraRank, loraAlpha, loraTargets }: TrainOptions): LoraConfig | undefined {
  if (loraRank === undefined) return undefined;
  return { rank: loraRank, alpha: loraAlpha!, targets: loraTargets!.split(",") };
}
