import { Merger } from "./bpe.ts";
import { BYTE_ALPHABET } from "./byte_alphabet.ts";
import { mergedPair, type TokenizerFile } from "./tokenizer_file.ts";
import { classOf, SPACE } from "./words.ts";

/**
 * Byte-level BPE in bulk: the ids that `Tokenizer.encodeDocument()` gives, straight from UTF-8 bytes, out
 * of flat tables that all workers share. So a worker takes some megabytes of memory, where the tokenizer
 * with its strings and maps takes a hundred, and is several times as fast.
 *
 * @module
 */

/** A byte-level BPE as flat tables in shared memory. */
export interface EncoderTables {
  /** i32 [256]: id of each byte. */
  readonly byteIds: Int32Array;
  /** i32 [merges, 3]: ids of left, right and merged, in the order in which they are merged. */
  readonly merges: Int32Array;
}

/**
 * The tables of a tokenizer that is a byte-level BPE with GPT-2's way of cutting words; undefined for
 * any other, which its own `encodeDocument()` must then encode.
 */
export function encoderTables(tokenizerJson: string): EncoderTables | undefined {
  const file: TokenizerFile = JSON.parse(tokenizerJson);
  const { model, normalizer, pre_tokenizer: words, added_tokens: added = [] } = file;
  const { vocab, merges: pairs = [] } = model;
  const plain = model.type === "BPE" && !model.dropout && !model.continuing_subword_prefix &&
    !model.end_of_word_suffix && !model.ignore_merges && !normalizer &&
    words?.type === "ByteLevel" && !words.add_prefix_space && words.use_regex !== false &&
    added.every(({ special }) => special);
  if (!plain || typeof vocab !== "object" || Array.isArray(vocab)) return undefined;
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

/** Words up to this many bytes are remembered. */
const LONGEST_REMEMBERED = 64;

/** Words that are remembered; a few make up most of any text. */
const REMEMBERED = 2 ** 16;

/** Ids for which there is room from the beginning. */
const USUAL_IDS = 2 ** 21;

/** Encodes texts one after the other; the ids gather in `ids`. */
export class Encoder {
  /** The ids so far, in its first `length` elements. */
  ids: Uint32Array<ArrayBuffer> = new Uint32Array(USUAL_IDS);
  /** Ids so far. */
  length = 0;

  readonly #byteIds: Int32Array;
  /** u8 [0x110000]: the class of each code point, filled in as they occur. */
  readonly #classes = new Uint8Array(0x110000);
  readonly #merger: Merger;
  // the remembered words: a hash table of word numbers + 1, and where each one's bytes and ids end
  readonly #slots = new Int32Array(2 * REMEMBERED);
  readonly #byteEnds = new Int32Array(REMEMBERED + 1);
  readonly #idEnds = new Int32Array(REMEMBERED + 1);
  readonly #bytes = new Uint8Array(12 * REMEMBERED);
  readonly #wordIds = new Uint32Array(4 * REMEMBERED);
  #words = 0;

  constructor({ byteIds, merges }: EncoderTables) {
    this.#byteIds = byteIds;
    this.#merger = new Merger(merges);
  }

  /** Forgets the ids so far, and gives back the room that only an unusual text needs. */
  reset(): void {
    this.length = 0;
    if (this.ids.length > USUAL_IDS) this.ids = new Uint32Array(USUAL_IDS);
  }

  /** Appends one id, such as end-of-text. */
  push(id: number): void {
    this.#reserve(1);
    this.ids[this.length++] = id;
  }

  /**
   * Appends the ids of the text in `bytes` from `start` to `end`, which must be valid UTF-8. It is cut
   * into words as `gpt2Words()` does.
   */
  encode(bytes: Uint8Array, start: number, end: number): void {
    this.#reserve(end - start);
    for (let at = start; at < end;) {
      const next = this.#endOfWord(bytes, at, end);
      this.#encodeWord(bytes, at, next);
      at = next;
    }
  }

  #reserve(count: number): void {
    if (this.length + count <= this.ids.length) return;
    const larger = new Uint32Array(Math.max(2 * this.ids.length, this.length + count));
    larger.set(this.ids.subarray(0, this.length));
    this.ids = larger;
  }

  #endOfWord(bytes: Uint8Array, start: number, end: number): number {
    const classes = this.#classes;
    const first = bytes[start]!;
    if (first === 0x27) { // an apostrophe
      const length = contraction(bytes, start + 1, end);
      if (length > 0) return start + 1 + length;
    }
    let at = start;
    let kind = classAt(classes, bytes, at);
    if (kind === SPACE) {
      const after = start + widthAt(bytes, start);
      const following = after < end ? classAt(classes, bytes, after) : SPACE;
      if (following === SPACE) return this.#endOfSpace(bytes, start, end);
      if (first !== 0x20) return after; // only a blank belongs to the word behind it
      [at, kind] = [after, following];
    }
    do at += widthAt(bytes, at); while (at < end && classAt(classes, bytes, at) === kind);
    return at;
  }

  /** End of two or more characters of white space, but for the last where the text continues. */
  #endOfSpace(bytes: Uint8Array, start: number, end: number): number {
    let at = start, last = start;
    while (at < end && classAt(this.#classes, bytes, at) === SPACE) {
      last = at;
      at += widthAt(bytes, at);
    }
    return at < end ? last : end;
  }

  #encodeWord(bytes: Uint8Array, start: number, end: number): void {
    const length = end - start;
    if (length > LONGEST_REMEMBERED) {
      this.#mergeWord(bytes, start, end);
      return;
    }
    let hash = length;
    for (let i = start; i < end; i++) hash = Math.imul(hash ^ bytes[i]!, 0x01000193);
    hash ^= hash >>> 15;
    const mask = this.#slots.length - 1;
    let slot = hash & mask;
    for (; this.#slots[slot] !== 0; slot = (slot + 1) & mask) {
      const word = this.#slots[slot]! - 1;
      const from = this.#byteEnds[word]!;
      if (this.#byteEnds[word + 1]! - from !== length) continue;
      let same = 0;
      while (same < length && this.#bytes[from + same] === bytes[start + same]) same++;
      if (same < length) continue;
      for (let i = this.#idEnds[word]!; i < this.#idEnds[word + 1]!; i++) {
        this.ids[this.length++] = this.#wordIds[i]!;
      }
      return;
    }
    const count = this.#mergeWord(bytes, start, end);
    this.#remember(bytes.subarray(start, end), slot, count);
  }

  /** Appends a word's ids and returns how many they are. */
  #mergeWord(bytes: Uint8Array, start: number, end: number): number {
    const merger = this.#merger;
    merger.reserve(end - start);
    for (let i = start; i < end; i++) merger.ids[i - start] = this.#byteIds[bytes[i]!]!;
    const count = merger.merge(end - start);
    for (let i = 0; i < count; i++) this.ids[this.length++] = merger.ids[i]!;
    return count;
  }

  /** Remembers the word of the last `count` ids; where there is no room, all are forgotten. */
  #remember(word: Uint8Array, slot: number, count: number): void {
    const byteEnd = this.#byteEnds[this.#words]! + word.length;
    const idEnd = this.#idEnds[this.#words]! + count;
    if (
      this.#words === REMEMBERED || byteEnd > this.#bytes.length || idEnd > this.#wordIds.length
    ) {
      this.#words = 0;
      this.#slots.fill(0);
      return;
    }
    this.#bytes.set(word, byteEnd - word.length);
    this.#wordIds.set(this.ids.subarray(this.length - count, this.length), idEnd - count);
    this.#slots[slot] = ++this.#words;
    this.#byteEnds[this.#words] = byteEnd;
    this.#idEnds[this.#words] = idEnd;
  }
}

