import { dirname, join } from "node:path";
import { Batches } from "../data/batches.ts";
import { type Corpus, loadCorpus } from "../data/corpus.ts";
import { loadTokenizer, type LoadTokenizerOptions, readTokenizer } from "../data/load_tokenizer.ts";
import type { DataProgress } from "../data/sources.ts";
import type { Tokenizer } from "../data/tokenizer.ts";
import { generate } from "../generate/generate.ts";
import { resolvePrecision } from "../generate/load.ts";
import { tensorNamed } from "../kernels/arena.ts";
import { type Device, openDevice } from "../kernels/device.ts";
import { upload } from "../kernels/tensor.ts";
import { Tuner, untuned } from "../kernels/tune.ts";
import {
  CHECKPOINT_FORMAT,
  newestCheckpoint,
  readTrainerState,
  type TrainerState,
} from "../model/checkpoint.ts";
import {
  type GptConfig,
  parseHuggingFaceConfig,
  type PresetName,
  PRESETS,
  toHuggingFaceConfig,
} from "../model/config.ts";
import type { Precision } from "../model/precision.ts";
import { createGpt, type Gpt } from "../model/gpt.ts";
import { countParameters, parameterTable } from "../model/parameters.ts";
import { parseSafetensors, serializeSafetensors, toFloat32 } from "../model/safetensors.ts";
import {
  downloadTable,
  initializeParameters,
  loadParameters,
  saveParameters,
} from "../model/weights.ts";
import { type FileContent, moveAside, openRunDirectory, type RunDirectory } from "./checkpoint.ts";
import { createEvaluator, type Evaluation } from "./evaluate.ts";
import {
  batchShapeOf,
  DEFAULT_OPTIONS,
  type ResolvedOptions,
  resolveOptions,
  resumeOptions,
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
  { device: given, signal, ...wanted }: Partial<TrainOptions> & {
    device?: Device;
    signal?: AbortSignal;
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
      const resumed = path === undefined ? undefined : await readCheckpoint(path);
      yield* trainIn(run, { device, signal, wanted, resumed });
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
}

async function readCheckpoint(path: string): Promise<Resumed> {
  const text = (name: string) => Deno.readTextFile(join(path, name));
  const config = parseHuggingFaceConfig(await text("config.json"), join(path, "config.json"));
  const { vocabularySize } = config;
  return {
    path,
    state: readTrainerState(path),
    config,
    tokenizer: await readTokenizer(join(path, "tokenizer.json"), { vocabularySize }),
  };
}

/** Does some work and yields what it reports meanwhile; whoever stops listening stops the work. */
async function* reporting<T>(
  work: (report: (event: TrainEvent) => void, signal: AbortSignal) => Promise<T>,
  signal: AbortSignal | undefined,
): AsyncGenerator<TrainEvent, T> {
  const events: TrainEvent[] = [];
  const abandoned = new AbortController();
  let wake = () => {}, done = false;
  const result = work((event) => {
    events.push(event);
    wake();
  }, AbortSignal.any([abandoned.signal, ...(signal ? [signal] : [])]));
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
  { device, signal, wanted, resumed }: {
    device: Device;
    signal: AbortSignal | undefined;
    wanted: Partial<TrainOptions>;
    resumed: Resumed | undefined;
  },
): AsyncGenerator<TrainEvent> {
  const given = resumed
    ? resumeOptions(wanted, resumed.state.options, resumed.path)
    : { ...DEFAULT_OPTIONS, ...wanted };
  const { preset, reason } = choosePreset(device, given.preset);
  const precision = resolvePrecision(device, given.precision);
  yield { kind: "notice", message: `${reason}; precision ${precision} on ${device.name}` };

  // data
  if (Array.isArray(given.data)) {
    yield { kind: "notice", message: `reading ${given.data.join(", ")}` };
  }
  const corpus = yield* reporting(async (report, signal) => {
    const onNotice = (message: string) => report({ kind: "notice", message });
    return await loadCorpus({
      data: given.data === "auto" ? "sample" : given.data,
      dataVersion: given.dataVersion,
      textField: given.textField,
      workers: given.workers,
      vocabulary: given.vocabulary,
      ...(resumed
        ? { tokenizer: resumed.tokenizer }
        : { baseTokenizer: await tokenizerOf(given, { onNotice, signal }) }),
      cacheDirectory: cacheBeside(run.path),
      signal,
      onProgress: (progress) => report({ kind: "preparing", ...progress }),
      onNotice,
    });
  }, signal);
  try {
    yield* trainOn(corpus, run, { device, signal, given, resumed, preset, precision });
  } finally {
    corpus.close();
  }
}

/** The tokenizer that was asked for, unless it is GPT-2's, of which a part may do. */
async function tokenizerOf(
  { tokenizer }: TrainOptions,
  options: LoadTokenizerOptions,
): Promise<Tokenizer | undefined> {
  if (tokenizer === undefined || tokenizer === "gpt2") return undefined;
  return await loadTokenizer(tokenizer, options);
}

/** The training itself, once the data is there. */
async function* trainOn(
  corpus: Corpus,
  run: RunDirectory,
  { device, signal, given, resumed, preset, precision }: {
    device: Device;
    signal: AbortSignal | undefined;
    given: TrainOptions;
    resumed: Resumed | undefined;
    preset: PresetName;
    precision: Precision;
  },
): AsyncGenerator<TrainEvent> {
  if (resumed && corpus.hash !== resumed.state.data.hash) {
    throw new RangeError(
      `Cannot resume ${resumed.path} as the data must stay what it was: ` +
        `${corpus.name} has changed since`,
    );
  }
  const { tokenizer } = corpus;
  const shape = batchShapeOf(given, preset);
  const batches = new Batches(corpus.training, {
    ...shape,
    sequence: given.sequence,
    seed: given.seed,
    padding: tokenizer.endOfText,
  });
  const options = resolveOptions({ ...given, data: corpus.data }, {
    preset,
    precision,
    stepsPerEpoch: batches.perEpoch / given.gradientAccumulation,
  });

  // model
  const config = resumed?.config ?? {
    ...PRESETS[preset],
    contextLength: options.contextLength,
    vocabularySize: tokenizer.vocabularySize,
  };
  yield {
    kind: "start",
    ...(resumed ? { resumedFrom: resumed.state.step } : {}),
    steps: options.steps,
    options,
    device: device.name,
    parameters: countParameters(config),
    corpus: describe(corpus),
  };
  run.append("metrics.jsonl", JSON.stringify(startMetric(config, resumed?.state.step ?? 0)));
  const gpt = createGpt(device, config, { precision });
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
      await restore(resumed, gpt, trainStep);
    } else {
      initializeParameters(gpt, { seed: options.seed });
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
): { preset: PresetName; reason: string } {
  if (preset !== "auto") return { preset, reason: `preset ${preset}, as asked` };
  return device.isCpu
    ? { preset: "nano", reason: "preset nano, as no GPU was found and the CPU computes" }
    : { preset: "mini", reason: "preset mini, as there is a GPU" };
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
  { run, options, corpus, batches, gpt, trainStep }: Loop,
  { step, bestLoss, best }: { step: number; bestLoss: number | null; best: boolean },
): Promise<string> {
  const { tokenizer } = corpus;
  const { endOfText, endOfTextToken } = tokenizer;
  const moments = new Map([
    ...await downloadTable(gpt.config, (name) => tensorNamed(trainStep.m, name), "m.", gpt),
    ...await downloadTable(gpt.config, (name) => tensorNamed(trainStep.v, name), "v.", gpt),
  ]);
  const text = (content: string): FileContent => [new TextEncoder().encode(content)];
  const json = (value: unknown) => text(JSON.stringify(value, null, 2) + "\n");
  const files = new Map<string, FileContent>([
    ["model.safetensors", serializeSafetensors(await saveParameters(gpt), { format: "pt" })],
    ["config.json", json(toHuggingFaceConfig(gpt.config, { endOfText, dropout: options.dropout }))],
    ["tokenizer.json", text(tokenizer.json)],
    [
      "tokenizer_config.json",
      json({
        add_prefix_space: false,
        bos_token: endOfTextToken,
        clean_up_tokenization_spaces: false,
        eos_token: endOfTextToken,
        model_max_length: gpt.config.contextLength,
        tokenizer_class: "PreTrainedTokenizerFast",
        unk_token: endOfTextToken,
      }),
    ],
    ["generation_config.json", json({ bos_token_id: endOfText, eos_token_id: endOfText })],
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
    data: { name: corpus.name, hash: corpus.hash },
    tuning: tuningOf(gpt.device),
  }, { keep: options.keep, best });
}

/** Puts model, moments and loss scale where a checkpoint left them. */
async function restore({ path, state }: Resumed, gpt: Gpt, trainStep: TrainStep): Promise<void> {
  const read = async (name: string) => {
    const where = join(path, name);
    return { ...parseSafetensors(await Deno.readFile(where), where), where };
  };
  const weights = await read("model.safetensors");
  loadParameters(gpt, weights.tensors, weights.where);
  const { tensors, where } = await read("optimizer.safetensors");
  for (const { name, shape } of parameterTable(gpt.config)) {
    for (const [prefix, arena] of [["m.", trainStep.m], ["v.", trainStep.v]] as const) {
      const entry = tensors.get(prefix + name);
      if (!entry || entry.shape.join() !== shape.join()) {
        throw new RangeError(
          `Cannot load ${where} as "${prefix + name}" must be there as [${shape}]`,
        );
      }
      upload(gpt.device, tensorNamed(arena, name), toFloat32(entry));
    }
  }
  trainStep.restoreScaler(state);
}
