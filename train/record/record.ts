import { Buffer } from "node:buffer";
import { existsSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import {
  isSystemError,
  openFile,
  readAt,
  reasonOf,
  replaceFile,
  syncDirectory,
} from "../../files/disk.ts";
import { UserError } from "../../files/user_error.ts";
import { checkpointName } from "../../model/files/checkpoint.ts";
import { drawLoss, LossCurve } from "./loss_curve.ts";
import { type CheckWarning, RunChecks } from "./checks.ts";
import {
  CHUNK_BYTES,
  LINE_BREAK,
  type Metric,
  metricLine,
  METRICS_FILE,
  parseMetric,
  readLines,
  Rewinds,
} from "./metrics.ts";
import type { RunDirectory } from "../directory/run_directory.ts";
import { emptyEventFile, type EventFile, isShown, openEventFile } from "./tensorboard.ts";

/**
 * The record of a run while it trains: `metrics.jsonl`, which is only appended to, and what is made from it, `loss.svg`
 * and the event file.
 *
 * @module
 */

const PICTURE_FILE = "loss.svg";

/** The record of a run: its file, and what evaluations and curves need of all its lines. */
export class RunRecord {
  readonly #directory: RunDirectory;
  readonly #now: () => Date;
  readonly #losses = new LossCurve();
  readonly #checks = new RunChecks();
  #best: { step: number; loss: number } | undefined;
  #lastEvaluation: Metric | undefined;
  #evaluationsSinceBest = 0;
  /** Of the last line. */
  #step = 0;
  /** The file in which TensorBoard finds the lines that are appended. */
  events: EventFile | undefined;

  constructor(directory: RunDirectory, now: () => Date) {
    this.#directory = directory;
    this.#now = now;
  }

  /** Step of the best evaluation. */
  get bestStep(): number | undefined {
    return this.#best?.step;
  }

  /** The line of the last evaluation. */
  get lastEvaluation(): Metric | undefined {
    return this.#lastEvaluation;
  }

  /** Evaluations after the best one, up to now. */
  get evaluationsSinceBest(): number {
    return this.#evaluationsSinceBest;
  }

  /**
   * Appends metrics to the file with the time, each followed by the warnings that it causes, all in one write.
   *
   * @returns the warnings.
   */
  note(metrics: readonly Metric[]): CheckWarning[] {
    const time = this.#now().toISOString(), lines: string[] = [], warnings: CheckWarning[] = [];
    const push = ({ kind, ...rest }: Metric) => lines.push(metricLine({ kind, time, ...rest }));
    for (const metric of metrics) {
      push(metric);
      for (const warning of this.add(metric)) {
        push(warning);
        this.#losses.add(warning);
        warnings.push(warning);
      }
    }
    this.#directory.append(METRICS_FILE, lines.join("\n"));
    // from the lines, as when the file is written anew
    this.events?.append(lines.flatMap((line) => parseMetric(line) ?? []));
    return warnings;
  }

  /** Appends the end of a training that an error ends. */
  noteError(error: unknown): void {
    const message = error instanceof UserError
      ? error.sentence // with the names of flags, as in warnings
      : error instanceof Error
      ? error.message
      : String(error);
    this.note([{ kind: "end", step: this.#step, reason: "error", message }]);
  }

  /** Draws the losses; if that fails, there is a notice. */
  async draw(): Promise<void> {
    let picture: string;
    try {
      picture = await drawLoss(this.#losses, { title: `Loss of ${this.#directory.path}` });
    } catch (error) {
      this.#directory.notices.push(`Cannot draw ${PICTURE_FILE} as ${(error as Error).message}`);
      return;
    }
    this.#directory.write(PICTURE_FILE, picture);
  }

  /** Adds a line that is in the file already; returns what the checks say about it. */
  add(metric: Metric): CheckWarning[] {
    this.#step = metric.step;
    this.#losses.add(metric);
    if (metric.kind === "evaluation") this.#addEvaluation(metric);
    return this.#checks.add(metric);
  }

  #addEvaluation(metric: Metric): void {
    const { step, loss } = metric;
    this.#lastEvaluation = metric;
    if (step === 0) return; // of the model from which the training started, which is no checkpoint of the run
    this.#evaluationsSinceBest++;
    if (!Number.isFinite(loss) || this.#best && loss! >= this.#best.loss) return;
    this.#best = { step, loss: loss! };
    this.#evaluationsSinceBest = 0;
  }
}

/**
 * Opens the record of a run whose training continues after `step`. Lines of later steps, and those that an earlier
 * training repeated, move into another file, such as `metrics-after-000500.jsonl`. If that fails, the lines stay, and
 * readers of the record skip them. The loss curve, the event file and the hints of the run are corrected, too.
 *
 * @param options.tensorboard whether lines are appended to an event file, too; by default they are not.
 * @param options.now the clock, for tests.
 */
export async function openRecord(
  run: RunDirectory,
  step: number,
  { tensorboard = false, now = () => new Date() }: {
    tensorboard?: boolean;
    now?: () => Date;
  } = {},
): Promise<RunRecord> {
  const path = join(run.path, METRICS_FILE);
  const exists = existsSync(path);
  let record = new RunRecord(run, now);
  const rewinds = new Rewinds();
  let shown = { count: 0, last: undefined as Metric | undefined };
  const add = (metric: Metric) => {
    record.add(metric);
    if (isShown(metric)) shown = { count: shown.count + 1, last: metric };
  };
  try {
    for (const line of exists ? readLines(path) : []) {
      rewinds.add(line);
      if (line.metric) add(line.metric);
    }
    rewinds.goBack(Infinity, step);
    if (!rewinds.none) {
      record = new RunRecord(run, now);
      shown = { count: 0, last: undefined };
      const isRepeated = rewinds.sorter();
      for (const line of readLines(path)) {
        if (!isRepeated(line) && line.metric) add(line.metric);
      }
      const moved = divide(path, rewinds, `metrics-after-${checkpointName(step)}`);
      run.notices.push(`the lines of ${path} for steps after ${step} are in ${moved} now`);
    }
    if (tensorboard) {
      const read = () => exists ? wholeLines(path) : [];
      record.events = openEventFile(run, { ...shown, read }, { now });
    } else if (!rewinds.none) {
      emptyEventFile(run); // it has the steps after this one
    }
  } catch (error) {
    if (!isSystemError(error)) throw error;
    run.notices.push(
      `Cannot make ${path} end at step ${step} as ${reasonOf(error)}: it stays as it is`,
    );
    emptyEventFile(run);
  }
  if (!rewinds.none) await record.draw();
  run.resumeAfter(step, record.bestStep);
  return record;
}

/** The lines of a record that are not damaged. */
function* wholeLines(path: string): Generator<Metric> {
  for (const { metric } of readLines(path)) if (metric) yield metric;
}

/**
 * Moves the lines of repeated steps from a record into another file of the run.
 *
 * That file is complete before the record loses the lines: a process that is killed in between leaves them in both
 * files, and the next one finds the same bytes there.
 *
 * @returns the path of that file.
 */
function divide(path: string, rewinds: Rewinds, name: string): string {
  const directory = dirname(path);
  let target = join(directory, `${name}.jsonl`);
  for (let i = 1; existsSync(target) && !holds(target, lines(path, rewinds, true)); i++) {
    target = join(directory, `${name}-${i}.jsonl`);
  }
  replaceFile(target, lines(path, rewinds, true));
  syncDirectory(directory);
  replaceFile(path, lines(path, rewinds, false));
  syncDirectory(directory);
  return target;
}

/** The lines of a record whose steps were repeated, or all others, in chunks, each valid until the next is read. */
function* lines(path: string, rewinds: Rewinds, areRepeated: boolean): Generator<Uint8Array> {
  const chunk = new Uint8Array(CHUNK_BYTES), isRepeated = rewinds.sorter();
  let length = 0, last = LINE_BREAK;
  for (const line of readLines(path)) {
    if (isRepeated(line) !== areRepeated) continue;
    const { bytes } = line;
    if (length + bytes.length > CHUNK_BYTES) {
      yield chunk.subarray(0, length);
      length = 0;
    }
    chunk.set(bytes, length);
    length += bytes.length;
    last = bytes.at(-1)!;
  }
  yield chunk.subarray(0, length);
  if (last !== LINE_BREAK) yield new Uint8Array([LINE_BREAK]);
}

/** Whether a file has exactly this content. */
function holds(path: string, content: Iterable<Uint8Array>): boolean {
  const status = statSync(path);
  if (!status.isFile()) return false;
  using file = openFile(path, "r");
  let position = 0;
  for (const chunk of content) {
    const there = new Uint8Array(chunk.length);
    readAt(file.handle, there, position);
    if (Buffer.compare(there, chunk) !== 0) return false;
    position += chunk.length;
  }
  return position === status.size;
}
