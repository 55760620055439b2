import { UserError } from "../files/user_error.ts";
import type { Provider } from "../kernels/provider.ts";
import type { Result } from "./harness.ts";
import { benchConfig, type BenchModel } from "./models.ts";
import { percent, recomputations, type Report, time, variantsOf } from "./report.ts";
import { deviceMs, type Scaling } from "./scaling.ts";
import type { ProfileRow } from "./train_step.ts";

/**
 * Reports as Markdown, in the layout of `deno fmt`, which `deno task bench:readme` writes into README.md,
 * docs/performance.md and NOTES.md. A benchmark that is missing in a report has no row.
 *
 * @module
 */

/** A report that bench/pytorch_baseline.py wrote. */
export interface PyTorchReport {
  readonly command: string;
  readonly date: string;
  readonly torch: string;
  readonly cuda: string;
  readonly transformers?: string;
  readonly device: { readonly name: string };
  readonly results: readonly PyTorchResult[];
}

/** One benchmark in PyTorch, with the figures that it measures. */
export interface PyTorchResult {
  readonly name: string;
  readonly ms: number;
  readonly flopsPerSecond?: number;
  readonly bytesPerSecond?: number;
  readonly tokensPerSecond?: number;
  readonly peakBytes?: number;
}

/** A report of this project, and its file's name without `.json`. */
export interface NamedReport {
  readonly name: string;
  /** With the results that it has from earlier ones. */
  readonly report: Report;
  /** Earlier reports of that machine and provider, the newest first. */
  readonly earlier?: readonly Report[];
}

/** The results of one machine: those of this project, one report per provider, and those of PyTorch if there are any. */
export interface MachineResults {
  readonly reports: readonly NamedReport[];
  /** That of PyTorch, with the results that it has from earlier ones. */
  readonly pytorch?: PyTorchReport | undefined;
  /** Earlier reports of PyTorch, the newest first. */
  readonly earlierOfPyTorch?: readonly PyTorchReport[];
}

/** How a provider is named in tables. */
export const PROVIDERS: Readonly<Record<Provider, string>> = { native: "native", dawn: "Dawn" };

/** Names of the providers of reports, for the heads of columns. */
function providersOf(reports: readonly NamedReport[]): string[] {
  return reports.map(({ report }) => PROVIDERS[report.device.provider]);
}

/** Columns of the table in README.md, and the modes of PyTorch that they show. */
const PYTORCH_COLUMNS: readonly [head: string, modes: RegExp][] = [
  ["PyTorch fp32", / fp32$/],
  ["PyTorch fp16", / fp16( autocast)?$/],
  ["compiled", /^compile bf16$/],
  ["CUDA graphs", /^compile reduce-overhead/],
];

/** A machine's table in README.md: products, training steps and generation beside PyTorch's. */
export function headline({ reports, pytorch }: MachineResults): string {
  if (!pytorch) return "";
  const chosen = comparisons(reports, pytorch).filter(({ what }) =>
    /^(product NN f16|train step|generate)/.test(what) && !what.endsWith("memory")
  );
  const columns = PYTORCH_COLUMNS.filter(([, modes]) =>
    chosen.some(({ mode }) => modes.test(mode))
  );
  const rows = [...Map.groupBy(chosen, ({ what }) => what)].map(([what, rows]) => {
    const { ours, show } = rows[0]!;
    const theirs = columns.map(([, modes]) => rows.find(({ mode }) => modes.test(mode))?.theirs);
    return [what, ...[...ours, ...theirs].map((value) => value === undefined ? "" : show(value))];
  });
  const heads = [...providersOf(reports), ...columns.map(([head]) => head)];
  return table(["benchmark", ...heads.map((head) => `${head} >`)], rows);
}

