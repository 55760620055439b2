import { BLUE, drawChart, type LegendEntry, RED } from "../train/record/chart.ts";
import type { Prediction, TextLens, TextPredictions } from "./predictions.ts";
import { type HeadAttention, LEAST_WEIGHT, percent, quotedToken } from "./tables.ts";
import type { Token } from "./tokens.ts";

/**
 * What `predictionsOf()`, `attentionWeightsOf()` and `logitLensOf()` return, as SVG.
 *
 * @module
 */

/** A translucent colour, on which text is legible in light and in dark mode. */
function faint(color: string, opacity: number): string {
  return color + Math.round(255 * opacity).toString(16).padStart(2, "0");
}

/** Colours of probabilities: each applies from `from` on. */
const LIKELY = [
  { from: 0.5, text: "50 % and more", color: faint(BLUE, 0.5) },
  { from: 0.1, text: "10 to 50 %", color: faint(BLUE, 0.22) },
  { from: 0.01, text: "1 to 10 %", color: faint(RED, 0.25) },
  { from: 0.001, text: "0.1 to 1 %", color: faint(RED, 0.5) },
  { from: 0, text: "less", color: faint(RED, 0.75) },
] as const;

/** Size of a character of the tokens in pixels, and characters per line. */
const CHARACTER = { width: 8, height: 24, perLine: 96 };

const MONOSPACE = { fontFamily: "ui-monospace,Menlo,Consolas,monospace", fontSize: 13 } as const;

/** Pixels around a panel without axes. */
const NO_AXES = {
  marginLeft: 12,
  marginRight: 12,
  marginTop: 8,
  marginBottom: 12,
  x: { axis: null },
  y: { axis: null },
} as const;

/** A token on a picture, without the quotes that a table has. */
const shown = (token: Token) => quotedToken(token).slice(1, -1);

/**
 * Draws a text whose tokens are coloured by their probability. A viewer of SVG shows probability, rank and alternatives
 * of the token under the mouse.
 */
export function drawPredictions(
  { tokens, predictions }: TextPredictions,
  { title }: { title: string },
): Promise<string> {
  const boxes = inLines(tokens.slice(1)).map((place, i) => (
    { ...place, ...colored(predictions[i]!) }
  ));
  const lines = (boxes.at(-1)?.line ?? 0) + 1;
  const margins = NO_AXES.marginTop + NO_AXES.marginBottom;
  return drawChart({
    title,
    legend: LIKELY.map(({ text, color }): LegendEntry => ({ text, color, sign: "■" })),
    columns: 1,
    panel: {
      width: CHARACTER.perLine * CHARACTER.width + NO_AXES.marginLeft + NO_AXES.marginRight,
      height: lines * CHARACTER.height + margins,
    },
    panels: (plot) => [{
      ...NO_AXES,
      x: { axis: null, domain: [0, CHARACTER.perLine] },
      y: { axis: null, domain: [0, lines], reverse: true },
      marks: [
        plot.rect(boxes, {
          x1: "x",
          x2: "end",
          y1: "line",
          y2: (box) => box.line + 1,
          fill: "color",
          inset: 0.5,
          title: "hint",
        }),
        plot.text(boxes, {
          x: "x",
          y: (box) => box.line + 0.5,
          text: "text",
          textAnchor: "start",
          ...MONOSPACE,
          pointerEvents: "none",
        }),
      ],
    }],
  });
}

/** A token of a picture: its line, and where in the line it begins and ends, in characters. */
interface PlacedToken {
  readonly text: string;
  readonly line: number;
  readonly x: number;
  readonly end: number;
}

/** Divides tokens into lines, which end where the text has a line break or where they are full. */
function inLines(tokens: readonly Token[]): PlacedToken[] {
  let line = 0, x = 0;
  return tokens.map((token) => {
    const text = shown(token);
    if (x > 0 && x + text.length > CHARACTER.perLine) [line, x] = [line + 1, 0];
    const placed = { text, line, x, end: x + text.length };
    [line, x] = token.text.endsWith("\n") ? [line + 1, 0] : [line, placed.end];
    return placed;
  });
}

/** The colour of a token by its probability, and what a viewer shows of it under the mouse. */
function colored({ next, top }: Prediction): { color: string; hint: string } {
  const { probability, rank } = next!;
  const others = top.filter(({ id }) => id !== next!.id)
    .map((other) => `${quotedToken(other)} ${percent(other.probability)}`);
  return {
    color: LIKELY.find(({ from }) => probability >= from)!.color,
    hint: [`${quotedToken(next!)} ${percent(probability)}, rank ${rank}`, ...others].join("\n"),
  };
}

/** Pixels of the names of tokens beside a matrix. */
const NAMES = 130;

