import { closeSync, openSync, readSync, statSync } from "node:fs";
import type { GptConfig } from "../model/config.ts";
import { countParameters } from "../model/parameters.ts";

/**
 * `metrics.jsonl`, what a run notes while it trains: a JSON object per line, of kind `start`, `step` or
 * `evaluation`. It may have gigabytes and is only ever read line by line.
 *
 * If a training was resumed and the steps that it repeated were not moved to another file, the record has
 * these steps twice.
 *
 * @module
 */

/** The fields of a line that readers need; a figure that is not finite is null. */
export interface Metric {
  /** Kind of event. */
  kind: string;
  /** Steps done then. */
  step: number;
  /** Loss of a step or an evaluation. */
  loss?: number | null;
  /** Speed of a step. */
  tokensPerSecond?: number;
  /** Of an evaluation: bits per byte of text. */
  bitsPerByte?: number | null;
  /** Of an evaluation: the least loss possible, if it is known. */
  entropyPerToken?: number;
  /** Of a start: parameters of the model. */
  parameters?: number;
  /** Of a start: `flopsPerToken()` of the model. */
  flopsPerToken?: number;
}

/** A line of a record. */
export interface MetricLine {
  /** Its number, from 1. */
  readonly number: number;
  /** Its bytes with the line break, if it has one; valid until the next line is read. */
  readonly bytes: Uint8Array;
  /** What it says; undefined if it is damaged, as the last one of a run that was killed. */
  readonly metric: Metric | undefined;
}

/** The file of a run. */
export const METRICS_FILE = "metrics.jsonl";

/** Bytes per read, and per line at most. */
export const CHUNK_BYTES = 2 ** 20;

/** The byte that ends a line. */
export const LINE_BREAK = 10;

/** The lines of a record in turn, empty ones excepted; a longer one than 1 MiB comes in pieces. */
export function* readLines(path: string): Generator<MetricLine> {
  const buffer = new Uint8Array(CHUNK_BYTES), decoder = new TextDecoder();
  const status = statSync(path);
  if (!status.isFile() && !status.isDirectory()) { // a device or a pipe may have no end
    throw Object.assign(new Error("it is no file"), { code: "EINVAL" });
  }
  const file = openSync(path, "r");
  try {
    let length = 0, number = 1, whole = true;
    for (;;) {
      const read = readSync(file, buffer, length, buffer.length - length, null);
      const chunk = buffer.subarray(0, length += read);
      let from = 0;
      while (from < length) {
        const at = chunk.indexOf(LINE_BREAK, from);
        // what lacks a line break waits for more, unless there is none or no room for it
        if (at < 0 && read > 0 && (from > 0 || length < buffer.length)) break;
        const bytes = chunk.subarray(from, at < 0 ? length : at + 1);
        const isPiece = at < 0 && read > 0;
        const isEmpty = whole && bytes.length === 1 && at >= 0;
        const metric = whole && !isPiece ? parseMetric(decoder.decode(bytes)) : undefined;
        if (!isEmpty) yield { number, bytes, metric };
        from += bytes.length;
        whole = !isPiece;
        if (whole) number++;
      }
      if (read === 0) return;
      buffer.copyWithin(0, from, length);
      length -= from;
    }
  } finally {
    closeSync(file);
  }
}

function parseMetric(text: string): Metric | undefined {
  try {
    const metric = JSON.parse(text) as Metric;
    return typeof metric?.kind === "string" && Number.isSafeInteger(metric.step)
      ? metric
      : undefined;
  } catch {
    return undefined;
  }
}

/**
 * The places where a record goes back to an earlier step, because a killed run was resumed from a
 * checkpoint: the lines before such a place with later steps were done again.
 */
export class Rewinds {
  /** Each with a greater step than the one before: an earlier one with such a step says nothing more. */
  readonly #places: { line: number; step: number }[] = [];
  #highest = -Infinity;

  /** Takes the next line into account. */
  add({ number, metric }: MetricLine): void {
    if (!metric) return;
    this.goBack(number, metric.kind === "step" ? metric.step - 1 : metric.step);
    this.#highest = metric.step;
  }

  /** Says that everything after `step` is done again from this line on. */
  goBack(line: number, step: number): void {
    if (step >= this.#highest) return;
    while ((this.#places.at(-1)?.step ?? -Infinity) >= step) this.#places.pop();
    this.#places.push({ line, step });
  }

  /** Whether nothing was done again. */
  get none(): boolean {
    return this.#places.length === 0;
  }

  /** Says of each line, asked in their order, whether it was done again; a damaged one goes with the last. */
  sorter(): (line: MetricLine) => boolean {
    let next = 0, again = false;
    return ({ number, metric }) => {
      while (next < this.#places.length && this.#places[next]!.line <= number) next++;
      if (metric) again = metric.step > (this.#places[next]?.step ?? Infinity);
      return again;
    };
  }
}

/** Numbers of damaged lines that are named. */
const MOST_NAMED = 5;

/**
 * What a record says, without what was done again.
 *
 * @param onWarning is called at the end with a sentence about damaged lines, which are passed over.
 */
export function* readMetrics(
  path: string,
  onWarning: (sentence: string) => void,
): Generator<Metric> {
  const rewinds = new Rewinds();
  for (const line of readLines(path)) rewinds.add(line);
  const wasDoneAgain = rewinds.sorter();
  const named: number[] = [];
  let damaged = 0, lastDamaged = 0;
  for (const line of readLines(path)) {
    if (wasDoneAgain(line)) continue;
    if (line.metric) {
      yield line.metric;
      continue;
    }
    if (line.number === lastDamaged) continue; // another piece of it
    damaged++;
    lastDamaged = line.number;
    if (named.length < MOST_NAMED) named.push(line.number);
  }
  if (damaged === 0) return;
  const others = damaged > named.length ? ` and ${damaged - named.length} more` : "";
  onWarning(`${path} is damaged in line ${named.join(", ")}${others}, which is passed over`);
}

/** What a training notes when it starts or is resumed: the size of its model. */
export function startMetric(config: GptConfig, step: number): Metric {
  return {
    kind: "start",
    step,
    parameters: countParameters(config),
    flopsPerToken: flopsPerToken(config),
  };
}

/**
 * Operations of training on one token: 6 per parameter, and 12 · L · T · C for attention.
 *
 * As PaLM counts them (Chowdhery et al. 2022, https://arxiv.org/abs/2204.02311, appendix B): what the
 * causal mask hides counts as if it were computed, and what is frozen as if it were trained.
 */
export function flopsPerToken(config: GptConfig): number {
  const { layers, width, contextLength } = config;
  return 6 * countParameters(config) + 12 * layers * contextLength * width;
}
