import { existsSync } from "node:fs";
import { join } from "node:path";
import type { DataSpec } from "../data/text/dataset.ts";
import type { DataProgress } from "../data/text/documents.ts";
import type { Tokenizer } from "../data/tokenizer/tokenizer.ts";
import { type Corpus, loadCorpus } from "../data/tokens/corpus.ts";
import { isSystemError, reasonOf } from "../files/disk.ts";
import { sentenceOf, UserError } from "../files/user_error.ts";
import { runOf } from "../generate/base.ts";
import { findSource, type LoadOptions, loadSource } from "../generate/load.ts";
import type { ModelSource } from "../generate/source.ts";
import type { Device } from "../kernels/device.ts";
import { readTrainerState } from "../model/files/checkpoint.ts";
import type { TrainerState } from "../model/files/trainer_state.ts";
import type { CheckResult } from "../train/record/checks.ts";
import { type Metric, METRICS_FILE, readMetrics } from "../train/record/metrics.ts";
import { type ResolvedOptions, tokensPerStepOf } from "../train/options.ts";
import { cacheBeside, offline, textOf } from "../train/training_data.ts";
import { choicesOf } from "../train/tuning.ts";
import { diagnose, type DiagnoseOptions, type TrainingFacts } from "./diagnose.ts";
import { USUAL_STEP } from "./pass.ts";

/** What to diagnose: a model, and the text to read if it is not that of its training. */
export interface DiagnoseRunOptions extends LoadOptions {
  /** Text to read in place of that of the training, in the syntax of `openDataset()`. */
  readonly data?: DataSpec | undefined;
  /** Is called with the number of checks that are made, and of all. */
  readonly onChecked?: DiagnoseOptions["onChecked"];
}

/** A model and what is wrong with it. */
export interface Diagnosis {
  /** The checkpoint, or the `spec` of another model. */
  readonly model: string;
  /** Steps of its training; absent if it records none. */
  readonly step?: number;
  /** The checks, the worst first. */
  readonly checks: readonly CheckResult[];
}

/**
 * Finds out what is wrong with a run or another model, as `diagnose()` does, with the text and the record of the run if
 * they can be read on this machine. Nothing is downloaded but a model that `model` names.
 *
 * @throws {UserError} if the model cannot be loaded, or the text of `data` cannot be read; {DeviceError} if the device
 * fails.
 *
 * @example See what is wrong with a run
 * ```ts
 * import { diagnoseRun, openDevice } from "../mod.ts";
 *
 * const { checks } = await diagnoseRun(await openDevice(), { run: "runs/default" });
 * for (const { name, verdict, finding, cure } of checks) {
 *   if (verdict === "sick") console.log(name, finding, cure);
 * }
 * ```
 */
export async function diagnoseRun(
  device: Device,
  options: DiagnoseRunOptions,
): Promise<Diagnosis> {
  const source = await findSource({ ...options, onProgress: options.onProgress ?? (() => {}) });
  return await diagnoseSource(device, source, options);
}

/** Finds out what is wrong with a model that was found. */
export async function diagnoseSource(
  device: Device,
  source: ModelSource,
  { data, precision, onProgress = () => {}, onNotice = () => {}, onChecked }:
    & Pick<DiagnoseRunOptions, "data" | "precision" | "onNotice" | "onChecked">
    & { onProgress?: ((progress: DataProgress) => void) | undefined },
): Promise<Diagnosis> {
  const { checkpoint, tokenizer } = source;
  const state = checkpoint === undefined ? undefined : readTrainerState(checkpoint);
  for (const [key, variant] of state && choicesOf(state, device) || []) {
    device.choices.set(key, variant);
  }
  const isF16 = state?.options.precision === "f16" && device.features.has("shader-f16");
  const model = loadSource(device, source, { precision: precision ?? (isF16 ? "f16" : "f32") });
  using _ = model.gpt;
  const run = checkpoint === undefined ? undefined : runOf(checkpoint);
  const reading = { ...run === undefined ? {} : { cacheDirectory: cacheBeside(run) }, onProgress };
  const corpus = data === undefined
    ? await openOwnText(state, tokenizer, { ...reading, onNotice })
    : await loadCorpus({ data, tokenizer, ...reading, readOnly: true });
  try {
    const checks = await diagnose(model, {
      text: corpus,
      record: run === undefined || !existsSync(join(run, METRICS_FILE))
        ? undefined
        : recordOf(run, state!.step, onNotice),
      training: state && factsOf(state),
      onChecked,
    });
    return { model: checkpoint ?? source.spec, ...(state ? { step: state.step } : {}), checks };
  } finally {
    corpus?.close();
  }
}

/** The text of a training, if it is on this machine and has not changed. */
async function openOwnText(
  state: TrainerState | undefined,
  tokenizer: Tokenizer,
  { onNotice, ...reading }: {
    onNotice: (sentence: string) => void;
    cacheDirectory?: string;
    onProgress: (progress: DataProgress) => void;
  },
): Promise<Corpus | undefined> {
  if (!state) return undefined;
  const report = (reason: string) =>
    onNotice(`the text of the training cannot be used: ${reason}; --data names another one`);
  try {
    const environment = offline();
    const corpus = await loadCorpus({
      ...textOf(state),
      tokenizer,
      ...reading,
      environment,
      readOnly: true,
    });
    if (corpus.hash === state.data.hash) return corpus;
    corpus.close();
    report(`${corpus.name} has changed since`);
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    report(sentenceOf(error));
  }
}

/** The lines of a run's record up to a step. */
function* recordOf(
  run: string,
  step: number,
  onNotice: (sentence: string) => void,
): Generator<Metric> {
  try {
    for (const metric of readMetrics(join(run, METRICS_FILE), onNotice)) {
      if (metric.step <= step) yield metric;
    }
  } catch (error) {
    if (!isSystemError(error)) throw error;
    onNotice(`the record of the training cannot be read: ${reasonOf(error)}`);
  }
}

/** What a checkpoint says about its training. */
function factsOf({ step, lossScale, options }: TrainerState): TrainingFacts {
  const { precision, warmupSteps = 0 } = options as Partial<ResolvedOptions>;
  const targets = tokensPerStepOf(options);
  return {
    step,
    warmupSteps,
    precision: precision === "f16" ? "f16" : "f32",
    lossScale,
    targetsPerStep: targets >= 1 ? targets : USUAL_STEP.targetsPerStep,
  };
}
