import { Buffer } from "node:buffer";
import { type BigIntStats, statSync } from "node:fs";
import { isSystemError, openFile, readAt } from "../files/disk.ts";
import {
  CHUNK_BYTES,
  LINE_BREAK,
  type Metric,
  parseMetric,
  readLines,
} from "../train/record/metrics.ts";
import { RunIndex } from "./run_index.ts";

/**
 * Reading of a record that a training may be writing: all of it in slices, what was appended, or a few of its
 * lines at once.
 *
 * @module
 */

/** Bytes at the beginning and at the end of a record that are read at once. */
const HEAD_BYTES = 2 ** 14, TAIL_BYTES = 2 ** 14;

/** Bytes at the end in which the last evaluation is looked for, and the start that made a run longer. */
const END_BYTES = 2 ** 20;

/** Places between the beginning and the end from which a sample has a line each, and the bytes that are read there. */
const PLACES = 1000, PLACE_BYTES = 2 ** 12;

/** Bytes before the place that was read last by which a record is recognized. */
const MARK_BYTES = 2 ** 10;

/** Follows a record. */
export class RunReader {
  /** The index of the lines that were read. */
  index: RunIndex;
  readonly #path: string;
  readonly #tokensPerStep: number;
  /** The byte after the last line that was read. */
  #offset = 0;
  #mark = new Uint8Array();
  #status: BigIntStats | undefined;
  #isComplete = false;
  /** Changes when the record was replaced. */
  #replaced = 0;
  #sample: RunIndex | undefined;

  /** @param tokensPerStep those that count unless the record has others. */
  constructor(path: string, tokensPerStep = NaN) {
    this.#path = path;
    this.#tokensPerStep = tokensPerStep;
    this.index = new RunIndex(tokensPerStep);
  }

  /** Whether all lines were read that the file had at the last call of `follow()`. */
  get isComplete(): boolean {
    return this.#isComplete;
  }

