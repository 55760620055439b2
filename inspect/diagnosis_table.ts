import { printable } from "../files/printable.ts";
import { wrap } from "../files/table.ts";
import { inFewDigits } from "../files/units.ts";
import { type CheckResult, CHECKS } from "../train/record/checks.ts";

/** Before each line under a check. */
const INDENT = "    ";

/** Columns of a terminal that is too narrow for the range of healthy numbers, and for what is measured. */
const NARROW = { range: 60, measure: 50 };

/**
 * A diagnosis as a table: a line per check, and under those that are sick what was found, the likely cause and the
 * cure.
 *
 * @param columns of the terminal; lines are not cut or wrapped by default.
 */
export function diagnosisTable(checks: readonly CheckResult[], columns = Infinity): string {
  const rows = checks.map((check) => ({ check, cells: cellsOf(check) }));
  const names = ["verdict", "check", "number", "healthy", "what is measured"];
  const kept = names.map((_, i) => i < 3 || columns >= (i === 3 ? NARROW.range : NARROW.measure));
  const widths = names.map((name, i) =>
    Math.max(name.length, ...rows.map(({ cells }) => i === 4 ? 0 : cells[i]!.length))
  );
  const line = (cells: readonly string[]) => {
    const padded = cells.map((cell, i) =>
      i === 2 || i === 3 ? cell.padStart(widths[i]!) : cell.padEnd(widths[i]!)
    );
    const text = padded.filter((_, i) => kept[i]).join("  ").trimEnd();
    return text.length <= columns ? text : `${text.slice(0, columns - 1)}…`;
  };
  const lines = [line(names)];
  for (const { check, cells } of rows) {
    lines.push(line(cells));
    if (check.verdict !== "sick") continue;
    for (const text of [sentence(check.finding), `Cause: ${check.cause}.`, `Cure: ${check.cure}`]) {
      lines.push(wrap(INDENT + text, columns, INDENT));
    }
  }
  return lines.map((text) => `${text}\n`).join("");
}

/** The cells of a check. */
function cellsOf({ name, verdict, value, threshold, finding }: CheckResult): string[] {
  const { measure, sick, ...row } = CHECKS[name], isShare = "isShare" in row;
  const number = (value: number, digits = 2) =>
    isShare ? `${inFewDigits(100 * value, digits)} %` : inFewDigits(value, digits);
  return [
    verdict,
    name,
    value === null ? "—" : number(value),
    threshold === null ? "—" : `${sick === "above" ? "≤" : "≥"} ${number(threshold, 3)}`,
    verdict === "unknown" ? printable(finding, 1000) : measure,
  ];
}

/** A clause as a sentence. */
function sentence(clause: string): string {
  return `${clause[0]!.toUpperCase()}${printable(clause.slice(1), 1000)}.`;
}
