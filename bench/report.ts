import { taskCommand } from "../files/command_line.ts";
import { wrap } from "../files/table.ts";
import { byteCount } from "../files/units.ts";
import { UserError } from "../files/user_error.ts";
import type { Device } from "../kernels/device.ts";
import type { Result, Roofline } from "./harness.ts";
import { deviceMs, type Scaling, type ScalingPoint } from "./scaling.ts";
import type { ProfileRow } from "./train_step.ts";

/** Results of one run of the benchmarks, as `--json` writes them. */
export interface Report {
  /** The command that made the report. */
  readonly command: string;
  readonly date: string;
  readonly deno: string;
  readonly device: Pick<Device, "provider" | "name" | "backend" | "isCpu">;
  /** Source of the times. */
  readonly clock: "timestamps" | "wall clock";
  readonly roofline: Roofline;
  readonly results: readonly Result[];
  readonly profiles?: Readonly<Record<string, readonly ProfileRow[]>>;
  readonly scaling?: Scaling;
}

/** A result as a line of at most 80 columns: name, time, rate, share of the roofline. */
export function resultLine(result: Result): string {
  const { name, ms, share } = result;
  const columns = [time(ms).padStart(9), rate(result).padStart(13)];
  if (share !== undefined) columns.push(percent(share).padStart(5));
  return nameAndValues(name, columns.join(" "));
}

/** A name with its values at the right, or below it if it is long. */
function nameAndValues(name: string, values: string, width = 80 - 30): string {
  return name.length < width
    ? `${name.padEnd(width)}${values}`.trimEnd()
    : `${wrap(name, 79, "  ")}\n${" ".repeat(width)}${values}`.trimEnd();
}

/** The other measurements of a result, one per line. */
export function detailLines(result: Result): string[] {
  const lines: string[] = [];
  const { gpuMs, idleShare = 0, peakBytes, launches, planned, muon, parts, compile } = result;
  const variants = variantsOf(result);
  if (variants !== "") lines.push(`  ${wrap(`by ${variants}`, 77, "    ")}`);
  if (gpuMs !== undefined) {
    lines.push(`  on the device ${time(gpuMs)}; it is idle ${percent(idleShare)} of the time`);
  }
  if (peakBytes !== undefined) {
    lines.push(`  ${launches} launches, buffers of ${byteCount(peakBytes)}`);
  }
  if (planned) {
    const [activations, step] = [planned.activations, planned.step].map((n) => byteCount(n));
    lines.push(`  planned: activations of ${activations}, a whole step of ${step}`);
  }
  if (muon) {
    const { ms, floorMs } = muon, ratio = (ms / floorMs).toFixed(2);
    lines.push(`  Muon's part ${time(ms)}, ${ratio} times its floor of ${time(floorMs)}`);
  }
  const times = (byName: Readonly<Record<string, number>>) =>
    Object.entries(byName).map(([name, ms]) => `${name} ${time(ms)}`);
  if (parts) lines.push(`  ${wrap(times(parts).join(", "), 77, "    ")}`);
  if (compile) {
    lines.push("  compiled the longest:");
    for (const line of times(compile)) lines.push(`    ${line.replace(/^kernels\//, "")}`);
  }
  return lines;
}

/** The variants of kernels that the tuner chose for a result. */
export function variantsOf({ choices = {} }: Result): string {
  return [...new Set(Object.values(choices))].join(", ");
}

/** A training step that recomputes activations, and the one that keeps them. */
export interface Recomputation {
  readonly result: Result;
  readonly kept: Result;
  /** Ratios of the time, of the bytes of activations, and of those of the whole step. */
  readonly ratios: readonly [ms: number, activations: number, step: number];
}

/** The training steps that recompute, if the same step without recomputation was measured, too. */
export function recomputations(results: readonly Result[]): Recomputation[] {
  return results.flatMap((result) => {
    const [, name] = result.name.match(/^(.+) recompute \w+$/) ?? [];
    const kept = results.find((other) => other.name === name);
    if (!kept?.planned || !result.planned) return [];
    const [activations, step] = (["activations", "step"] as const)
      .map((part) => result.planned![part] / kept.planned![part]);
    return [{ result, kept, ratios: [result.ms / kept.ms, activations!, step!] }];
  });
}

/** A line of a step that recomputes: its ratios to the step that keeps all activations. */
export function recomputationLine({ result, ratios }: Recomputation): string {
  const columns = ratios.map((ratio, i) => ratio.toFixed(2).padStart([9, 12, 7][i]!));
  return nameAndValues(result.name, columns.join(""));
}

/** Head of the table whose lines `recomputationLine()` formats. */
export const RECOMPUTATION_HEAD = nameAndValues(
  "relative to keeping all activations",
  "     time activations   step",
);

/** The rate of a result: tokens, operations or bytes per second. */
function rate({ work, ms, tokensPerSecond }: Result): string {
  if (tokensPerSecond !== undefined) return `${Math.round(tokensPerSecond)} tok/s`;
  if (!work) return "";
  return "flops" in work
    ? `${(work.flops / ms / 1e6).toFixed(0)} GFLOP/s`
    : `${(work.bytes / ms / 1e6).toFixed(1)} GB/s`;
}

