import { basename, join } from "node:path";
import { taskCommand } from "../files/command_line.ts";
import { isUsersError } from "../files/disk.ts";
import { load } from "../files/packages.ts";
import { duration } from "../files/units.ts";
import { LossCurve } from "../train/record/loss_curve.ts";
import { type Metric, METRICS_FILE, readMetrics } from "../train/record/metrics.ts";
import type { TrainEvent } from "../train/train.ts";

/**
 * What a training prints at its end: a small loss curve of the run, and what it did.
 *
 * @module
 */

/** Points below which a curve says nothing. */
const FEWEST_POINTS = 10;

/** Rows of a curve, its columns at least and at most, and those that its ticks need beside it. */
const ROWS = 10, LEAST_COLUMNS = 20, MOST_COLUMNS = 100, TICK_COLUMNS = 10;

/** The symbols of a curve on a terminal that draws, and in a log, which any program may read. */
const SYMBOLS = {
  terminal: { line: "━", point: "●", threshold: "┄" },
  log: { line: "*", point: "o", threshold: "." },
} as const;

/** The symbols of a line and of axes in ASCII. */
const ASCII = {
  chart: { we: "*", wns: "*", ns: "*", nse: "*", wsn: "*", sne: "*" },
  axis: { n: "|", ns: "|", y: "+", nse: "+", x: "+", we: "-", e: "-" },
};

/** Where a summary is shown. */
export interface Screen {
  /** Columns of the terminal; undefined without one. */
  readonly columns: number | undefined;
  /** Whether only ASCII may be drawn, as in a log. */
  readonly isPlain: boolean;
}

/** Collects what the summary of a training needs. */
export class TrainSummary {
  #startMs = 0;
  #start: TrainEvent & { kind: "start" } | undefined;
  #steps = 0;
  /** Of the steps with a speed: how many, and their seconds per token. */
  #timed = 0;
  #secondsPerToken = 0;
  /** Of these, the part in which ranks exchanged gradients or weights. */
  #exchangeSecondsPerToken = 0;
  #hasWarned = false;

  /** Adds an event of the training. */
  add(event: TrainEvent): void {
    if (event.kind === "start") {
      this.#start = event;
      this.#startMs = performance.now();
    }
    if (event.kind === "warning") this.#hasWarned = true;
    if (event.kind !== "step") return;
    this.#steps++;
    if (event.tokensPerSecond === undefined) return;
    this.#timed++;
    this.#secondsPerToken += 1 / event.tokensPerSecond;
    this.#exchangeSecondsPerToken += (event.exchangeShare ?? 0) / event.tokensPerSecond;
  }

