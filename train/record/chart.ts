import { load, type Package } from "../../files/packages.ts";
import { printable } from "../../files/printable.ts";

/**
 * Charts as SVG: a title, a legend and panels, on white or, if the viewer prefers it, on black.
 *
 * Observable Plot draws the panels; this runtime has no DOM, so that linkedom makes their elements.
 *
 * @module
 */

/** Observable Plot. */
export type Plot = Package<"@observablehq/plot">;

/** What Observable Plot needs to know of a panel: its marks and axes. */
export type PanelOptions = Parameters<Plot["plot"]>[0] & object;

/** A chart: its panels fill rows from left to right. */
export interface Chart {
  readonly title: string;
  /** Sentences under the title, such as what cannot be compared. */
  readonly notes?: readonly string[];
  /** What the colours mean, each with its sign; shown between the title and the panels. */
  readonly legend: readonly LegendEntry[];
  /** Makes the panels. */
  readonly panels: (plot: Plot) => readonly PanelOptions[];
  /** Panels per row. */
  readonly columns: number;
  /** Size of a panel in pixels. */
  readonly panel: { readonly width: number; readonly height: number };
}

/** An entry of a legend. */
export interface LegendEntry {
  readonly text: string;
  /** A colour of CSS. */
  readonly color: string;
  /** A character that looks like the mark; by default a dot. */
  readonly sign?: string;
}

/** Colours that can be told apart on white and on black: those of Observable Plot, and a grey. */
export const BLUE = "#4269d0",
  YELLOW = "#efb118",
  RED = "#ff725c",
  TEAL = "#6cc5b0",
  GREEN = "#3ca951",
  PINK = "#ff8ab7",
  PURPLE = "#a463f2",
  LIGHT_BLUE = "#97bbf5",
  BROWN = "#9c6b4e",
  SILVER = "#9498a0",
  GREY = "#888";

/** Height of the line with the title, and of a line of the notes or the legend, in pixels. */
const TITLE_LINE = 30, LEGEND_LINE = 20;

/** Pixels around a chart. */
const MARGIN = 12;

/** Width of a character in pixels, rounded up: the fonts of the viewer are not known. */
const CHARACTER = 7;

const STYLE = "svg{background:#fff;color:#222;fill:currentColor;font-family:system-ui,sans-serif}" +
  "@media(prefers-color-scheme:dark){svg{background:#0d1117;color:#ddd}}svg svg{background:none}";

/** Draws a chart. */
export async function drawChart(chart: Chart): Promise<string> {
  const [plot, { parseHTML }] = await Promise.all([load("@observablehq/plot"), load("linkedom")]);
  const page: object = parseHTML("<html><body></body></html>");
  const { document } = page as { document: never }; // the types of a DOM are not known here
  const { title, notes = [], columns, panel } = chart;
  const width = columns * panel.width;
  const legend = legendLines(chart.legend, width - 2 * MARGIN);
  const legendTop = TITLE_LINE + LEGEND_LINE * notes.length;
  const top = legendTop + LEGEND_LINE * legend.length;
  const panels = chart.panels(plot).map((options, i) => {
    const svg = plot.plot({ marginLeft: 50, marginBottom: 42, ...options, ...panel, document });
    svg.setAttribute("x", `${i % columns * panel.width}`);
    svg.setAttribute("y", `${top + Math.floor(i / columns) * panel.height}`);
    return svg.outerHTML;
  });
  const height = top + Math.ceil(panels.length / columns) * panel.height;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" ` +
    `viewBox="0 0 ${width} ${height}" role="img" font-size="12">`,
    `<title>${escape(title)}</title>`,
    `<style>${STYLE}</style>`,
    `<text x="${MARGIN}" y="20" font-size="14" font-weight="600">${escape(title)}</text>`,
    ...notes.map((note, i) =>
      `<text x="${MARGIN}" y="${TITLE_LINE + LEGEND_LINE * i + 10}">${escape(note)}</text>`
    ),
    ...legend.flatMap((line, i) =>
      line.map(({ x, sign = "●", color, text }) =>
        `<text x="${MARGIN + x}" y="${legendTop + LEGEND_LINE * i + 10}">` +
        `<tspan fill="${color}">${sign}</tspan> ${escape(text)}</text>`
      )
    ),
    ...panels,
    "</svg>\n",
  ].join("\n");
}

