import type { Result, Roofline } from "./harness.ts";
import type { ProfileRow } from "./train_step.ts";

/** Everything that a run of the benchmarks found: what `--json` writes. */
export interface Report {
  /** The command that made it. */
  readonly command: string;
  readonly date: string;
  readonly deno: string;
  readonly device: { readonly name: string; readonly backend: string; readonly isCpu: boolean };
  /** What times were read from. */
  readonly clock: "timestamps" | "wall clock";
  readonly roofline: Roofline;
  readonly results: readonly Result[];
  readonly profiles?: Readonly<Record<string, readonly ProfileRow[]>>;
}

/** A line of the table: name, time, rate, share of the roofline; at most 80 columns. */
export function resultLine(result: Result): string {
  const { name, ms, share } = result;
  const columns = [time(ms).padStart(9), rate(result).padStart(13)];
  if (share !== undefined) columns.push(percent(share).padStart(5));
  const values = columns.join(" ");
  const width = 80 - 30;
  return name.length < width
    ? `${name.padEnd(width)}${values}`
    : `${wrap(name, 79)}\n${" ".repeat(width)}${values}`;
}

/** What a result tells beside its time, a line each. */
export function detailLines(result: Result): string[] {
  const lines: string[] = [];
  const { gpuMs, idleShare, peakBytes, launches, parts, compile } = result as Record<
    string,
    unknown
  >;
  if (typeof gpuMs === "number") {
    lines.push(`  on the device ${time(gpuMs)}, idle ${percent(idleShare as number)}`);
  }
  if (typeof peakBytes === "number") {
    lines.push(`  ${launches} launches, buffers of ${(peakBytes / 1e9).toFixed(2)} GB`);
  }
  const times = (table: unknown) =>
    Object.entries(table as Record<string, number>).map(([k, v]) => `${k} ${time(v)}`);
  if (parts) lines.push(`  ${times(parts).join(", ")}`);
  if (compile) {
    lines.push("  compiled the longest:");
    for (const line of times(compile)) lines.push(`    ${line.replace(/^kernels\//, "")}`);
  }
  return lines;
}

/** Rates as people say them. */
function rate({ work, ms, tokensPerSecond }: Result): string {
  if (typeof tokensPerSecond === "number") return `${Math.round(tokensPerSecond)} tok/s`;
  if (!work) return "";
  return "flops" in work
    ? `${(work.flops / ms / 1e6).toFixed(0)} GFLOP/s`
    : `${(work.bytes / ms / 1e6).toFixed(1)} GB/s`;
}

/** A table of where a step's time goes. */
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

/** Milliseconds, or what suits them better. */
export function time(ms: number): string {
  if (ms < 1) return `${(ms * 1e3).toPrecision(3)} µs`;
  if (ms < 1e4) return `${ms.toPrecision(ms < 1e3 ? 3 : 4)} ms`;
  return `${(ms / 1e3).toPrecision(3)} s`;
}

function percent(share: number): string {
  return `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
}

function wrap(text: string, width: number): string {
  const lines: string[] = [""];
  for (const word of text.split(" ")) {
    const longer = `${lines.at(-1)} ${word}`.trim();
    if (longer.length <= width) lines[lines.length - 1] = longer;
    else lines.push(`  ${word}`);
  }
  return lines.join("\n");
}

/** One benchmark in two reports. */
export interface Comparison {
  readonly name: string;
  readonly oldMs: number;
  readonly ms: number;
  /** New time over old time: above 1 is slower. */
  readonly ratio: number;
}

/** The benchmarks that both reports have, in the order of the new one. */
export function compare(
  results: readonly Result[],
  old: Pick<Report, "results">,
): Comparison[] {
  const before = new Map(old.results.map(({ name, ms }) => [name, ms]));
  return results.flatMap(({ name, ms }) => {
    const oldMs = before.get(name);
    return oldMs === undefined ? [] : [{ name, oldMs, ms, ratio: ms / oldMs }];
  });
}

/** Those that take longer than before by more than the tolerance, a share. */
export function slower(comparisons: readonly Comparison[], tolerance: number): Comparison[] {
  return comparisons.filter(({ ratio }) => ratio > 1 + tolerance);
}

/** A line of a comparison. */
export function comparisonLine({ name, oldMs, ms, ratio }: Comparison): string {
  const values = `${time(oldMs).padStart(9)} ${time(ms).padStart(9)} ${
    ratio.toFixed(2).padStart(6)
  } ×`;
  const width = 80 - 30;
  return name.length < width
    ? `${name.padEnd(width)}${values}`
    : `${wrap(name, 79)}\n${" ".repeat(width)}${values}`;
}

/**
 * Reads a report that `--json` wrote.
 *
 * @throws {SyntaxError} if it is none.
 */
export function parseReport(json: string, where: string): Report {
  let report: Report;
  try {
    report = JSON.parse(json);
  } catch {
    throw new SyntaxError(`Cannot read ${where} as it must be JSON`);
  }
  const results: unknown = report?.results;
  const valid = Array.isArray(results) &&
    results.every((r) => typeof r?.name === "string" && typeof r?.ms === "number");
  if (!valid) {
    throw new SyntaxError(
      `Cannot read ${where} as it must be a report that \`deno task bench --json\` wrote`,
    );
  }
  return report;
}