  /**
   * The summary in lines; empty if the training did nothing.
   *
   * @param end the event that ended the training.
   * @param screen where it is shown.
   */
  async text(
    { path, best }: TrainEvent & { kind: "end" },
    screen: Screen,
  ): Promise<string> {
    if (!this.#start || this.#steps === 0) return "";
    const { out, ranks } = this.#start.options;
    const exchange = 100 * this.#exchangeSecondsPerToken / this.#secondsPerToken;
    const seconds = (performance.now() - this.#startMs) / 1000;
    const curve = new LossCurve();
    let last: Metric | undefined, lowest: Metric | undefined;
    try {
      for (const metric of readMetrics(join(out, METRICS_FILE), () => {})) {
        curve.add(metric);
        if (metric.kind !== "evaluation" || metric.step === 0 || !Number.isFinite(metric.loss)) {
          continue;
        }
        last = metric;
        if (!lowest || metric.loss! < lowest.loss!) lowest = metric;
      }
    } catch (error) {
      if (!isUsersError(error)) throw error; // the record cannot be read
    }
    const speed = this.#timed === 0
      ? ""
      : `; the steps alone: ${Math.round(this.#timed / this.#secondsPerToken)} tokens per second` +
        (ranks > 1 ? ` on ${ranks} ranks, ${exchange.toFixed(0)} % exchanging` : "");
    const other = best === undefined || best === path
      ? ""
      : `; the best checkpoint is ${basename(best)} (--checkpoint best)`;
    const lossOf = ({ loss, step }: Metric) => `${loss!.toFixed(3)} at step ${step}`;
    const lines = [
      await drawLosses(curve, screen),
      `trained ${this.#steps} step${this.#steps === 1 ? "" : "s"} in ${duration(seconds)}${speed}`,
      last && lowest
        ? `validation loss ${lossOf(last)}, ` +
          (last === lowest ? `the lowest${other}` : `lowest ${lossOf(lowest)}${other}`)
        : "",
      `${out} has ${METRICS_FILE}, loss.svg and the checkpoints`,
      this.#hasWarned
        ? `warnings were printed; for all checks: ${taskCommand("diagnose", out)}`
        : "",
    ];
    return lines.filter((line) => line !== "").join("\n");
  }
}

/** The losses of a run as a chart in text; empty if they are too few, or if there is no room for it. */
export async function drawLosses(
  { training, validation, entropy }: LossCurve,
  { columns: width = 80, isPlain }: Screen,
): Promise<string> {
  const points = training.points.filter(({ loss }) => loss > 0); // the scale is logarithmic
  const columns = Math.min(MOST_COLUMNS, width - TICK_COLUMNS);
  if (points.length < FEWEST_POINTS || columns < LEAST_COLUMNS) return "";
  let plot;
  try {
    ({ plot } = await load("simple-ascii-chart"));
  } catch (error) {
    if (!isUsersError(error)) throw error; // it cannot be downloaded
    return "";
  }
  const first = points[0]!.step, last = points.at(-1)!.step;
  const evaluated = validation.points.filter(({ step, loss }) => step >= first && loss > 0);
  // a mean per column; the chart itself would draw what comes last in a column
  const means = new Map<number, { step: number; sum: number; count: number }>();
  for (const { step, loss } of points) {
    const column = Math.floor((columns - 1) * (step - first) / (last - first));
    const mean = means.get(column) ?? { step: 0, sum: 0, count: 0 };
    means.set(column, { step, sum: mean.sum + loss, count: mean.count + 1 });
  }
  const line = [...means.values()].map(({ step, sum, count }) => [step, Math.log(sum / count)]);
  const heights = [
    ...line.map(([, height]) => height!),
    ...evaluated.map(({ loss }) => Math.log(loss)),
  ];
  let low = Math.min(...heights), high = Math.max(...heights);
  if (low === high) [low, high] = [low - 0.1, high + 0.1];
  // a floor far below the losses would leave them a few rows
  const floor = entropy === undefined ? NaN : Math.log(entropy);
  const hasFloor = low - floor < high - low;
  if (hasFloor) low = Math.min(low, floor);
  const middle = Math.round(Number(((first + last) / 2).toPrecision(2)));
  const symbols = SYMBOLS[isPlain ? "log" : "terminal"];
  const chart = plot(line as [number, number][], {
    width: columns,
    height: ROWS,
    yRange: [low, high],
    customYAxisTicks: [low, (low + high) / 2, high],
    customXAxisTicks: columns < 40 ? [first, last] : [first, middle, last],
    formatter: (value, { axis }) => axis === "y" ? tick(Math.exp(value)) : value,
    points: evaluated.map(({ step, loss }) => ({ x: step, y: Math.log(loss) })),
    ...(hasFloor ? { thresholds: [{ y: floor }] } : {}),
    symbols: {
      ...(isPlain ? ASCII : {}),
      point: symbols.point,
      thresholds: { x: symbols.threshold, y: symbols.threshold },
    },
  });
  const legend = [
    `${symbols.line} training`,
    ...(evaluated.length === 0 ? [] : [`${symbols.point} validation`]),
    ...(hasFloor ? [`${symbols.threshold} entropy`] : []),
  ];
  const rows = chart.split("\n").map((row) => row.trimEnd()).filter((row) => row !== "");
  return ["", `loss in nats per token: ${legend.join(", ")}`, ...rows].join("\n");
}

/** A loss beside its axis, which is logarithmic: a small one has a digit. */
function tick(loss: number): string {
  return loss < 0.1 ? loss.toPrecision(1) : loss.toFixed(2);
}
