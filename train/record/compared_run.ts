import { readdirSync, readFileSync, statSync } from "node:fs";
import { join, relative } from "node:path";
import { taskCommand } from "../../files/command_line.ts";
import { isSystemError } from "../../files/disk.ts";
import { CONFIG_FILE } from "../../files/names.ts";
import { sentenceOf } from "../../files/user_error.ts";
import { PRESETS } from "../../model/config.ts";
import { listCheckpoints, readTrainerState } from "../../model/files/checkpoint.ts";
import { parseHuggingFaceConfig } from "../../model/files/hugging_face.ts";
import { CheckpointError, type TrainerState } from "../../model/files/trainer_state.ts";
import { EARLIER_ARCHITECTURE } from "../architecture.ts";
import { Curve } from "./curve.ts";
import { costOf } from "../cost.ts";
import { type Metric, METRICS_FILE, readLines, readMetrics } from "./metrics.ts";
import { savedIn, tokensPerStepOf } from "../options.ts";
import { dimensionsOf } from "../resolve.ts";
import { isRun } from "../directory/run_place.ts";
import { TrainingTime, TrainingTokens } from "./training_time.ts";

/**
 * What a run has reached, and at what cost, by its record and its newest checkpoint.
 *
 * @module
 */

/** An evaluation of a model, and the cost of the training before it. */
export interface ComparedPoint {
  /** Steps done. */
  readonly step: number;
  /** Tokens trained on. */
  readonly tokens: number;
  /** Seconds of these steps, without evaluations, samples and checkpoints. */
  readonly seconds: number;
  /** Operations by `flopsPerToken()`. */
  readonly flops: number;
  /** Validation loss in nats per token. */
  readonly loss: number;
  /** Validation loss in bits per byte of text. */
  readonly bitsPerByte: number;
}

/** A training to compare. */
export interface ComparedRun {
  /** Its directory, as the user typed it. */
  readonly name: string;
  /** Parameters of its model. */
  readonly parameters: number;
  /** Its evaluations in the order of their steps, at least one; thinned if there are many. */
  readonly points: readonly ComparedPoint[];
  /** Its last evaluation. */
  readonly last: ComparedPoint;
  /** The evaluation with the least loss; of several, the first. */
  readonly best: ComparedPoint;
  /** All its options. */
  readonly options: Readonly<Record<string, unknown>>;
  /** The adapter on which it was trained, if that is known. */
  readonly adapter: string | null;
  /** SHA-256 of the text on which it was trained and evaluated. */
  readonly dataHash: string;
  /** SHA-256 of the text on which it was evaluated, if that was separate. */
  readonly validationHash?: string;
  /** Hash of its tokenizer. */
  readonly tokenizerHash: string;
}

/**
 * Reads a run for the comparison: its metrics, and the options in its newest checkpoint.
 *
 * @param onWarning is called with a sentence about each file or line that is skipped.
 * @throws {CheckpointError} if there is no such run, or if it has no checkpoint or no evaluation.
 */
export function readRun(path: string, onWarning: (sentence: string) => void): ComparedRun {
  const refuse = (reason: string, hint?: string) =>
    new CheckpointError(`Cannot compare ${path} as ${reason}`, { hint });
  const reading = <T>(file: string, read: () => T): T => {
    try {
      return read();
    } catch (error) {
      if (!isSystemError(error)) throw error;
      throw refuse(
        file === path
          ? "there is no such run"
          : `it has no ${relative(path, file)} that can be read`,
      );
    }
  };
  if (!reading(path, () => statSync(path)).isDirectory()) {
    throw refuse("it is a file, and a run is a directory");
  }
  if (!isRun(path)) {
    const holdsRuns = reading(path, () => readdirSync(path)).some((name) =>
      isRun(join(path, name))
    );
    throw refuse(
      `it is no run${holdsRuns ? ", but holds runs" : ""}`,
      holdsRuns ? `Compare them: ${taskCommand("compare")} ${join(path, "*")}` : undefined,
    );
  }
  const metrics = join(path, METRICS_FILE);
  reading(metrics, () => {
    for (const _ of readLines(metrics)) break; // so that an error names this file before its checkpoints
  });
  let newest = newestState(path, onWarning);
  if (!newest) throw refuse("it has no checkpoint yet, which would hold its options");
  const tokensPerStep = tokensPerStepOf(newest.state.options);
  if (!(tokensPerStep > 0)) throw refuse("its checkpoint does not name the batch size");

  const { start, end, ...evaluations } = reading(
    metrics,
    () => readEvaluations(metrics, tokensPerStep, onWarning),
  );
  // a checkpoint later than the record is damaged: the run was resumed from an earlier one
  if (newest.state.step > end) newest = newestState(path, () => {}, end) ?? newest;
  const { options, data, tokenizerHash, tuning } = newest.state;
  const { checkpoint } = newest;
  const { parameters, flopsPerToken } = start ??
    // records of earlier versions lack these figures
    reading(join(checkpoint, CONFIG_FILE), () => costIn(checkpoint, options.freeze));
  const counted = (point: SpentPoint): ComparedPoint => (
    { ...point, flops: point.tokens * flopsPerToken! }
  );
  const { points, last, best } = evaluations;
  if (!last || !best) throw refuse("it has no evaluation yet");
  return {
    name: path,
    parameters: parameters!,
    points: points.map(counted),
    last: counted(last),
    best: counted(best),
    options: withUnsaved(options),
    adapter: tuning.adapter,
    dataHash: data.hash,
    ...(data.validationHash ? { validationHash: data.validationHash } : {}),
    tokenizerHash,
  };
}

