/** Ids of tokens in as few bytes as the vocabulary allows. */
export type Tokens = Uint16Array<ArrayBuffer> | Uint32Array<ArrayBuffer>;

/** Array type for the ids of a vocabulary. */
export function tokensType(
  vocabularySize: number,
): Uint16ArrayConstructor | Uint32ArrayConstructor {
  return vocabularySize <= 2 ** 16 ? Uint16Array : Uint32Array;
}

/** Tokens of documents one after the other, each followed by end-of-text. */
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
  /** Where a document starts among the tokens; for the one after the last, the number of tokens. */
  documentStart(index: number): number;
}

/** A data set whose tokens are in memory. */
export function tokenDataset(
  tokens: Tokens,
  documentStarts: ArrayLike<number> = [0],
): TokenDataset {
  return {
    length: tokens.length,
    documents: documentStarts.length,
    read: (start, end) => tokens.subarray(start, end),
    documentStart: (index) => documentStarts[index] ?? tokens.length,
  };
}

/** The same data set in other ids. */
export function renumbered(dataset: TokenDataset, newIds: Uint32Array): TokenDataset {
  return {
    length: dataset.length,
    documents: dataset.documents,
    read: (start, end) => dataset.read(start, end).map((id) => newIds[id]!) as Tokens,
    documentStart: (index) => dataset.documentStart(index),
  };
}

/** One document in this many is held out for validation. */
const HELD_OUT = 20;

/**
 * Divides a data set: every twentieth document is held out for validation; of fewer than twenty the last
 * one, and of a single document its last twentieth.
 */
export function holdOut(
  dataset: TokenDataset,
): { training: TokenDataset; validation: TokenDataset } {
  const { length, documents } = dataset;
  if (documents === 1) {
    const cut = Math.floor(length * (1 - 1 / HELD_OUT));
    const part = (start: number, end: number): TokenDataset => ({
      length: end - start,
      documents: 1,
      read: (from, to) => dataset.read(start + from, Math.min(end, start + to)),
      documentStart: (index) => index === 0 ? 0 : end - start,
    });
    return { training: part(0, cut), validation: part(cut, length) };
  }
  const every = Math.min(HELD_OUT, documents);
  const training: Run[] = [], validation: Run[] = [];
  for (let first = 0; first < documents; first += every) {
    const last = first + every - 1;
    training.push({ first, end: Math.min(last, documents) });
    if (last < documents) validation.push({ first: last, end: last + 1 });
  }
  return { training: select(dataset, training), validation: select(dataset, validation) };
}

/** Documents that follow each other in a data set: `first` to before `end`. */
interface Run {
  readonly first: number;
  readonly end: number;
}

/** The documents of some runs, all of the same number of documents but the last. */
function select(dataset: TokenDataset, runs: readonly Run[]): TokenDataset {
  const perRun = runs[0]!.end - runs[0]!.first, last = runs.length - 1;
  const starts = Float64Array.from(runs, ({ first }) => dataset.documentStart(first));
  const offsets = new Float64Array(runs.length + 1); // where each run starts among the selected tokens
  runs.forEach(({ end }, i) =>
    offsets[i + 1] = offsets[i]! + dataset.documentStart(end) - starts[i]!
  );
  const length = offsets.at(-1)!;
  return {
    length,
    documents: last * perRun + runs[last]!.end - runs[last]!.first,
    read(start, end) {
      const stop = Math.min(end, length), parts: Tokens[] = [];
      for (let i = runAt(offsets, start); i <= last && offsets[i]! < stop; i++) {
        const from = Math.max(start, offsets[i]!), to = Math.min(stop, offsets[i + 1]!);
        parts.push(dataset.read(starts[i]! + from - offsets[i]!, starts[i]! + to - offsets[i]!));
      }
      return parts.length === 1 ? parts[0]! : concatenated(parts);
    },
    documentStart(index) {
      const i = Math.floor(index / perRun), run = runs[i];
      if (!run || run.first + index % perRun >= run.end) return length;
      return offsets[i]! + dataset.documentStart(run.first + index % perRun) - starts[i]!;
    },
  };
}

/** The last run that starts at a place or before it. */
function runAt(offsets: Float64Array, place: number): number {
  let low = 0, high = offsets.length - 1;
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (offsets[middle]! <= place) low = middle;
    else high = middle - 1;
  }
  return low;
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
