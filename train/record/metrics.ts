import { readSync, statSync } from "node:fs";
import { openFile } from "../../files/disk.ts";

/**
 * `metrics.jsonl`, the record of a run: a JSON object per line, of kind `start`, `step`, `evaluation`, `sample`,
 * `warning`, `histogram` or `end`. Readers skip other kinds. The file may have gigabytes, and is read line by line.
 *
 * If a training was resumed, and the steps that it repeated were not moved to another file, the record has these
 * steps twice.
 *
 * @module
 */

/** The fields of a line that readers need; a figure that is not finite is null. */
export interface Metric {
  /** Kind of event. */
  kind: string;
  /** Steps done before it. */
  step: number;
  /** When the line was written, in ISO 8601; earlier versions did not note it. */
  time?: string;
  /** Of a step or an evaluation: its loss. */
  loss?: number | null;
  /** Of a step: its learning rate. */
  learningRate?: number;
  /** Of a step: the learning rate of Muon. */
  muonLearningRate?: number;
  /** Of a step: norm of the gradient before clipping. */
  gradientNorm?: number | null;
  /** Of a step: the loss scale that it used. */
  lossScale?: number;
  /** Of a step: steps of the run that were skipped up to then. */
  skipped?: number;
  /** Of a step: its speed. */
  tokensPerSecond?: number;
  /** Of a step: milliseconds in which the host made and uploaded its batches. */
  dataMs?: number;
  /** Of a step on several ranks: the share of its time in which gradients or weights were exchanged. */
  exchangeShare?: number;
  /** Of an evaluation: passes over the training text up to then; earlier versions did not note it. */
  epoch?: number;
  /** Of an evaluation: bits per byte of text. */
  bitsPerByte?: number | null;
  /** Of an evaluation: the least possible loss, if it is known. */
  entropyPerToken?: number;
  /** Of an evaluation: tokens predicted. */
  tokens?: number;
  /** Of a start: the device. */
  device?: string;
  /** Of a start: all options of the training. */
  options?: object;
  /** Of a start: parameters of the model. */
  parameters?: number;
  /** Of a start: `flopsPerToken()` of the model. */
  flopsPerToken?: number;
  /** Of a start: bytes of the training on the device. */
  memoryBytes?: number;
  /** Of a start that continues a checkpoint of another run: tokens of the steps before it. */
  tokensBefore?: number;
  /** Of such a start: seconds of the same steps, as `TrainingTime` counts them; null if unknown. */
  secondsBefore?: number | null;
  /** Of a sample: the text that it continues. */
  prompt?: string;
  /** Of a sample: the continuation. */
  text?: string;
  /** Of a warning: what it is about, as one word such as `overfitting`; of a histogram: the parameter. */
  name?: string;
  /** Of a histogram: whether it counts the parameter's weights or their gradient. */
  of?: "weight" | "gradient";
  /** Of a histogram: the numbers, see `Histogram`. */
  count?: number;
  /** Of a histogram: those that are zero. */
  zeros?: number;
  /** Of a histogram: those that are NaN or infinite. */
  notFinite?: number;
  /** Of a histogram: the least finite number. */
  min?: number | null;
  /** Of a histogram: the greatest finite number. */
  max?: number | null;
  /** Of a histogram: positive numbers by their power of two. */
  positive?: Readonly<Record<number, number>>;
  /** Of a histogram: negative numbers by the power of two of their magnitude. */
  negative?: Readonly<Record<number, number>>;
  /** Of a warning, or of an end with an error: a sentence. */
  message?: string;
  /** Of an end: `steps`, `epochs`, `patience`, `interrupted` or `error`. */
  reason?: string;
}