/** Length of what is cut off behind an apostrophe: s, t, m, d, re, ve or ll; 0 if none follows. */
function contraction(bytes: Uint8Array, at: number, end: number): number {
  const first = at < end ? bytes[at] : 0, second = at + 1 < end ? bytes[at + 1] : 0;
  if (first === 0x73 || first === 0x74 || first === 0x6d || first === 0x64) return 1; // s t m d
  if (second === 0x65 && (first === 0x72 || first === 0x76)) return 2; // re ve
  return first === 0x6c && second === 0x6c ? 2 : 0; // ll
}

/** Bytes of the character that begins at a place. */
function widthAt(bytes: Uint8Array, at: number): number {
  const first = bytes[at]!;
  return first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
}

function classAt(classes: Uint8Array, bytes: Uint8Array, at: number): number {
  const first = bytes[at]!;
  const codePoint = first < 0x80 ? first : codePointAt(bytes, at);
  return classes[codePoint] || (classes[codePoint] = classOf(codePoint));
}

function codePointAt(bytes: Uint8Array, at: number): number {
  const first = bytes[at]!;
  const tail = (i: number) => bytes[at + i]! & 0x3f;
  if (first < 0xe0) return (first & 0x1f) << 6 | tail(1);
  if (first < 0xf0) return (first & 0x0f) << 12 | tail(1) << 6 | tail(2);
  return (first & 0x07) << 18 | tail(1) << 12 | tail(2) << 6 | tail(3);
}
