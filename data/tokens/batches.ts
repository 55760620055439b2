import { UserError } from "../../files/user_error.ts";
import { hash } from "../random.ts";
import type { Span } from "../tokenizer/chat_format.ts";
import { PackedRows, type PackingCounts } from "./packing.ts";
import { concatenated, moved, type TokenDataset, type Tokens } from "./token_dataset.ts";

/** A target that the loss ignores. */
export const IGNORED = 0xffffffff;

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

/** How tokens are cut into batches for training. */
export interface BatchesOptions {
  /** B: rows per batch. */
  readonly batchSize: number;
  /** T: tokens per row. */
  readonly contextLength: number;
  /**
   * `packed`: contexts cut from the stream of all documents, or rows of whole conversations; `padded`: one document per
   * row.
   */
  readonly sequence: "packed" | "padded";
  /**
   * `apart`: batches have `positions`, so that each document of a row sees only itself; `joined` by default, which
   * conversations must not be.
   */
  readonly documents?: "joined" | "apart";
  /** Seed of the order. */
  readonly seed: number;
  /** Token that pads short rows, whose targets are ignored: the one that ends a document. */
  readonly padding: number;
  /**
   * Token with which each document begins, if there is one; otherwise a document begins with the token that ends the
   * document before it.
   */
  readonly beginOfText?: number | undefined;
}

/**
 * The batches of a training, by number. Batch i is a pure function of the tokens, the options and i, so that
 * training resumes at any batch without replaying earlier ones.
 *
 * Each epoch visits every row once, in an order that differs between epochs. The last batch of an epoch is
 * filled with rows of the next one, so that no row is left out.
 */
export class Batches {
  readonly #dataset: TokenDataset;
  readonly #options: BatchesOptions;
  readonly #rows: number;
  /** The rows of conversations. */
  readonly #packed: PackedRows | undefined;

  /**
   * The batches of a data set.
   *
   * @throws {UserError} if the tokens are too few for a single row; {RangeError} if conversations are joined.
   */
  constructor(dataset: TokenDataset, options: BatchesOptions) {
    this.#dataset = dataset;
    this.#options = options;
    const { contextLength: T, sequence, documents = "joined" } = options;
    if (dataset.answersOf) {
      if (documents !== "apart") {
        throw new RangeError(
          `Cannot make batches of conversations as documents must be "apart": current value is "${documents}"`,
        );
      }
      const onePerRow = sequence === "padded";
      this.#packed = new PackedRows(dataset, { rowLength: T + 1, onePerRow });
      this.#rows = this.#packed.length;
      return;
    }
    const least = sequence === "packed" ? T + 1 : 2;
    if (dataset.length < least) {
      throw new UserError(
        `Cannot cut rows of ${T} tokens as the text must have at least ${least} tokens: ` +
          `current number is ${dataset.length}`,
        { hint: "Use more text, a shorter --context-length, or --sequence padded" },
      );
    }
    this.#rows = sequence === "packed" ? Math.floor((dataset.length - 1) / T) : dataset.documents;
  }

  /** How many conversations the rows hold; undefined if the documents are texts. */
  get conversations(): PackingCounts | undefined {
    return this.#packed?.counts;
  }

