import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { Batches } from "../data/batches.ts";
import { type Corpus, loadCorpus } from "../data/corpus.ts";
import { type HubOptions, parseHubSpec } from "../data/hub.ts";
import { loadTokenizer, readTokenizer } from "../data/load_tokenizer.ts";
import type { DataProgress } from "../data/sources.ts";
import type { Tokenizer } from "../data/tokenizer.ts";
import { generate } from "../generate/generate.ts";
import { resolvePrecision } from "../generate/load.ts";
import {
  fillModel,
  findModel,
  type FindModelOptions,
  hashModel,
  type ModelSource,
  readModel,
} from "../generate/source.ts";
import { tensorNamed } from "../kernels/arena.ts";
import { type Device, openDevice } from "../kernels/device.ts";
import { size, upload } from "../kernels/tensor.ts";
import { Tuner, untuned } from "../kernels/tune.ts";
import {
  CHECKPOINT_FORMAT,
  newestCheckpoint,
  readTrainerState,
  type TrainerState,
} from "../model/checkpoint.ts";
import { type GptConfig, type LoraConfig, type PresetName, PRESETS } from "../model/config.ts";
import type { Precision } from "../model/precision.ts";
import { createGpt, type Gpt } from "../model/gpt.ts";
import { parseHuggingFaceConfig } from "../model/hugging_face.ts";
import {
  ADAPTER_CONFIG,
  ADAPTER_FILE,
  type AdapterBase,
  defaultTargets,
  isAdapter,
  toAdapterConfig,
} from "../model/lora.ts";
import { countParameters, parameterTable } from "../model/parameters.ts";
import { serializeSafetensors } from "../model/safetensors.ts";
import { MODEL_FILE, openTensorFiles, type TensorFiles } from "../model/tensor_files.ts";
import {
  downloadTable,
  initializeParameters,
  loadAdapters,
  loadParameters,
  saveAdapters,
} from "../model/weights.ts";
import { type FileContent, moveAside, openRunDirectory, type RunDirectory } from "./checkpoint.ts";
import { createEvaluator, type Evaluation } from "./evaluate.ts";
import { jsonFile, modelFiles, tokenizerFiles } from "./export.ts";
import {
  batchShapeOf,
  DEFAULT_OPTIONS,
  fineTuningDefaults,
  presetDefaults,
  type ResolvedOptions,
  resolveOptions,
  resumeOptions,
  type TrainingDefaults,
  type TrainOptions,
  validateOptions,
} from "./options.ts";
import { checkMemory } from "./memory.ts";
import { startMetric } from "./metrics.ts";
import { drawLoss } from "./plot.ts";
import { learningRateAt } from "./schedule.ts";
import { createTrainStep, initialScaler, REPORT_ROWS, type TrainStep } from "./step.ts";
import {
  adapterOf,
  choicesOf,
  readChoices,
  tuningFileIn,
  tuningOf,
  writeChoices,
} from "./tuning.ts";

/** What `train()` reports while it works. */
export type TrainEvent =
  | { kind: "notice"; message: string }
  | ({ kind: "preparing" } & DataProgress)
  | {
    kind: "start";
    resumedFrom?: number;
    steps: number;
    options: ResolvedOptions;
    device: string;
    parameters: number;
    /** Of these, those that are not frozen. */
    trainedParameters: number;
    corpus: {
      name: string;
      vocabulary: "full" | "compact";
      vocabularySize: number;
      trainingTokens: number;
      validationTokens: number;
      /** Whether the data set brings its validation text; else it was held out. */
      ownValidation: boolean;
      /** Whether the tokens were found in the cache. */
      cached: boolean;
      entropyPerToken?: number;
    };
  }
  /** The fastest kernels are being found: those for `done` of `of` kinds of work are compiled. */
  | { kind: "tuning"; done: number; of: number }
  | {
    kind: "step";
    step: number;
    steps: number;
    loss: number;
    learningRate: number;
    gradientNorm: number;
    lossScale: number;
    skipped: number;
    tokensPerSecond: number;
    secondsLeft: number;
  }
  | ({ kind: "evaluation"; step: number; entropyPerToken?: number; best: boolean } & Evaluation)
  | { kind: "sample"; step: number; prompt: string; text: string }
  | { kind: "checkpoint"; step: number; path: string }
  | { kind: "end"; reason: "steps" | "epochs" | "interrupted"; step: number; path: string };

