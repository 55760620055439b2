import { BROWN, drawChart, GREEN, noPoints, PINK, PURPLE, YELLOW } from "../train/record/chart.ts";
import { LossCurve, lossPanel, stepAxis } from "../train/record/loss_curve.ts";
import type { CopyingHead } from "./copying_heads.ts";
import {
  type AnswerShares,
  type Share,
  shareInterval,
  STORY_FIGURES,
  type StoryFigure,
  type StoryShares,
} from "./judge.ts";

/** The judgement of a checkpoint. */
export interface JudgedCheckpoint {
  /** Steps done. */
  readonly step: number;
  /** With the likeliest token every time. */
  readonly greedy: StoryShares | AnswerShares;
  /** With tokens drawn by a sampler. */
  readonly sampled?: StoryShares | AnswerShares;
  /** What its heads copy of the name of the hero, see `copyingHeads()`. */
  readonly heads?: readonly CopyingHead[];
}

/** The figures that are drawn. */
type DrawnFigure = StoryFigure | "all";

/** What each figure is called, and its colour. */
const FIGURES: Readonly<Record<DrawnFigure, { text: string; color: string }>> = {
  all: { text: "right answers", color: GREEN },
  sentences: { text: "sentences of the grammar", color: GREEN },
  hero: { text: "stories that keep their hero", color: PURPLE },
  animal: { text: "… their animal", color: YELLOW },
  thing: { text: "… their thing", color: BROWN },
};

/**
 * Draws the judgements of a run's checkpoints as SVG, below the loss curve of the run and over the same steps. Bands
 * are 95 % confidence intervals of the shares of sampled stories or answers. Of answers, the share of all is drawn, and
 * of the heads the one that copies the name most in the last checkpoint.
 */
export function drawJudgements(
  judged: readonly JudgedCheckpoint[],
  { title, losses = new LossCurve() }: { title: string; losses?: LossCurve },
): Promise<string> {
  const areAnswers = judged.some(({ greedy }) => "all" in greedy);
  const figures: readonly DrawnFigure[] = areAnswers ? ["all"] : STORY_FIGURES;
  const rows = figures.flatMap((figure) =>
    judged.flatMap(({ step, greedy, sampled }) =>
      [{ isGreedy: true, shares: greedy }, { isGreedy: false, shares: sampled }]
        .flatMap(({ isGreedy, shares }) => {
          const share = (shares as Partial<Record<DrawnFigure, Share>> | undefined)?.[figure];
          if (!share || share.of === 0) return [];
          const [low, high] = shareInterval(share);
          return [{ figure, step, isGreedy, share: share.count / share.of, low, high }];
        })
    )
  );
  const greedy = rows.filter(({ isGreedy }) => isGreedy);
  const sampled = rows.filter(({ isGreedy }) => !isGreedy);
  const color = ({ figure }: { figure: DrawnFigure }) => FIGURES[figure].color;
  const copying = judged.at(-1)?.heads?.[0];
  const attention = judged.flatMap(({ step, heads = [] }) =>
    heads.filter(({ layer, head }) => layer === copying?.layer && head === copying.head)
      .map(({ weight }) => ({ step, weight }))
  );
  const steps = judged.map(({ step }) => step);
  const lastStep = Math.max(lossPanel(losses).lastStep, ...steps);
  // the losses of the first steps would hide the differences between those of the others
  const loss = lossPanel(losses, { from: lastStep / 10 });
  const isCompared = sampled.length > 0;
  return drawChart({
    title,
    notes: isCompared
      ? [
        `bold: sampled ${areAnswers ? "answers" : "stories"}, with 95 % confidence intervals; ` +
        "dotted: greedy ones",
      ]
      : [],
    legend: [
      ...loss.legend,
      ...figures.map((figure) => FIGURES[figure]),
      ...(copying
        ? [{
          text: `head ${copying.layer}.${copying.head} to the earlier name`,
          color: PINK,
          sign: "┅",
        }]
        : []),
    ],
    columns: 1,
    panel: { width: 760, height: 290 },
    panels: (plot) => {
      const x = { ...stepAxis(lastStep), domain: [0, lastStep], insetRight: 4 };
      const channels = { x: "step", y: "share", z: "figure", stroke: color };
      return [
        { ...loss.panel(plot), x: { ...x, label: null } },
        {
          x,
          y: { label: "share, %", domain: [0, 100], percent: true, grid: true },
          marks: [
            ...noPoints(plot, rows),
            plot.areaY(isCompared ? sampled : greedy, {
              x: "step",
              y1: "low",
              y2: "high",
              z: "figure",
              fill: color,
              fillOpacity: 0.15,
            }),
            plot.lineY(attention, {
              x: "step",
              y: "weight",
              stroke: PINK,
              strokeWidth: 1.5,
              strokeDasharray: "6 3",
            }),
            plot.lineY(greedy, isCompared ? { ...channels, strokeDasharray: "1 3" } : channels),
            plot.lineY(sampled, { ...channels, strokeWidth: 2.5 }),
            plot.dot(isCompared ? sampled : greedy, { x: "step", y: "share", fill: color, r: 2.5 }),
          ],
        },
      ];
    },
  });
}
