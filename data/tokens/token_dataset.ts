import { UserError } from "../../files/user_error.ts";
import type { Span } from "../tokenizer/chat_format.ts";

/** Ids of tokens, of two bytes each if the vocabulary allows it, or else of four. */
export type Tokens = Uint16Array<ArrayBuffer> | Uint32Array<ArrayBuffer>;

/** Array type for the ids of a vocabulary. */
export function tokensType(
  vocabularySize: number,
): Uint16ArrayConstructor | Uint32ArrayConstructor {
  return vocabularySize <= 2 ** 16 ? Uint16Array : Uint32Array;
}

/** The tokens of consecutive documents: texts, each followed by end-of-text, or conversations. */
export interface TokenDataset {
  /** Number of tokens. */
  readonly length: number;
  /** Number of documents. */
  readonly documents: number;
  /**
   * The tokens from `start` to before `end`.
   *
   * @throws {UserError} if the file that holds them is damaged there.
   */
  read(start: number, end: number): Tokens;
  /** The place of a document's first token; the number of tokens for the index after the last document. */
  documentStart(index: number): number;
  /**
   * What the assistant says in a conversation, in order, as parts of the data set: only these tokens are targets. Absent
   * if the documents are texts, all of whose tokens are targets.
   */
  answersOf?(index: number): readonly Span[];
}

/**
 * A data set of tokens that are in memory, or that `subarray()` reads from elsewhere.
 *
 * @param answers of conversations, where each answer begins and ends, by turns.
 */
export function tokenDataset(
  tokens: { readonly length: number; subarray(start: number, end: number): Tokens },
  documentStarts: ArrayLike<number> = [0],
  answers?: ArrayLike<number>,
): TokenDataset {
  const documentStart = (index: number) => documentStarts[index] ?? tokens.length;
  const dataset = {
    length: tokens.length,
    documents: documentStarts.length,
    read: (start: number, end: number) => tokens.subarray(start, end),
    documentStart,
  };
  if (!answers) return dataset;
  return {
    ...dataset,
    answersOf(index) {
      const start = documentStart(index), end = documentStart(index + 1), spans: Span[] = [];
      let i = firstIndex(answers.length / 2, (i) => answers[2 * i]! >= start);
      for (; 2 * i < answers.length && answers[2 * i]! < end; i++) {
        spans.push({ start: answers[2 * i]!, end: answers[2 * i + 1]! });
      }
      return spans;
    },
  };
}

/** The first index below `count` from which on a condition holds; `count` if there is none. */
export function firstIndex(count: number, holds: (index: number) => boolean): number {
  let low = 0, high = count;
  while (low < high) {
    const middle = Math.floor((low + high) / 2);
    if (holds(middle)) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** Tokens that the assistant says in all conversations; undefined if the documents are texts. */
export function countAnswers(dataset: TokenDataset): number | undefined {
  if (!dataset.answersOf) return undefined;
  let tokens = 0;
  for (let d = 0; d < dataset.documents; d++) {
    for (const { start, end } of dataset.answersOf(d)) tokens += end - start;
  }
  return tokens;
}

/** Spans whose places are counted from another one. */
export function moved(spans: readonly Span[], by: number): Span[] {
  return spans.map(({ start, end }) => ({ start: start + by, end: end + by }));
}

/** The same data set in other ids. */
export function renumbered<Dataset extends TokenDataset>(
  dataset: Dataset,
  newIds: Uint32Array,
): Dataset {
  return {
    ...dataset,
    read: (start, end) => dataset.read(start, end).map((id) => newIds[id]!) as Tokens,
  };
}

/** Documents of which one is held out for validation. */
const HELD_OUT = 20;

/**
 * Divides a data set: every twentieth document is held out for validation; of fewer than twenty the last
 * one, and of a single document its last twentieth.
 *
 * @throws {UserError} if the data set is a single conversation.
 */
export function holdOut(
  dataset: TokenDataset,
): { training: TokenDataset; validation: TokenDataset } {
  const { length, documents } = dataset;
  if (documents === 1 && dataset.answersOf) {
    throw new UserError(
      "Cannot hold out a conversation for validation as there must be at least two: current number is 1",
      { hint: "Name conversations to validate with: --validation-data FILE" },
    );
  }
  if (documents === 1) {
    const cut = Math.floor(length * (1 - 1 / HELD_OUT));
    const part = (start: number, end: number) =>
      tokenDataset({
        length: end - start,
        subarray: (from, to) => dataset.read(start + from, Math.min(end, start + to)),
      });
    return { training: part(0, cut), validation: part(cut, length) };
  }
  const every = Math.min(HELD_OUT, documents), all = new Int32Array(documents).map((_, d) => d);
  const isHeldOut = (document: number) => document % every === every - 1;
  return {
    training: select(dataset, all.filter((document) => !isHeldOut(document))),
    validation: select(dataset, all.filter(isHeldOut)),
  };
}

/** Some documents of a data set, by their indices in ascending order. */
function select(dataset: TokenDataset, documents: Int32Array): TokenDataset {
  const starts = new Float64Array(documents.length); // of each document among the selected tokens
  let length = 0;
  documents.forEach((document, i) => {
    starts[i] = length;
    length += dataset.documentStart(document + 1) - dataset.documentStart(document);
  });
  /** Tokens that precede a selected document in the data set, and are not selected. */
  const skipped = (i: number) => dataset.documentStart(documents[i]!) - starts[i]!;
  const endOf = (i: number) => starts[i + 1] ?? length;
  const subarray = (start: number, end: number) => {
    const stop = Math.min(end, length), parts: Tokens[] = [];
    let i = firstIndex(documents.length, (i) => endOf(i) > start);
    for (let at = start; at < stop; i++) {
      const shift = skipped(i);
      while (endOf(i) < stop && skipped(i + 1) === shift) i++; // neighbours are read together
      const to = Math.min(stop, endOf(i));
      parts.push(dataset.read(at + shift, to + shift));
      at = to;
    }
    return parts.length === 1 ? parts[0]! : concatenated(parts);
  };
  const selected = tokenDataset({ length, subarray }, starts);
  return dataset.answersOf
    ? { ...selected, answersOf: (i) => moved(dataset.answersOf!(documents[i]!), -skipped(i)) }
    : selected;
}

/** All tokens in one array. */
export function concatenated(parts: readonly Tokens[]): Tokens {
  const Type = (parts[0]?.constructor ?? Uint16Array) as Uint32ArrayConstructor;
  const all = new Type(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}
