import { align, fits } from "../../files/table.ts";
import { duration, inShort } from "../../files/units.ts";
import { printable } from "../../files/printable.ts";
import {
  BLUE,
  BROWN,
  drawChart,
  GREEN,
  LIGHT_BLUE,
  logAxis,
  noPoints,
  PINK,
  PURPLE,
  RED,
  SILVER,
  TEAL,
  YELLOW,
} from "./chart.ts";
import type { ComparedPoint, ComparedRun } from "./compared_run.ts";
import { optionLabel, optionsWhere } from "../options.ts";

/**
 * Comparison of trainings: validation loss and bits per byte over tokens, time and operations.
 *
 * @module
 */

/** Options that do not affect what a model learns. */
const REPORTING = optionsWhere(({ reportsOnly }) => reportsOnly);

/** Options that name a text; equal hashes mean the same text, whatever its name. */
const NAMING_DATA = optionsWhere(({ names }) => names === "data");

/** What a training was made of. */
export type Ingredients = Pick<ComparedRun, "options" | "adapter" | "dataHash" | "tokenizerHash">;

/** The flags whose values differ between runs, with one value per run. */
export function differences(runs: readonly Ingredients[]): [name: string, values: string[]][] {
  const rows = new Map<string, unknown[]>();
  const isSame = (hash: (run: Ingredients) => string) => new Set(runs.map(hash)).size === 1;
  const left = new Set<string>([
    ...REPORTING,
    ...(isSame(({ dataHash }) => dataHash) ? NAMING_DATA : []),
    ...(isSame(({ tokenizerHash }) => tokenizerHash) ? ["tokenizer", "vocabulary"] : []),
    // a model to start from has its own size, whatever the preset
    ...(runs.some(({ options }) => options.initFrom !== undefined) ? ["preset"] : []),
  ]);
  for (const name of new Set(runs.flatMap(({ options }) => Object.keys(options)))) {
    if (!left.has(name)) rows.set(optionLabel(name), runs.map(({ options }) => options[name]));
  }
  rows.set("trained on", runs.map(({ adapter }) => adapter));
  const text = (value: unknown) => {
    if (Array.isArray(value)) return value.join(" ");
    const isFraction = typeof value === "number" && !Number.isInteger(value);
    return `${isFraction ? Number(value.toPrecision(6)) : value ?? "—"}`;
  };
  return [...rows].map(([name, values]): [string, string[]] => [name, values.map(text)])
    .filter(([, values]) => new Set(values).size > 1);
}

/** Sentences about figures that cannot be compared, and the reason. */
export function caveats(runs: readonly ComparedRun[]): string[] {
  const differ = (hash: (run: ComparedRun) => string) => new Set(runs.map(hash)).size > 1;
  const sentences = [];
  const isValidatedApart = differ(({ validationHash, dataHash }) => validationHash ?? dataHash);
  if (isValidatedApart && differ(({ dataHash }) => dataHash)) {
    sentences.push(
      "the runs were evaluated on different texts: neither losses nor bits per byte can be compared",
    );
  } else if (differ(({ tokenizerHash }) => tokenizerHash)) {
    sentences.push(
      "the runs have different tokenizers: bits per byte can be compared, losses cannot",
    );
  }
  return sentences;
}

/**
 * The comparison as text: one line per run, then the options that differ. If a line would have more than `columns`
 * characters, there is one column per run, or one block per run.
 */
