import { Merger } from "./bpe.ts";
import { BYTE_ALPHABET, isGpt2Kind } from "./byte_level.ts";
import { mergedPair, type TokenizerFile } from "./tokenizer_file.ts";
import { WordCutter, WordTable } from "./words.ts";

/**
 * Byte-level BPE of GPT-2's kind, from UTF-8 bytes to ids. Its flat tables are shared by all workers, so that a worker
 * takes a few megabytes of memory; a tokenizer with strings and maps takes a hundred.
 *
 * @module
 */

/** Flat tables of a byte-level BPE, in shared memory. */
export interface EncoderTables {
  /** i32 [256]: id of each byte. */
  readonly byteIds: Int32Array;
  /** i32 [merges, 3]: ids of left, right and merged, in the order in which they are merged. */
  readonly merges: Int32Array;
}

/**
 * The tables that encode whole documents as `Tokenizer.encodeDocument()` does.
 *
 * @returns undefined if the tokenizer is not of GPT-2's kind, or if added tokens are found in documents.
 */
export function encoderTables(tokenizerJson: string): EncoderTables | undefined {
  const file: TokenizerFile = JSON.parse(tokenizerJson);
  return file.added_tokens?.every(({ special }) => special) ?? true ? tablesOf(file) : undefined;
}

/**
 * The tables that encode the text between added tokens.
 *
 * @returns undefined if the tokenizer is not of GPT-2's kind.
 */
export function tablesOf(file: TokenizerFile): EncoderTables | undefined {
  const { vocab, merges: pairs = [] } = file.model;
  if (!isGpt2Kind(file) || typeof vocab !== "object" || Array.isArray(vocab)) return undefined;
  const ids = new Map(Object.entries(vocab as Record<string, number>));
  const byteIds = shared(BYTE_ALPHABET.map((byte) => ids.get(byte)));
  const merges = shared(pairs.flatMap((pair) => {
    const [left, right] = mergedPair(pair);
    return [left, right, left + right].map((token) => ids.get(token));
  }));
  return byteIds && merges && { byteIds, merges };
}

function shared(values: readonly (number | undefined)[]): Int32Array | undefined {
  if (values.includes(undefined)) return undefined;
  const array = new Int32Array(new SharedArrayBuffer(4 * values.length));
  array.set(values as number[]);
  return array;
}

/** Most bytes of a word in the cache. */
const LONGEST_CACHED = 64;

/** Most words in the cache, and most ids of all of them: a few words make up most of any text. */
const CACHED_WORDS = 2 ** 16, CACHED_IDS = 4 * CACHED_WORDS;

/** Capacity of `ids` after a reset. */
const USUAL_IDS = 2 ** 21;

/** Encodes one text after the other, and collects their ids. */
export class Encoder {
  /** The ids so far, in its first `length` elements. */
  ids: Uint32Array<ArrayBuffer> = new Uint32Array(USUAL_IDS);
  /** Ids so far. */
  length = 0;

  readonly #byteIds: Int32Array;
  readonly #merger: Merger;
  readonly #cutter = new WordCutter();
  /** The cache: words, where the ids of each end, and the ids. */
  readonly #words = new WordTable();
  readonly #idEnds = new Int32Array(CACHED_WORDS);
  readonly #wordIds = new Uint32Array(CACHED_IDS);

  constructor({ byteIds, merges }: EncoderTables) {
    this.#byteIds = byteIds;
    this.#merger = new Merger(merges);
  }

  /** Removes all ids, and frees the memory that an unusually long text took. */
  reset(): void {
    this.length = 0;
    if (this.ids.length > USUAL_IDS) this.ids = new Uint32Array(USUAL_IDS);
  }

  /** Appends one id, such as end-of-text. */
  push(id: number): void {
    this.#reserve(1);
    this.ids[this.length++] = id;
  }

  /** Appends the ids of the text in `bytes` from `start` to `end`, which must be valid UTF-8. */
  encode(bytes: Uint8Array, start: number, end: number): void {
    this.#reserve(end - start);
    for (let at = start; at < end;) {
      const next = this.#cutter.endOfWord(bytes, at, end);
      if (next - at > LONGEST_CACHED) this.#mergeWord(bytes, at, next);
      else this.#encodeWord(bytes, at, next);
      at = next;
    }
  }

  #reserve(count: number): void {
    if (this.length + count <= this.ids.length) return;
    const larger = new Uint32Array(Math.max(2 * this.ids.length, this.length + count));
    larger.set(this.ids.subarray(0, this.length));
    this.ids = larger;
  }

  #encodeWord(bytes: Uint8Array, start: number, end: number): void {
    const word = this.#words.find(bytes, start, end);
    if (word < 0) {
      const count = this.#mergeWord(bytes, start, end);
      this.#addToCache(bytes, start, end, count);
      return;
    }
    const idEnd = this.#idEnds[word]!;
    for (let i = word === 0 ? 0 : this.#idEnds[word - 1]!; i < idEnd; i++) {
      this.ids[this.length++] = this.#wordIds[i]!;
    }
  }

  /** Appends a word's ids and returns their number. */
  #mergeWord(bytes: Uint8Array, start: number, end: number): number {
    const merger = this.#merger;
    merger.reserve(end - start);
    for (let i = start; i < end; i++) merger.ids[i - start] = this.#byteIds[bytes[i]!]!;
    const count = merger.merge(end - start);
    for (let i = 0; i < count; i++) this.ids[this.length++] = merger.ids[i]!;
    return count;
  }

  /** Adds the word of the last `count` ids to the cache, which is emptied first if it is full. */
  #addToCache(bytes: Uint8Array, start: number, end: number, count: number): void {
    const words = this.#words;
    let idStart = words.size === 0 ? 0 : this.#idEnds[words.size - 1]!;
    if (words.size === CACHED_WORDS || idStart + count > CACHED_IDS) {
      words.clear();
      idStart = 0;
    }
    this.#wordIds.set(this.ids.subarray(this.length - count, this.length), idStart);
    this.#idEnds[words.size] = idStart + count;
    words.add(bytes, start, end);
  }
}
