import { UserError } from "../../files/user_error.ts";
import { hash, permute } from "../random.ts";
import { type Batch, type BatchLayout, makeBatch, type PackingCounts, type Rows } from "./batch.ts";
import { packedRows } from "./packing.ts";
import { firstIndex, type TokenDataset } from "./token_dataset.ts";

/** How tokens are cut into batches for training. */
export interface BatchesOptions extends BatchLayout {
  /**
   * `packed`: contexts cut from the stream of all documents, or rows of whole conversations; `padded`: one document per
   * row.
   */
  readonly sequence: "packed" | "padded";
  /** Seed of the order. */
  readonly seed: number;
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
  readonly #options: BatchesOptions;
  readonly #rows: Rows;

  /**
   * The batches of a data set.
   *
   * @throws {UserError} if the tokens are too few for a single row; {RangeError} if conversations are joined.
   */
  constructor(dataset: TokenDataset, options: BatchesOptions) {
    this.#options = options;
    this.#rows = rowsOf(dataset, options);
  }

  /** How many conversations the rows hold; undefined if the documents are texts. */
  get conversations(): PackingCounts | undefined {
    return this.#rows.conversations;
  }

  /** Batches per epoch, rounded up. */
  get perEpoch(): number {
    return Math.ceil(this.#rows.length / this.#options.batchSize);
  }

  /** Passes over the data that the batches before number `index` make, such as 1.5: it begins in epoch 1. */
  epochsBefore(index: number): number {
    return index * this.#options.batchSize / this.#rows.length;
  }

  /**
   * Tokens of a row that belong to the document of a token, itself among them, on average over the first batches: T if
   * documents are joined. Attention computes so many pairs per token, half of which the causal mask hides.
   */
  get documentTokens(): number {
    const { batchSize, contextLength: T, documents } = this.#options;
    if (documents !== "apart") return T;
    const count = Math.ceil(MEASURED_TOKENS / (batchSize * T));
    let pairs = 0; // a document of n tokens has n², the sum of 2 · position + 1
    for (let i = 0; i < count; i++) {
      for (const position of this.at(i).positions!) pairs += 2 * position + 1;
    }
    return pairs / (count * batchSize * T);
  }

  /** Batch number `index`, counted from 0 at the beginning of the training. */
  at(index: number): Batch {
    const rows = this.#places(index, 1).map(({ place, epoch }) => this.#rows.at(place, epoch));
    return makeBatch(rows, this.#options);
  }

  /** Number of targets that are not ignored in `count` batches from number `index` on; reads no tokens. */
  counted(index: number, count: number): number {
    return this.#places(index, count)
      .reduce((sum, { place }) => sum + this.#rows.targets(place), 0);
  }

  /** The places of the rows of `count` batches from number `index` on: in each epoch they are in another order. */
  #places(index: number, count: number): { place: number; epoch: number }[] {
    const { batchSize, seed } = this.#options, { length } = this.#rows;
    return Array.from({ length: count * batchSize }, (_, i) => {
      const row = index * batchSize + i, epoch = Math.floor(row / length);
      return { place: permute(row % length, length, seed, epoch), epoch };
    });
  }
}

/** Tokens of the batches whose documents are measured, at least. */
const MEASURED_TOKENS = 2 ** 16;

function rowsOf(dataset: TokenDataset, options: BatchesOptions): Rows {
  const { contextLength: T, sequence, documents = "joined" } = options;
  if (dataset.answersOf) {
    if (documents === "apart") {
      return packedRows(dataset, { rowLength: T + 1, onePerRow: sequence === "padded" });
    }
    throw new RangeError(
      `Cannot make batches of conversations as documents must be "apart": current value is "${documents}"`,
    );
  }
  const least = sequence === "packed" ? T + 1 : 2;
  if (dataset.length < least) {
    throw new UserError(
      `Cannot cut rows of ${T} tokens as the text must have at least ${least} tokens: ` +
        `current number is ${dataset.length}`,
      { hint: "Use more text, a shorter --context-length, or --sequence padded" },
    );
  }
  return sequence === "packed" ? contextRows(dataset, options) : documentRows(dataset, options);
}

/** The beginning of a document per row. */
function documentRows(dataset: TokenDataset, { contextLength: T }: BatchesOptions): Rows {
  const lengthOf = (document: number) =>
    Math.min(T + 1, dataset.documentStart(document + 1) - dataset.documentStart(document));
  return {
    length: dataset.documents,
    targets: (place) => Math.max(0, lengthOf(place) - 1),
    at(place) {
      const start = dataset.documentStart(place);
      return { tokens: dataset.read(start, start + lengthOf(place)) };
    },
  };
}

/** Makes the random numbers of the phase independent of those of the order. */
const PHASE = 0x7068;

/** Contexts cut from the stream of all documents: each epoch cuts it at a random phase, within what the rows leave over. */
function contextRows(
  dataset: TokenDataset,
  { contextLength: T, seed, documents, beginOfText }: BatchesOptions,
): Rows {
  const length = Math.floor((dataset.length - 1) / T), spare = dataset.length - 1 - length * T;
  // without a token that begins it, a document begins with the token that ends the document before it
  const startOf = (document: number) =>
    dataset.documentStart(document) - (beginOfText === undefined ? 1 : 0);
  return {
    length,
    targets: () => T,
    at(place, epoch) {
      const start = place * T + hash(seed, epoch, PHASE) % (spare + 1), end = start + T + 1;
      const tokens = dataset.read(start, end);
      if (documents !== "apart") return { tokens };
      const documentStarts: number[] = [];
      let d = 1 + firstIndex(dataset.documents - 1, (i) => startOf(i + 1) > start);
      for (; d < dataset.documents && startOf(d) < end; d++) {
        documentStarts.push(startOf(d) - start);
      }
      return { tokens, documentStarts };
    },
  };
}
