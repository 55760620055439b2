import { BLUE, BROWN, drawChart, logAxis, PURPLE, RED, TEAL } from "../train/record/chart.ts";
import {
  type ExchangeFigures,
  EXCHANGING,
  type Exchanging,
  type ModelledTraining,
  MOST_HOSTS,
  NETWORKS,
  RANKS_PER_HOST,
  stepMs,
} from "./ranks_cost.ts";
import { type RanksReport, SYNC_EVERY } from "./ranks_report.ts";

/** Colours of the networks, and of the ranks of one host. */
const COLORS = [BROWN, BLUE, TEAL], HOST_COLOR = PURPLE;

/**
 * Draws the seconds of a step over the number of ranks as SVG, one panel per model: on one host, and by network on several
 * hosts of `RANKS_PER_HOST`. Both scales are logarithmic.
 */
export function drawRanks(
  report: RanksReport,
  figures: ExchangeFigures,
  trainings: readonly ModelledTraining[],
  { title }: { title: string },
): Promise<string> {
  const points = trainings.map((training) => pointsOf(figures, training));
  return drawChart({
    title,
    notes: [
      `lines: model, solid if each step is synchronous, dashed if DiLoCo exchanges every ${SYNC_EVERY} steps; dots: measured`,
    ],
    legend: [
      { text: "one host", color: HOST_COLOR, sign: "━" },
      ...NETWORKS.map(({ name }, i) => ({
        text: `hosts of ${RANKS_PER_HOST}, ${name}`,
        color: COLORS[i]!,
        sign: "━",
      })),
      { text: "measured", color: RED },
    ],
    columns: 3,
    panel: { width: 330, height: 300 },
    panels: (plot) =>
      trainings.map((training, i) => {
        const { model, batch, accumulation, isScaled } = training, of = points[i]!;
        const measured = report.results.filter((one) =>
          one.model === model && one.batch === batch && one.accumulation === accumulation
        );
        const all = [...of.map(({ seconds }) => seconds), ...measured.map(({ ms }) => ms / 1e3)];
        return {
          x: {
            type: "log" as const,
            base: 2,
            label: `ranks: ${model} ${batch} x ${accumulation}${
              isScaled ? ", scaled from gpt2" : ""
            }`,
            labelAnchor: "center" as const,
            labelArrow: "none" as const,
            ticks: [1, 8, 64, 512, 4096],
            tickFormat: "d",
            inset: 10,
          },
          y: logAxis(all, { label: "seconds per step" }),
          marks: [
            plot.frame({ strokeOpacity: 0.2 }),
            ...EXCHANGING.map((exchanging) =>
              plot.lineY(of.filter((point) => point.exchanging === exchanging), {
                x: "ranks",
                y: "seconds",
                z: "network",
                stroke: "color",
                strokeWidth: 2,
                ...(exchanging === "DiLoCo" ? { strokeDasharray: "4 3" } : {}),
              })
            ),
            plot.dot(measured, {
              x: "ranks",
              y: ({ ms }: { ms: number }) => ms / 1e3,
              fill: RED,
              r: 3.5,
            }),
          ],
        };
      }),
  });
}

interface Point {
  readonly ranks: number;
  readonly seconds: number;
  readonly network: string;
  readonly color: string;
  readonly exchanging: Exchanging;
}

/** The points of a panel's lines. */
function pointsOf(figures: ExchangeFigures, training: ModelledTraining): Point[] {
  const point = (
    exchanging: Exchanging,
    hosts: number,
    ranksPerHost: number,
    network: { name: string; bytesPerSecond: number; color: string },
  ): Point => ({
    ranks: hosts * ranksPerHost,
    seconds: stepMs(figures, training, exchanging, { hosts, ranksPerHost }, network) / 1e3,
    network: network.name,
    color: network.color,
    exchanging,
  });
  return EXCHANGING.flatMap((exchanging) => [
    ...[1, 2, 4, 8].map((ranks) =>
      point(exchanging, 1, ranks, { name: "host", bytesPerSecond: Infinity, color: HOST_COLOR })
    ),
    ...NETWORKS.flatMap((network, i) =>
      Array.from(
        { length: Math.log2(MOST_HOSTS) + 1 },
        (_, n) => point(exchanging, 2 ** n, RANKS_PER_HOST, { ...network, color: COLORS[i]! }),
      )
    ),
  ]);
}
