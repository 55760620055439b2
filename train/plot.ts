import { Curve } from "./curve.ts";
import type { Metric } from "./metrics.ts";
import { openPlot } from "./svg.ts";

/** Losses of a run over its steps. */
export class LossCurve {
  /** Losses of training steps. */
  readonly training: Curve<LossPoint, "loss"> = new Curve(["loss"]);
  /** Losses of evaluations. */
  readonly validation: Curve<LossPoint, "loss"> = new Curve(["loss"]);
  /** The least possible loss, if it is known. */
  entropy: number | undefined;

  /** Adds a line of the run's record, unless it has no finite loss. */
  add({ kind, step, loss, entropyPerToken }: Metric): void {
    this.entropy ??= entropyPerToken;
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
 * Draws the loss curve of a run as SVG: training and validation loss over steps, and the least possible loss
 * if it is known.
 */
export async function drawLoss(losses: LossCurve): Promise<string> {
  const { Plot, document } = await openPlot();
  const { entropy } = losses;
  const [training, validation] = (["training", "validation"] as const).map((curve) =>
    losses[curve].points.map((point) => ({ ...point, curve }))
  ) as [(LossPoint & { curve: string })[], (LossPoint & { curve: string })[]];
  const figure = Plot.plot({
    document,
    width: 720,
    height: 400,
    marginLeft: 50,
    style: { background: "white", color: "#222", fontFamily: "system-ui, sans-serif" },
    x: { label: "step", grid: true },
    y: { label: "loss (nats per token)", type: "log", grid: true, tickFormat: "~g", ticks: 6 },
    color: { domain: ["training", "validation"], range: ["#4269d0", "#ff725c"] },
    marks: [
      Plot.lineY(training, { x: "step", y: "loss", stroke: "curve", strokeWidth: 1.5 }),
      Plot.lineY(validation, { x: "step", y: "loss", stroke: "curve", strokeWidth: 2 }),
      Plot.dot(validation, { x: "step", y: "loss", fill: "curve", r: 3 }),
      ...(entropy === undefined ? [] : [
        Plot.ruleY([entropy], { stroke: "#888", strokeDasharray: "4 3" }),
        Plot.text([`entropy of the stories ${entropy.toFixed(3)}`], {
          y: entropy,
          frameAnchor: "right",
          dy: -7,
          fill: "#666",
        }),
      ]),
      ...[training, validation].filter((points) => points.length > 0).map((points, i) =>
        Plot.text(points.slice(-1), {
          x: "step",
          y: "loss",
          text: (d: LossPoint & { curve: string }) => `${d.curve} ${d.loss.toFixed(3)}`,
          fill: "curve",
          textAnchor: "end",
          dy: i === 0 ? -16 : -30,
        })
      ),
    ],
  });
  figure.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  return `${figure.outerHTML}\n`;
}
