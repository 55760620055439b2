import { fits, fitTable } from "../files/table.ts";
import type { SamplerOptions } from "../kernels/sample/sample.ts";
import { ANSWER_FIGURES, type Share, shareInterval, STORY_FIGURES } from "./judge.ts";
import type { JudgedCheckpoint } from "./judge_chart.ts";

/**
 * The judgements of a run's checkpoints as tables, and for JSON.
 *
 * @module
 */

/** A table of the greedy texts, and one of the sampled ones; without intervals if the terminal is too narrow for them. */
export function judgementTables(
  judged: readonly JudgedCheckpoint[],
  sampler: SamplerOptions,
  width = Infinity,
): string {
  const tablesOf = (cell: Cell) => {
    const tableOf = (temperature: number, sharesOf: (checkpoint: JudgedCheckpoint) => Shares) =>
      `${samplerText({ ...sampler, temperature })}: ${cell.unit}\n` +
      shareTable(judged, sharesOf, { cell, width });
    const greedy = tableOf(0, ({ greedy }) => greedy);
    if (sampler.temperature === 0) return greedy;
    return `${greedy}\n${tableOf(sampler.temperature, ({ sampled }) => sampled!)}`;
  };
  const wide = tablesOf(WITH_INTERVAL);
  return fits(wide, width) ? wide : tablesOf(PERCENT);
}

/** A line per checkpoint with a column per figure, the last of which are left out if only percentages do not fit. */
function shareTable(
  judged: readonly JudgedCheckpoint[],
  sharesOf: (checkpoint: JudgedCheckpoint) => Shares,
  { cell, width }: { cell: Cell; width: number },
): string {
  const figures = figuresOf(judged);
  const columns = figures.map((figure): [string, (checkpoint: JudgedCheckpoint) => string] => [
    figure,
    (checkpoint) => cell.text(sharesOf(checkpoint)[figure]!),
  ]);
  return fitTable(
    { step: ({ step }: JudgedCheckpoint) => `${step}`, ...Object.fromEntries(columns) },
    judged,
    { spare: cell === PERCENT ? figures.slice(1).reverse() : [], width },
  );
}

/** How tokens are drawn: the options that do something. */
function samplerText(sampler: SamplerOptions): string {
  const { temperature, topK, topP, minP, repetitionPenalty, repetitionWindow } = sampler;
  const { presencePenalty, frequencyPenalty } = sampler;
  const penalized = repetitionWindow === 0 ? "all" : `the last ${repetitionWindow}`;
  const isSampled = temperature > 0; // a greedy sampler has one token to choose from
  return [
    isSampled ? `temperature ${temperature}` : "greedy",
    ...(isSampled && topK > 0 ? [`top-k ${topK}`] : []),
    ...(isSampled && topP < 1 ? [`top-p ${topP}`] : []),
    ...(isSampled && minP > 0 ? [`min-p ${minP}`] : []),
    ...(repetitionPenalty === 1
      ? []
      : [`repetition penalty ${repetitionPenalty} on ${penalized} tokens`]),
    ...(presencePenalty === 0 ? [] : [`presence penalty ${presencePenalty}`]),
    ...(frequencyPenalty === 0 ? [] : [`frequency penalty ${frequencyPenalty}`]),
  ].join(", ");
}

/** The judged figures by their names. */
type Shares = Readonly<Record<string, Share>>;

/** The figures of these judgements, in the order in which they are shown. */
function figuresOf([first]: readonly JudgedCheckpoint[]): readonly string[] {
  return "all" in first!.greedy ? ANSWER_FIGURES : STORY_FIGURES;
}

/** How a share is written in a table. */
interface Cell {
  /** What the text says, for the heading. */
  readonly unit: string;
  text(share: Share): string;
}

const PERCENT: Cell = {
  unit: "%",
  text: ({ count, of }) => of === 0 ? "—" : (100 * count / of).toFixed(0),
};

const WITH_INTERVAL: Cell = {
  unit: "% (95 % confidence interval) of how many",
  text(share) {
    const [low, high] = shareInterval(share).map((value) => (100 * value).toFixed(0));
    return `${PERCENT.text(share)} (${low}–${high}) of ${share.of}`;
  },
};

/** A judgement for JSON: each share with its interval. */
export function withIntervals({ step, heads, greedy, sampled }: JudgedCheckpoint): object {
  const shares = (all: Shares) =>
    Object.fromEntries(
      Object.entries(all).map(([figure, share]) => [
        figure,
        { ...share, interval: shareInterval(share) },
      ]),
    );
  return {
    step,
    greedy: shares(greedy),
    ...(sampled ? { sampled: shares(sampled) } : {}),
    heads,
  };
}
