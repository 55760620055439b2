import { printable } from "../files/printable.ts";
import { align } from "../files/units.ts";
import type { TextNeighbours } from "./neighbours.ts";
import type { Prediction, TextLens, TextPredictions } from "./predictions.ts";
import { highest, type Token } from "./tokens.ts";

/**
 * What `predictionsOf()`, `attentionWeightsOf()`, `logitLensOf()` and `neighboursOf()` return, as tables for people. A
 * table fits `width` characters as far as its first columns allow; each line is that of a token.
 *
 * @module
 */

/** Characters of a token, at most: a token may be a line of blanks. */
const LONGEST_TOKEN = 24;

/** The attention of one head to a text. */
export interface HeadAttention {
  readonly tokens: readonly Token[];
  /** [T][T]: the weights of each query's keys. */
  readonly weights: readonly (readonly number[])[];
}

/** A token between quotes, as blanks matter. */
export function quotedToken({ text }: Token): string {
  const visible = text.replaceAll("\n", "\\n").replaceAll("\r", "\\r").replaceAll("\t", "\\t");
  return `"${printable(visible, LONGEST_TOKEN)}"`;
}

/** A probability in per cent. */
export function percent(probability: number): string {
  const value = 100 * probability;
  if (value === 0) return "0 %";
  const digits = value >= 1 ? 1 : value >= 0.01 ? 2 : undefined;
  return `${digits === undefined ? value.toExponential(0) : value.toFixed(digits)} %`;
}

/** A token with its probability. */
function likely({ probability, ...token }: Prediction["top"][number]): string {
  return `${quotedToken(token)} ${percent(probability)}`;
}

/**
 * Per token its probability and rank, and the likeliest other tokens; the last line has the likeliest tokens after the
 * text.
 */
export function predictionsTable(
  { tokens, predictions }: TextPredictions,
  width = Infinity,
): string {
  const alternatives = ({ top, next }: Prediction) =>
    top.filter(({ id }) => id !== next?.id).map(likely);
  const rows = predictions.map((prediction) => {
    const { next } = prediction;
    const cells = next
      ? [quotedToken(next), percent(next.probability), `${next.rank}`]
      : ["next", "—", "—"];
    return { cells, list: alternatives(prediction) };
  });
  const first = { cells: [quotedToken(tokens[0]!), "—", "—"], list: [] };
  const losses = predictions.flatMap(({ next }) => next ? [next.loss] : []);
  const loss = losses.reduce((sum, loss) => sum + loss, 0) / losses.length;
  return tableWith(["token", "prob", "rank", "alternatives"], [first, ...rows], width) +
    (losses.length > 0
      ? `\nloss ${loss.toFixed(3)} nats per token, perplexity ${Math.exp(loss).toPrecision(3)}\n`
      : "");
}

/** Weights of attention below this are not shown. */
export const LEAST_WEIGHT = 0.005;

/** Per token the tokens that a head attends to, those with the largest weights first. */
export function attentionTable({ tokens, weights }: HeadAttention, width = Infinity): string {
  const rows = tokens.map((token, t) => {
    const row = weights[t]!;
    const list = highest(row, row.length).filter((s) => row[s]! >= LEAST_WEIGHT)
      .map((s) => `${percent(row[s]!)} ${s} ${quotedToken(tokens[s]!)}`);
    return { cells: [`${t}`, quotedToken(token)], list };
  });
  return tableWith(["#", "token", "attends to"], rows, width);
}

/** Per token its nearest neighbours, each with the cosine; a token that occurs twice has one line. */
export function neighboursTable(
  { tokens, neighbours }: TextNeighbours,
  width = Infinity,
): string {
  const rows = new Map(tokens.map((token, t) => [token.id, {
    cells: [quotedToken(token)],
    list: neighbours[t]!.map((other) => `${quotedToken(other)} ${other.cosine.toFixed(2)}`),
  }]));
  return tableWith(["token", "nearest, by the cosine"], [...rows.values()], width);
}

/**
 * Per token and layer the likeliest next token with its probability, and the rank of the token that comes next. If
 * `width` has no room for all layers, some of them are left out, never the last.
 */
export function lensTable({ tokens, layers }: TextLens, width = Infinity): string {
  const last = layers.length - 1;
  const cellOf = ({ top: [likeliest], next }: Prediction) =>
    likely(likeliest!) + (next ? ` (${next.rank})` : "");
  const tableOf = (shown: readonly number[]) =>
    align([
      ["token", "next", ...shown.map((layer) => `layer ${layer}`)],
      ...tokens.map((token, t) => {
        const next = tokens[t + 1];
        const cells = shown.map((layer) => cellOf(layers[layer]![t]!));
        return [quotedToken(token), next ? quotedToken(next) : "—", ...cells];
      }),
    ]);
  const fits = (table: string) => table.split("\n").every(({ length }) => length <= width);
  for (let count = layers.length; count > 0; count--) {
    const shown = Array.from(
      { length: count },
      (_, i) => count === 1 ? last : Math.round(i * last / (count - 1)),
    );
    const table = tableOf(shown);
    if (count > 1 && !fits(table)) continue;
    if (count === layers.length) return table;
    return `${table}\n${layers.length - count} of ${layers.length} layers are left out\n`;
  }
  throw new RangeError("Cannot show the logit lens as there must be a layer: there is none");
}

/** A table whose last column is a list, of which as many items are shown as fit. */
function tableWith(
  header: readonly string[],
  rows: readonly { cells: readonly string[]; list: readonly string[] }[],
  width: number,
): string {
  const fixed = align([header.slice(0, -1), ...rows.map(({ cells }) => [...cells])]).split("\n");
  const start = Math.max(...fixed.map(({ length }) => length)) + 2;
  const lists = [[header.at(-1)!], ...rows.map(({ list }) => list)];
  return lists.map((list, i) => {
    let line = "";
    for (const [n, item] of list.entries()) {
      const longer = n === 0 ? item : `${line}, ${item}`;
      if (start + longer.length > width) break;
      line = longer;
    }
    return `${`${fixed[i]!.padEnd(start)}${line}`.trimEnd()}\n`;
  }).join("");
}
