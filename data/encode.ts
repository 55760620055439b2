/**
 * Byte-pair encoding in bulk: what `Tokenizer.encodeDocument()` gives, from UTF-8 bytes to ids, out of
 * flat tables that all workers share.  A tokenizer of strings and maps takes a hundred megabytes in
 * every worker; this one takes three.
 *
 * @module
 */

/** A byte-level BPE as flat tables in shared memory. */
export interface EncoderTables {
  /** i32 [256]: id of each byte. */
  readonly byteIds: Int32Array;
  /** i32 [slots, 4]: a hash table of merges; left id + 1, right id, rank, merged id. */
  readonly merges: Int32Array;
  /** u8 [0x110000]: class of each code point. */
  readonly classes: Uint8Array;
}

/** What GPT-2's pattern tells apart: ` ?\p{L}+`, ` ?\p{N}+`, white space, and the rest. */
const LETTER = 1, NUMBER = 2, SPACE = 3;

/** What this code reads of a `tokenizer.json`. */
interface TokenizerFile {
  added_tokens?: { content: string }[];
  normalizer?: unknown;
  pre_tokenizer?: { type?: string; add_prefix_space?: boolean; use_regex?: boolean };
  model?: {
    type?: string;
    vocab?: Record<string, number>;
    merges?: (string | [string, string])[];
    dropout?: number | null;
    ignore_merges?: boolean;
    continuing_subword_prefix?: string | null;
    end_of_word_suffix?: string | null;
  };
}

/**
 * The tables of a tokenizer that is a byte-level BPE with GPT-2's way of cutting words; undefined for
 * any other, which its own `encodeDocument()` must then encode.
 */
export function encoderTables(tokenizerJson: string): EncoderTables | undefined {
  const { added_tokens, normalizer, pre_tokenizer, model } = JSON.parse(
    tokenizerJson,
  ) as TokenizerFile;
  const plain = model?.type === "BPE" && !model.dropout && !model.ignore_merges &&
    !model.continuing_subword_prefix && !model.end_of_word_suffix && !normalizer &&
    pre_tokenizer?.type === "ByteLevel" && !pre_tokenizer.add_prefix_space &&
    pre_tokenizer.use_regex !== false && added_tokens?.length === 1;
  if (!plain) return undefined;
  const vocab = new Map(Object.entries(model.vocab ?? {}));
  const merges = model.merges ?? [];

  const byteIds = shared(Int32Array, 256);
  for (const [byte, character] of byteAlphabet().entries()) {
    const id = vocab.get(character);
    if (id === undefined) return undefined;
    byteIds[byte] = id;
  }
  const table = shared(Int32Array, 4 * 2 ** Math.ceil(Math.log2(2 * merges.length + 1)));
  for (const [rank, merge] of merges.entries()) {
    const [left, right] = typeof merge === "string" ? merge.split(" ") as [string, string] : merge;
    const [l, r, merged] = [vocab.get(left), vocab.get(right), vocab.get(left + right)];
    if (l === undefined || r === undefined || merged === undefined) return undefined;
    const slot = slotOf(table, l, r);
    if (table[slot] === 0) table.set([l + 1, r, rank, merged], slot);
  }
  return { byteIds, merges: table, classes: classesOfCodePoints() };
}

function shared<A>(
  Type: { new (buffer: SharedArrayBuffer): A; BYTES_PER_ELEMENT: number },
  length: number,
): A {
  return new Type(new SharedArrayBuffer(length * Type.BYTES_PER_ELEMENT));
}

/** Where a pair stands in the table of merges, or the empty slot where it would. */
function slotOf(table: Int32Array, left: number, right: number): number {
  const mask = table.length / 4 - 1;
  let hash = Math.imul(left, 0x9e3779b1) ^ Math.imul(right, 0x85ebca6b);
  hash ^= hash >>> 15;
  for (let slot = hash & mask;; slot = (slot + 1) & mask) {
    const key = table[4 * slot]!;
    if (key === 0 || (key === left + 1 && table[4 * slot + 1] === right)) return 4 * slot;
  }
}

/** GPT-2 writes each byte as a printable character: bytes that print as they are, others from U+0100. */
function byteAlphabet(): string[] {
  let next = 0x100;
  return Array.from({ length: 256 }, (_, byte) => {
    const printable = byte >= 0x21 && byte <= 0x7e ||
      byte >= 0xa1 && byte <= 0xff && byte !== 0xad;
    return String.fromCharCode(printable ? byte : next++);
  });
}