/** A machine's section in docs/performance.md. */
export function machineSection(machine: MachineResults): string {
  const { reports, pytorch } = machine;
  const several = reports.length > 1, providers = providersOf(reports);
  return [
    `### ${reports[0]!.report.device.name}`,
    table(["measured by", "on", "with"], sources(machine)),
    comparisonTable(reports, pytorch),
    ...reports.flatMap(({ name, report }, i) => [
      several ? `#### ${report.device.name}, ${providers[i]}` : "",
      table(["run", "time >", "tokens/s >", "idle >", "memory >", "launches >"], runs(report)),
      table(["Muon's part of", "time >", "floor >", "time / floor >"], muons(report)),
      table(
        ["activations kept or recomputed", "time >", "activations >", "whole step >"],
        keptOrRecomputed(report),
      ),
      table(["start", "time >", "compilation >"], starts(report)),
      roofline(report),
      report.scaling
        ? `![a training step over batch, context, width, layers](../bench/results/${name}.svg)`
        : "",
    ]),
    several ? `#### ${reports[0]!.report.device.name}, kernels` : "",
    kernelTable(reports),
  ].filter((part) => part !== "").join("\n\n");
}

/** The ceilings to which the shares of a report refer. */
function roofline({ roofline: { bytesPerSecond, flopsPerSecond } }: Report): string {
  return `The roofline of that run: ${si(bytesPerSecond, "B/s")}, ${si(flopsPerSecond, "FLOP/s")}.`;
}

/** Rows of commands, dates and versions. */
function sources({ reports, pytorch, earlierOfPyTorch = [] }: MachineResults): string[][] {
  const row = (command: string, date: string, software: string, i: number) => [
    `\`${command}\``,
    i === 0 ? date : `${date}, for what was not measured later`,
    software,
  ];
  const ours = reports.flatMap(({ report, earlier = [] }) =>
    [report, ...earlier].map(({ command, date, deno, device, clock }, i) =>
      row(command, date, `Deno ${deno}, ${device.backend}, ${clock}`, i)
    )
  );
  const theirs = (pytorch ? [pytorch, ...earlierOfPyTorch] : []).map(
    ({ command, date, torch, cuda, transformers }, i) => {
      const others = transformers === undefined ? "" : `, transformers ${transformers}`;
      return row(command, date, `PyTorch ${torch}, CUDA ${cuda}${others}`, i);
    },
  );
  return [...ours, ...theirs];
}

/** A figure of this project and of PyTorch. */
interface Comparison {
  /** Such as `product NN f16, 4096³`, or the benchmark's name. */
  readonly what: string;
  /** That of each report. */
  readonly ours: readonly (number | undefined)[];
  /** What it is compared with, such as `eager fp32`. */
  readonly mode: string;
  readonly theirs: number;
  /** Formats either. */
  readonly show: (value: number) => string;
  /** Whether less is better. */
  readonly less: boolean;
}