/** The newest checkpoint up to a step whose state can be read; undefined if there is no checkpoint. */
export function newestState(
  run: string,
  onWarning: (sentence: string) => void,
  last = Infinity,
): { checkpoint: string; state: TrainerState } | undefined {
  const unreadable: Error[] = [];
  for (const { path, step } of listCheckpoints(run)) {
    if (step > last) continue;
    try {
      const state = readTrainerState(path);
      for (const error of unreadable) onWarning(`${sentenceOf(error)}; using ${path} instead`);
      return { checkpoint: path, state };
    } catch (error) {
      unreadable.push(error as Error);
    }
  }
  if (unreadable.length > 0) throw unreadable[0]!;
  return undefined;
}

/** The size and the cost of the model in a checkpoint. */
export function costIn(checkpoint: string, freeze?: unknown): ReturnType<typeof costOf> {
  const file = join(checkpoint, CONFIG_FILE);
  if (!statSync(file).isFile()) { // reading a pipe would wait forever
    throw Object.assign(new Error("it is no file"), { code: "EINVAL" });
  }
  const config = parseHuggingFaceConfig(readFileSync(file, "utf8"), file);
  return costOf(config, { options: typeof freeze === "string" ? { freeze } : {} });
}

/** Options with those that earlier versions did not save, dimensions and architecture of the preset among them. */
function withUnsaved(options: Record<string, unknown>): Record<string, unknown> {
  const preset = new Map(Object.entries(PRESETS)).get(`${options.preset}`);
  const dimensions = preset ? { ...EARLIER_ARCHITECTURE, ...dimensionsOf(preset) } : {};
  return { ...savedIn({ options: { ...dimensions, ...options } }) };
}

/** An evaluation without operations, which are computed from the last line of kind `start`. */
export type SpentPoint = Omit<ComparedPoint, "flops">;

/** Reads the evaluations of a record, thinned, its last start and its last step. Repeated steps count once. */
export function readEvaluations(
  path: string,
  tokensPerStep: number,
  onWarning: (sentence: string) => void,
): { points: SpentPoint[]; last?: SpentPoint; best?: SpentPoint; start?: Metric; end: number } {
  const curve = new Curve<SpentPoint, "loss" | "bitsPerByte">(["loss", "bitsPerByte"]);
  let last: SpentPoint | undefined, best: SpentPoint | undefined, start: Metric | undefined;
  const time = new TrainingTime(tokensPerStep, firstSpeed(path));
  const tokensUpTo = new TrainingTokens(tokensPerStep);
  let end = 0;
  for (const metric of readMetrics(path, onWarning)) {
    const { kind, step, loss, bitsPerByte } = metric;
    const seconds = time.add(metric), tokens = tokensUpTo.add(metric);
    end = step;
    if (kind === "start") start = metric;
    if (kind !== "evaluation" || !Number.isFinite(loss) || !Number.isFinite(bitsPerByte)) continue;
    last = { step, tokens, seconds, loss: loss!, bitsPerByte: bitsPerByte! };
    if (!best || last.loss < best.loss) best = last;
    curve.add(last);
  }
  return {
    points: curve.points,
    end,
    ...(last && best ? { last, best } : {}),
    ...(start ? { start } : {}),
  };
}

/** The first speed in a record; NaN if there is none. */
function firstSpeed(path: string): number {
  for (const { metric } of readLines(path)) {
    const { kind, tokensPerSecond = 0 } = metric ?? {};
    if (kind === "step" && tokensPerSecond > 0) return tokensPerSecond;
  }
  return NaN;
}