/** Prompts of the samples drawn during training, taken in turn. */
const SAMPLE_PROMPTS = ["Once upon a time", "One day"];

/** Tokens of a sample. */
const SAMPLE_TOKENS = 120;

/** Steps skipped in a row after which the training gives up. */
const MOST_SKIPS = 100;

/** Reports are read back about this often: each time the device runs idle for a hundredth of it. */
const READ_BACK_MS = 1000;

/**
 * Trains a model, or goes on training it, and reports what happens.
 *
 * The generator does the work as it is consumed: stop consuming and the training stops. When `signal`
 * aborts, the step under way is finished, a checkpoint saved, and the training ends as `interrupted`;
 * while data is still being prepared, the signal's reason is thrown, and the next call goes on there.
 *
 * @throws {RangeError} if an option is out of range or contradicts the checkpoint that is resumed.
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
      const path = newestCheckpoint(out, (sentence) => warnings.push(sentence));
      for (const message of warnings) yield { kind: "notice", message };
      const hub = environment ? { environment } : {};
      const resumed = path === undefined
        ? undefined
        : yield* reporting((hearing) => readCheckpoint(path, { ...hub, ...hearing }), signal);
      yield* trainIn(run, { device, signal, hub, wanted, resumed });
    } finally {
      run.close();
    }
  } finally {
    if (!given) device.destroy();
  }
}

/** A checkpoint to go on from. */
interface Resumed {
  path: string;
  state: TrainerState;
  config: GptConfig;
  tokenizer: Tokenizer;
  /** The model beside which the checkpoint's adapters stand, if it holds these alone. */
  base?: ModelSource;
}

async function readCheckpoint(path: string, options: FindModelOptions): Promise<Resumed> {
  const state = readTrainerState(path);
  const text = (name: string) => Deno.readTextFile(join(path, name));
  if (!existsSync(join(path, ADAPTER_CONFIG))) {
    const config = parseHuggingFaceConfig(await text("config.json"), join(path, "config.json"));
    const { vocabularySize } = config;
    const tokenizer = await readTokenizer(join(path, "tokenizer.json"), { vocabularySize });
    return { path, state, config, tokenizer };
  }
  const { contextLength } = state.options as unknown as ResolvedOptions;
  const found = { spec: path, directory: path };
  const { adapters, tokenizer, ...base } = await readModel(found, { ...options, contextLength });
  if (hashModel({ ...base, tokenizer }) !== state.source?.sha256) {
    throw new RangeError(
      `Cannot resume ${path} as the model beside its adapters must stay what it was: ` +
        `${base.directory} has changed since`,
    );
  }
  const config = { ...base.config, lora: adapters!.lora };
  return { path, state, config, tokenizer, base: { ...base, tokenizer } };
}

/** What work on models and data reports to, and what ends it. */
interface Hearing {
  onProgress: (progress: DataProgress) => void;
  onNotice: (message: string) => void;
  signal: AbortSignal;
}

/** Does some work and yields what it reports meanwhile; whoever stops listening stops the work. */
async function* reporting<T>(
  work: (hearing: Hearing) => Promise<T>,
  signal: AbortSignal | undefined,
): AsyncGenerator<TrainEvent, T> {
  const events: TrainEvent[] = [];
  const abandoned = new AbortController();
  let wake = () => {}, done = false;
  const report = (event: TrainEvent) => {
    events.push(event);
    wake();
  };
  const result = work({
    onProgress: (progress) => report({ kind: "preparing", ...progress }),
    onNotice: (message) => report({ kind: "notice", message }),
    signal: AbortSignal.any([abandoned.signal, ...(signal ? [signal] : [])]),
  });
  const ended = result.catch(() => {}).then(() => {
    done = true;
    wake();
  });
  try {
    while (!done) {
      const news = new Promise<void>((resolve) => wake = resolve);
      if (events.length === 0) await news;
      yield* events.splice(0);
    }
    return await result;
  } finally {
    abandoned.abort();
    await ended;
  }
}