  /** Batches per epoch, rounded up. */
  get perEpoch(): number {
    return Math.ceil(this.#rows / this.#options.batchSize);
  }

  /** Epoch, from 0, in which a batch begins. */
  epochOf(index: number): number {
    return Math.floor(this.epochsBefore(index));
  }

  /** Passes over the data that the batches before number `index` make, such as 1.5. */
  epochsBefore(index: number): number {
    return index * this.#options.batchSize / this.#rows;
  }

  /** Batch number `index`, counted from 0 at the beginning of the training. */
  at(index: number): Batch {
    const { batchSize } = this.#options;
    const rows = Array.from({ length: batchSize }, (_, b) => this.#row(index * batchSize + b));
    return makeBatch(rows, this.#options);
  }

  /** Number of targets that are not ignored in `count` batches from number `index` on; reads no tokens. */
  counted(index: number, count: number): number {
    const { batchSize, contextLength: T, sequence } = this.#options;
    const rows = batchSize * count, packed = this.#packed;
    if (sequence === "packed" && !packed) return rows * T;
    let counted = 0;
    for (let row = index * batchSize; row < index * batchSize + rows; row++) {
      if (packed) {
        counted += packed.targets(this.#shuffled(row));
        continue;
      }
      const { start, end } = this.#placeOf(row);
      counted += Math.max(0, end - start - 1);
    }
    return counted;
  }

  /** Row number `row`, counted from the beginning of the training. */
  #row(row: number): Row {
    if (this.#packed) {
      const conversations = this.#packed.at(this.#shuffled(row));
      return sharedBy(conversations.map(({ start, end, answers }) => ({
        tokens: this.#dataset.read(start, end),
        answers: moved(answers, -start),
      })));
    }
    const { start, end } = this.#placeOf(row);
    return {
      tokens: this.#dataset.read(start, end),
      countFrom: 0,
      documentStarts: this.#documentStarts(start, end),
    };
  }

  /** Places at which documents begin after the first of these tokens of the data set, counted from that token. */
  #documentStarts(start: number, end: number): number[] {
    const { documents, sequence, beginOfText } = this.#options, dataset = this.#dataset;
    if (documents !== "apart" || sequence === "padded") return [];
    const startOf = (document: number) =>
      dataset.documentStart(document) - (beginOfText === undefined ? 1 : 0);
    let first = 1, after = dataset.documents; // the first document that begins after `start` is among these
    while (first < after) {
      const middle = Math.floor((first + after) / 2);
      if (startOf(middle) > start) after = middle;
      else first = middle + 1;
    }
    const starts: number[] = [];
    for (let d = first; d < dataset.documents && startOf(d) < end; d++) {
      starts.push(startOf(d) - start);
    }
    return starts;
  }

  /** The place in the data set of row number `row` of the training, which visits them in another order in each epoch. */
  #shuffled(row: number): number {
    return permute(row % this.#rows, this.#rows, this.#options.seed, Math.floor(row / this.#rows));
  }

  /** Where the tokens of a row are in the data set. */
  #placeOf(row: number): { start: number; end: number } {
    const { contextLength: T, sequence, seed } = this.#options;
    const dataset = this.#dataset;
    const place = this.#shuffled(row);
    if (sequence === "padded") {
      const start = dataset.documentStart(place), end = dataset.documentStart(place + 1);
      return { start, end: Math.min(end, start + T + 1) };
    }
    // each epoch cuts the stream at a random phase, of at most the tokens that the rows leave over
    const epoch = Math.floor(row / this.#rows), spare = dataset.length - 1 - this.#rows * T;
    const start = place * T + hash(seed, epoch, PHASE) % (spare + 1);
    return { start, end: start + T + 1 };
  }
}

/** Makes the random numbers of the phase independent of those of the order. */
const PHASE = 0x7068;

/** How tokens are cut into batches for evaluation. */
export type EvaluationOptions = Pick<BatchesOptions, "batchSize" | "contextLength" | "padding">;

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
  options: EvaluationOptions,
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
  { contextLength: T, padding }: EvaluationOptions,
): Generator<Row> {
  const overlap = Math.floor(T / 2);
  for (let d = 0; d < dataset.documents; d++) {
    const first = dataset.documentStart(d), answers = dataset.answersOf?.(d);
    const end = answers ? answers.at(-1)?.end ?? first : dataset.documentStart(d + 1);
    const firstTarget = answers ? first + 1 : first;
    for (let counted = firstTarget; counted < end;) { // targets of this document before it are done
      const start = counted === firstTarget ? counted - 1 : counted - 1 - overlap;
      const stop = Math.min(end, start + T + 1), countFrom = counted - 1 - start;
      const targets = answers && within(moved(answers, -start), countFrom + 1, stop - start);
      counted = stop;
      if (targets?.length === 0) continue;
      const tokens = new Uint32Array(stop - start).fill(padding);
      tokens.set(dataset.read(Math.max(first, start), stop), start < first ? 1 : 0);
      yield { tokens, countFrom, ...(targets ? { answers: targets } : {}) };
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
      yield sharedBy(parts);
      [parts, length] = [[], 0];
    }
    parts.push(row);
    length += row.tokens.length;
  }
  if (parts.length > 0) yield sharedBy(parts);
}

/** The row that several share, whose documents stay apart. */
function sharedBy(rows: readonly Pick<Row, "tokens" | "answers">[]): Row {
  const documentStarts: number[] = [], answers: Span[] = [];
  let length = 0;
  for (const { tokens, answers: spans = [] } of rows) {
    documentStarts.push(length);
    answers.push(...moved(spans, length));
    length += tokens.length;
  }
  const tokens = concatenated(rows.map(({ tokens }) => tokens as Tokens));
  return { tokens, countFrom: 0, documentStarts, answers };
}

/**
 * A batch of rows that the caller has cut: each has up to T + 1 tokens, of which the model reads all but the last
 * and predicts all but the first. Shorter rows are filled up, and do not count there.
 *
 * @throws {RangeError} if a row is longer.
 */
export function batchOf(
  rows: readonly ArrayLike<number>[],
  { contextLength: T, padding }: Pick<BatchesOptions, "contextLength" | "padding">,
): Batch {
  const longest = rows.reduce((most, { length }) => Math.max(most, length), 0);
  if (longest > T + 1) {
    throw new RangeError(
      `Cannot make a batch as rows must have at most ${T + 1} tokens: current length is ${longest}`,
    );
  }
  return makeBatch(
    rows.map((row) => ({ tokens: Uint32Array.from(row), countFrom: 0 })),
    { batchSize: rows.length, contextLength: T, padding },
  );
}

/** Up to T + 1 tokens. */
interface Row {
  readonly tokens: Uint16Array | Uint32Array;
  /** The first target that counts. */
  readonly countFrom: number;
  /** Places at which documents begin after the first token, in ascending order; none by default. */
  readonly documentStarts?: readonly number[];
  /** The tokens that are targets, in ascending order; all but the first by default. */
  readonly answers?: readonly Span[];
}

/** Shifts and pads rows; a missing row is all padding. */
function makeBatch(
  rows: readonly Row[],
  { batchSize: B, contextLength: T, padding, documents }:
    & EvaluationOptions
    & Pick<BatchesOptions, "documents">,
): Batch {
  const inputs = new Uint32Array(B * T).fill(padding);
  const targets = new Uint32Array(B * T).fill(IGNORED);
  let counted = 0;
  rows.forEach(({ tokens, countFrom, answers = [{ start: 1, end: tokens.length }] }, b) => {
    const { input, target } = shiftedPair(tokens);
    inputs.set(input, b * T);
    for (const { start, end } of answers) {
      const from = Math.max(countFrom, start - 1), to = Math.min(target.length, end - 1);
      if (from >= to) continue;
      targets.set(target.subarray(from, to), b * T + from);
      counted += to - from;
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
 * Places sorted by value, places of equal values in ascending order. A radix sort is stable and takes a quarter of the
 * time of a sort that compares.
 */
export function placesInOrder(values: Uint32Array): Uint32Array<ArrayBuffer> {
  let from = new Uint32Array(values.length), to = new Uint32Array(values.length);
  for (let i = 0; i < from.length; i++) from[i] = i;
  const greatest = values.reduce((a, b) => Math.max(a, b), 0);
  for (let shift = 0; shift < 32 && greatest >>> shift > 0; shift += 8) {
    const next = new Uint32Array(257); // where the next value with each digit goes
    for (const value of values) next[(value >>> shift & 255) + 1]!++;
    for (let digit = 1; digit < 256; digit++) next[digit]! += next[digit - 1]!;
    for (const place of from) to[next[values[place]! >>> shift & 255]!++] = place;
    [from, to] = [to, from];
  }
  return from;
}

/**
 * The place of element `index` in a pseudo-random order of 0 … n−1, computed without the others: a Feistel
 * network over the next power of four, applied until the result is below n (Black and Rogaway 2002,
 * "Ciphers with Arbitrary Finite Domains").
 */
export function permute(index: number, n: number, ...seed: number[]): number {
  const halfBits = Math.max(1, Math.ceil(Math.log2(n) / 2));
  const mask = 2 ** halfBits - 1;
  let value = index;
  do {
    let left = Math.floor(value / (mask + 1)), right = value & mask;
    for (let round = 0; round < 4; round++) {
      [left, right] = [right, left ^ (hash(...seed, round, right) & mask)];
    }
    value = left * (mask + 1) + right;
  } while (value >= n);
  return value;
}
