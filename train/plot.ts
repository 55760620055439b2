import { parseMetrics } from "./metrics.ts";

/** What Plot draws into; this runtime has no DOM and no types for one. */
// deno-lint-ignore no-explicit-any
export type PlotDocument = { document: any };

/** Most points drawn of one curve. */
const MAX_POINTS = 500;

/**
 * Draws the loss curve of a run as SVG: training and validation loss over steps, and the least loss
 * possible where it is known.
 *
 * @param metrics text of the run's `metrics.jsonl`; lines that are no JSON are passed over.
 */
export async function drawLoss(metrics: string): Promise<string> {
  const [Plot, { parseHTML }] = await Promise.all([
    import("npm:@observablehq/plot@0.6.17"),
    import("npm:linkedom@0.18.15"),
  ]);
  const lines = parseMetrics(metrics).metrics;
  const curve = (kind: string, name: string) => {
    const points = lines.filter((line) => line.kind === kind && Number.isFinite(line.loss));
    const stride = Math.ceil(points.length / MAX_POINTS);
    // means of neighbours, so that a long run is drawn in few points and loses no trend
    return Array.from({ length: Math.ceil(points.length / stride) || 0 }, (_, i) => {
      const group = points.slice(i * stride, (i + 1) * stride);
      const loss = group.reduce((sum, point) => sum + point.loss!, 0) / group.length;
      return { step: group.at(-1)!.step, loss, curve: name };
    });
  };
  const training = curve("step", "training"), validation = curve("evaluation", "validation");
  const entropy = lines.find((line) => line.entropyPerToken !== undefined)?.entropyPerToken;
  const { document } = parseHTML("<html><body></body></html>") as unknown as PlotDocument;
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
          text: (d: { loss: number; curve: string }) => `${d.curve} ${d.loss.toFixed(3)}`,
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