/** The training itself, in a run directory that is ours. */
async function* trainIn(
  run: RunDirectory,
  { device, signal, hub, wanted, resumed }: {
    device: Device;
    signal: AbortSignal | undefined;
    hub: Pick<HubOptions, "environment">;
    wanted: Partial<TrainOptions>;
    resumed: Resumed | undefined;
  },
): AsyncGenerator<TrainEvent> {
  const merged = resumed
    ? resumeOptions(wanted, resumed.state.options, resumed.path)
    : { ...DEFAULT_OPTIONS, ...wanted };
  const initial = resumed ? undefined : yield* findInitial(merged, { ...hub, signal });
  const beginning = resumed?.config ?? initial?.config;
  const given = withAdapters(merged, beginning);
  const lora = loraOf(given);
  if (beginning) parameterTable({ ...beginning, ...(lora ? { lora } : {}) }, given.freeze); // says what is wrong
  const precision = resolvePrecision(device, given.precision);
  const { preset, reason, defaults } = beginning && given.initFrom !== undefined
    ? {
      preset: "auto" as const,
      reason: `starting from ${resumed?.state.source?.spec ?? initial!.spec}`,
      defaults: fineTuningDefaults({ ...beginning, ...(lora ? { lora } : {}) }),
    }
    : choosePreset(device, given.preset);
  yield { kind: "notice", message: `${reason}; precision ${precision} on ${device.name}` };

  // data
  if (Array.isArray(given.data)) {
    yield { kind: "notice", message: `reading ${given.data.join(", ")}` };
  }
  const corpus = yield* reporting(async (hearing) =>
    await loadCorpus({
      ...hub,
      ...hearing,
      data: given.data === "auto" ? "sample" : given.data,
      dataVersion: given.dataVersion,
      textField: given.textField,
      workers: given.workers,
      vocabulary: given.vocabulary,
      ...(resumed || initial
        ? { tokenizer: (resumed ?? initial)!.tokenizer }
        : { baseTokenizer: await tokenizerOf(given, hub, hearing) }),
      cacheDirectory: cacheBeside(run.path),
    }), signal);
  try {
    yield* trainOn(corpus, run, {
      ...{ device, signal, given, preset, precision, defaults },
      ...{ resumed, initial, lora },
    });
  } finally {
    corpus.close();
  }
}

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
  { device, signal, given, resumed, initial, lora, preset, precision, defaults }: {
    device: Device;
    signal: AbortSignal | undefined;
    given: TrainOptions;
    resumed: Resumed | undefined;
    initial: ModelSource | undefined;
    lora: LoraConfig | undefined;
    preset: PresetName | "auto";
    precision: Precision;
    defaults: TrainingDefaults;
  },
): AsyncGenerator<TrainEvent> {
  if (resumed && corpus.hash !== resumed.state.data.hash) {
    throw new RangeError(
      `Cannot resume ${resumed.path} as the data must stay what it was: ` +
        `${corpus.name} has changed since`,
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
  const options = resolveOptions({ ...given, data: corpus.data }, {
    preset,
    precision,
    defaults,
    stepsPerEpoch: batches.perEpoch / given.gradientAccumulation,
  });

  // model
  const config: GptConfig = resumed?.config ??
    (initial ? { ...initial.config, ...(lora ? { lora } : {}) } : {
      ...PRESETS[preset as PresetName],
      contextLength: options.contextLength,
      vocabularySize: tokenizer.vocabularySize,
    });
  const freeze = options.freeze ?? "";
  const source = resumed?.state.source ??
    (initial && { spec: initial.spec, sha256: hashModel(initial) });
  yield {
    kind: "start",
    ...(resumed ? { resumedFrom: resumed.state.step } : {}),
    steps: options.steps,
    options,
    device: device.name,
    parameters: countParameters(config),
    trainedParameters: parameterTable(config, freeze)
      .reduce((sum, { trained, shape }) => sum + (trained ? size(shape) : 0), 0),
    corpus: describe(corpus),
  };
  run.append("metrics.jsonl", JSON.stringify(startMetric(config, resumed?.state.step ?? 0)));
  const gpt = createGpt(device, config, { precision, freeze });
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
    checkMemory(device, { neededBytes: trainStep.bytes + gpt.bytes });
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
      trainStep.restoreScaler(initialScaler(precision));
    }
    yield* steps({
      run,
      options,
      corpus,
      batches,
      gpt,
      trainStep,
      evaluate: () => evaluator.run(),
      signal,
      source,
      first: resumed?.state.step ?? 0,
      bestLoss: resumed?.state.bestValidationLoss ?? null,
      ...(resumed ? { path: resumed.path } : {}),
    });
  } finally {
    for (const resource of owned.reverse()) resource.destroy();
  }
}