  /** Share of the file that was read. */
  get share(): number {
    const size = Number(this.#status?.size ?? 0);
    return this.#isComplete || size === 0 ? 1 : this.#offset / size;
  }

  /** Changes when points of the index that were read before are no longer there. */
  get generation(): string {
    return `${this.#replaced}.${this.index.generation}`;
  }

  /** The index, or while it is incomplete, that of a sample of the record's lines. */
  get best(): RunIndex {
    if (this.#isComplete) return this.index;
    return this.#sample ??= sampleOf(this.#path, this.#tokensPerStep);
  }

  /** Reads lines that were not read before, until a time of `performance.now()`; none of a file that is unreadable. */
  follow(untilMs: number): void {
    try {
      this.#follow(untilMs);
    } catch (error) {
      if (!isSystemError(error)) throw error;
      this.#startAnew();
      this.#status = undefined;
      this.#isComplete = true;
    }
  }

  #follow(untilMs: number): void {
    const status = statSync(this.#path, { bigint: true }), last = this.#status;
    if (this.#isComplete && last && isSame(status, last)) return;
    if (last && !this.#continues(status, last)) this.#startAnew();
    this.#status = status;
    this.#isComplete = false;
    let lines = 0;
    for (const { bytes, end, metric } of readLines(this.#path, this.#offset)) {
      const isWhole = bytes.at(-1) === LINE_BREAK || bytes.length === CHUNK_BYTES;
      if (!isWhole && !metric) break; // half a line waits for its rest
      this.index.add(metric);
      this.#offset = end;
      if (++lines % 64 === 0 && performance.now() >= untilMs) {
        this.#mark = markBefore(this.#path, this.#offset);
        return;
      }
    }
    this.#mark = markBefore(this.#path, this.#offset);
    this.#isComplete = true;
    this.#sample = undefined;
  }

  /** Whether a file is the one that was read, with lines appended. */
  #continues(status: BigIntStats, last: BigIntStats): boolean {
    if (status.ino !== last.ino || status.dev !== last.dev) return false;
    const hasGrown = status.size > last.size || !this.#isComplete && status.size === last.size;
    if (!hasGrown) return isSame(status, last);
    const mark = markBefore(this.#path, this.#offset);
    return mark.length === this.#mark.length && mark.every((byte, i) => byte === this.#mark[i]);
  }

  #startAnew(): void {
    this.index = new RunIndex(this.#tokensPerStep);
    this.#sample = undefined;
    this.#offset = 0;
    this.#mark = new Uint8Array();
    this.#replaced++;
  }
}

function isSame(a: BigIntStats, b: BigIntStats): boolean {
  return a.ino === b.ino && a.dev === b.dev && a.size === b.size && a.mtimeNs === b.mtimeNs;
}

/** The last bytes before a place of a file. */
function markBefore(path: string, offset: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(Math.min(MARK_BYTES, offset));
  using file = openFile(path, "r");
  return bytes.subarray(0, readAt(file.handle, bytes, offset - bytes.length));
}

/**
 * The index of some lines of a record: the first ones, the last ones, and one at each of `PLACES` between. It takes
 * the same time for a record of any length.
 *
 * @throws an error of the system if the file cannot be read.
 */
function sampleOf(path: string, tokensPerStep: number): RunIndex {
  const index = new RunIndex(tokensPerStep);
  using record = openRecord(path);
  const { size } = record;
  const add = (metrics: Iterable<Metric>) => {
    for (const metric of metrics) index.add(metric);
  };
  if (size <= HEAD_BYTES + TAIL_BYTES) {
    add(metricsIn(record.read(0, size), { isHead: true }));
    return index;
  }
  add(metricsIn(record.read(0, HEAD_BYTES), { isHead: true }));
  const between = size - HEAD_BYTES - TAIL_BYTES;
  for (let i = 0; i < PLACES; i++) {
    const part = record.read(HEAD_BYTES + Math.floor(between * i / PLACES), PLACE_BYTES);
    const step = metricsIn(part).find(({ kind }) => kind === "step");
    if (step) index.add(step);
  }
  const evaluation = lastLine(
    record.read(Math.max(0, size - END_BYTES), END_BYTES),
    "evaluation",
  );
  const tail = [...metricsIn(record.read(size - TAIL_BYTES, TAIL_BYTES))];
  add(evaluation && !tail.some(({ kind }) => kind === "evaluation") ? [evaluation, ...tail] : tail);
  return index;
}

/**
 * The index of the few lines of a record that say how far it is: its start, its last step and evaluation, and what
 * follows them.
 *
 * @throws an error of the system if the file cannot be read.
 */
export function glance(path: string): RunIndex {
  const index = new RunIndex();
  using record = openRecord(path);
  const { size } = record;
  for (const metric of metricsIn(record.read(0, HEAD_BYTES), { isHead: true })) {
    index.add(metric); // the start, or in a record without one anything
    break;
  }
  const tail = record.read(Math.max(0, size - TAIL_BYTES), TAIL_BYTES), last: Metric[] = [];
  for (const metric of metricsFromEnd(tail, { isHead: size <= TAIL_BYTES })) {
    last.unshift(metric);
    if (metric.kind === "step") break;
  }
  const end = () => record.read(Math.max(0, size - END_BYTES), END_BYTES);
  const find = (kind: string) =>
    last.some((metric) => metric.kind === kind)
      ? []
      : lastLine(tail, kind) ?? lastLine(end(), kind) ?? [];
  const found = [find("step"), find("evaluation")].flat();
  const { steps } = (index.start?.options ?? {}) as Record<string, unknown>;
  const done = Math.max(...[...found, ...last].map(({ step }) => step));
  // a run that was made longer or shorter has another start
  const ended = last.some(({ kind }) => kind === "end");
  const changed = typeof steps === "number" && (done > steps || ended && done < steps);
  const start = changed ? [find("start")].flat() : [];
  found.sort((a, b) => a.step - b.step); // a step comes before its evaluation
  for (const metric of [...start, ...found, ...last]) index.add(metric);
  return index;
}

/** Opens a record to read parts of it. */
function openRecord(path: string) {
  const status = statSync(path), { size } = status;
  if (!status.isFile()) { // opening a pipe would wait forever
    throw Object.assign(new Error("it is no file"), { code: "EINVAL" });
  }
  const file = openFile(path, "r");
  return {
    size,
    read(from: number, length: number): Uint8Array {
      const bytes = new Uint8Array(Math.min(length, size - from));
      return bytes.subarray(0, readAt(file.handle, bytes, from));
    },
    [Symbol.dispose]: () => file[Symbol.dispose](),
  };
}

/** The whole lines in a part of a record that are metrics; the part begins within a line unless it is the head. */
function* metricsIn(bytes: Uint8Array, { isHead = false } = {}): Generator<Metric> {
  const decoder = new TextDecoder();
  let from = isHead ? 0 : bytes.indexOf(LINE_BREAK) + 1;
  if (!isHead && from === 0) return;
  for (let at; (at = bytes.indexOf(LINE_BREAK, from)) >= 0; from = at + 1) {
    const metric = parseMetric(decoder.decode(bytes.subarray(from, at)));
    if (metric) yield metric;
  }
  const metric = parseMetric(decoder.decode(bytes.subarray(from)));
  if (metric) yield metric;
}

/** The whole lines in a part of a record that are metrics, the last one first. */
function* metricsFromEnd(bytes: Uint8Array, { isHead }: { isHead: boolean }): Generator<Metric> {
  const decoder = new TextDecoder();
  for (let to = bytes.length; to > 0;) {
    const at = bytes.lastIndexOf(LINE_BREAK, to - 1);
    if (at < 0 && !isHead) return;
    const metric = parseMetric(decoder.decode(bytes.subarray(at + 1, to)));
    if (metric) yield metric;
    to = at;
  }
}

/** The last line of a kind in a part of a record, if it is written as this project does. */
function lastLine(part: Uint8Array, kind: string): Metric | undefined {
  const bytes = Buffer.from(part.buffer, part.byteOffset, part.length);
  const at = bytes.lastIndexOf(`\n{"kind":"${kind}"`);
  if (at < 0) return undefined;
  const end = bytes.indexOf(LINE_BREAK, at + 1);
  return parseMetric(bytes.toString("utf8", at + 1, end < 0 ? bytes.length : end));
}
