/**
 * The words into which GPT-2 splits a text before it merges bytes.
 *
 * @module
 */

/**
 * GPT-2's pattern (openai/gpt-2, src/encoder.py), where `\s` is Unicode's white space. The words joined are the text.
 */
export const GPT2_WORDS =
  /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;

/** The classes of characters that the pattern distinguishes. */
const LETTER = 1, NUMBER = 2, SPACE = 3, OTHER = 4;

/** Splits UTF-8 as `GPT2_WORDS` splits a text, but faster: bulk tokenization spends its time here. */
export class WordCutter {
  /** u8 [0x110000]: the class of each code point; 0 until it occurs. */
  readonly #classes = new Uint8Array(0x110000);

  /** The end of the word that begins at `start` in valid UTF-8 that ends at `end`. */
  endOfWord(bytes: Uint8Array, start: number, end: number): number {
    const first = bytes[start]!;
    if (first === 0x27) { // an apostrophe
      const length = contraction(bytes, start + 1, end);
      if (length > 0) return start + 1 + length;
    }
    let at = start;
    let kind = this.#classAt(bytes, at);
    if (kind === SPACE) {
      const after = start + widthAt(bytes, start);
      const following = after < end ? this.#classAt(bytes, after) : SPACE;
      if (following === SPACE) return this.#endOfSpace(bytes, start, end);
      if (first !== 0x20) return after; // of white space, only a blank belongs to the word that follows it
      [at, kind] = [after, following];
    }
    do at += widthAt(bytes, at); while (at < end && this.#classAt(bytes, at) === kind);
    return at;
  }

  /** The end of white space of two or more characters; the last belongs to the text that follows, if any. */
  #endOfSpace(bytes: Uint8Array, start: number, end: number): number {
    let at = start, last = start;
    while (at < end && this.#classAt(bytes, at) === SPACE) {
      last = at;
      at += widthAt(bytes, at);
    }
    return at < end ? last : end;
  }

  #classAt(bytes: Uint8Array, at: number): number {
    const first = bytes[at]!;
    const codePoint = first < 0x80 ? first : codePointAt(bytes, at);
    return this.#classes[codePoint] || (this.#classes[codePoint] = classOf(codePoint));
  }
}

function classOf(codePoint: number): number {
  const character = String.fromCodePoint(codePoint);
  if (/\p{L}/u.test(character)) return LETTER;
  if (/\p{N}/u.test(character)) return NUMBER;
  return /\p{White_Space}/u.test(character) ? SPACE : OTHER;
}

/** Bytes of a contraction after its apostrophe, which is s, t, m, d, re, ve or ll; 0 if there is none. */
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

function codePointAt(bytes: Uint8Array, at: number): number {
  const first = bytes[at]!;
  const tail = (i: number) => bytes[at + i]! & 0x3f;
  if (first < 0xe0) return (first & 0x1f) << 6 | tail(1);
  if (first < 0xf0) return (first & 0x0f) << 12 | tail(1) << 6 | tail(2);
  return (first & 0x07) << 18 | tail(1) << 12 | tail(2) << 6 | tail(3);
}

/** Distinct words, numbered in the order in which they are added: a hash table over their bytes. */
export class WordTable {
  /** Words so far. */
  size = 0;
  /** Word number + 1 by slot, found by hash; 0 in free slots, which are at least half. */
  #slots = new Int32Array(2 ** 17);
  /** The bytes of all words, one after the other. */
  #bytes = new Uint8Array(2 ** 20);
  /** The end of each word in `#bytes`. */
  #ends = new Int32Array(2 ** 16);

  /** The number of the word in `bytes` from `start` to `end`, or −1. */
  find(bytes: Uint8Array, start: number, end: number): number {
    return this.#slots[this.#slotOf(bytes, start, end)]! - 1;
  }

  /** Adds a word that `find()` did not find; its number is the old size. */
  add(bytes: Uint8Array, start: number, end: number): void {
    if (2 * (this.size + 1) > this.#slots.length) this.#grow();
    const from = this.#startOf(this.size), to = from + end - start;
    if (to > this.#bytes.length) this.#bytes = larger(this.#bytes, to);
    this.#bytes.set(bytes.subarray(start, end), from);
    this.#ends[this.size] = to;
    const slot = this.#slotOf(bytes, start, end);
    this.#slots[slot] = ++this.size;
  }

  /** The bytes of a word. */
  bytesOf(word: number): Uint8Array {
    return this.#bytes.subarray(this.#startOf(word), this.#ends[word]);
  }

  /** Forgets all words. */
  clear(): void {
    this.size = 0;
    this.#slots.fill(0);
  }

  #startOf(word: number): number {
    return word === 0 ? 0 : this.#ends[word - 1]!;
  }

  /** The slot of a word, or the free slot where it belongs. */
  #slotOf(bytes: Uint8Array, start: number, end: number): number {
    const length = end - start, mask = this.#slots.length - 1;
    let hash = length;
    for (let i = start; i < end; i++) hash = Math.imul(hash ^ bytes[i]!, 0x01000193);
    hash ^= hash >>> 15;
    for (let slot = hash & mask;; slot = (slot + 1) & mask) {
      const word = this.#slots[slot]! - 1;
      if (word < 0) return slot;
      const from = this.#startOf(word);
      if (this.#ends[word]! - from !== length) continue;
      let same = 0;
      while (same < length && this.#bytes[from + same] === bytes[start + same]) same++;
      if (same === length) return slot;
    }
  }

  #grow(): void {
    const count = this.size;
    this.#ends = larger(this.#ends, 2 * this.#ends.length);
    this.#slots = new Int32Array(2 * this.#slots.length);
    for (let word = 0; word < count; word++) {
      this.#slots[this.#slotOf(this.#bytes, this.#startOf(word), this.#ends[word]!)] = word + 1;
    }
  }
}

/** A copy of an array with room for at least `least` elements. */
function larger<A extends Uint8Array<ArrayBuffer> | Int32Array<ArrayBuffer>>(
  array: A,
  least: number,
): A {
  const copy = new (array.constructor as new (length: number) => A)(
    Math.max(2 * array.length, least),
  );
  copy.set(array);
  return copy;
}