/** The fields that are figures. */
const FIGURES = [
  "loss",
  "learningRate",
  "muonLearningRate",
  "gradientNorm",
  "lossScale",
  "skipped",
  "tokensPerSecond",
  "dataMs",
  "exchangeShare",
  "epoch",
  "bitsPerByte",
  "entropyPerToken",
  "parameters",
  "flopsPerToken",
  "memoryBytes",
  "tokensBefore",
  "secondsBefore",
  "count",
  "zeros",
  "notFinite",
  "min",
  "max",
] as const;

/** By kind, the fields that are texts and must be there. */
const TEXTS: Readonly<Record<string, readonly (keyof Metric)[]>> = {
  sample: ["prompt", "text"],
  warning: ["name", "message"],
  end: ["reason"],
  histogram: ["name", "of"],
};

/** The kinds from whose step a resumed training continues; a line of another kind may be about an earlier step. */
const PROGRESS = ["start", "step", "evaluation"];

/** The steps done before a line, all later ones of which were repeated; infinite if its kind does not say. */
export function stepsBefore({ kind, step }: Metric): number {
  return PROGRESS.includes(kind) ? kind === "step" ? step - 1 : step : Infinity;
}

/** A line of a record. */
export interface MetricLine {
  /** Its number, from 1. */
  readonly number: number;
  /** Its bytes with the line break, if it has one; valid until the next line is read. */
  readonly bytes: Uint8Array;
  /** The byte of the file after it. */
  readonly end: number;
  /** Its content; undefined if it is damaged, as the last line of a killed run may be. */
  readonly metric: Metric | undefined;
}

/** Name of the file in a run directory. */
export const METRICS_FILE = "metrics.jsonl";

/** Bytes per read, and per line at most. */
export const CHUNK_BYTES = 2 ** 20;

/** The byte that ends a line. */
export const LINE_BREAK = 10;

/**
 * The lines of a record except empty ones; a line longer than 1 MiB is yielded in pieces.
 *
 * @param from byte where a line begins, which gets number 1.
 */
export function* readLines(path: string, from = 0): Generator<MetricLine> {
  const buffer = new Uint8Array(CHUNK_BYTES), decoder = new TextDecoder();
  const status = statSync(path);
  if (!status.isFile() && !status.isDirectory()) { // a device or a pipe may have no end
    throw Object.assign(new Error("it is no file"), { code: "EINVAL" });
  }
  using file = openFile(path, "r");
  let length = 0, number = 1, whole = true, position = from;
  for (;;) {
    const read = readSync(file.handle, buffer, length, buffer.length - length, position);
    position += read;
    const chunk = buffer.subarray(0, length += read);
    let first = 0;
    while (first < length) {
      const at = chunk.indexOf(LINE_BREAK, first);
      // a line without its break waits for the next read, unless the file ends or the buffer is full
      if (at < 0 && read > 0 && (first > 0 || length < buffer.length)) break;
      const bytes = chunk.subarray(first, at < 0 ? length : at + 1);
      const isPiece = at < 0 && read > 0;
      const isEmpty = whole && bytes.length === 1 && at >= 0;
      const metric = whole && !isPiece ? parseMetric(decoder.decode(bytes)) : undefined;
      first += bytes.length;
      if (!isEmpty) yield { number, bytes, end: position - length + first, metric };
      whole = !isPiece;
      if (whole) number++;
    }
    if (read === 0) return;
    buffer.copyWithin(0, first, length);
    length -= first;
  }
}

/** The content of a line; undefined if it is damaged. */
export function parseMetric(text: string): Metric | undefined {
  try {
    const metric = JSON.parse(text) as Metric;
    return typeof metric?.kind === "string" && Number.isSafeInteger(metric.step) &&
        FIGURES.every((name) => typeof (metric[name] ?? 0) === "number") &&
        metric.epoch !== null && metric.entropyPerToken !== null && // which are always finite
        (Object.hasOwn(TEXTS, metric.kind) ? TEXTS[metric.kind]! : [])
          .every((name) => typeof metric[name] === "string") &&
        (metric.kind !== "histogram" || isBuckets(metric.positive) && isBuckets(metric.negative))
      ? metric
      : undefined;
  } catch {
    return undefined;
  }
}

