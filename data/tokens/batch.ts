import { IGNORED } from "../../files/ignored.ts";
import type { Span } from "../tokenizer/chat_format.ts";
import { concatenated, moved, type Tokens } from "./token_dataset.ts";

/**
 * A batch and how rows of tokens become one: targets are the inputs shifted by one, short rows are padded.
 *
 * @module
 */

/** One micro-batch, ready for the device.  M = B · T */
export interface Batch {
  /** u32 [B,T]: tokens that the model reads. */
  readonly inputs: Uint32Array<ArrayBuffer>;
  /** u32 [B,T]: the token after each input, or `IGNORED`. */
  readonly targets: Uint32Array<ArrayBuffer>;
  /** Number of targets that are not ignored. */
  readonly counted: number;
  /** u32 [M]: places in `inputs` sorted by token, for the embedding's gradient. */
  readonly order: Uint32Array<ArrayBuffer>;
  /**
   * u32 [B,T]: the position of each input in its document, 0 again where the next document of the row begins; absent if
   * documents are joined.
   */
  readonly positions?: Uint32Array<ArrayBuffer>;
}

/** The size of batches, and how rows are filled up and seen. */
export interface BatchLayout {
  /** B: rows per batch. */
  readonly batchSize: number;
  /** T: tokens per row. */
  readonly contextLength: number;
  /** Token that pads short rows, whose targets are ignored: the one that ends a document. */
  readonly padding: number;
  /**
   * `apart`: batches have `positions`, so that each document of a row sees only itself; `joined` by default, which
   * conversations must not be.
   */
  readonly documents?: "joined" | "apart";
}

/** Up to T + 1 tokens. */
export interface Row {
  readonly tokens: Tokens;
  /** Places at which documents begin after the first token, in ascending order; none by default. */
  readonly documentStarts?: readonly number[];
  /** The tokens that are targets, in ascending order, never the first; all but that by default. */
  readonly answers?: readonly Span[];
}

/** The rows of a data set. */
export interface Rows {
  readonly length: number;
  /** A row, in some epoch. */
  at(place: number, epoch: number): Row;
  /** Number of targets of a row, which are the same in all epochs; reads no tokens. */
  targets(place: number): number;
  /** How many conversations they hold, if they hold these. */
  readonly conversations?: PackingCounts;
}

/** How many conversations fit into rows of a length. */
export interface PackingCounts {
  /** Conversations that are used, in whole or in part. */
  readonly used: number;
  /** Of these, conversations whose last messages are left out, as rows are too short for them. */
  readonly cut: number;
  /** Conversations that are left out, as rows are too short for their first answer. */
  readonly leftOut: number;
}

/** Shifts and pads rows; a missing row is all padding. */
export function makeBatch(
  rows: readonly Row[],
  { batchSize: B, contextLength: T, padding, documents }: BatchLayout,
): Batch {
  const inputs = new Uint32Array(B * T).fill(padding);
  const targets = new Uint32Array(B * T).fill(IGNORED);
  let counted = 0;
  rows.forEach(({ tokens, answers = [{ start: 1, end: tokens.length }] }, b) => {
    const { input, target } = shiftedPair(tokens);
    inputs.set(input, b * T);
    for (const { start, end } of answers) {
      if (start >= end) continue;
      targets.set(target.subarray(start - 1, end - 1), b * T + start - 1);
      counted += end - start;
    }
  });
  const batch = { inputs, targets, counted, order: placesInOrder(inputs) };
  return documents === "apart" ? { ...batch, positions: positionsOf(rows, B, T) } : batch;
}

/** u32 [B,T]: positions in documents. What pads a row is a document, too. */
function positionsOf(rows: readonly Row[], B: number, T: number): Uint32Array<ArrayBuffer> {
  const positions = new Uint32Array(B * T);
  for (const [b, { tokens, documentStarts = [] }] of rows.entries()) {
    const starts = new Set([...documentStarts, tokens.length - 1]);
    for (let t = 1; t < T; t++) {
      const m = b * T + t;
      positions[m] = starts.has(t) ? 0 : positions[m - 1]! + 1;
    }
  }
  return positions;
}

/**
 * The targets are the inputs shifted by one: the model reads all tokens but the last and predicts all but
 * the first. This is the only place that shifts. A model whose targets are its inputs learns to repeat the
 * last word, and generates `time time time` at a loss near zero.
 */
export function shiftedPair<T extends Uint16Array | Uint32Array>(
  row: T,
): { input: T; target: T } {
  return { input: row.subarray(0, -1) as T, target: row.subarray(1) as T };
}

/**
 * Places sorted by value, places of equal values in ascending order. A radix sort is stable, and many times as fast as a sort
 * that compares. Its loops have a counter, as `for...of` takes three times as long.
 */
export function placesInOrder(values: Uint32Array): Uint32Array<ArrayBuffer> {
  const { length } = values;
  let from = new Uint32Array(length), to = new Uint32Array(length), greatest = 0;
  for (let i = 0; i < length; i++) {
    from[i] = i;
    greatest = Math.max(greatest, values[i]!);
  }
  for (let shift = 0; shift < 32 && greatest >>> shift > 0; shift += 8) {
    const next = new Uint32Array(257); // where the next value with each digit goes
    for (let i = 0; i < length; i++) next[(values[i]! >>> shift & 255) + 1]!++;
    for (let digit = 1; digit < 256; digit++) next[digit]! += next[digit - 1]!;
    for (let i = 0; i < length; i++) {
      const place = from[i]!;
      to[next[values[place]! >>> shift & 255]!++] = place;
    }
    [from, to] = [to, from];
  }
  return from;
}

/** The row that several share, whose documents stay apart. */
export function sharedRow(rows: readonly Pick<Row, "tokens" | "answers">[]): Row {
  const documentStarts: number[] = [], answers: Span[] = [];
  let length = 0;
  for (const { tokens, answers: spans = [] } of rows) {
    documentStarts.push(length);
    answers.push(...moved(spans, length));
    length += tokens.length;
  }
  return { tokens: concatenated(rows.map(({ tokens }) => tokens)), documentStarts, answers };
}

/**
 * A batch of rows that the caller has cut: each has up to T + 1 tokens, of which the model reads all but the last
 * and predicts all but the first. Shorter rows are filled up, and do not count there.
 *
 * @throws {RangeError} if a row is longer.
 */
export function batchOf(
  rows: readonly ArrayLike<number>[],
  { contextLength: T, padding }: Pick<BatchLayout, "contextLength" | "padding">,
): Batch {
  const longest = rows.reduce((most, { length }) => Math.max(most, length), 0);
  if (longest > T + 1) {
    throw new RangeError(
      `Cannot make a batch as rows must have at most ${T + 1} tokens: current length is ${longest}`,
    );
  }
  return makeBatch(
    rows.map((row) => ({ tokens: Uint32Array.from(row) })),
    { batchSize: rows.length, contextLength: T, padding },
  );
}
