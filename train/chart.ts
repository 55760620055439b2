import { load, type Package } from "../files/packages.ts";
import { printable } from "../files/printable.ts";

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

/** Colours that can be told apart on white and on black. */
export const BLUE = "#4269d0", RED = "#ff725c", GREY = "#888";

/** Height of the line with the title, and of a line of the legend, in pixels. */
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
  const { title, columns, panel } = chart;
  const width = columns * panel.width;
  const legend = legendLines(chart.legend, width - 2 * MARGIN);
  const top = TITLE_LINE + LEGEND_LINE * legend.length;
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
    ...legend.flatMap((line, i) =>
      line.map(({ x, sign = "●", color, text }) =>
        `<text x="${MARGIN + x}" y="${TITLE_LINE + LEGEND_LINE * i + 10}">` +
        `<tspan fill="${color}">${sign}</tspan> ${escape(text)}</text>`
      )
    ),
    ...panels,
    "</svg>\n",
  ].join("\n");
}

/** Breaks a legend into lines that are not wider than `width` pixels, but for an entry that alone is wider. */
function legendLines(entries: readonly LegendEntry[], width: number) {
  const lines: (LegendEntry & { x: number })[][] = [];
  let end = Infinity;
  for (const entry of entries) {
    const entryWidth = CHARACTER * (entry.text.length + 4);
    if (end + entryWidth > width) {
      lines.push([]);
      end = 0;
    }
    lines.at(-1)!.push({ ...entry, x: end });
    end += entryWidth;
  }
  return lines;
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
  const axis = { type: "log", label, tickFormat, grid: true } as const;
  const least = values.reduce((a, b) => Math.min(a, b), Infinity);
  const most = values.reduce((a, b) => Math.max(a, b), 0);
  if (!(least > 0 && most >= least)) return { ...axis, domain: [1, 10], ticks: [] };
  // marks keep a distance from the frame, and equal values have an axis, too
  const pad = Math.max(1.005, (most ** 0.03) / (least ** 0.03));
  const within = (value: number) => Math.min(Math.max(value, Number.MIN_VALUE), Number.MAX_VALUE);
  const domain: [number, number] = [within(least / pad), within(most * pad)];
  return { ...axis, domain, ticks: logTicks(...domain) };
}

/** What the first digits of ticks may be, from few to many. */
const DIGITS = [[1], [1, 2, 5], [1, 1.5, 2, 3, 4, 5, 6, 8]];

/** Ticks of a logarithmic axis: at `DIGITS` of each decade, or if the range is narrow, in equal steps. */
function logTicks(least: number, most: number): number[] {
  const firstPower = Math.floor(Math.log10(least)), lastPower = Math.floor(Math.log10(most));
  const powers = Array.from({ length: lastPower - firstPower + 1 }, (_, i) => firstPower + i);
  for (const digits of DIGITS) {
    const ticks = powers.flatMap((power) => digits.map((digit) => Number(`${digit}e${power}`)));
    const apart = readable(ticks, least, most);
    if (apart.length >= 4) return apart;
  }
  const step = roundStep((most - least) / 7);
  const first = Math.ceil(least / step);
  const steps = Array.from({ length: Math.floor(most / step) - first + 1 }, (_, i) => first + i);
  return readable(steps.map((i) => i * step), least, most);
}

/** The ticks within a range, without those whose label would cover that of the one before. */
function readable(ticks: readonly number[], least: number, most: number): number[] {
  const distance = LABEL * Math.log(most / least);
  let last = 0;
  return ticks.filter((tick) => {
    const isKept = tick >= least && tick <= most && Math.log(tick / last) >= distance;
    if (isKept) last = tick;
    return isKept;
  });
}

/** Share of an axis that a label needs. */
const LABEL = 0.12;

/** The least of 1, 2 and 5 times a power of ten that is at least `step`. */
function roundStep(step: number): number {
  const power = Math.floor(Math.log10(step));
  const digit = [1, 2, 5].find((digit) => Number(`${digit}e${power}`) >= step);
  return digit === undefined ? Number(`1e${power + 1}`) : Number(`${digit}e${power}`);
}
