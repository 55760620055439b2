import { openPlot, svgPage } from "../train/svg.ts";
import { AXES, type Axis, deviceMs, type ScalingPoint } from "./scaling.ts";

/** Label of each axis. */
const LABELS: Readonly<Record<Axis, string>> = {
  batch: "batch, sequences",
  context: "context, with as many tokens in a batch",
  width: "width",
  layers: "layers",
};

const DEVICE = "#4269d0", WALL = "#9c6b4e", MODEL = "#ff725c";
const LEGEND = [["●", "on the device", DEVICE], ["○", "by the clock", WALL], [
  "━━",
  "model",
  MODEL,
]];

const PANEL = { width: 360, height: 250 }, HEAD = 52;

/**
 * Draws a scaling run as SVG: one panel per axis, with the milliseconds per step over the axis. Both scales
 * are logarithmic, so that a power law is a straight line whose slope is the exponent.
 */
export async function drawScaling(
  points: readonly ScalingPoint[],
  { title }: { title: string },
): Promise<string> {
  const { Plot, document } = await openPlot();
  const times = points.flatMap((point) => [deviceMs(point), point.ms, point.modelMs]);
  const least = Math.min(...times) / 1.3, most = Math.max(...times) * 1.3;
  const ticks = [0.01, 0.1, 1, 10, 100, 1e3, 1e4].flatMap((ten) => [ten, 2 * ten, 5 * ten])
    .filter((ms) => ms >= least && ms <= most);

  const panel = (axis: Axis) => {
    const own = points.filter((point) => point.axis === axis);
    return Plot.plot({
      document,
      ...PANEL,
      marginLeft: 46,
      marginTop: 26,
      marginBottom: 42,
      style: { background: "none", color: "#222", fontFamily: "system-ui, sans-serif" },
      x: {
        type: "log",
        base: 2, // with base 10, crowded ticks near a power of ten lose their labels
        label: LABELS[axis],
        labelAnchor: "center",
        labelArrow: "none",
        ticks: own.map(({ value }) => value),
        tickFormat: "d",
        inset: 12,
      },
      // all panels have the same scale, so that they can be compared
      y: {
        type: "log",
        domain: [least, most],
        label: "ms per step",
        grid: true,
        ticks,
        tickFormat: "~g",
      },
      marks: [
        Plot.frame({ stroke: "#ddd" }),
        Plot.lineY(own, { x: "value", y: "modelMs", stroke: MODEL, strokeWidth: 2 }),
        Plot.dot(own, { x: "value", y: "ms", stroke: WALL, r: 5 }),
        Plot.dot(own, { x: "value", y: deviceMs, fill: DEVICE, r: 3.5 }),
      ],
    });
  };

  const legend = LEGEND.map(([sign, text, color], i) =>
    `<text x="${12 + 140 * i}" y="42"><tspan fill="${color}">${sign}</tspan> ${text}</text>`
  );
  const axes = AXES.filter((axis) => points.some((point) => point.axis === axis));
  const panels = axes.map((axis, i) => {
    const svg = panel(axis);
    svg.setAttribute("x", `${i % 2 * PANEL.width}`);
    svg.setAttribute("y", `${HEAD + Math.floor(i / 2) * PANEL.height}`);
    return svg.outerHTML;
  });
  const width = 2 * PANEL.width, height = HEAD + Math.ceil(axes.length / 2) * PANEL.height;
  return svgPage({ width, height }, [
    `<text x="12" y="20" font-size="14" font-weight="600">${title.replace(/[<&]/g, "")}</text>`,
    ...legend,
    ...panels,
  ]);
}