/** The lines of a table of a program's time by kernel. */
export function profileLines(rows: readonly ProfileRow[]): string[] {
  const total = rows.reduce((sum, { ms }) => sum + ms, 0);
  const line = (label: string, launches: string, ms: string, share: string) =>
    `  ${label.padEnd(46)}${launches.padStart(9)}${ms.padStart(12)}${share.padStart(8)}`;
  return [
    line("kernel", "launches", "time", "share"),
    ...rows.map(({ label, launches, ms, share }) =>
      line(label.replace(/^kernels\//, ""), String(launches), time(ms), percent(share))
    ),
    line("sum", String(rows.reduce((sum, row) => sum + row.launches, 0)), time(total), ""),
  ];
}

/** Formats a time in µs, ms or s. */
export function time(ms: number): string {
  if (ms < 0.9995) return `${(ms * 1e3).toPrecision(3)} µs`;
  if (ms < 999.5) return `${ms.toPrecision(3)} ms`;
  if (ms < 9999.5) return `${ms.toFixed(0)} ms`;
  return `${(ms / 1e3).toPrecision(3)} s`;
}

/** Formats a share in percent. */
export function percent(share: number): string {
  return `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
}

/** Head of the table whose lines `scalingLine()` formats. */
export const SCALING_HEAD = scalingColumns(
  "axis",
  "",
  "batch",
  "device",
  "wall",
  "model",
  "launches",
);

/** A line of the scaling table: the point, its times, and the time by the cost model. */
export function scalingLine(point: ScalingPoint): string {
  const { axis, value, batchSize, sequenceLength, ms, modelMs, launches } = point;
  const batch = `${batchSize}x${sequenceLength}`;
  const [device, wall, model] = [deviceMs(point), ms, modelMs].map(time);
  return scalingColumns(axis, `${value}`, batch, device!, wall!, model!, `${launches}`);
}

function scalingColumns(axis: string, value: string, batch: string, ...numbers: string[]): string {
  const [device, wall, model, launches] = numbers.map((text) => text.padStart(11));
  return `${axis.padEnd(8)}${value.padStart(6)}${
    batch.padStart(10)
  }${device}${wall}${model}${launches}`;
}

/** One benchmark in two reports. */
export interface Comparison {
  readonly name: string;
  readonly oldMs: number;
  readonly ms: number;
  /** New time over old time: above 1 is slower. */
  readonly ratio: number;
  /** Least of the new samples over the old time, because noise only adds to times. */
  readonly leastRatio: number;
}

/** The parts of a report that are compared. */
type Compared = Pick<Report, "results" | "scaling">;

/** Compares the benchmarks that both reports have, in the order of the new one. */
export function compare(report: Compared, old: Compared): Comparison[] {
  const all = ({ results, scaling }: Compared): Result[] => [...results, ...scaling?.points ?? []];
  const before = new Map(all(old).map((result) => [result.name, result]));
  return all(report).flatMap((result) => {
    const { name, ms } = result, older = before.get(name);
    if (!older) return [];
    const least = result.rangeMs?.[0] ?? ms / SINGLE_SAMPLE_SPREAD;
    return [{ name, oldMs: older.ms, ms, ratio: ms / older.ms, leastRatio: least / older.ms }];
  });
}

/**
 * Assumed ratio of a single sample to the least of many. A cold start has a single sample, because only the
 * first start is cold.
 */
const SINGLE_SAMPLE_SPREAD = 1.25;

/**
 * The benchmarks that became slower by more than the tolerance, a share, and not by chance, since even the
 * least sample is slower.
 */
export function slower(comparisons: readonly Comparison[], tolerance: number): Comparison[] {
  return comparisons.filter(({ ratio, leastRatio }) => ratio > 1 + tolerance && leastRatio > 1);
}

/** A line of a comparison, which says how many times slower or faster the benchmark became. */
export function comparisonLine({ name, oldMs, ms, ratio }: Comparison): string {
  const times = [oldMs, ms].map((ms) => time(ms).padStart(9)).join(" ");
  const isSlower = ratio >= 1, factor = isSlower ? ratio : 1 / ratio;
  const word = factor < 1.005 ? "" : isSlower ? " slower" : " faster";
  const shown = factor < 999.5 ? factor.toFixed(2) : "999+";
  return nameAndValues(name, `${times} ${shown.padStart(6)} ×${word}`, 80 - 36);
}

/**
 * Reads a report that `--json` wrote.
 *
 * @throws {UserError} if it is not such a report.
 */
export function parseReport(json: string, where: string): Report {
  let report: Report;
  try {
    report = JSON.parse(json);
  } catch {
    throw new UserError(`Cannot read ${where} as it must be JSON`);
  }
  const results: unknown = report?.results;
  const valid = typeof report?.device?.name === "string" && Array.isArray(results) &&
    results.every((r) => typeof r?.name === "string" && typeof r?.ms === "number");
  if (!valid) {
    throw new UserError(
      `Cannot read ${where} as it must be a report that ${taskCommand("bench", "--json")} wrote`,
    );
  }
  // older reports are of Deno's own
  return { ...report, device: { ...report.device, provider: report.device.provider ?? "native" } };
}
