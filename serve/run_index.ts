import { type Metric, stepsBefore } from "../train/record/metrics.ts";
import { tokensPerStepOf } from "../train/options.ts";
import { TrainingTime, TrainingTokens } from "../train/record/training_time.ts";
import { CHARTS, curveName } from "./page/figures.js";
import { type Columns, type Point, ThinnedCurve } from "./thinned_curve.ts";

/**
 * The index of a run's record: its curves, thinned, and what else the page shows of it. It is made from the lines in
 * their order, needs little memory for a record of any length, and is never stored.
 *
 * @module
 */

/** The figures that the page draws, by kind of line. */
const FIGURES = CHARTS.flatMap(({ figures }) => figures);

/** Samples and warnings that are kept, at most. */
const MOST_SAMPLES = 200, MOST_WARNINGS = 200;

/** Characters of a foreign text, at most. */
const LONGEST_TEXT = 20_000;

/** A text that the model wrote at a step. */
export interface Sample {
  readonly step: number;
  readonly prompt: string;
  readonly text: string;
}

/** What a check found wrong at a step. */
export interface Warning {
  readonly step: number;
  readonly name: string;
  readonly message: string;
}

/** An evaluation with a finite loss. */
export interface Evaluated {
  readonly step: number;
  readonly loss: number;
}

/** The last steps of points, by the kind of their lines. */
export interface LastSteps {
  readonly step: number;
  readonly evaluation: number;
}

/** The index of a record. */
export class RunIndex {
  /** Changes when points that were read before are no longer there, as a resumed training repeated their steps. */
  generation = 0;
  /** Lines that hold no metric. */
  damaged = 0;
  /** The last line of kind `start`. */
  start: Metric | undefined;
  /** The last line of kind `end`, if nothing follows it. */
  end: Metric | undefined;
  /** The evaluation with the least loss. */
  best: Evaluated | undefined;
  /** The least possible loss, if it is known. */
  entropyPerToken: number | undefined;
  /** When the last line was written. */
  time: string | undefined;
  /** Tokens per step since the last start; NaN if unknown. */
  tokensPerStep: number;
  /** In ascending order of their steps, evenly thinned. */
  samples: Sample[] = [];
  /** The newest, in ascending order of their steps. */
  warnings: Warning[] = [];
  readonly #curves = new Map<string, ThinnedCurve>();
  #evaluations: Evaluated[] = [];
  #trainingTime: TrainingTime | undefined;
  readonly #trainingTokens: TrainingTokens;
  #highest = -Infinity;
  #samplesSeen = 0;
  #sampleStride = 1;

  /** @param tokensPerStep those that count unless the record has others. */
  constructor(tokensPerStep = NaN) {
    this.tokensPerStep = tokensPerStep;
    this.#trainingTokens = new TrainingTokens(tokensPerStep);
  }

  /** Adds the next line; undefined if it is damaged. */
  add(metric: Metric | undefined): void {
    if (!metric) {
      this.damaged++;
      return;
    }
    const { kind, step } = metric, before = stepsBefore(metric);
    if (before < this.#highest) this.#goBack(before);
    this.#highest = before === Infinity ? Math.max(this.#highest, step) : step;
    this.time = metric.time ?? this.time;
    this.end = kind === "end" ? metric : undefined;
    if (kind === "start") this.#addStart(metric);
    if (kind === "evaluation") this.#addEvaluation(metric);
    if (kind === "sample") this.#addSample(metric);
    if (kind === "warning") {
      const { name = "", message = "" } = metric;
      this.warnings.push({ step, name: cut(name), message: cut(message) });
      if (this.warnings.length > MOST_WARNINGS) this.warnings.shift();
    }
    const seconds = this.#trainingTime?.add(metric) ?? NaN;
    const tokens = this.#trainingTokens.add(metric);
    for (const figure of FIGURES) {
      if (figure.kind !== kind) continue;
      const value = (metric as unknown as Record<string, unknown>)[figure.field];
      if (typeof value !== "number" && value !== null) continue;
      const name = curveName(figure);
      let curve = this.#curves.get(name);
      if (!curve) this.#curves.set(name, curve = new ThinnedCurve());
      curve.add({ step, seconds, tokens, value });
    }
  }

  /** The points of all curves after certain steps, by `curveName()`. */
  curves(after?: LastSteps): Record<string, Columns> {
    const columns: Record<string, Columns> = {};
    for (const figure of FIGURES) {
      const name = curveName(figure), curve = this.#curves.get(name);
      if (curve) columns[name] = curve.columns(after?.[figure.kind]);
    }
    return columns;
  }

  /** The last point of a curve. */
  last(name: string): Point | undefined {
    return this.#curves.get(name)?.last;
  }

  #addStart(metric: Metric): void {
    this.start = metric;
    const tokens = tokensPerStepOf(metric.options);
    if (tokens > 0) this.tokensPerStep = tokens;
    this.#trainingTime ??= new TrainingTime(this.tokensPerStep);
  }

  #addEvaluation(metric: Metric): void {
    const { step, loss, entropyPerToken } = metric;
    this.entropyPerToken = entropyPerToken ?? this.entropyPerToken;
    if (typeof loss !== "number") return;
    if (!this.best || loss < this.best.loss) {
      this.best = { step, loss };
      this.#evaluations.push(this.best);
    }
  }

  #addSample({ step, prompt = "", text = "" }: Metric): void {
    // the newest is always kept, and removed by the next one if it is between those that stay
    if ((this.#samplesSeen++ - 1) % this.#sampleStride !== 0) this.samples.pop();
    this.samples.push({ step, prompt: cut(prompt), text: cut(text) });
    if (this.samples.length <= MOST_SAMPLES) return;
    this.samples = this.samples.filter((_, i) => i % 2 === 0);
    this.#sampleStride *= 2;
  }

  /** Forgets all lines after a step, from which the record continues. */
  #goBack(step: number): void {
    this.generation++;
    for (const curve of this.#curves.values()) curve.goBack(step);
    const isLeft = (line: { step: number }) => line.step <= step;
    this.samples = this.samples.filter(isLeft);
    this.warnings = this.warnings.filter(isLeft);
    this.#evaluations = this.#evaluations.filter(isLeft);
    this.best = this.#evaluations.at(-1);
    const last = this.last("step.loss");
    if (last) this.#trainingTime?.goBack(last.step, last.seconds);
    else this.#trainingTime?.goBack(step);
  }
}

/** A foreign text, cut. */
function cut(text: string): string {
  return text.length > LONGEST_TEXT ? `${text.slice(0, LONGEST_TEXT)}…` : text;
}
