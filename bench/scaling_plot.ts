import { BLUE, BROWN, drawChart, logAxis, RED } from "../train/record/chart.ts";
import { AXES, type Axis, deviceMs, type ScalingPoint } from "./scaling.ts";

/** Label of each axis. */
const LABELS: Readonly<Record<Axis, string>> = {
  batch: "batch, sequences",
  context: "context, with as many tokens in a batch",
  width: "width",
  layers: "layers",
};

/**
 * Draws a scaling run as SVG: one panel per axis, with the milliseconds per step over the axis. Both scales
 * are logarithmic, so that a power law is a straight line whose slope is the exponent.
 */
export function drawScaling(
  points: readonly ScalingPoint[],
  { title }: { title: string },
): Promise<string> {
  // all panels have the same scale, so that they can be compared
  const times = points.flatMap((point) => [deviceMs(point), point.ms, point.modelMs]);
  const y = logAxis(times, { label: "ms per step" });
  return drawChart({
    title,
    legend: [
      { text: "on the device", color: BLUE },
      { text: "by the clock", color: BROWN, sign: "○" },
      { text: "model", color: RED, sign: "━" },
    ],
    columns: 2,
    panel: { width: 360, height: 250 },
    panels: (plot) =>
      AXES.map((axis) => ({ axis, own: points.filter((point) => point.axis === axis) }))
        .filter(({ own }) => own.length > 0)
        .map(({ axis, own }) => ({
          x: {
            type: "log",
            base: 2, // with base 10, crowded ticks near a power of ten lose their labels
            label: `${LABELS[axis]} (log)`,
            labelAnchor: "center",
            labelArrow: "none",
            ticks: own.map(({ value }) => value),
            tickFormat: "d",
            inset: 12,
          },
          y,
          marks: [
            plot.frame({ strokeOpacity: 0.2 }),
            plot.lineY(own, { x: "value", y: "modelMs", stroke: RED, strokeWidth: 2 }),
            plot.dot(own, { x: "value", y: "ms", stroke: BROWN, r: 5 }),
            plot.dot(own, { x: "value", y: deviceMs, fill: BLUE, r: 3.5 }),
          ],
        })),
  });
}
