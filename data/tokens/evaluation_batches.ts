import type { Span } from "../tokenizer/chat_format.ts";
import { type Batch, type BatchLayout, makeBatch, type Row, sharedRow } from "./batch.ts";
import { moved, type TokenDataset } from "./token_dataset.ts";

/**
 * Batches in which every token of a data set, end-of-text included, is a target exactly once; of conversations every
 * token of an answer.
 *
 * Each text begins a row, after the token that ends the previous text (`padding` is that token). Conversations begin with
 * their first tokens; short ones share a row, in which `positions` keep them apart. The rest of a document that exceeds
 * a context goes into further rows, which overlap by half a context. Every token is therefore predicted from the
 * beginning of its document or from at least half a context, and the loss does not depend on where rows were cut.
 */
export function* evaluationBatches(
  dataset: TokenDataset,
  options: BatchLayout,
): Generator<Batch> {
  const cut = evaluationRows(dataset, options);
  const rows = dataset.answersOf ? shared(cut, options.contextLength + 1) : cut;
  const how = { ...options, documents: dataset.answersOf ? "apart" : "joined" } as const;
  let batch: Row[] = [];
  for (const row of rows) {
    batch.push(row);
    if (batch.length < options.batchSize) continue;
    yield makeBatch(batch, how);
    batch = [];
  }
  if (batch.length > 0) yield makeBatch(batch, how);
}

/** The rows of documents, one or more of each. */
function* evaluationRows(
  dataset: TokenDataset,
  { contextLength: T, padding }: BatchLayout,
): Generator<Row> {
  const overlap = Math.floor(T / 2);
  for (let d = 0; d < dataset.documents; d++) {
    const first = dataset.documentStart(d), answers = dataset.answersOf?.(d);
    const end = answers ? answers.at(-1)?.end ?? first : dataset.documentStart(d + 1);
    const firstTarget = answers ? first + 1 : first;
    for (let counted = firstTarget; counted < end;) { // targets of this document before it are done
      const start = counted === firstTarget ? counted - 1 : counted - 1 - overlap;
      const stop = Math.min(end, start + T + 1);
      const targets = moved(within(answers ?? [{ start: first, end }], counted, stop), -start);
      counted = stop;
      if (targets.length === 0) continue;
      const tokens = new Uint32Array(stop - start).fill(padding);
      tokens.set(dataset.read(Math.max(first, start), stop), start < first ? 1 : 0);
      yield { tokens, answers: targets };
    }
  }
}

/** The parts of spans that are between two places. */
function within(spans: readonly Span[], from: number, to: number): Span[] {
  return spans.map(({ start, end }) => ({ start: Math.max(start, from), end: Math.min(end, to) }))
    .filter(({ start, end }) => start < end);
}

/** Rows that consecutive rows of conversations share, as long as these have at most so many tokens together. */
function* shared(rows: Iterable<Row>, most: number): Generator<Row> {
  let parts: Row[] = [], length = 0;
  for (const row of rows) {
    if (length + row.tokens.length > most) {
      yield sharedRow(parts);
      [parts, length] = [[], 0];
    }
    parts.push(row);
    length += row.tokens.length;
  }
  if (parts.length > 0) yield sharedRow(parts);
}
