import assert from "node:assert/strict";
import { createMerger, Heap, type Merge } from "../../../data/tokenizer/bpe.ts";
import { Random } from "../../../data/random.ts";
import { freshSeed } from "../../seeds.ts";

/** Merges as the definition says: the earliest merge that applies, at the first of its places. */
function mergeNaively(merges: readonly Merge[], tokens: readonly number[]): number[] {
  const merged = [...tokens];
  const rankOf = (left: number, right: number) =>
    merges.findLastIndex((merge) => merge[0] === left && merge[1] === right);
  for (;;) {
    let best = Infinity, at = -1;
    for (let i = 0; i + 1 < merged.length; i++) {
      const rank = rankOf(merged[i]!, merged[i + 1]!);
      if (rank >= 0 && rank < best) [best, at] = [rank, i];
    }
    if (at < 0) return merged;
    merged.splice(at, 2, merges[best]![2]);
  }
}

Deno.test("createMerger() merges as the definition says", () => {
  const seed = freshSeed(), random = new Random(seed);
  for (let round = 0; round < 300; round++) {
    const letters = 1 + random.below(4);
    // merges of any tokens, also of those that a later merge makes
    const count = random.below(20);
    const merges = Array.from({ length: count }, (_, i): Merge => [
      random.below(letters + count),
      random.below(letters + count),
      letters + i,
    ]);
    const merge = createMerger(merges);
    for (let text = 0; text < 10; text++) {
      const tokens = Array.from({ length: random.below(40) }, () => random.below(letters));
      assert.deepEqual(merge(tokens), mergeNaively(merges, tokens), `seed ${seed}`);
    }
  }
});

Deno.test("createMerger() lets the later of two merges for one pair count", () => {
  const merge = createMerger([[0, 1, 3], [1, 2, 4], [0, 1, 3]]);
  assert.deepEqual(merge([0, 1, 2]), [0, 4]);
});

Deno.test("createMerger() merges a hundred thousand tokens without boundary", () => {
  // a with itself, the result with itself, and so on: 2^k letters for every k up to 10
  const merges = Array.from({ length: 10 }, (_, k): Merge => [k, k, k + 1]);
  const merged = createMerger(merges)(new Array(100_003).fill(0));
  const whole = Math.floor(100_003 / 1024);
  assert.deepEqual(merged.slice(0, whole), new Array(whole).fill(10));
  assert.equal(merged.reduce((sum, k) => sum + 2 ** k, 0), 100_003);
});

Deno.test("Heap gives items in order, whatever the order in which they came", () => {
  const seed = freshSeed(), random = new Random(seed);
  for (let round = 0; round < 300; round++) {
    const heap = new Heap<number>((a, b) => a < b), expected: number[] = [];
    for (let i = random.below(40); i > 0; i--) {
      const item = random.below(10);
      heap.push(item);
      expected.push(item);
      if (random.below(3) > 0) continue;
      expected.sort((a, b) => a - b);
      assert.equal(heap.pop(), expected.shift(), `seed ${seed}`);
    }
    expected.sort((a, b) => a - b);
    for (const item of expected) assert.equal(heap.pop(), item, `seed ${seed}`);
    assert.equal(heap.pop(), undefined);
  }
});