function classesOfCodePoints(): Uint8Array {
  const classes = shared(Uint8Array, 0x110000);
  const block = 0x1000;
  for (let first = 0; first < classes.length; first += block) {
    if (first >= 0xd800 && first < 0xe000) continue; // surrogates, which UTF-8 has not
    const text = String.fromCodePoint(...Array.from({ length: block }, (_, i) => first + i));
    const width = first < 0x10000 ? 1 : 2; // UTF-16 units a code point
    for (
      const [kind, runs] of [
        [LETTER, /\p{L}+/gu],
        [NUMBER, /\p{N}+/gu],
        [SPACE, /\p{White_Space}+/gu],
      ] as const
    ) {
      for (const { 0: run, index } of text.matchAll(runs)) {
        classes.fill(kind, first + index / width, first + (index + run.length) / width);
      }
    }
  }
  return classes;
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

  readonly #tables: EncoderTables;
  // the remembered words: a hash table of word numbers + 1, and where each one's bytes and ids end
  readonly #slots = new Int32Array(2 * REMEMBERED);
  readonly #byteEnds = new Int32Array(REMEMBERED + 1);
  readonly #idEnds = new Int32Array(REMEMBERED + 1);
  readonly #bytes = new Uint8Array(12 * REMEMBERED);
  readonly #wordIds = new Uint32Array(4 * REMEMBERED);
  #words = 0;
  readonly #merger: Merger;

  constructor(tables: EncoderTables) {
    this.#tables = tables;
    this.#merger = new Merger(tables);
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
   * Appends the ids of the text in `bytes` from `start` to `end`, which must be valid UTF-8.  It is cut
   * into words as GPT-2 does (openai/gpt-2, src/encoder.py): a contraction; letters, digits or other
   * characters, with a space that precedes them; or white space, whose last character is left to what
   * follows.
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
    const { classes } = this.#tables;
    const first = bytes[start]!;
    if (first === 0x27) {
      const length = contraction(bytes, start + 1, end);
      if (length > 0) return start + 1 + length;
    }
    let at = start;
    let kind = classAt(classes, bytes, at);
    if (kind === SPACE) {
      const after = start + widthAt(bytes, start);
      const following = after < end ? classAt(classes, bytes, after) : SPACE;
      if (following === SPACE) return this.#endOfSpace(bytes, start, end);
      if (first !== 0x20) return after; // one that no word takes before it
      at = after;
      kind = following;
    }
    do at += widthAt(bytes, at); while (at < end && classAt(classes, bytes, at) === kind);
    return at;
  }

  /** End of two or more characters of white space, but for the last where the text goes on. */
  #endOfSpace(bytes: Uint8Array, start: number, end: number): number {
    const { classes } = this.#tables;
    let at = start, last = start;
    while (at < end && classAt(classes, bytes, at) === SPACE) {
      last = at;
      at += widthAt(bytes, at);
    }
    return at < end ? last : end;
  }

  #encodeWord(bytes: Uint8Array, start: number, end: number): void {
    const length = end - start;
    if (length > LONGEST_REMEMBERED) {
      const count = this.#merger.merge(bytes, start, end);
      this.ids.set(this.#merger.ids.subarray(0, count), this.length);
      this.length += count;
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
    const count = this.#merger.merge(bytes, start, end);
    for (let i = 0; i < count; i++) this.ids[this.length++] = this.#merger.ids[i]!;
    this.#remember(bytes.subarray(start, end), slot, count);
  }

  /** Remembers the word that was merged last; where there is no room, all others are forgotten. */
  #remember(word: Uint8Array, slot: number, count: number): void {
    const byteEnd = this.#byteEnds[this.#words]!, idEnd = this.#idEnds[this.#words]!;
    if (
      this.#words === REMEMBERED || byteEnd + word.length > this.#bytes.length ||
      idEnd + count > this.#wordIds.length
    ) {
      this.#words = 0;
      this.#slots.fill(0);
      return;
    }
    this.#bytes.set(word, byteEnd);
    for (let i = 0; i < count; i++) this.#wordIds[idEnd + i] = this.#merger.ids[i]!;
    this.#slots[slot] = ++this.#words;
    this.#byteEnds[this.#words] = byteEnd + word.length;
    this.#idEnds[this.#words] = idEnd + count;
  }
}