/** A row per benchmark and mode of PyTorch; the ratios are above 1 if this project is better. */
function comparisonTable(
  reports: readonly NamedReport[],
  pytorch: PyTorchReport | undefined,
): string {
  const rows = pytorch ? comparisons(reports, pytorch) : [], providers = providersOf(reports);
  return table(
    [
      "benchmark",
      ...providers.map((name) => `${name} >`),
      "PyTorch mode",
      "PyTorch >",
      ...providers.map((name) => `${reports.length > 1 ? `${name}'s ratio` : "ratio"} >`),
    ],
    rows.map(({ what, ours, mode, theirs, show, less }) => [
      what,
      ...ours.map((value) => value === undefined ? "" : show(value)),
      mode,
      show(theirs),
      ...ours.map((value) =>
        value === undefined ? "" : (less ? theirs / value : value / theirs).toFixed(2)
      ),
    ]),
  );
}

/** The figures that PyTorch's report and at least one of this project have. */
function comparisons(reports: readonly NamedReport[], pytorch: PyTorchReport): Comparison[] {
  const theirs = new Map(pytorch.results.map((result) => [result.name, result]));
  const compared: Comparison[] = [];
  const compare = (
    what: string,
    ours: Comparison["ours"],
    [mode, their]: [string, number | undefined],
    { show, less = false }: { show: Comparison["show"]; less?: boolean },
  ) => {
    if (their === undefined || ours.every((value) => value === undefined)) return;
    compared.push({ what, ours, mode, theirs: their, show, less });
  };
  const flops = (value: number) => si(value, "FLOP/s"),
    bandwidth = (value: number) => si(value, "B/s");
  const bytes = (value: number) => si(value, "B");
  const tokens = (value: number) => `${count(value)} tok/s`;

  const copies = reports.map(({ report }) =>
    report.results.filter(isOf("copy f32 1024 MiB")).map((copy) => rateOf(copy) ?? 0)
  ).map((rates) => rates.length > 0 ? Math.max(...rates) : undefined);
  compare("copy", copies, ["copy", theirs.get("copy f32 1024 MiB")?.bytesPerSecond], {
    show: bandwidth,
  });
  for (const { name, ofReports } of byName(reports)) {
    const all = (figure: (result: Result) => number | undefined) =>
      ofReports.map((result) => result && figure(result));
    const [, layout, type] = name.match(/^matmul (..) (...) \[4096,4096\]x\[4096,4096\]$/) ?? [];
    for (const theirType of !layout ? [] : type === "f16" ? ["fp32", "fp16"] : ["fp32"]) {
      const their = theirs.get(`cublas ${theirType} ${layout} 4096`)?.flopsPerSecond;
      const what = `product ${layout} ${type}, 4096³`;
      compare(what, all(rateOf), [`cuBLAS ${theirType}`, their], { show: flops });
    }
    const [, model, batch, vocabulary] = name.match(/^train step ... (\S+) (\S+) V (\d+)$/) ?? [];
    // PyTorch's models have the vocabularies of their tokenizers
    const modes = model && vocabulary === `${benchConfig(model as BenchModel).vocabularySize}`
      ? [...theirs.values()].filter(isOf(`train step ${model} ${batch}, `))
      : [];
    for (const their of modes) {
      compare(name, all(({ ms }) => ms), [modeOf(their), their.ms], { show: time, less: true });
    }
    if (modes[0]) {
      const memory: [string, number | undefined] = [modeOf(modes[0]), modes[0].peakBytes];
      compare(`${name}, memory`, all(({ peakBytes }) => peakBytes), memory, {
        show: bytes,
        less: true,
      });
    }
    const [, streams] = name.match(/^generate ... (\S+ \d+ streams?)\b/) ?? [];
    const generated = theirs.get(`generate ${streams}`)?.tokensPerSecond;
    compare(name, all((result) => result.tokensPerSecond), ["transformers fp16", generated], {
      show: tokens,
    });
  }
  return compared;
}

/** The benchmarks of all reports, each with its result in every report that has it. */
function byName(
  reports: readonly NamedReport[],
): { name: string; ofReports: (Result | undefined)[] }[] {
  const results = reports.map(({ report }) =>
    new Map(distinct(report.results).map((result) => [result.name, result]))
  );
  const names = new Set(results.flatMap((ofReport) => [...ofReport.keys()]));
  return [...names].map((name) => ({ name, ofReports: results.map((of) => of.get(name)) }));
}

const isOf = (start: string) => ({ name }: { readonly name: string }) => name.startsWith(start);

/** The part of a name after the comma, such as `eager fp32`. */
const modeOf = ({ name }: { readonly name: string }) => name.slice(name.indexOf(", ") + 2);

/** Rows of the results that count tokens: training steps and generation. */
function runs(report: Report): string[][] {
  return distinct(report.results).flatMap((result) => {
    const { name, ms, tokensPerSecond, idleShare, peakBytes, launches } = result;
    if (tokensPerSecond === undefined) return [];
    const idle = idleShare === undefined ? "" : percent(idleShare);
    const memory = peakBytes === undefined ? "" : si(peakBytes, "B");
    return [[name, time(ms), count(tokensPerSecond), idle, memory, `${launches ?? ""}`]];
  });
}

/** Rows of the training steps with Muon: its part of the step, beside its operations at the rate of the roofline. */
function muons(report: Report): string[][] {
  return distinct(report.results).flatMap(({ name, muon }) =>
    muon ? [[name, time(muon.ms), time(muon.floorMs), (muon.ms / muon.floorMs).toFixed(2)]] : []
  );
}

/** Rows of the training steps that recompute, with ratios to the one that keeps all activations, and of that one. */
function keptOrRecomputed({ results }: Report): string[][] {
  const row = ({ name, ms, planned }: Result, ratios: readonly number[] = []) => {
    const cells = [time(ms), si(planned!.activations, "B"), si(planned!.step, "B")];
    return [
      name,
      ...cells.map((cell, i) => ratios[i] ? `${cell}, × ${ratios[i].toFixed(2)}` : cell),
    ];
  };
  const rows = recomputations(distinct(results)).flatMap(({ result, kept, ratios }) => [
    row(kept),
    row(result, ratios),
  ]);
  return [...new Map(rows.map((row) => [row[0]!, row])).values()];
}

/** Rows of the cold starts. */
function starts(report: Report): string[][] {
  return report.results.filter(isOf("cold start")).map(({ name, ms, parts }) => {
    const compilation = parts?.compilation;
    return [name, time(ms), compilation === undefined ? "" : time(compilation)];
  });
}

/** A row per kernel: for each report its rate, its share of the roofline, and the variants that the tuner chose. */
function kernelTable(reports: readonly NamedReport[]): string {
  const kernels = byName(reports).filter(({ name, ofReports }) =>
    ofReports.some((result) => result?.share !== undefined) &&
    !/^(copy|roofline) | as /.test(name) // what shares refer to, and variants
  );
  const rows = kernels.map(({ name, ofReports }) => [
    name,
    ...ofReports.flatMap((result) => {
      if (!result) return ["", "", ""];
      const { work, share } = result, rate = rateOf(result);
      const unit = work && "flops" in work ? "FLOP/s" : "B/s";
      return [
        rate === undefined ? "" : si(rate, unit),
        share === undefined ? "" : percent(share),
        variantsOf(result),
      ];
    }),
  ]);
  const heads = providersOf(reports).flatMap((name) => {
    const by = reports.length > 1 ? `${name}: ` : "";
    return [`${by}rate >`, `${by}share of the roofline >`, `${by}variants`];
  });
  return table(["kernel", ...heads], rows);
}

/** The table of a scaling run. */
export function scalingTable({ points, launchMs }: Scaling): string {
  const rows = points.map((point) => {
    const { axis, value, batchSize, sequenceLength, launches, flops, bytes, ms, modelMs } = point;
    return [
      `${axis} ${value}`,
      `${batchSize}x${sequenceLength}`,
      si(flops, "FLOP"),
      si(bytes, "B"),
      `${launches}`,
      time(modelMs),
      time(deviceMs(point)),
      time(ms),
      (deviceMs(point) / modelMs).toFixed(2),
    ];
  });
  const [{ config, precision, model } = points[0]!] = points;
  return [
    `From ${model} in ${precision} with a vocabulary of ${config.vocabularySize}; a launch takes ` +
    `${time(launchMs)}.`,
    table(
      [
        "step",
        "batch >",
        "operations >",
        "bytes >",
        "launches >",
        "model >",
        "device >",
        "clock >",
        "device / model >",
      ],
      rows,
    ),
  ].join("\n\n");
}

/**
 * The time of training steps and of tokens by kernel: a table per model, in it a row per kernel and a column per
 * profile.
 */
export function profileTables(profiles: NonNullable<Report["profiles"]>): string[] {
  // `train step f16 mini 32x128 V 50257`, `generate f16 mini 1 stream x 256 V 50257`
  const modelOf = ([name]: [string, unknown]) => /\bf(?:16|32) (\S+)/.exec(name)?.[1] ?? name;
  return [...Map.groupBy(Object.entries(profiles), modelOf).values()].map(profileTable);
}

function profileTable(profiles: readonly [string, readonly ProfileRow[]][]): string {
  const labels = new Set(profiles.flatMap(([, rows]) => rows.map(({ label }) => label)));
  const totals = profiles.map(([, rows]) => rows.reduce((sum, { ms }) => sum + ms, 0));
  const rows = [...labels].map((label) => [
    label.replace(/^kernels\//, ""),
    ...profiles.map(([, rows]) => {
      const row = rows.find((row) => row.label === label);
      return row ? `${time(row.ms)}, ${percent(row.share)}` : "";
    }),
  ]);
  return table(
    ["kernel", ...profiles.map(([name]) => `${name} >`)],
    [...rows, ["sum", ...totals.map(time)]],
  );
}

/**
 * Results without duplicate names, of which the last is kept: in older reports the roofline's product
 * has the name of a kernel's.
 */
function distinct(results: readonly Result[]): Result[] {
  return [...new Map(results.map((result) => [result.name, result])).values()];
}

/** Operations or bytes per second. */
function rateOf({ work, ms }: Result): number | undefined {
  return work && 1e3 * ("flops" in work ? work.flops : work.bytes) / ms;
}

/** A quantity in three digits, such as `39.4 TFLOP/s`. */
export function si(value: number, unit: string): string {
  const rounded = Number(value.toPrecision(3));
  const thousands = Math.min(5, Math.max(0, Math.floor(Math.log10(rounded) / 3)));
  const prefix = ["", "k", "M", "G", "T", "P"][thousands];
  return `${(rounded / 1e3 ** thousands).toPrecision(3)} ${prefix}${unit}`;
}

/** A whole number with thousands separators. */
function count(value: number): string {
  return Math.round(value).toLocaleString("en-US");
}

/**
 * A Markdown table, or nothing if there is no row; columns whose head ends in ` >` are aligned right.
 */
export function table(head: readonly string[], rows: readonly string[][]): string {
  if (rows.length === 0) return "";
  const right = head.map((text) => text.endsWith(" >"));
  const cells = [head.map((text) => text.replace(/ >$/, "")), ...rows];
  const widths = head.map((_, i) => Math.max(3, ...cells.map((row) => row[i]!.length)));
  const line = (row: readonly string[]) =>
    `| ${
      row.map((text, i) => right[i] ? text.padStart(widths[i]!) : text.padEnd(widths[i]!))
        .join(" | ")
    } |`;
  const rule = widths.map((width, i) => right[i] ? `${"-".repeat(width - 1)}:` : "-".repeat(width));
  return [line(cells[0]!), line(rule), ...cells.slice(1).map(line)].join("\n");
}

/** Lines around the generated part of a file. */
export interface Markers {
  readonly begin: string;
  readonly end: string;
}

/** Lines around what `bench:readme` makes. */
export const MARKERS: Markers = {
  begin: "<!-- begin: made by `deno task bench:readme` from bench/results/ -->",
  end: "<!-- end: made by `deno task bench:readme` -->",
};

/**
 * Returns a text with the part between its markers replaced.
 *
 * @param where the file's path, for error messages.
 * @throws {UserError} if a marker is missing or repeated, or the markers are in the wrong order.
 */
export function replaceSection(
  text: string,
  section: string,
  where: string,
  { begin, end } = MARKERS,
): string {
  const [before, ...afterBegin] = text.split(`${begin}\n`);
  const [, ...afterEnd] = afterBegin.join("").split(`${end}\n`);
  if (afterBegin.length !== 1 || afterEnd.length !== 1) {
    throw new UserError(
      `Cannot write the results into ${where} as it must have the lines "${begin}" and, ` +
        `below it, "${end}" once each`,
    );
  }
  const body = section === "" ? "" : `${section}\n\n`;
  return `${before}${begin}\n\n${body}${end}\n${afterEnd[0]}`;
}
