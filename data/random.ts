/**
 * A 32-bit hash of a list of counters: a random number that depends on no state and no order.
 *
 * The mixing step is the 32-bit finalizer of MurmurHash3 (Appleby, public domain), whose output
 * changes in half its bits when one bit of the input does.
 */
export function hash(...counters: number[]): number {
  let h = 0x9e3779b9;
  for (const counter of counters) h = mix(h ^ mix((counter >>> 0) + 0x7f4a7c15));
  return h >>> 0;
}

function mix(h: number): number {
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return h ^ (h >>> 16);
}

/**
 * A small seeded generator: sfc32, 128 bits of state, by Chris Doty-Humphrey
 * (https://pracrand.sourceforge.net), which passes PractRand.
 */
export class Random {
  #a: number;
  #b: number;
  #c: number;
  #counter = 1;

  /** Seeds the generator; different lists of seeds give unrelated streams. */
  constructor(...seeds: number[]) {
    this.#a = hash(0, ...seeds);
    this.#b = hash(1, ...seeds);
    this.#c = hash(2, ...seeds);
    for (let i = 0; i < 12; i++) this.next();
  }

  /** The next 32 random bits, as an unsigned integer. */
  next(): number {
    const sum = (this.#a + this.#b + this.#counter) >>> 0;
    this.#counter = (this.#counter + 1) >>> 0;
    this.#a = this.#b ^ (this.#b >>> 9);
    this.#b = (this.#c + (this.#c << 3)) >>> 0;
    this.#c = (((this.#c << 21) | (this.#c >>> 11)) + sum) >>> 0;
    return sum;
  }

  /** A number in [0, 1) with 53 random bits. */
  uniform(): number {
    return ((this.next() >>> 5) * 2 ** 26 + (this.next() >>> 6)) / 2 ** 53;
  }

  /** An integer in [0, n), each with the same probability. */
  below(n: number): number {
    const limit = 2 ** 32 - 2 ** 32 % n; // from there on, low remainders would be more probable
    let draw = this.next();
    while (draw >= limit) draw = this.next();
    return draw % n;
  }
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