/**
 * Operations from which on a training is tuned unasked: five minutes of a large GPU's time. Tuning took
 * it a quarter of a minute, nearly all of it compiling (mini on an H100, November 2026).
 */
const WORTH_TUNING = 1e16;

/** Operations of a whole training: 6 a parameter and token (Kaplan et al. 2020, arXiv 2001.08361). */
function operationsOf(
  config: GptConfig,
  { steps, batchSize, contextLength, gradientAccumulation }: ResolvedOptions,
): number {
  return 6 * countParameters(config) * steps * batchSize * contextLength * gradientAccumulation;
}

/**
 * Records the training step with the kernels that a resumed run was trained with, so that it goes on to
 * the bit; or else with those that are fastest here, which are remembered or found now.
 */
async function* recordTuned(
  record: () => TrainStep,
  { device, tune, remember, file, saved }: {
    device: Device;
    /** Whether to find what is not remembered. */
    tune: boolean;
    /** Whether to take what is remembered. */
    remember: boolean;
    file: string;
    saved: TrainerState | undefined;
  },
): AsyncGenerator<TrainEvent, TrainStep> {
  const warnings: string[] = [];
  const warn = (sentence: string) => warnings.push(sentence);
  const kept = saved && choicesOf(saved, device);
  const choices = kept ?? (remember ? readChoices(file, device, warn) : new Map());
  if (saved && !kept) {
    warn(
      `resuming on ${adapterOf(device)} what was trained on ${saved.tuning.adapter}: ` +
        `the last bits of the results may differ`,
    );
  }
  for (const message of warnings.splice(0)) yield { kind: "notice", message };

  device.choices.clear();
  for (const [key, variant] of choices) device.choices.set(key, variant);
  const step = record();
  const { tunables } = step.program;
  // others, of other sizes, would change what the checkpoint says and the evaluation does
  for (const key of device.choices.keys()) if (!tunables.has(key)) device.choices.delete(key);
  const open = kept || !tune ? [] : untuned(device, tunables.values());
  if (open.length === 0) return step;

  const tuner = new Tuner(device);
  try {
    for (const [done, tunable] of open.entries()) {
      yield { kind: "tuning", done, of: open.length };
      tuner.add(tunable);
    }
    await tuner.choose();
  } finally {
    tuner.destroy();
    step.destroy();
  }
  writeChoices(file, device, warn);
  for (const message of warnings) yield { kind: "notice", message };
  return record();
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
  { initFrom, contextLength, loraRank }: TrainOptions,
  { signal, ...hub }: Pick<HubOptions, "environment"> & { signal: AbortSignal | undefined },
): AsyncGenerator<TrainEvent, ModelSource | undefined> {
  if (initFrom === undefined) {
    if (loraRank === undefined) return undefined;
    throw new RangeError(
      `Cannot train as --lora-rank needs --init-from, a model to put adapters beside: ` +
        `current value is ${loraRank}`,
    );
  }
  yield { kind: "notice", message: `looking for ${initFrom}` };
  const source = yield* reporting(
    (hearing) => findModel(initFrom, { ...hub, ...hearing, contextLength }),
    signal,
  );
  if (source.adapters && loraRank !== undefined) {
    throw new RangeError(
      `Cannot put adapters beside ${initFrom} as it must be a whole model: it has adapters, ` +
        `which "deno task export" merges`,
    );
  }
  return source;
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

/** What the loop over steps works with. */
interface Loop {
  run: RunDirectory;
  options: ResolvedOptions;
  corpus: Corpus;
  batches: Batches;
  gpt: Gpt;
  trainStep: TrainStep;
  evaluate: () => Promise<Evaluation>;
  signal: AbortSignal | undefined;
  /** The model that the training began with. */
  source: TrainerState["source"] | undefined;
  /** Steps already done. */
  first: number;
  bestLoss: number | null;
  /** Checkpoint that the run was resumed from. */
  path?: string;
}

/**
 * Submits step after step. The device is waited for only when enough steps are under way to read their
 * reports together, and before an evaluation, a sample or a checkpoint.
 */
async function* steps(loop: Loop): AsyncGenerator<TrainEvent> {
  const { run, options, corpus, batches, gpt, trainStep, signal } = loop;
  const { gradientAccumulation, steps: total } = options;
  const tokensPerStep = options.batchSize * options.contextLength * gradientAccumulation;
  const entropy = corpus.entropyPerToken === undefined
    ? {}
    : { entropyPerToken: corpus.entropyPerToken };
  const due = (every: number, step: number) => every > 0 && step % every === 0;
  let { first: step, bestLoss, path } = loop;
  let evaluated = false, best = false, saved = path !== undefined;
  let waiting: { learningRate: number }[] = []; // steps submitted and not yet reported
  let since = performance.now(), patience = 1;

  while (step < total && !signal?.aborted) {
    const learningRate = learningRateAt(step, options);
    const micro = Array.from(
      { length: gradientAccumulation },
      (_, i) => batches.at(step * gradientAccumulation + i),
    );
    trainStep.submit(step, micro, { learningRate });
    waiting.push({ learningRate });
    step++;
    saved = evaluated = false;

    const evaluating = due(options.evalEvery, step) || step === total;
    const saving = due(options.saveEvery, step);
    const sampling = due(options.sampleEvery, step);
    if (waiting.length < patience && !evaluating && !saving && !sampling) continue;

    const reports = await trainStep.reports(waiting.length);
    const elapsedMs = performance.now() - since;
    const tokensPerSecond = tokensPerStep * waiting.length / elapsedMs * 1000;
    const secondsLeft = (total - step) * elapsedMs / waiting.length / 1000;
    patience = Math.max(
      1,
      Math.min(REPORT_ROWS, Math.floor(waiting.length * READ_BACK_MS / elapsedMs)),
    );
    const metrics = reports.map(({ skippedSteps: skipped, ...report }, i) => ({
      kind: "step" as const,
      step: step - waiting.length + i + 1,
      loss: report.loss,
      learningRate: waiting[i]!.learningRate,
      gradientNorm: report.gradientNorm,
      lossScale: report.lossScale,
      skipped,
      tokensPerSecond: Math.round(tokensPerSecond),
    }));
    // all in one, as the device waits
    run.append("metrics.jsonl", metrics.map((metric) => JSON.stringify(metric)).join("\n"));
    for (const [i, metric] of metrics.entries()) {
      yield { ...metric, steps: total, secondsLeft };
      const { consecutiveSkips } = reports[i]!;
      if (consecutiveSkips >= MOST_SKIPS) {
        throw new RangeError(
          `Cannot go on training as ${consecutiveSkips} steps in a row had a gradient that is not ` +
            `finite: try a lower --learning-rate (it is ${options.learningRate}) or --precision f32`,
        );
      }
    }
    if (reports.at(-1)!.lossScale < 1 && options.precision === "f16") {
      const message = `the loss scale fell to ${reports.at(-1)!.lossScale}: gradients overflow f16`;
      yield { kind: "notice", message };
    }
    waiting = [];

    if (evaluating) {
      const evaluation = await loop.evaluate();
      evaluated = true;
      best = bestLoss === null || evaluation.loss < bestLoss;
      if (best) bestLoss = evaluation.loss;
      const metric = { kind: "evaluation" as const, step, ...evaluation, ...entropy };
      run.append("metrics.jsonl", JSON.stringify(metric));
      run.write("loss.svg", await drawLoss(run.read("metrics.jsonl")));
      yield { ...metric, best };
    }
    if (sampling) {
      const prompt =
        SAMPLE_PROMPTS[Math.floor(step / options.sampleEvery) % SAMPLE_PROMPTS.length]!;
      let text = "";
      const sample = { prompt, maxNewTokens: SAMPLE_TOKENS, seed: step };
      for await (const piece of generate({ gpt, tokenizer: corpus.tokenizer }, sample)) {
        text += piece;
      }
      yield { kind: "sample", step, prompt, text };
    }
    if (saving) {
      path = await save(loop, { step, bestLoss, best: evaluated && best });
      saved = true;
      yield { kind: "checkpoint", step, path };
    }
    since = performance.now();
  }

  if (!saved) {
    path = await save(loop, { step, bestLoss, best: evaluated && best });
    yield { kind: "checkpoint", step, path };
  }
  const reason = step < total ? "interrupted" : options.endsWith;
  yield { kind: "end", reason, step, path: path! };
}

/** Writes everything that a resumed training, or Hugging Face transformers, needs. */
async function save(
  { run, options, corpus, batches, gpt, trainStep, source }: Loop,
  { step, bestLoss, best }: { step: number; bestLoss: number | null; best: boolean },
): Promise<string> {
  const { tokenizer } = corpus;
  const trained = gpt.table.filter((parameter) => parameter.trained);
  const moments = new Map([
    ...await downloadTable(gpt, trained, (name) => tensorNamed(trainStep.m, name), "m."),
    ...await downloadTable(gpt, trained, (name) => tensorNamed(trainStep.v, name), "v."),
  ]);
  const files = new Map<string, FileContent>([
    ...(gpt.config.lora
      ? [
        [ADAPTER_FILE, serializeSafetensors(await saveAdapters(gpt), { format: "pt" })],
        [ADAPTER_CONFIG, jsonFile(toAdapterConfig(gpt.config, baseOf(source!.spec)))],
      ] as const
      : await modelFiles(gpt, tokenizer, { dropout: options.dropout })),
    ...tokenizerFiles(gpt, tokenizer),
    ["optimizer.safetensors", serializeSafetensors(moments)],
  ]);
  const batchIndex = step * options.gradientAccumulation;
  const { learningRate, minLearningRate, warmupSteps, steps } = options;
  const { out: _, fresh: __, workers: ___, ...kept } = options; // where and how is not part of it
  return run.save(files, {
    formatVersion: CHECKPOINT_FORMAT,
    step,
    epoch: batches.epochOf(batchIndex),
    batchIndex,
    seed: options.seed,
    ...await trainStep.scaler(),
    bestValidationLoss: bestLoss,
    schedule: { learningRate, minLearningRate, warmupSteps, steps },
    options: kept,
    tokenizerHash: tokenizer.hash,
    ...(source ? { source } : {}),
    data: { name: corpus.name, hash: corpus.hash },
    tuning: tuningOf(gpt.device),
  }, { keep: options.keep, best });
}

/** What PEFT's configuration of adapters says of the model beside which they stand. */
function baseOf(spec: string): AdapterBase {
  if (!spec.startsWith("hf:")) return { base: spec };
  const { repo, revision } = parseHubSpec(spec);
  return { base: repo, ...(revision === undefined ? {} : { revision }) };
}

/** Puts model, moments and loss scale where a checkpoint left them. */
function restore({ path, state, base }: Resumed, gpt: Gpt, trainStep: TrainStep): void {
  const read = (name: string, load: (tensors: TensorFiles["tensors"], where: string) => void) => {
    const where = join(path, name), files = openTensorFiles([where]);
    try {
      load(files.tensors, where);
    } finally {
      files.close();
    }
  };
  if (base) {
    fillModel(gpt, base);
    read(ADAPTER_FILE, (tensors, where) => loadAdapters(gpt, tensors, where));
  } else {
    read(MODEL_FILE, (tensors, where) => loadParameters(gpt, tensors, where));
  }
  read("optimizer.safetensors", (tensors, where) => {
    for (const { name, shape, trained } of gpt.table) {
      if (!trained) continue;
      for (const [prefix, arena] of [["m.", trainStep.m], ["v.", trainStep.v]] as const) {
        const tensor = tensors.get(prefix + name);
        if (!tensor || tensor.shape.join() !== shape.join()) {
          throw new RangeError(
            `Cannot load ${where} as "${prefix + name}" must be there as [${shape}]`,
          );
        }
        upload(gpt.device, tensorNamed(arena, name), tensor.floats(0, size(shape)));
      }
    }
  });
  trainStep.restoreScaler(state);
}
