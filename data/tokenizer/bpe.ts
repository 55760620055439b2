/**
 * Merges tokens until no merge applies. Each step applies the earliest merge of the list, at its first place.
 *
 * For n tokens it takes O(n log n), as a text may have no word boundary. It allocates nothing per word.
 */
export class Merger {
  /** The tokens, before and after they are merged. */
  ids: Int32Array = new Int32Array(0);
  // a linked list of the remaining tokens, by place
  #next: Int32Array = new Int32Array(0);
  #previous: Int32Array = new Int32Array(0);
  readonly #ranks: PairTable;
  readonly #results: Int32Array;
  readonly #queue = new Heap<number>((a, b) => a < b);

  /**
   * Makes a merger.
   *
   * @param merges i32 [merges, 3]: ids of left, right and merged, in the order in which they apply; if a pair has two,
   * the later counts.
   */
  constructor(merges: Int32Array) {
    const count = merges.length / 3;
    this.#ranks = new PairTable(count);
    this.#results = new Int32Array(count);
    for (let rank = 0; rank < count; rank++) {
      this.#ranks.set(merges[3 * rank]!, merges[3 * rank + 1]!, rank);
      this.#results[rank] = merges[3 * rank + 2]!;
    }
  }

  /** Makes room in `ids`, and loses their content. */
  reserve(count: number): void {
    if (this.ids.length >= count) return;
    this.ids = new Int32Array(2 * count);
    this.#next = new Int32Array(2 * count);
    this.#previous = new Int32Array(2 * count);
  }

  /** Merges a list of tokens. */
  mergeAll(tokens: readonly number[]): number[] {
    this.reserve(tokens.length);
    this.ids.set(tokens);
    return [...this.ids.subarray(0, this.merge(tokens.length))];
  }

  /** Merges the first `count` tokens of `ids` in place, and returns the number of tokens that remain. */
  merge(count: number): number {
    const ids = this.ids, next = this.#next, previous = this.#previous;
    const ranks = this.#ranks, results = this.#results, queue = this.#queue;
    const offer = (place: number) => {
      const rank = ranks.get(ids[place]!, ids[next[place]!]!);
      if (rank >= 0) queue.push(rank * PLACES + place);
    };
    for (let place = 0; place < count; place++) {
      next[place] = place + 1;
      previous[place] = place - 1;
    }
    for (let place = 0; place + 1 < count; place++) offer(place);
    for (let key: number | undefined; (key = queue.pop()) !== undefined;) {
      const rank = Math.floor(key / PLACES), place = key % PLACES;
      const second = next[place]!;
      if (ids[place] === GONE || second === count) continue;
      // an earlier merge may have left another pair here
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
    let left = 0;
    for (let place = 0; place < count; place = next[place]!) ids[left++] = ids[place]!;
    return left;
  }
}

const GONE = -1;

/** More places than a word has; rank and place share a number of 53 bits. */
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

  /** The slot of a pair, or the free slot where it belongs. */
  #slot(left: number, right: number): number {
    let hash = Math.imul(left, 0x9e3779b1) ^ Math.imul(right, 0x85ebca6b);
    hash ^= hash >>> 15;
    for (let slot = hash & this.#mask;; slot = (slot + 1) & this.#mask) {
      const taken = this.#left[slot];
      if (taken === -1 || (taken === left && this.#right[slot] === right)) return slot;
    }
  }
}

/** A binary heap, which returns first the item that precedes all others. */
export class Heap<Item> {
  readonly #items: Item[] = [];
  readonly #precedes: (a: Item, b: Item) => boolean;

  /** Makes an empty heap. */
  constructor(precedes: (a: Item, b: Item) => boolean) {
    this.#precedes = precedes;
  }

  /** Adds an item. */
  push(item: Item): void {
    const items = this.#items;
    let at = items.length;
    for (let parent; at > 0 && this.#precedes(item, items[parent = (at - 1) >> 1]!); at = parent) {
      items[at] = items[parent]!;
    }
    items[at] = item;
  }

  /** Takes the first item; undefined if there is none. */
  pop(): Item | undefined {
    const items = this.#items;
    const first = items[0], last = items.pop();
    if (items.length === 0) return last;
    let at = 0;
    for (let child; (child = 2 * at + 1) < items.length; at = child) {
      if (child + 1 < items.length && this.#precedes(items[child + 1]!, items[child]!)) child++;
      if (!this.#precedes(items[child]!, last!)) break;
      items[at] = items[child]!;
    }
    items[at] = last!;
    return first;
  }
}
