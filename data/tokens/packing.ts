import { UserError } from "../../files/user_error.ts";
import type { Span } from "../tokenizer/chat_format.ts";
import type { TokenDataset } from "./token_dataset.ts";

/** How many conversations fit into rows of a length. */
export interface PackingCounts {
  /** Conversations that are used, in whole or in part. */
  readonly used: number;
  /** Of these, conversations whose last messages are left out, as rows are too short for them. */
  readonly cut: number;
  /** Conversations that are left out, as rows are too short for their first answer. */
  readonly leftOut: number;
}

/** A conversation in a row: its tokens in the data set, up to the end of its last answer that fits. */
export interface PackedConversation extends Span {
  /** Its answers up to there. */
  readonly answers: readonly Span[];
}

/**
 * Packs conversations into rows, each as a whole: a row begins with the first message of a conversation and ends with an
 * answer. Of a conversation that is longer than a row the last messages are left out.
 *
 * Each conversation, the longest first, goes into the fullest row that has room for it (best fit decreasing), so that
 * few places of rows stay empty. The rows depend on nothing but the data set and their length.
 */
export class PackedRows {
  /** Rows. */
  readonly length: number;
  /** How many conversations they hold. */
  readonly counts: PackingCounts;
  readonly #dataset: TokenDataset;
  readonly #rowLength: number;
  /** Indices of conversations, row after row, and where each row ends among them. */
  readonly #documents: Int32Array;
  readonly #ends: Int32Array;
  /** Targets of each row. */
  readonly #targets: Int32Array;

  /**
   * Packs a data set of conversations.
   *
   * @param options.rowLength tokens per row.
   * @param options.onePerRow whether each conversation has a row for itself.
   * @throws {UserError} if no conversation fits.
   */
  constructor(
    dataset: TokenDataset,
    { rowLength, onePerRow }: { rowLength: number; onePerRow: boolean },
  ) {
    this.#dataset = dataset;
    this.#rowLength = rowLength;
    const lengths = new Int32Array(dataset.documents); // 0 without an answer that fits
    const targets = new Int32Array(dataset.documents);
    let used = 0, cut = 0;
    for (let d = 0; d < dataset.documents; d++) {
      const { start, end, answers } = this.#fitting(d);
      lengths[d] = end - start;
      for (const answer of answers) targets[d]! += answer.end - answer.start;
      if (answers.length === 0) continue;
      used++;
      if (end < dataset.answersOf!(d).at(-1)!.end) cut++;
    }
    if (used === 0) {
      throw new UserError(
        `Cannot pack conversations into rows of ${rowLength} tokens as an answer must fit: ` +
          `each of the ${dataset.documents} first answers ends after more`,
        { hint: "Use a longer --context-length, as far as the model of --init-from allows it" },
      );
    }
    this.counts = { used, cut, leftOut: dataset.documents - used };
    const { rows, rowOf } = bestFit(lengths, { rowLength, onePerRow });
    this.length = rows;
    this.#targets = new Int32Array(rows);
    this.#ends = new Int32Array(rows);
    for (const [d, row] of rowOf.entries()) {
      if (row < 0) continue;
      this.#ends[row]!++;
      this.#targets[row]! += targets[d]!;
    }
    for (let row = 1; row < rows; row++) this.#ends[row]! += this.#ends[row - 1]!;
    this.#documents = new Int32Array(used);
    const next = Int32Array.from(this.#ends, (_, row) => row === 0 ? 0 : this.#ends[row - 1]!);
    for (const [d, row] of rowOf.entries()) {
      if (row >= 0) this.#documents[next[row]!++] = d;
    }
  }

  /** The conversations of a row. */
  at(row: number): PackedConversation[] {
    const start = row === 0 ? 0 : this.#ends[row - 1]!;
    return Array.from(this.#documents.subarray(start, this.#ends[row]!), (d) => this.#fitting(d));
  }

  /** Number of targets in a row. */
  targets(row: number): number {
    return this.#targets[row]!;
  }

  /** A conversation up to the end of its last answer that fits into a row. Its first token is no target. */
  #fitting(document: number): PackedConversation {
    const start = this.#dataset.documentStart(document);
    const fits = this.#dataset.answersOf!(document)
      .filter(({ end }) => end - start <= this.#rowLength && end - start > 1);
    const answers = fits.map((answer) => ({ ...answer, start: Math.max(answer.start, start + 1) }));
    return { start, end: answers.at(-1)?.end ?? start, answers };
  }
}

/** The row of each document, or −1 for a document of no tokens, and the number of rows. */
function bestFit(
  lengths: Int32Array,
  { rowLength, onePerRow }: { rowLength: number; onePerRow: boolean },
): { rows: number; rowOf: Int32Array } {
  const order = Array.from(lengths.keys()).filter((d) => lengths[d]! > 0);
  if (!onePerRow) order.sort((a, b) => lengths[b]! - lengths[a]! || a - b);
  const rowOf = new Int32Array(lengths.length).fill(-1);
  const newest = new Int32Array(rowLength + 1).fill(-1); // row by free places
  const older = new Int32Array(order.length); // by row: another row with as many free places
  let rows = 0;
  for (const d of order) {
    const length = lengths[d]!;
    let free = onePerRow ? rowLength + 1 : length;
    while (free <= rowLength && newest[free]! < 0) free++;
    const isNew = free > rowLength, row = isNew ? rows++ : newest[free]!;
    if (isNew) free = rowLength;
    else newest[free] = older[row]!;
    rowOf[d] = row;
    older[row] = newest[free - length]!;
    newest[free - length] = row;
  }
  return { rows, rowOf };
}