/** Whether a value has counts by powers of two. */
function isBuckets(value: unknown): boolean {
  return typeof value === "object" && value !== null &&
    Object.entries(value).every(([power, count]) =>
      /^-?\d{1,4}$/.test(power) && typeof count === "number"
    );
}

/**
 * The places where a record goes back to an earlier step, because a killed run was resumed from a checkpoint. The
 * steps of lines that are before such a place, but have a later step, were repeated.
 */
export class Rewinds {
  /** In ascending order of steps: a place makes all earlier places with its step or a greater one redundant. */
  readonly #places: { line: number; step: number }[] = [];
  #highest = -Infinity;

  /** Adds the next line. */
  add({ number, metric }: MetricLine): void {
    if (!metric) return;
    const before = stepsBefore(metric);
    this.goBack(number, before);
    this.#highest = before === Infinity ? Math.max(this.#highest, metric.step) : metric.step;
  }

  /** Adds a place: from this line on, everything after `step` is repeated. */
  goBack(line: number, step: number): void {
    if (step >= this.#highest) return;
    while ((this.#places.at(-1)?.step ?? -Infinity) >= step) this.#places.pop();
    this.#places.push({ line, step });
  }

  /** Whether no step was repeated. */
  get none(): boolean {
    return this.#places.length === 0;
  }

  /**
   * A function that returns whether the step of a line was repeated. It is called with all lines in their order; the
   * result for a damaged line is that for the line before.
   */
  sorter(): (line: MetricLine) => boolean {
    let next = 0, again = false;
    return ({ number, metric }) => {
      while (next < this.#places.length && this.#places[next]!.line <= number) next++;
      if (metric) again = metric.step > (this.#places[next]?.step ?? Infinity);
      return again;
    };
  }
}

/** Damaged lines whose numbers a warning gives, at most. */
const MOST_NAMED = 5;

/**
 * The lines of a record, without those whose steps were repeated.
 *
 * @param onWarning is called at the end with a sentence about damaged lines, which are skipped.
 */
export function* readMetrics(
  path: string,
  onWarning: (sentence: string) => void,
): Generator<Metric> {
  const rewinds = new Rewinds();
  for (const line of readLines(path)) rewinds.add(line);
  const wasRepeated = rewinds.sorter();
  const named: number[] = [];
  let damaged = 0, lastDamaged = 0;
  for (const line of readLines(path)) {
    if (wasRepeated(line)) continue;
    if (line.metric) {
      yield line.metric;
      continue;
    }
    if (line.number === lastDamaged) continue; // another piece of the same line
    damaged++;
    lastDamaged = line.number;
    if (named.length < MOST_NAMED) named.push(line.number);
  }
  if (damaged === 0) return;
  const others = damaged > named.length ? ` and ${damaged - named.length} more` : "";
  onWarning(`${path} is damaged in line ${named.join(", ")}${others}, which is skipped`);
}

/** Names of a list that a line holds, at most: a pattern may have named thousands of files. */
const MOST_IN_LIST = 200;

/** Characters of a text that a line holds, at most: escaped, two such texts are shorter than `CHUNK_BYTES`. */
const MOST_IN_TEXT = 2 ** 16;

/** A metric as a line without its break. Numbers that are not finite become null. */
export function metricLine(metric: Metric): string {
  return JSON.stringify(metric, (_, value) => {
    if (Array.isArray(value) && value.length > MOST_IN_LIST) {
      return [...value.slice(0, MOST_IN_LIST), `and ${value.length - MOST_IN_LIST} more`];
    }
    if (typeof value === "string" && value.length > MOST_IN_TEXT) {
      return `${value.slice(0, MOST_IN_TEXT)} and ${value.length - MOST_IN_TEXT} more characters`;
    }
    return value;
  });
}