/** Merges the bytes of single words: the pair of least rank first, of equal ones the leftmost. */
class Merger {
  /** The ids of the last word. */
  ids: Uint32Array = new Uint32Array(0);
  readonly #tables: EncoderTables;
  #next: Int32Array = new Int32Array(0); // place of the part after each one; −1 after the last
  #previous: Int32Array = new Int32Array(0);
  #heap: Float64Array = new Float64Array(0); // rank · 2^32 + place, the least at the top
  #size = 0;

  constructor(tables: EncoderTables) {
    this.#tables = tables;
  }

  /** Merges a word and returns how many ids it has: a heap makes n bytes take n log n steps. */
  merge(bytes: Uint8Array, start: number, end: number): number {
    const { byteIds, merges } = this.#tables;
    const length = end - start;
    if (this.ids.length < length) {
      const room = 2 ** Math.ceil(Math.log2(length));
      this.ids = new Uint32Array(room);
      this.#next = new Int32Array(room);
      this.#previous = new Int32Array(room);
      this.#heap = new Float64Array(3 * room); // each merge removes a part and adds two pairs at most
    }
    const ids = this.ids, next = this.#next, previous = this.#previous;
    for (let i = 0; i < length; i++) {
      ids[i] = byteIds[bytes[start + i]!]!;
      next[i] = i + 1 < length ? i + 1 : -1;
      previous[i] = i - 1;
    }
    this.#size = 0;
    for (let i = 0; i + 1 < length; i++) this.#offer(i);
    while (this.#size > 0) {
      const least = this.#take();
      const rank = Math.floor(least / 2 ** 32), place = least % 2 ** 32;
      const right = next[place]!;
      if (right < 0) continue;
      const slot = slotOf(merges, ids[place]!, ids[right]!);
      // one of the two may have been merged with another since
      if (merges[slot] === 0 || merges[slot + 2] !== rank) continue;
      ids[place] = merges[slot + 3]!;
      next[place] = next[right]!;
      if (next[right]! >= 0) previous[next[right]!] = place;
      next[right] = -1;
      if (previous[place]! >= 0) this.#offer(previous[place]!);
      this.#offer(place);
    }
    let count = 0;
    for (let i = 0; i >= 0; i = next[i]!) ids[count++] = ids[i]!;
    return count;
  }

  /** Puts the pair that begins at a place on the heap, if it can be merged. */
  #offer(place: number): void {
    const right = this.#next[place]!;
    if (right < 0) return;
    const { merges } = this.#tables;
    const slot = slotOf(merges, this.ids[place]!, this.ids[right]!);
    if (merges[slot] === 0) return;
    const value = merges[slot + 2]! * 2 ** 32 + place;
    const heap = this.#heap;
    let at = this.#size++;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (heap[parent]! <= value) break;
      heap[at] = heap[parent]!;
      at = parent;
    }
    heap[at] = value;
  }

  #take(): number {
    const heap = this.#heap;
    const least = heap[0]!, value = heap[--this.#size]!;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= this.#size) break;
      if (child + 1 < this.#size && heap[child + 1]! < heap[child]!) child++;
      if (heap[child]! >= value) break;
      heap[at] = heap[child]!;
      at = child;
    }
    heap[at] = value;
    return least;
  }
}

/** Length of what GPT-2 cuts off behind an apostrophe: s, t, re, ve, m, ll or d; 0 if none follows. */
function contraction(bytes: Uint8Array, at: number, end: number): number {
  if (at >= end) return 0;
  const first = bytes[at]!, second = at + 1 < end ? bytes[at + 1]! : 0;
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
  return classes[first < 0x80 ? first : codePointAt(bytes, at)]!;
}

/** The character that begins at a place of valid UTF-8. */
export function codePointAt(bytes: Uint8Array, at: number): number {
  const first = bytes[at]!;
  const tail = (i: number) => bytes[at + i]! & 0x3f;
  if (first < 0x80) return first;
  if (first < 0xe0) return (first & 0x1f) << 6 | tail(1);
  if (first < 0xf0) return (first & 0x0f) << 12 | tail(1) << 6 | tail(2);
  return (first & 0x07) << 18 | tail(1) << 12 | tail(2) << 6 | tail(3);
}