/** Pixels of the side of a cell of attention, at least and at most, and of a row of cells, unless these are the smallest. */
const LEAST_CELL = 3, LARGEST_CELL = 18, LARGEST_ROW = 1000;

/** Pixels that the legend and the title need. */
const LEAST_WIDTH = 360;

/** Draws the attention of a head as a matrix: a row per query, a column per key. */
export function drawAttention(
  { tokens, weights }: HeadAttention,
  { title }: { title: string },
): Promise<string> {
  const T = tokens.length;
  const cell = Math.max(LEAST_CELL, Math.min(LARGEST_CELL, Math.floor(LARGEST_ROW / T)));
  const cells = weights.flatMap((row, t) =>
    row.flatMap((weight, s) =>
      weight < LEAST_WEIGHT ? [] : [{
        t,
        s,
        color: faint(BLUE, weight),
        hint: `${quotedToken(tokens[t]!)} attends to ${quotedToken(tokens[s]!)}: ` +
          percent(weight),
      }]
    )
  );
  const places = tokens.map((_, t) => t), nameOf = (t: number) => shown(tokens[t]!);
  const hasNames = cell >= MONOSPACE.fontSize - 3;
  const scale = { type: "band", domain: places, padding: 0, tickFormat: nameOf } as const;
  const axis = hasNames ? {} : { axis: null };
  const margin = hasNames ? NAMES : NO_AXES.marginLeft;
  return drawChart({
    title,
    legend: [1, 0.5, 0.1].map((weight) => (
      { text: percent(weight), color: faint(BLUE, weight), sign: "■" }
    )),
    columns: 1,
    panel: {
      width: Math.max(LEAST_WIDTH, T * cell + margin + NO_AXES.marginRight),
      height: T * cell + margin + NO_AXES.marginBottom,
    },
    panels: (plot) => [{
      marginLeft: margin,
      marginTop: margin,
      marginBottom: NO_AXES.marginBottom,
      marginRight: Math.max(NO_AXES.marginRight, LEAST_WIDTH - T * cell - margin),
      x: { ...scale, axis: "top", tickRotate: -90, label: null, ...axis },
      y: { ...scale, label: null, ...axis },
      marks: [
        plot.frame({ strokeOpacity: 0.2 }),
        plot.cell(cells, { x: "s", y: "t", fill: "color", title: "hint", inset: 0.5 }),
      ],
    }],
  });
}

/** Size of a cell of the logit lens in pixels. */
const LENS_CELL = { width: 112, height: 20 };

/**
 * Draws the logit lens as a table: a row per token, a column per layer, in each cell the likeliest next token. The
 * colour is its probability; a frame marks that it does come next.
 */
export function drawLens(
  { tokens, layers }: TextLens,
  { title }: { title: string },
): Promise<string> {
  const cells = layers.flatMap((predictions, layer) =>
    predictions.map(({ top: [likeliest], next }, t) => ({
      layer,
      t,
      text: shown(likeliest!),
      isNext: next?.rank === 1,
      color: faint(BLUE, 0.75 * likeliest!.probability),
      hint: `${quotedToken(likeliest!)} ${percent(likeliest!.probability)}` +
        (next ? `\n${quotedToken(next)} ${percent(next.probability)}, rank ${next.rank}` : ""),
    }))
  );
  const channels = { x: "layer", y: "t" } as const;
  return drawChart({
    title,
    legend: [
      ...[1, 0.5, 0.1].map((p) => (
        { text: percent(p), color: faint(BLUE, 0.75 * p), sign: "■" }
      )),
      { text: "comes next", color: RED, sign: "□" },
    ],
    columns: 1,
    panel: {
      width: Math.max(480, NAMES + layers.length * LENS_CELL.width + NO_AXES.marginRight),
      height: tokens.length * LENS_CELL.height + 50,
    },
    panels: (plot) => [{
      marginLeft: NAMES,
      marginTop: 38,
      marginBottom: NO_AXES.marginBottom,
      marginRight: NO_AXES.marginRight,
      x: { type: "band", axis: "top", label: "after this many blocks", padding: 0 },
      y: {
        type: "band",
        label: null,
        padding: 0,
        domain: tokens.map((_, t) => t),
        tickFormat: (t: number) => shown(tokens[t]!),
      },
      marks: [
        plot.cell(cells, { ...channels, fill: "color", title: "hint", inset: 0.5 }),
        plot.cell(cells.filter(({ isNext }) => isNext), {
          ...channels,
          stroke: RED,
          fill: "none",
          inset: 1,
          pointerEvents: "none",
        }),
        plot.text(cells, { ...channels, ...MONOSPACE, text: "text", pointerEvents: "none" }),
      ],
    }],
  });
}