/** A legend in columns as wide as its widest entry, as many as `width` pixels have room for. */
function legendLines(entries: readonly LegendEntry[], width: number) {
  const longest = Math.max(...entries.map(({ text }) => text.length));
  const entryWidth = CHARACTER * (longest + 4);
  const perLine = Math.max(1, Math.floor(width / entryWidth));
  const lines: (LegendEntry & { x: number })[][] = [];
  for (const [i, entry] of entries.entries()) {
    if (i % perLine === 0) lines.push([]);
    lines.at(-1)!.push({ ...entry, x: i % perLine * entryWidth });
  }
  return lines;
}

/** The mark of a panel that says that it has no points; none if there are points. */
export function noPoints(plot: Plot, points: readonly unknown[]): ReturnType<Plot["text"]>[] {
  return points.length > 0 ? [] : [plot.text(["no points"], { frameAnchor: "middle" })];
}

/** Foreign text in XML, which has no control characters. */
function escape(text: string): string {
  return printable(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

/**
 * A logarithmic axis for values above zero, with labels that neither miss nor cover each other.
 *
 * @param tickFormat in the notation of d3-format.
 */
export function logAxis(
  values: readonly number[],
  { label, tickFormat = "~g" }: { label: string; tickFormat?: string },
): PanelOptions["x"] & object {
  const axis = { type: "log", label: `${label} (log)`, tickFormat, grid: true } as const;
  const least = values.reduce((a, b) => Math.min(a, b), Infinity);
  const most = values.reduce((a, b) => Math.max(a, b), 0);
  if (!(least > 0 && most >= least)) return { ...axis, domain: [1, 10], ticks: [] };
  // marks keep a distance from the frame, and equal values have an axis, too
  const pad = Math.max(1.005, (most ** 0.03) / (least ** 0.03));
  const within = (value: number) => Math.min(Math.max(value, Number.MIN_VALUE), Number.MAX_VALUE);
  const domain: [number, number] = [within(least / pad), within(most * pad)];
  return { ...axis, domain, ticks: logTicks(...domain) };
}

/** First digits of ticks in groups, from round to less round; those of the last group fill gaps. */
const DIGITS = [[1], [2, 5], [3, 1.5, 4, 6, 8]];

/** Longest part of an axis without a tick, as a share of it. */
const LONGEST_GAP = 1 / 3;

/** Ticks of a logarithmic axis: at `DIGITS` of each decade, or if the range is narrow, in equal steps. */
function logTicks(least: number, most: number): number[] {
  const firstPower = Math.floor(Math.log10(least)), lastPower = Math.floor(Math.log10(most));
  const powers = Array.from({ length: lastPower - firstPower + 1 }, (_, i) => firstPower + i);
  let ticks: number[] = [];
  for (const digits of DIGITS) {
    const more = digits.flatMap((digit) => powers.map((power) => Number(`${digit}e${power}`)));
    ticks = withReadable(ticks, more, least, most);
    if (ticks.length >= 4 && longestGap(ticks, least, most) <= LONGEST_GAP) return ticks;
  }
  for (const parts of [7, 14]) {
    const step = roundStep((most - least) / parts), first = Math.ceil(least / step);
    const count = Math.floor(most / step) - first + 1;
    const steps = Array.from({ length: count }, (_, i) => (first + i) * step);
    ticks = withReadable([], steps, least, most);
    if (longestGap(ticks, least, most) <= LONGEST_GAP) break;
  }
  return ticks;
}

/** Ticks and those of others within the range whose label covers none before, in ascending order. */
function withReadable(
  ticks: readonly number[],
  others: readonly number[],
  least: number,
  most: number,
): number[] {
  const distance = LABEL * Math.log(most / least), kept = [...ticks];
  for (const other of others) {
    if (other < least || other > most) continue;
    if (kept.every((tick) => Math.abs(Math.log(tick / other)) >= distance)) kept.push(other);
  }
  return kept.sort((a, b) => a - b);
}

/** The longest part of a logarithmic axis without a tick, as a share of it. */
function longestGap(ticks: readonly number[], least: number, most: number): number {
  const places = [least, ...ticks, most].map(Math.log);
  const gaps = places.slice(1).map((place, i) => place - places[i]!);
  return Math.max(...gaps) / Math.log(most / least);
}

/** Share of an axis that a label needs. */
const LABEL = 0.12;

/** The least of 1, 2 and 5 times a power of ten that is at least `step`. */
function roundStep(step: number): number {
  const power = Math.floor(Math.log10(step));
  const digit = [1, 2, 5].find((digit) => Number(`${digit}e${power}`) >= step);
  return digit === undefined ? Number(`1e${power + 1}`) : Number(`${digit}e${power}`);
}
