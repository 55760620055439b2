import { Buffer } from "node:buffer";
import { closeSync, existsSync, fsyncSync, openSync, renameSync, rmSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { readAt, reasonOf, syncDirectory, temporaryBeside, writeAll } from "../files/disk.ts";
import { checkpointName } from "../model/files/checkpoint.ts";
import type { RunDirectory } from "./checkpoint.ts";
import { type Metric, readLines, Rewinds } from "./metrics.ts";
import { drawLoss, LossCurve } from "./plot.ts";

/**
 * The record of a run while it trains: `metrics.jsonl`, which grows and is not read again, and `loss.svg`.
 *
 * @module
 */

const RECORD_FILE = "metrics.jsonl", PICTURE_FILE = "loss.svg";

/** What a run notes, and what is known of all that it noted. */
export class RunRecord {
  readonly #run: RunDirectory;
  readonly #losses = new LossCurve();
  #best: { step: number; loss: number } | undefined;
  #lastEvaluation: number | undefined;

  constructor(run: RunDirectory) {
    this.#run = run;
  }

  /** Step of the best evaluation. */
  get bestStep(): number | undefined {
    return this.#best?.step;
  }

  /** Step of the last evaluation. */
  get lastEvaluation(): number | undefined {
    return this.#lastEvaluation;
  }

  /** Appends metrics to the file, all in one write. */
  note(metrics: readonly Metric[]): void {
    this.#run.append(RECORD_FILE, metrics.map((metric) => JSON.stringify(metric)).join("\n"));
    for (const metric of metrics) this.take(metric);
  }

  /** Draws the losses; a picture that cannot be made is a notice. */
  async draw(): Promise<void> {
    let picture: string;
    try {
      picture = await drawLoss(this.#losses);
    } catch (error) {
      this.#run.notices.push(`Cannot draw ${PICTURE_FILE} as ${(error as Error).message}`);
      return;
    }
    this.#run.write(PICTURE_FILE, picture);
  }

  /** Takes in what the file holds already. */
  take(metric: Metric): void {
    this.#losses.add(metric);
    const { kind, step, loss } = metric;
    if (kind !== "evaluation") return;
    this.#lastEvaluation = step;
    if (!Number.isFinite(loss)) return;
    if (!this.#best || loss! < this.#best.loss) this.#best = { step, loss: loss! };
  }
}

/**
 * Opens the record of a run whose training continues after `step`, and makes it true for that step: what
 * was noted of later ones, and what an earlier training did again, moves into a file of its own, such as
 * `metrics-after-000500.jsonl`. If that fails, the lines stay, and readers of the record skip them.
 * The picture and the hints of the run follow.
 */
export async function openRecord(run: RunDirectory, step: number): Promise<RunRecord> {
  const path = join(run.path, RECORD_FILE);
  let record = new RunRecord(run);
  const rewinds = new Rewinds();
  try {
    for (const line of existsSync(path) ? readLines(path) : []) {
      rewinds.add(line);
      if (line.metric) record.take(line.metric);
    }
    rewinds.goBack(Infinity, step);
    if (!rewinds.none) {
      record = new RunRecord(run);
      const isDoneAgain = rewinds.sorter();
      for (const line of readLines(path)) {
        if (!isDoneAgain(line) && line.metric) record.take(line.metric);
      }
      const moved = divide(path, rewinds, `metrics-after-${checkpointName(step)}`);
      run.notices.push(`what ${path} said of steps after ${step} is in ${moved} now`);
    }
  } catch (error) {
    run.notices.push(`Cannot make ${path} end at step ${step} as ${reasonOf(error)}: it stays`);
  }
  if (!rewinds.none) await record.draw();
  run.resumeAfter(step, record.bestStep);
  return record;
}

/**
 * Moves the lines that are done again from a record into a file beside it.
 *
 * Both are written aside and synced. The moved lines get their name first: a process that is killed then
 * leaves them in both files, and the next one finds that it would move the same bytes.
 *
 * @returns the path of that file.
 */
function divide(path: string, rewinds: Rewinds, name: string): string {
  using kept = new Part(path);
  using moved = new Part(path);
  const isDoneAgain = rewinds.sorter();
  for (const line of readLines(path)) (isDoneAgain(line) ? moved : kept).write(line.bytes);
  kept.finish();
  moved.finish();
  const directory = dirname(path);
  let target = join(directory, `${name}.jsonl`);
  for (let i = 1; existsSync(target) && !haveSameBytes(target, moved.path); i++) {
    target = join(directory, `${name}-${i}.jsonl`);
  }
  renameSync(moved.path, target);
  syncDirectory(directory);
  renameSync(kept.path, path);
  syncDirectory(directory);
  return target;
}

/** Bytes that are read or written at once. */
const CHUNK_BYTES = 2 ** 20;

const LINE_BREAK = 10;

/** Some lines of a record, in a file that is removed unless it is renamed. */
class Part implements Disposable {
  readonly path: string;
  readonly #file: number;
  readonly #buffer = new Uint8Array(CHUNK_BYTES);
  #length = 0;
  #last = LINE_BREAK;
  #isOpen = true;

  constructor(beside: string) {
    this.path = temporaryBeside(beside);
    this.#file = openSync(this.path, "wx");
  }

  /** Appends a line, or a piece of one. */
  write(line: Uint8Array): void {
    if (this.#length + line.length > CHUNK_BYTES) this.#flush();
    this.#buffer.set(line, this.#length);
    this.#length += line.length;
    this.#last = line.at(-1)!;
  }

  /** Ends the last line and makes everything survive a power cut. */
  finish(): void {
    if (this.#last !== LINE_BREAK) this.write(new Uint8Array([LINE_BREAK]));
    this.#flush();
    fsyncSync(this.#file);
    this.#close();
  }

  [Symbol.dispose](): void {
    this.#close();
    rmSync(this.path, { force: true });
  }

  #flush(): void {
    writeAll(this.#file, this.#buffer.subarray(0, this.#length));
    this.#length = 0;
  }

  #close(): void {
    if (this.#isOpen) closeSync(this.#file);
    this.#isOpen = false;
  }
}

function haveSameBytes(a: string, b: string): boolean {
  const { size } = statSync(a);
  if (!statSync(a).isFile() || size !== statSync(b).size) return false;
  const files = [openSync(a, "r"), openSync(b, "r")];
  try {
    const buffers = files.map(() => new Uint8Array(CHUNK_BYTES));
    for (let at = 0; at < size; at += CHUNK_BYTES) {
      const [one, two] = files.map((file, i) =>
        buffers[i]!.subarray(0, readAt(file, buffers[i]!, at))
      );
      if (Buffer.compare(one!, two!) !== 0) return false;
    }
    return true;
  } finally {
    for (const file of files) closeSync(file);
  }
}