export function compareTable(
  runs: readonly ComparedRun[],
  { columns = Infinity }: { columns?: number | undefined } = {},
): string {
  const names = runs.map(({ name }) => name), different = differences(runs);
  const figures: [name: string, of: (run: ComparedRun) => string][] = [
    ["params", ({ parameters }) => inShort(parameters)],
    ["steps", ({ last }) => `${last.step}`],
    ["tokens", ({ last }) => inShort(last.tokens)],
    ["time", ({ last }) => Number.isNaN(last.seconds) ? "—" : duration(last.seconds)],
    ["FLOPs", ({ last }) => last.flops.toExponential(1).replace("e+", "e")],
    ["loss", ({ last }) => last.loss.toFixed(3)],
    ["bits/byte", ({ last }) => last.bitsPerByte.toFixed(3)],
    ["best loss", ({ best }) => best.loss.toFixed(3)],
    ["at tokens", ({ best }) => inShort(best.tokens)],
  ];
  const options = different.length === 0 ? "" : "\n" + align([
    ["differs in", ...names],
    ...different.map(([flag, values]) => [flag, ...values]),
  ]);
  const lines = align([
    ["run", ...figures.map(([name]) => name)],
    ...runs.map((run) => [run.name, ...figures.map(([, of]) => of(run))]),
  ]);
  const turned = align([
    ["run", ...names],
    ...figures.map(([name, of]) => [name, ...runs.map(of)]),
  ]);
  const table = [lines, turned].map((table) => table + options)
    .find((table) => fits(table, columns));
  if (table !== undefined) return table;
  return runs.map((run, i) =>
    `${printable(run.name)}\n` + align([
      ...figures.map(([name, of]) => [`  ${name}`, of(run)]),
      ...different.map(([flag, values]) => [`  ${flag}`, values[i]!]),
    ])
  ).join("\n");
}

const COLORS = [BLUE, YELLOW, RED, TEAL, GREEN, PINK, PURPLE, LIGHT_BLUE, BROWN, SILVER];

/** Seconds in the unit of a time axis: its first row whose unit is not above the longest time. */
const TIMES = [["hours", 3600], ["minutes", 60], ["seconds", 1]] as const;

/**
 * Draws the comparison as SVG: a row each for loss and bits per byte, a column each for tokens, time and operations.
 * Axes are logarithmic, as the lengths of runs may differ by orders of magnitude.
 */
export function drawComparison(runs: readonly ComparedRun[]): Promise<string> {
  const color = (i: number) => COLORS[i % COLORS.length]!;
  const points = runs.flatMap((run) => run.points);
  const longest = points.reduce((most, { seconds }) => Math.max(most, seconds || 0), 0);
  const [time, seconds] = TIMES.find(([, seconds]) => longest >= 2 * seconds) ?? TIMES.at(-1)!;
  const columns = [
    { x: (point: ComparedPoint) => point.tokens, label: "tokens", tickFormat: "~s" },
    { x: (point: ComparedPoint) => point.seconds / seconds, label: `training time, ${time}` },
    { x: (point: ComparedPoint) => point.flops, label: "FLOPs", tickFormat: "~s" },
  ];
  const rows = [
    { y: (point: ComparedPoint) => point.loss, label: "validation loss, nats per token" },
    { y: (point: ComparedPoint) => point.bitsPerByte, label: "bits per byte" },
  ];
  const starts = runs.map(({ points }) => points.filter(({ step }) => step === 0));
  return drawChart({
    title: "Validation loss over what the training cost",
    notes: [
      ...caveats(runs),
      ...(starts.flat().length > 0 ? ["dashed: the model from which a run started"] : []),
    ],
    legend: runs.map(({ name, last }, i) => ({
      text: `${name}: loss ${last.loss.toFixed(3)}, ${last.bitsPerByte.toFixed(3)} bits per byte`,
      color: color(i),
    })),
    columns: columns.length,
    panel: { width: 320, height: 250 },
    panels: (plot) =>
      rows.flatMap(({ y, ...yAxis }) =>
        columns.map(({ x, ...xAxis }) => {
          const isDrawn = (point: ComparedPoint) =>
            [x(point), y(point)].every((value) => value > 0 && value < Infinity);
          const drawn = points.filter(isDrawn);
          return {
            x: logAxis(drawn.map(x), xAxis),
            y: logAxis([...drawn, ...starts.flat()].map(y), yAxis),
            marks: [
              ...noPoints(plot, drawn),
              ...runs.flatMap(({ points }, i) => [
                plot.ruleY(starts[i]!, { y, stroke: color(i), strokeDasharray: "4 3" }),
                plot.lineY(points.filter(isDrawn), { x, y, stroke: color(i), strokeWidth: 1.5 }),
                plot.dot(points.filter(isDrawn), { x, y, fill: color(i), r: 2.5 }),
              ]),
            ],
          };
        })
      ),
  });
}
