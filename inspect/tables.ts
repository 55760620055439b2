import { printable } from "../files/printable.ts";
import { align, fits } from "../files/table.ts";
import type { TextNeighbours } from "./neighbours.ts";
import type { Prediction, TextLens, TextPredictions } from "./predictions.ts";
import { highest, type Token } from "./tokens.ts";

/**
 * What `predictionsOf()`, `attentionWeightsOf()`, `logitLensOf()` and `neighboursOf()` return, as tables for people; each
 * line is that of a token. A table fits into `width` characters if these are 40 or more.
 *
 * @module
 */

/** Characters of a token, which may be a line of blanks, at most. */
const LONGEST_TOKEN = 24;

/** Characters of a table below which it is narrow, and of a token in a narrow table, at most. */
const NARROW = 60, LONGEST_IN_NARROW = 10;

/** The attention of one head to a text. */
export interface HeadAttention {
  readonly tokens: readonly Token[];
  /** [T][T]: the weights of each query's keys. */
  readonly weights: readonly (readonly number[])[];
}

/** A token between quotes, as blanks matter. */
export function quotedToken({ text }: Token, longest = LONGEST_TOKEN): string {
  const visible = text.replaceAll("\n", "\\n").replaceAll("\r", "\\r").replaceAll("\t", "\\t");
  return `"${printable(visible, longest)}"`;
}

/** How a table of some width shows a token. */
function tokensIn(width: number): (token: Token) => string {
  const longest = width < NARROW ? LONGEST_IN_NARROW : LONGEST_TOKEN;
  return (token) => quotedToken(token, longest);
}

/** A probability in per cent. */
export function percent(probability: number): string {
  const value = 100 * probability;
  if (value === 0) return "0 %";
  const digits = value >= 1 ? 1 : value >= 0.0095 ? 2 : undefined;
  return `${digits === undefined ? value.toExponential(0) : value.toFixed(digits)} %`;
}

/**
 * Per token its probability and rank, and the likeliest other tokens; the last line has the likeliest tokens after the
 * text.
 */
export function predictionsTable(
  { tokens, predictions }: TextPredictions,
  width = Infinity,
): string {
  const shown = tokensIn(width);
  const alternatives = ({ top, next }: Prediction) =>
    top.filter(({ id }) => id !== next?.id)
      .map((token) => `${shown(token)} ${percent(token.probability)}`);
  const rows = predictions.map((prediction) => {
    const { next } = prediction;
    const cells = next
      ? [shown(next), percent(next.probability), `${next.rank}`]
      : ["next", "—", "—"];
    return { cells, list: alternatives(prediction) };
  });
  const first = { cells: [shown(tokens[0]!), "—", "—"], list: [] };
  const losses = predictions.flatMap(({ next }) => next ? [next.loss] : []);
  const loss = losses.reduce((sum, loss) => sum + loss, 0) / losses.length;
  return tableWith(["token", "prob", "rank", "alternatives"], [first, ...rows], width) +
    (losses.length > 0
      ? `\nloss ${loss.toFixed(3)} nats per token\nperplexity ${Math.exp(loss).toPrecision(3)}\n`
      : "");
}

/** Weights of attention below this are not shown. */
export const LEAST_WEIGHT = 0.005;

/** Per token the tokens that a head attends to, those with the largest weights first. */
export function attentionTable({ tokens, weights }: HeadAttention, width = Infinity): string {
  const shown = tokensIn(width);
  const rows = tokens.map((token, t) => {
    const row = weights[t]!;
    const list = highest(row, row.length).filter((s) => row[s]! >= LEAST_WEIGHT)
      .map((s) => `${percent(row[s]!)} ${s} ${shown(tokens[s]!)}`);
    return { cells: [`${t}`, shown(token)], list };
  });
  return tableWith(["#", "token", "attends to"], rows, width);
}

/** Per token its nearest neighbours, each with the cosine; a token that occurs twice has one line. */
export function neighboursTable(
  { tokens, neighbours }: TextNeighbours,
  width = Infinity,
): string {
  const shown = tokensIn(width);
  const rows = new Map(tokens.map((token, t) => [token.id, {
    cells: [shown(token)],
    list: neighbours[t]!.map((other) => `${shown(other)} ${other.cosine.toFixed(2)}`),
  }]));
  return tableWith(["token", "nearest, by the cosine"], [...rows.values()], width);
}

/**
 * Per token and layer the likeliest next token with its probability, and the rank of the token that comes next. If
 * `width` has no room for all layers, some of them are left out, never the last.
 */
export function lensTable({ tokens, layers }: TextLens, width = Infinity): string {
  const last = layers.length - 1, shown = tokensIn(width);
  const cellOf = ({ top: [likeliest], next }: Prediction) =>
    `${shown(likeliest!)} ${percent(likeliest!.probability)}${next ? ` (${next.rank})` : ""}`;
  const rows = tokens.map((token, t) =>
    [token, tokens[t + 1]].slice(0, width < NARROW ? 1 : 2)
      .map((token) => token ? shown(token) : "—")
      .concat(layers.map((predictions) => cellOf(predictions[t]!)))
  );
  const names = width < NARROW ? ["token"] : ["token", "next"];
  const table = [[...names, ...layers.map((_, blocks) => stageName(blocks, last))], ...rows];
  const tableOf = (layers: readonly number[]) => {
    const columns = [...names.keys(), ...layers.map((layer) => names.length + layer)];
    return align(table.map((row) => columns.map((column) => row[column]!)));
  };
  let kept = layers.map((_, layer) => layer), text = tableOf(kept);
  while (!fits(text, width) && kept.length > 1) {
    kept = spread(kept.length - 1, last);
    text = tableOf(kept);
  }
  const left = layers.length - kept.length;
  if (left === 0) return text;
  return `${text}\ncolumns that do not fit: ${left} of ${layers.length}\n`;
}

/** So many whole numbers from 0 to the last, evenly spread; one alone is the last. */
function spread(count: number, last: number): number[] {
  if (count === 1) return [last];
  return Array.from({ length: count }, (_, i) => Math.round(i * last / (count - 1)));
}

/** Where the residual stream is read after some blocks of all: layers have the numbers of the attention's. */
function stageName(blocks: number, all: number): string {
  if (blocks === 0) return "embedding";
  return `layer ${blocks - 1}${blocks === all ? ", output" : ""}`;
}

/** A table whose last column is a list, of which as many items are shown as fit; the first is cut if it does not. */
function tableWith(
  header: readonly string[],
  rows: readonly { cells: readonly string[]; list: readonly string[] }[],
  width: number,
): string {
  const fixed = align([header.slice(0, -1), ...rows.map(({ cells }) => [...cells])]).split("\n");
  const start = fixed.reduce((most, { length }) => Math.max(most, length), 0) + 2;
  const lists = [[header.at(-1)!], ...rows.map(({ list }) => list)];
  return lists.map((list, i) => {
    let line = "";
    for (const [n, item] of list.entries()) {
      const longer = n === 0 ? item : `${line}, ${item}`, room = width - start;
      if (longer.length > room) {
        if (n === 0 && room > 1) line = `${item.slice(0, room - 1)}…`;
        break;
      }
      line = longer;
    }
    return `${`${fixed[i]!.padEnd(start)}${line}`.trimEnd()}\n`;
  }).join("");
}
