/** A merge of byte-pair encoding, in ids: two tokens side by side become one. */
export interface Merge {
  /** Id of the first token. */
  readonly left: number;
  /** Id of the second token. */
  readonly right: number;
  /** Id of the token that they become. */
  readonly merged: number;
}

/**
 * Makes the function that merges tokens until no merge applies: always the earliest of the list, and of
 * its places the first.
 *
 * It takes O(n log n) for n tokens, so that a text without any boundary is no trap.
 *
 * @param merges in the order in which they apply; of two for one pair, the later counts.
 */
export function createMerger(merges: readonly Merge[]): (tokens: readonly number[]) => number[] {
  const ranks = new PairTable(merges.length);
  merges.forEach(({ left, right }, rank) => ranks.set(left, right, rank));
  const results = Uint32Array.from(merges, ({ merged }) => merged);
  const queue = new MinHeap();
  // a list of the tokens that are left, linked by place; kept, as most words are short
  let ids = new Int32Array(0), next = ids, previous = ids;

  return (tokens) => {
    const count = tokens.length;
    if (count < 2) return [...tokens];
    if (ids.length < count) {
      [ids, next, previous] = [1, 2, 3].map(() => new Int32Array(2 * count)) as [
        typeof ids,
        typeof ids,
        typeof ids,
      ];
    }
    for (let place = 0; place < count; place++) {
      ids[place] = tokens[place]!;
      next[place] = place + 1;
      previous[place] = place - 1;
    }

    const offer = (place: number) => {
      const rank = ranks.get(ids[place]!, ids[next[place]!]!);
      if (rank >= 0) queue.push(rank * PLACES + place);
    };
    for (let place = 0; place + 1 < count; place++) offer(place);
    while (queue.size > 0) {
      const key = queue.pop();
      const rank = Math.floor(key / PLACES), place = key % PLACES;
      const second = next[place]!;
      if (ids[place] === GONE || second === count) continue;
      // another merge may have come first and left another pair here
      const now = ranks.get(ids[place]!, ids[second]!);
      if (now < 0 || results[now] !== results[rank]) continue;

      ids[place] = results[rank]!;
      ids[second] = GONE;
      const after = next[second]!;
      next[place] = after;
      if (after < count) {
        previous[after] = place;
        offer(place);
      }
      if (place > 0) offer(previous[place]!);
    }
    const merged: number[] = [];
    for (let place = 0; place < count; place = next[place]!) merged.push(ids[place]!);
    return merged;
  };
}

const GONE = -1;

/** More places than a word has: rank and place share a number of 53 bits. */
const PLACES = 2 ** 31;

/** The ranks of pairs of ids: a hash table with open addressing. */
class PairTable {
  readonly #mask: number;
  readonly #left: Int32Array;
  readonly #right: Int32Array;
  readonly #rank: Int32Array;

  constructor(pairs: number) {
    const slots = 2 ** Math.ceil(Math.log2(2 * pairs + 1));
    this.#mask = slots - 1;
    this.#left = new Int32Array(slots).fill(-1);
    this.#right = new Int32Array(slots);
    this.#rank = new Int32Array(slots);
  }

  set(left: number, right: number, rank: number): void {
    const slot = this.#slot(left, right);
    this.#left[slot] = left;
    this.#right[slot] = right;
    this.#rank[slot] = rank;
  }

  /** The rank of a pair, or −1. */
  get(left: number, right: number): number {
    const slot = this.#slot(left, right);
    return this.#left[slot] === left ? this.#rank[slot]! : -1;
  }

  /** Where a pair is, or would be. */
  #slot(left: number, right: number): number {
    let hash = Math.imul(left, 0x9e3779b1) ^ Math.imul(right, 0x85ebca6b);
    hash ^= hash >>> 15;
    for (let slot = hash & this.#mask;; slot = (slot + 1) & this.#mask) {
      const taken = this.#left[slot];
      if (taken === -1 || (taken === left && this.#right[slot] === right)) return slot;
    }
  }
}

/** A binary heap of numbers. */
class MinHeap {
  readonly #items: number[] = [];

  get size(): number {
    return this.#items.length;
  }

  push(item: number): void {
    const items = this.#items;
    let at = items.length;
    for (let parent; at > 0 && items[parent = (at - 1) >> 1]! > item; at = parent) {
      items[at] = items[parent]!;
    }
    items[at] = item;
  }

  pop(): number {
    const items = this.#items;
    const least = items[0]!, last = items.pop()!;
    const size = items.length;
    if (size === 0) return least;
    let at = 0;
    for (let child; (child = 2 * at + 1) < size; at = child) {
      if (child + 1 < size && items[child + 1]! < items[child]!) child++;
      if (items[child]! >= last) break;
      items[at] = items[child]!;
    }
    items[at] = last;
    return least;
  }
}
