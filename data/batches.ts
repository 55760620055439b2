import { hash } from "./random.ts";
import type { TokenizedText } from "./token_file.ts";

/** A target that the loss does not count. */
export const IGNORED = 0xffffffff;

/** One micro-batch, ready for the device.  M = B · T */
export interface Batch {
  /** u32 [B,T]: what the model reads. */
  readonly inputs: Uint32Array<ArrayBuffer>;
  /** u32 [B,T]: what it should say next; `IGNORED` where that does not count. */
  readonly targets: Uint32Array<ArrayBuffer>;
  /** Targets that count. */
  readonly counted: number;
  /** UTF-8 bytes of the targets that count. */
  readonly bytes: number;
  /** u32 [M]: positions sorted by input token, for the embedding's gradient. */
  readonly order: Uint32Array<ArrayBuffer>;
  /** u32 [M+1]: where the run of each distinct token starts in `order`; unused entries are M. */
  readonly segments: Uint32Array<ArrayBuffer>;
}

/** How a text is cut into batches. */
export interface BatchOptions {
  /** B: rows in a batch. */
  readonly batchSize: number;
  /** T: tokens in a row. */
  readonly contextLength: number;
  /** `packed`: contexts cut from the stream of all documents; `padded`: one document a row. */
  readonly sequence: "packed" | "padded";
  /** Seed of the order. */
  readonly seed: number;
  /** Token that fills up short rows; its targets are ignored. */
  readonly padding: number;
  /** False keeps the order of the text and shows every token once: for evaluation. */
  readonly shuffle: boolean;
  /** UTF-8 bytes that a token stands for; without it `bytes` is 0. */
  readonly byteLength?: (id: number) => number;
}

/**
 * The batches of a training, by number: batch i is a pure function of the text, the options and i, so
 * that a training resumes at any batch without replaying the ones before.
 *
 * An epoch shows every row once, in an order of its own. Rows follow on from epoch to epoch, so that
 * the batch at the end of one is filled up from the next and nothing is ever left out.
 */
export class Batches {
  readonly #text: TokenizedText;
  readonly #options: BatchOptions;
  readonly #rows: number;

  /** @throws {RangeError} if the text is too short for a single row. */
  constructor(text: TokenizedText, options: BatchOptions) {
    this.#text = text;
    this.#options = options;
    const { contextLength: T, sequence, shuffle } = options;
    if (sequence === "padded") {
      this.#rows = text.documentStarts.length;
    } else {
      // shuffled epochs start at different phases and so need one row's length to spare
      const length = text.tokens.length - 1;
      this.#rows = shuffle ? Math.max(1, Math.floor((length - T) / T) + 1) : Math.ceil(length / T);
    }
    if (text.tokens.length < 2 || (shuffle && sequence === "packed" && text.tokens.length <= T)) {
      throw new RangeError(
        `Cannot cut a row of ${T} tokens as the text has only ${text.tokens.length} tokens: ` +
          `use more text, a shorter context, or padded sequences`,
      );
    }
  }

  /** Batches in one pass over the text, the last one counted whole. */
  get perEpoch(): number {
    return Math.ceil(this.#rows / this.#options.batchSize);
  }

  /** Pass over the text, from 0, in which a batch begins. */
  epochOf(index: number): number {
    return Math.floor(index * this.#options.batchSize / this.#rows);
  }

  /** Batch number `index`, from 0, since the beginning of the training. */
  at(index: number): Batch {
    const { batchSize: B, contextLength: T, shuffle, padding, byteLength } = this.#options;
    const inputs = new Uint32Array(B * T).fill(padding);
    const targets = new Uint32Array(B * T).fill(IGNORED);
    for (let b = 0; b < B; b++) {
      const row = index * B + b;
      if (!shuffle && row >= this.#rows) break; // an evaluation shows nothing twice
      const { input, target } = shiftedPair(this.#row(row));
      inputs.set(input, b * T);
      targets.set(target, b * T);
    }
    let counted = 0, bytes = 0;
    for (const target of targets) {
      if (target === IGNORED) continue;
      counted++;
      bytes += byteLength?.(target) ?? 0;
    }
    return { inputs, targets, counted, bytes, ...groupByToken(inputs) };
  }

  /** Up to T + 1 tokens: row number `row` since the beginning of the training. */
  #row(row: number): Uint16Array | Uint32Array {
    const { contextLength: T, sequence, seed, shuffle } = this.#options;
    const { tokens, documentStarts } = this.#text;
    const epoch = Math.floor(row / this.#rows);
    let place = row % this.#rows;
    if (shuffle) place = permute(place, this.#rows, seed, epoch);
    if (sequence === "padded") {
      const start = documentStarts[place]!;
      const end = documentStarts[place + 1] ?? tokens.length;
      return tokens.subarray(start, Math.min(end, start + T + 1));
    }
    // each epoch cuts the stream at another phase, so that contexts begin everywhere
    const spare = tokens.length - 1 - this.#rows * T;
    const phase = shuffle ? hash(seed, epoch, 1) % (spare + 1) : 0;
    return tokens.subarray(phase + place * T, phase + (place + 1) * T + 1);
  }
}

/**
 * The labels are the inputs shifted by one: the model reads all but the last token and should say all
 * but the first. This is the only place that shifts. A model whose labels are its inputs learns to
 * repeat the last word, and tells `time time time` at a loss near zero.
 */
export function shiftedPair<T extends Uint16Array | Uint32Array>(
  row: T,
): { input: T; target: T } {
  return { input: row.subarray(0, -1) as T, target: row.subarray(1) as T };
}

/** Positions sorted by token, equal tokens in the order of the text, and where each run starts. */
function groupByToken(
  tokens: Uint32Array,
): { order: Uint32Array<ArrayBuffer>; segments: Uint32Array<ArrayBuffer> } {
  const M = tokens.length;
  // token and position in one number, so that a plain numeric sort is stable by position
  const keys = Float64Array.from(tokens, (token, position) => token * M + position).sort();
  const order = new Uint32Array(M), segments = new Uint32Array(M + 1).fill(M);
  let runs = 0, previous = -1;
  keys.forEach((key, i) => {
    const token = Math.floor(key / M);
    if (token !== previous) segments[runs++] = i;
    previous = token;
    order[i] = key % M;
  });
  return { order, segments };
}

/**
 * Where element `index` of 0 … n−1 goes in a pseudo-random order of them, without listing the others:
 * a Feistel network over the next power of four, walked until it lands below n (Black and Rogaway
 * 2002, "Ciphers with Arbitrary Finite Domains").
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
