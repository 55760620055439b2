import { readdirSync, readFileSync, statSync } from "node:fs";
import { join, relative } from "node:path";
import { taskCommand } from "../files/command_line.ts";
import { isSystemError } from "../files/disk.ts";
import { CONFIG_FILE } from "../files/names.ts";
import { align, duration, fits, inShort } from "../files/units.ts";
import { printable } from "../files/printable.ts";
import { sentenceOf } from "../files/user_error.ts";
import { PRESETS } from "../model/config.ts";
import { listCheckpoints, readTrainerState } from "../model/files/checkpoint.ts";
import { CheckpointError, type TrainerState } from "../model/files/trainer_state.ts";
import { parseHuggingFaceConfig } from "../model/files/hugging_face.ts";
import {
  BLUE,
  BROWN,
  drawChart,
  GREEN,
  LIGHT_BLUE,
  logAxis,
  noPoints,
  PINK,
  PURPLE,
  RED,
  SILVER,
  TEAL,
  YELLOW,
} from "./chart.ts";
import { Curve } from "./curve.ts";
import { costOf, type Metric, METRICS_FILE, readLines, readMetrics } from "./metrics.ts";
import { EARLIER_DEFAULTS, optionLabel, optionsWhere, tokensPerStepOf } from "./options.ts";
import { EARLIER_ARCHITECTURE } from "./architecture.ts";
import { dimensionsOf } from "./resolve.ts";
import { isRun } from "./run_place.ts";
import { TrainingTime, TrainingTokens } from "./training_time.ts";

/**
 * Comparison of trainings: validation loss and bits per byte over tokens, time and operations.
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
  const status = reading(path, () => statSync(path, { throwIfNoEntry: false }));
  if (!status) throw refuse("there is no such run");
  if (!status.isDirectory()) throw refuse("it is a file, and a run is a directory");
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
  const { adapter } = tuning;
  return {
    name: path,
    parameters: parameters!,
    points: points.map(counted),
    last: counted(last),
    best: counted(best),
    options: withUnsaved(options),
    adapter,
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
  const { documents, optimizer } = EARLIER_DEFAULTS;
  const dimensions = preset ? { ...EARLIER_ARCHITECTURE, ...dimensionsOf(preset) } : {};
  return { documents, optimizer, ranks: 1, ...dimensions, ...options };
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

/** Options that do not affect what a model learns. */
const REPORTING = optionsWhere(({ reportsOnly }) => reportsOnly);

/** Options that name a text; equal hashes mean the same text, whatever its name. */
const NAMING_DATA = optionsWhere(({ names }) => names === "data");

/** What a training was made of. */
export type Ingredients = Pick<ComparedRun, "options" | "adapter" | "dataHash" | "tokenizerHash">;

/** The flags whose values differ between runs, with one value per run. */
export function differences(runs: readonly Ingredients[]): [name: string, values: string[]][] {
  const rows = new Map<string, unknown[]>();
  const isSame = (hash: (run: Ingredients) => string) => new Set(runs.map(hash)).size === 1;
  const left = new Set<string>([
    ...REPORTING,
    ...(isSame(({ dataHash }) => dataHash) ? NAMING_DATA : []),
    ...(isSame(({ tokenizerHash }) => tokenizerHash) ? ["tokenizer", "vocabulary"] : []),
    // a model to start from has its own size, whatever the preset
    ...(runs.some(({ options }) => options.initFrom !== undefined) ? ["preset"] : []),
  ]);
  for (const name of new Set(runs.flatMap(({ options }) => Object.keys(options)))) {
    if (!left.has(name)) rows.set(optionLabel(name), runs.map(({ options }) => options[name]));
  }
  rows.set("trained on", runs.map(({ adapter }) => adapter));
  const text = (value: unknown) => {
    if (Array.isArray(value)) return value.join(" ");
    return `${typeof value === "number" ? Number(value.toPrecision(6)) : value ?? "—"}`;
  };
  return [...rows].map(([name, values]): [string, string[]] => [name, values.map(text)])
    .filter(([, values]) => new Set(values).size > 1);
}

/** Sentences about figures that cannot be compared, and the reason. */
export function caveats(runs: readonly ComparedRun[]): string[] {
  const differ = (hash: (run: ComparedRun) => string) => new Set(runs.map(hash)).size > 1;
  const sentences = [];
  const isValidatedApart = differ(({ validationHash, dataHash }) => validationHash ?? dataHash);
  if (isValidatedApart && differ(({ dataHash }) => dataHash)) {
    sentences.push(
      "the runs were evaluated on different texts: neither losses nor bits per byte can be compared",
    );
  } else if (differ(({ tokenizerHash }) => tokenizerHash)) {
    sentences.push(
      "the runs have different tokenizers: bits per byte can be compared, losses cannot",
    );
  }
  return sentences;
}

/**
 * The comparison as text: one line per run, then the options that differ. If a line would have more than `columns`
 * characters, there is one column per run, or one block per run.
 */
