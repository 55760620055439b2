/** A merge of two tokens, by ids. */
export type Merge = readonly [left: number, right: number, merged: number];

/** A pair of ids as one number, by which maps find it. */
export function pairKey(left: number, right: number): number {
  return left * IDS + right;
}

/** The ids of a pair. */
export function pairOf(key: number): [left: number, right: number] {
  return [Math.floor(key / IDS), key % IDS];
}

/** More ids than there are; two share a number of 53 bits. */
const IDS = 2 ** 24;

/** More places than a word has; rank and place share a number of 53 bits. */
const PLACES = 2 ** 31;

const GONE = -1;

/**
 * Makes the function that merges tokens until no merge applies. Each step applies the earliest merge of the list, at its
 * first place. For n tokens it takes O(n log n), as a text may have no word boundary.
 *
 * @param merges in the order in which they apply; if a pair has two, the later counts.
 */
export function createMerger(
  merges: readonly Merge[],
): (tokens: readonly number[]) => number[] {
  const ranks = new Map(merges.map(([left, right], rank) => [pairKey(left, right), rank]));
  return (tokens) => {
    const ids = Int32Array.from(tokens), count = ids.length;
    // a linked list of the remaining tokens, by place
    const next = ids.map((_, place) => place + 1), previous = ids.map((_, place) => place - 1);
    const queue = new Heap<number>((a, b) => a < b);
    const rankAt = (place: number) => ranks.get(pairKey(ids[place]!, ids[next[place]!]!));
    const offer = (place: number) => {
      const rank = rankAt(place);
      if (rank !== undefined) queue.push(rank * PLACES + place);
    };
    for (let place = 0; place + 1 < count; place++) offer(place);
    for (let key: number | undefined; (key = queue.pop()) !== undefined;) {
      const [, , merged] = merges[Math.floor(key / PLACES)]!, place = key % PLACES;
      const second = next[place]!;
      if (ids[place] === GONE || second === count) continue;
      // an earlier merge may have left another pair here
      const now = rankAt(place);
      if (now === undefined || merges[now]![2] !== merged) continue;
      ids[place] = merged;
      ids[second] = GONE;
      const after = next[place] = next[second]!;
      if (after < count) {
        previous[after] = place;
        offer(place);
      }
      if (place > 0) offer(previous[place]!);
    }
    return [...ids.filter((id) => id !== GONE)];
  };
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
