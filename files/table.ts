import { printable } from "./printable.ts";

/**
 * Tables and lines of text that fit into a width.
 *
 * @module
 */

/**
 * A table as text: figures are aligned at the right, words and the first column at the left. Cells may hold foreign
 * text, which is escaped and cut.
 */
export function align(cells: readonly string[][]): string {
  const rows = cells.map((row) => row.map((cell) => printable(cell)));
  const widths = rows[0]!.map((_, column) =>
    rows.reduce((most, row) => Math.max(most, row[column]!.length), 0)
  );
  const areFigures = widths.map((_, column) =>
    column > 0 && rows.slice(1).every((row) => /^[\d—]/.test(row[column]!))
  );
  const cell = (text: string, column: number) =>
    areFigures[column] ? text.padStart(widths[column]!) : text.padEnd(widths[column]!);
  return rows.map((row) => row.map(cell).join("  ").trimEnd() + "\n").join("");
}

/**
 * A table with a line per row and a column per entry of `columns`, which say what a cell shows of its row. As many of
 * the `spare` columns are left out, the first one first, as the table must be narrower to fit into `width` characters.
 */
export function fitTable<Row>(
  columns: Readonly<Record<string, (row: Row) => string>>,
  rows: readonly Row[],
  { spare, width = Infinity }: { spare: readonly string[]; width?: number | undefined },
): string {
  const tableOf = (names: readonly string[]) =>
    align([[...names], ...rows.map((row) => names.map((name) => columns[name]!(row)))]);
  let names = Object.keys(columns), table = tableOf(names);
  for (const left of spare) {
    if (fits(table, width)) break;
    names = names.filter((name) => name !== left);
    table = tableOf(names);
  }
  return table;
}

/** Whether every line of a text has at most `width` characters. */
export function fits(text: string, width: number): boolean {
  return text.split("\n").every(({ length }) => length <= width);
}

/** Breaks a text into lines between words; all lines but the first begin with `indent`. */
export function wrap(text: string, width: number, indent = ""): string {
  const lines: string[] = [];
  for (const word of text.split(" ")) {
    const longer = lines.length === 0 ? word : `${lines.at(-1)} ${word}`;
    if (lines.length === 0) lines.push(word);
    else if (longer.length <= width) lines[lines.length - 1] = longer;
    else lines.push(`${indent}${word}`);
  }
  return lines.join("\n");
}