export function compareTable(
  runs: readonly ComparedRun[],
  { columns = Infinity }: { columns?: number | undefined } = {},
): string {
  const names = runs.map(({ name }) => name), different = differences(runs);
  const figures: [name: string, of: (run: ComparedRun) => string][] = [
    ["params", ({ parameters }) => inShort(parameters)],
    ["steps", ({ last }) => `${last.step}`],
    ["tokens", ({ last }) => inShort(last.tokens)],
    ["time", ({ last }) => Number.isNaN(last.seconds) ? "—" : duration(last.seconds)],
    ["FLOPs", ({ last }) => last.flops.toExponential(1).replace("e+", "e")],
    ["loss", ({ last }) => last.loss.toFixed(3)],
    ["bits/byte", ({ last }) => last.bitsPerByte.toFixed(3)],
    ["best loss", ({ best }) => best.loss.toFixed(3)],
    ["at tokens", ({ best }) => inShort(best.tokens)],
  ];
  const options = different.length === 0 ? "" : "\n" + align([
    ["differs in", ...names],
    ...different.map(([flag, values]) => [flag, ...values]),
  ]);
  const lines = align([
    ["run", ...figures.map(([name]) => name)],
    ...runs.map((run) => [run.name, ...figures.map(([, of]) => of(run))]),
  ]);
  const turned = align([
    ["run", ...names],
    ...figures.map(([name, of]) => [name, ...runs.map(of)]),
  ]);
  const table = [lines, turned].map((table) => table + options)
    .find((table) => fits(table, columns));
  if (table !== undefined) return table;
  return runs.map((run, i) =>
    `${printable(run.name)}\n` + align([
      ...figures.map(([name, of]) => [`  ${name}`, of(run)]),
      ...different.map(([flag, values]) => [`  ${flag}`, values[i]!]),
    ])
  ).join("\n");
}

const COLORS = [BLUE, YELLOW, RED, TEAL, GREEN, PINK, PURPLE, LIGHT_BLUE, BROWN, SILVER];

/** Seconds in the unit of a time axis: its first row whose unit is not above the longest time. */
const TIMES = [["hours", 3600], ["minutes", 60], ["seconds", 1]] as const;

/**
 * Draws the comparison as SVG: a row each for loss and bits per byte, a column each for tokens, time and operations.
 * Axes are logarithmic, as the lengths of runs may differ by orders of magnitude.
 */
export function drawComparison(runs: readonly ComparedRun[]): Promise<string> {
  const color = (i: number) => COLORS[i % COLORS.length]!;
  const points = runs.flatMap((run) => run.points);
  const longest = points.reduce((most, { seconds }) => Math.max(most, seconds || 0), 0);
  const [time, seconds] = TIMES.find(([, seconds]) => longest >= 2 * seconds) ?? TIMES.at(-1)!;
  const columns = [
    { x: (point: ComparedPoint) => point.tokens, label: "tokens", tickFormat: "~s" },
    { x: (point: ComparedPoint) => point.seconds / seconds, label: `training time, ${time}` },
    { x: (point: ComparedPoint) => point.flops, label: "FLOPs", tickFormat: "~s" },
  ];
  const rows = [
    { y: (point: ComparedPoint) => point.loss, label: "validation loss, nats per token" },
    { y: (point: ComparedPoint) => point.bitsPerByte, label: "bits per byte" },
  ];
  const starts = runs.map(({ points }) => points.filter(({ step }) => step === 0));
  return drawChart({
    title: "Validation loss over what the training cost",
    notes: [
      ...caveats(runs),
      ...(starts.flat().length > 0 ? ["dashed: the model from which a run started"] : []),
    ],
    legend: runs.map(({ name, last }, i) => ({
      text: `${name}: loss ${last.loss.toFixed(3)}, ${last.bitsPerByte.toFixed(3)} bits per byte`,
      color: color(i),
    })),
    columns: columns.length,
    panel: { width: 320, height: 250 },
    panels: (plot) =>
      rows.flatMap(({ y, ...yAxis }) =>
        columns.map(({ x, ...xAxis }) => {
          const isDrawn = (point: ComparedPoint) =>
            [x(point), y(point)].every((value) => value > 0 && value < Infinity);
          const drawn = points.filter(isDrawn);
          return {
            x: logAxis(drawn.map(x), xAxis),
            y: logAxis([...drawn, ...starts.flat()].map(y), yAxis),
            marks: [
              ...noPoints(plot, drawn),
              ...runs.flatMap(({ points }, i) => [
                plot.ruleY(starts[i]!, { y, stroke: color(i), strokeDasharray: "4 3" }),
                plot.lineY(points.filter(isDrawn), { x, y, stroke: color(i), strokeWidth: 1.5 }),
                plot.dot(points.filter(isDrawn), { x, y, fill: color(i), r: 2.5 }),
              ]),
            ],
          };
        })
      ),
  });
}
