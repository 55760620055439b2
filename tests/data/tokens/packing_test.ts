import assert from "node:assert/strict";
import { Random } from "../../../data/random.ts";
import { packedRows } from "../../../data/tokens/packing.ts";
import { type TokenDataset, tokenDataset } from "../../../data/tokens/token_dataset.ts";
import { freshSeed } from "../../seeds.ts";

/** Conversations, each of answers that begin and end at these places; tokens count up. */
function conversations(...answers: number[][]): TokenDataset {
  const starts: number[] = [], places: number[] = [];
  let length = 0;
  for (const some of answers) {
    starts.push(length);
    places.push(...some.map((place) => length + place));
    length += some.at(-1)! + 1; // a token after the last answer
  }
  return tokenDataset(Uint32Array.from({ length }, (_, i) => i), starts, places);
}

Deno.test("packedRows() keeps whole messages up to the last answer that fits, and counts the rest", () => {
  const dataset = conversations([2, 4, 6, 9], [5, 11], [0, 3], [0, 1, 3, 4], [0, 1]);
  const rows = packedRows(dataset, { rowLength: 8, onePerRow: true });
  assert.deepEqual(rows.conversations, { used: 3, cut: 1, leftOut: 2 });
  const documentStarts = [0];
  assert.deepEqual(Array.from({ length: rows.length }, (_, row) => rows.at(row, 0)), [
    { tokens: Uint32Array.of(0, 1, 2, 3), documentStarts, answers: [{ start: 2, end: 4 }] },
    // the first token of a conversation is no target
    { tokens: Uint32Array.of(22, 23, 24), documentStarts, answers: [{ start: 1, end: 3 }] },
    { tokens: Uint32Array.of(26, 27, 28, 29), documentStarts, answers: [{ start: 3, end: 4 }] },
  ]);
  assert.deepEqual([0, 1, 2].map((row) => rows.targets(row)), [2, 2, 1]);
  assert.throws(() => packedRows(conversations([5, 11]), { rowLength: 8, onePerRow: false }), {
    name: "UserError",
    message:
      "Cannot pack conversations into rows of 8 tokens as the first answer of at least one must " +
      "fit into a row: current number is 0 of 1",
  });
});

Deno.test("packedRows() holds each conversation once, and leaves few places of rows empty", () => {
  const seed = freshSeed(), random = new Random(seed), rowLength = 64;
  const dataset = conversations(
    ...Array.from({ length: 500 }, () => {
      const first = 1 + random.below(30);
      return [first, first + 1 + random.below(20)];
    }),
  );
  const rows = packedRows(dataset, { rowLength, onePerRow: false });
  const all = Array.from({ length: rows.length }, (_, row) => rows.at(row, 0));
  const lengths = all.map(({ tokens }) => tokens.length);
  assert.ok(lengths.every((length) => length <= rowLength), `seed ${seed}`);
  const used = lengths.reduce((sum, length) => sum + length);
  assert.ok(used > 0.95 * rowLength * rows.length, `seed ${seed}: ${used} of ${rows.length} rows`);
  // tokens count up: the first of a conversation is its place
  const starts = all.flatMap(({ tokens, documentStarts }) =>
    documentStarts!.map((at) => tokens[at]!)
  )
    .sort((a, b) => a - b);
  assert.deepEqual(starts, Array.from({ length: 500 }, (_, d) => dataset.documentStart(d)));
  const targets = all.flatMap(({ answers }) => answers!)
    .reduce((sum, { start, end }) => sum + end - start, 0);
  const counted = Array.from({ length: rows.length }, (_, row) => rows.targets(row));
  assert.equal(counted.reduce((sum, count) => sum + count), targets);
});
