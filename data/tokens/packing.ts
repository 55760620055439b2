import { UserError } from "../../files/user_error.ts";
import type { Span } from "../tokenizer/chat_format.ts";
import { type Rows, sharedRow } from "./batch.ts";
import { firstIndex, moved, type TokenDataset } from "./token_dataset.ts";

/**
 * Packs conversations into rows, each as a whole: a row begins with the first message of a conversation and ends with an
 * answer. Of a conversation that is longer than a row the last messages are left out.
 *
 * Each conversation, the longest first, goes into the fullest row that has room for it (best fit decreasing), so that
 * few places of rows stay empty. The rows depend on nothing but the data set and their length.
 *
 * @param options.rowLength tokens per row.
 * @param options.onePerRow whether each conversation has a row for itself.
 * @throws {UserError} if no conversation fits.
 */
export function packedRows(
  dataset: TokenDataset,
  { rowLength, onePerRow }: { rowLength: number; onePerRow: boolean },
): Rows {
  /** The answers of a conversation that fit into a row, at whose end it is cut. Its first token is no target. */
  const answersIn = (document: number): Span[] => {
    const start = dataset.documentStart(document);
    return moved(dataset.answersOf!(document), -start)
      .filter(({ end }) => end <= rowLength && end > 1)
      .map(({ start, end }) => ({ start: Math.max(start, 1), end }));
  };
  const all = new Int32Array(dataset.documents).map((_, d) => d);
  const lengths = all.map((d) => answersIn(d).at(-1)?.end ?? 0);
  const used = all.filter((d) => lengths[d]! > 0);
  if (used.length === 0) {
    throw new UserError(
      `Cannot pack conversations into rows of ${rowLength} tokens as the first answer of at least one ` +
        `must fit into a row: current number is 0 of ${dataset.documents}`,
      { hint: "Use a longer --context-length, as far as the model of --init-from allows it" },
    );
  }
  const rowOf = bestFit(used, onePerRow ? lengths.map(() => rowLength) : lengths, rowLength);
  used.sort((a, b) => rowOf[a]! - rowOf[b]! || a - b);
  const length = rowOf[used.at(-1)!]! + 1, targets = new Int32Array(length);
  let cut = 0;
  for (const d of used) {
    for (const { start, end } of answersIn(d)) targets[rowOf[d]!]! += end - start;
    if (dataset.documentStart(d) + lengths[d]! < dataset.answersOf!(d).at(-1)!.end) cut++;
  }
  const firstOf = (row: number) => firstIndex(used.length, (i) => rowOf[used[i]!]! >= row);
  return {
    length,
    conversations: { used: used.length, cut, leftOut: dataset.documents - used.length },
    targets: (row) => targets[row]!,
    at: (row) =>
      sharedRow(Array.from(used.subarray(firstOf(row), firstOf(row + 1)), (d) => {
        const start = dataset.documentStart(d);
        return { tokens: dataset.read(start, start + lengths[d]!), answers: answersIn(d) };
      })),
  };
}

/** The row of each of these documents. */
function bestFit(documents: Int32Array, lengths: Int32Array, rowLength: number): Int32Array {
  const rowOf = new Int32Array(lengths.length);
  const newest = new Int32Array(rowLength + 1).fill(-1); // row by free places
  const older = new Int32Array(documents.length); // by row: another row with as many free places
  let rows = 0;
  for (const d of documents.toSorted((a, b) => lengths[b]! - lengths[a]! || a - b)) {
    const length = lengths[d]!;
    let free = length;
    while (free <= rowLength && newest[free]! < 0) free++;
    const isNew = free > rowLength, row = isNew ? rows++ : newest[free]!;
    if (isNew) free = rowLength;
    else newest[free] = older[row]!;
    rowOf[d] = row;
    older[row] = newest[free - length]!;
    newest[free - length] = row;
  }
  return rowOf;
}
