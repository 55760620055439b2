import {
  BLUE,
  drawChart,
  GREY,
  type LegendEntry,
  logAxis,
  noPoints,
  type PanelOptions,
  type Plot,
  RED,
  YELLOW,
} from "./chart.ts";
import { Curve } from "./curve.ts";
import type { Metric } from "./metrics.ts";

/** Warnings that a curve marks, at most. */
const MOST_WARNINGS = 8;

/** Losses of a run over its steps. */
export class LossCurve {
  /** Losses of training steps. */
  readonly training: Curve<LossPoint, "loss"> = new Curve(["loss"]);
  /** Losses of evaluations. */
  readonly validation: Curve<LossPoint, "loss"> = new Curve(["loss"]);
  /** The least possible loss, if it is known. */
  entropy: number | undefined;

  /** The step of the first warning of each name. */
  readonly warnings: Map<string, number> = new Map();

  /** Adds a line of the run's record, unless it has neither a finite loss nor a warning. */
  add({ kind, step, loss, entropyPerToken, name = "" }: Metric): void {
    this.entropy ??= entropyPerToken;
    if (kind === "warning" && !this.warnings.has(name) && this.warnings.size < MOST_WARNINGS) {
      this.warnings.set(name, step);
    }
    if (!Number.isFinite(loss)) return;
    if (kind === "step") this.training.add({ step, loss: loss! });
    if (kind === "evaluation") this.validation.add({ step, loss: loss! });
  }
}

interface LossPoint {
  readonly step: number;
  readonly loss: number;
}

/**
 * Draws the loss curve of a run as SVG: training and validation loss over steps, the least possible loss if it is
 * known, and the steps of warnings.
 */
export function drawLoss(losses: LossCurve, { title }: { title: string }): Promise<string> {
  const { legend, panel } = lossPanel(losses);
  return drawChart({
    title,
    legend,
    columns: 1,
    panel: { width: 720, height: 400 },
    panels: (plot) => [panel(plot)],
  });
}

/**
 * The loss curve of a run as a panel of a chart, with its legend and its last step.
 *
 * @param options.from the axis of losses is that of the losses from this step on; higher ones are cut off.
 */
export function lossPanel(
  { training, validation, entropy, warnings }: LossCurve,
  { from = 0 }: { from?: number } = {},
): { legend: LegendEntry[]; lastStep: number; panel: (plot: Plot) => PanelOptions } {
  const last = (name: string, points: readonly LossPoint[], color: string): LegendEntry[] =>
    points.slice(-1).map(({ step, loss }) => (
      { text: `${name} ${loss.toFixed(3)} at step ${step}`, color }
    ));
  const legend = [
    ...last("training", training.points, BLUE),
    ...last("validation", validation.points, RED),
    ...(entropy === undefined
      ? []
      : [{ text: `entropy of the text ${entropy.toFixed(3)}`, color: GREY, sign: "┅" }]),
    ...Array.from(warnings, ([name, step]) => (
      { text: `warning: ${name} at step ${step}`, color: YELLOW, sign: "┇" }
    )),
  ];
  const points = [...training.points, ...validation.points];
  const losses = points.filter(({ step }) => step >= from).map(({ loss }) => loss);
  const lastStep = Math.max(0, ...points.map(({ step }) => step));
  const channels = { x: "step", y: "loss" };
  const panel = (plot: Plot): PanelOptions => ({
    clip: from > 0,
    x: stepAxis(lastStep),
    y: logAxis([...losses, ...(entropy === undefined ? [] : [entropy])], {
      label: "loss, nats per token",
    }),
    marks: [
      ...noPoints(plot, points),
      plot.lineY(training.points, { ...channels, stroke: BLUE, strokeWidth: 1.5 }),
      plot.lineY(validation.points, { ...channels, stroke: RED, strokeWidth: 2 }),
      plot.dot(validation.points, { ...channels, fill: RED, r: 3 }),
      ...(entropy === undefined
        ? []
        : [plot.ruleY([entropy], { stroke: GREY, strokeDasharray: "4 3" })]),
      plot.ruleX(warnings.values(), { stroke: YELLOW, strokeWidth: 1.5, strokeDasharray: "2 3" }),
    ],
  });
  return { legend, lastStep, panel };
}

/** The axis of steps. */
export function stepAxis(lastStep: number): PanelOptions["x"] & object {
  return {
    label: "step",
    grid: true,
    tickFormat: ",d",
    // there is no step between two steps
    ...(lastStep < 10 ? { ticks: Array.from({ length: lastStep }, (_, i) => i + 1) } : {}),
  };
}
