import { Buffer } from "node:buffer";
import { lstatSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { isSystemError } from "../../files/disk.ts";
import type { Metric } from "./metrics.ts";
import { optionLabel } from "../options.ts";
import type { RunDirectory } from "../directory/run_directory.ts";
import {
  countRecords,
  FIRST_RECORDS,
  RecordWriter,
  type SummaryHistogram,
  type SummaryValue,
} from "./tfevents.ts";

/**
 * What TensorBoard shows of a run: an event file in the run directory, which has a record for each line of
 * `metrics.jsonl` with something to show, in the same order, and is made from these lines alone.
 *
 * A training appends to the file while TensorBoard reads it. If lines have moved out of `metrics.jsonl`, or if the
 * file does not agree with them, it is written anew under a later name: TensorBoard continues with the later file,
 * whose start of a session makes it forget the earlier one. If the file were replaced under its name, TensorBoard
 * would continue at the byte where it had stopped; if the earlier file were removed, TensorBoard's reader in Python
 * would look for it forever. So the earlier file is emptied, and removed when the next one is.
 *
 * @module
 */

/** Names of event files: TensorBoard needs `tfevents` in them, and reads them in the order of their names. */
const EVENT_FILE = /^events\.out\.tfevents\.(\d{10})\.toy-transformer$/;

/** Bytes of records that are written at once, about, and that wait if the disk is full, at most. */
const CHUNK_BYTES = 2 ** 20, MOST_WAITING_BYTES = 2 ** 24;

/** The lines of a record that TensorBoard shows. */
export interface ShownLines {
  /** How many there are. */
  readonly count: number;
  /** The last one. */
  readonly last: Metric | undefined;
  /** Reads them all, and others, in their order. */
  readonly read: () => Iterable<Metric>;
}

/** The event file of a run, which a training appends to. If that fails, there is a notice. */
export class EventFile {
  readonly #directory: RunDirectory;
  readonly #name: string;
  readonly #writer = new RecordWriter();
  #lengthBytes: number;

  constructor(
    directory: RunDirectory,
    { name, lengthBytes }: { name: string; lengthBytes: number },
  ) {
    this.#directory = directory;
    this.#name = name;
    this.#lengthBytes = lengthBytes;
  }

  /** Appends records of lines. */
  append(metrics: Iterable<Metric>): void {
    for (const metric of metrics) {
      writeRecord(this.#writer, metric);
      if (this.#writer.length >= CHUNK_BYTES) this.#flush();
    }
    this.#flush();
  }

  /** Writes the records that begin a file. */
  begin(seconds: number): void {
    this.#writer.begin(seconds);
    this.#flush();
  }

  #flush(): void {
    const { bytes } = this.#writer;
    if (bytes.length === 0) return;
    const isWritten = this.#directory.extend(this.#name, this.#lengthBytes, bytes);
    if (isWritten) this.#lengthBytes += bytes.length;
    else if (bytes.length < MOST_WAITING_BYTES) return; // they are written together with the next ones
    this.#writer.clear();
  }
}

/**
 * Opens the event file of a run, and writes it anew if its records are not those of the lines.
 *
 * @param lines the lines in `metrics.jsonl`, to which the training appends.
 */
export function openEventFile(
  directory: RunDirectory,
  lines: ShownLines,
  { now }: { now: () => Date },
): EventFile {
  const earlier = eventFilesIn(directory), newest = earlier.at(-1);
  // a process that was killed may have left a part of a later file
  if (newest && earlier.every((file) => file.isEmpty !== (file === newest))) {
    const { name } = newest, lengthBytes = lengthOf(join(directory.path, name), lines);
    if (lengthBytes !== undefined) return new EventFile(directory, { name, lengthBytes });
  }
  const later = newest ? Number(EVENT_FILE.exec(newest.name)![1]) + 1 : 0;
  const seconds = Math.max(Math.floor(now().getTime() / 1000), later);
  const name = `events.out.tfevents.${String(seconds).padStart(10, "0")}.toy-transformer`;
  const file = new EventFile(directory, { name, lengthBytes: 0 });
  file.begin(seconds);
  file.append(lines.read());
  discard(directory, earlier);
  return file;
}

/** Bytes of the records of an event file, if these are one per line; what was torn off at its end is none. */
function lengthOf(path: string, { count, last }: ShownLines): number | undefined {
  try {
    const wanted = FIRST_RECORDS + count, records = countRecords(path, wanted + 1);
    if (records.count !== wanted) return undefined;
    const writer = new RecordWriter();
    if (last) writeRecord(writer, last);
    return !last || Buffer.compare(writer.bytes, records.last) === 0 ? records.endBytes : undefined;
  } catch (error) {
    if (!isSystemError(error)) throw error;
    return undefined;
  }
}

/** Empties the event file of a run. It can be made again from `metrics.jsonl`. */
export function emptyEventFile(directory: RunDirectory): void {
  discard(directory, eventFilesIn(directory));
}

function discard(directory: RunDirectory, files: ReturnType<typeof eventFilesIn>): void {
  for (const { name, isEmpty } of files) {
    if (isEmpty) directory.remove(name);
    else directory.extend(name, 0, new Uint8Array());
  }
}

/** Event files in the order of their names. */
function eventFilesIn({ path }: RunDirectory): { name: string; isEmpty: boolean }[] {
  return readdirSync(path).filter((name) => EVENT_FILE.test(name)).sort()
    .map((name) => ({ name, isEmpty: lstatSync(join(path, name)).size === 0 }));
}

/** Whether TensorBoard shows a line. */
export function isShown({ kind, step }: Metric): boolean {
  return step >= 0 && Object.hasOwn(VALUES, kind);
}

function writeRecord(writer: RecordWriter, metric: Metric): void {
  if (!isShown(metric)) return;
  const { kind, step, time } = metric;
  const wallSeconds = time === undefined ? 0 : Date.parse(time) / 1000;
  writer.event({ step, wallSeconds, values: VALUES[kind]!(metric) });
}

/** By kind of line, its values. */
const VALUES: Readonly<Record<string, (metric: Metric) => SummaryValue[]>> = {
  start: ({ options, device, parameters, memoryBytes }) => {
    const flags = Object.entries(options ?? {}).map(([name, value]) => [optionLabel(name), value]);
    const rows = [...flags, ...Object.entries({ device, parameters, memoryBytes })]
      .filter(([, value]) => value !== undefined && value !== null)
      .map((row) => `| ${row.map(cellOf).join(" | ")} |`);
    return [{
      tag: "options",
      markdown: ["| option | value |", "| --- | --- |", ...rows].join("\n"),
    }];
  },
  step: (metric) =>
    scalars({
      "loss/training": metric.loss,
      "optimizer/learning_rate": metric.learningRate,
      "optimizer/muon_learning_rate": metric.muonLearningRate,
      "optimizer/gradient_norm": metric.gradientNorm,
      "optimizer/loss_scale": metric.lossScale,
      "optimizer/skipped_steps": metric.skipped,
      "speed/tokens_per_second": metric.tokensPerSecond,
      "speed/data_ms": metric.dataMs,
      "speed/exchange_share": metric.exchangeShare,
    }),
  evaluation: ({ loss, bitsPerByte, entropyPerToken }) =>
    scalars({
      "loss/validation": loss,
      "loss/bits_per_byte": bitsPerByte,
      "loss/entropy": entropyPerToken,
    }),
  sample: ({ prompt = "", text = "" }) => {
    const bold = escaped(prompt).replaceAll(/\S.*\S|\S/g, "**$&**"); // each of its lines
    return [{ tag: "sample", markdown: withLineBreaks(bold + escaped(text)) }];
  },
  histogram: ({ min, max, ...metric }) =>
    typeof min !== "number" || typeof max !== "number"
      ? [] // no number is finite
      : [{ tag: `${metric.of}/${metric.name}`, histogram: { min, max, ...bucketsOf(metric) } }],
  warning: ({ name, message = "" }) => [
    { tag: `warning/${name}`, markdown: withLineBreaks(escaped(message)) },
  ],
};

/** The buckets of a histogram and their limits; what lies between buckets that are not neighbours is an empty one. */
function bucketsOf(
  { count = 0, zeros = 0, notFinite = 0, positive = {}, negative = {} }: Metric,
): Omit<SummaryHistogram, "min" | "max"> {
  const limits: number[] = [], counts: number[] = [];
  const add = (from: number, to: number, count: number) => {
    const last = limits.at(-1);
    if (last !== undefined && last < from) {
      limits.push(from);
      counts.push(0);
    }
    limits.push(to);
    counts.push(count);
  };
  const powersOf = (buckets: Readonly<Record<number, number>>) =>
    Object.entries(buckets).map(([power, count]) => [Number(power), count] as const)
      .sort(([a], [b]) => a - b);
  for (const [power, count] of powersOf(negative).reverse()) {
    add(-(2 ** (power + 1)), -(2 ** power), count);
  }
  if (zeros > 0) add(-Number.MIN_VALUE, Number.MIN_VALUE, zeros);
  for (const [power, count] of powersOf(positive)) add(2 ** power, 2 ** (power + 1), count);
  return { count: count - notFinite, limits, counts };
}

/** The figures that a line has; one that is not finite becomes NaN, which TensorBoard marks. */
function scalars(figures: Readonly<Record<string, number | null | undefined>>): SummaryValue[] {
  return Object.entries(figures).flatMap(([tag, value]) =>
    value === undefined ? [] : [{ tag, scalar: value ?? NaN }]
  );
}

/** A value as a cell of a table in Markdown. */
function cellOf(value: unknown): string {
  const text = typeof value === "string" ? value : JSON.stringify(value);
  return escaped(text).replaceAll("\n", " ");
}

/** A text as Markdown that shows it as it is, but for its lines. */
function escaped(text: string): string {
  return text.replaceAll(/[&<>*_`[\]|\\~#]/g, referenceTo);
}

/** An escaped text with its lines: they are no lists, headings or code, and each begins on a new line. */
function withLineBreaks(text: string): string {
  return text.replaceAll(/^(?:[ \t+=-]|\d(?=\d*[.)]))/gm, referenceTo)
    .replaceAll(/(?<!\n)\n(?!\n|$)/g, "  \n");
}

/** A character as HTML and Markdown write it if they should not understand it. */
function referenceTo(character: string): string {
  return `&#${character.charCodeAt(0)};`;
}
