import assert from "node:assert/strict";
import { Random } from "../../../data/random.ts";
import {
  holdOut,
  renumbered,
  type TokenDataset,
  tokenDataset,
} from "../../../data/tokens/token_dataset.ts";
import { freshSeed } from "../../seeds.ts";

/** Checks that a data set holds these documents, in whatever slices it is read. */
function check(
  dataset: TokenDataset,
  documents: readonly number[][],
  { random, what }: { random: Random; what: string },
): void {
  const all = documents.flat();
  assert.deepEqual([dataset.length, dataset.documents], [all.length, documents.length], what);
  assert.deepEqual([...dataset.read(0, all.length + 5)], all, what);
  for (let i = 0; i < 20; i++) {
    const start = random.below(all.length + 1), end = start + random.below(all.length + 1);
    assert.deepEqual([...dataset.read(start, end)], all.slice(start, end), what);
  }
  let at = 0;
  documents.forEach((document, i) => {
    assert.equal(dataset.documentStart(i), at, what);
    at += document.length;
  });
  assert.equal(dataset.documentStart(documents.length), at, what);
}

function datasetOf(documents: readonly number[][]): TokenDataset {
  let at = 0;
  const starts = documents.map(({ length }) => (at += length) - length);
  return tokenDataset(Uint16Array.from(documents.flat()), starts);
}

Deno.test("holdOut() holds every twentieth document out, the last of fewer, the end of a single one", () => {
  const seed = freshSeed(), random = new Random(seed);
  for (const count of [1, 2, 3, 19, 20, 21, 39, 40, 41, 100, 119]) {
    const documents = Array.from(
      { length: count },
      () => Array.from({ length: 1 + random.below(30) }, () => random.below(1000)),
    );
    if (count === 1) documents[0] = Array.from({ length: 45 }, () => random.below(1000));
    const { training, validation } = holdOut(datasetOf(documents));
    const isHeldOut = (i: number) => i % 20 === Math.min(20, count) - 1;
    const [rest, heldOut] = count === 1
      ? [[documents[0]!.slice(0, 42)], [documents[0]!.slice(42)]]
      : [false, true].map((wanted) => documents.filter((_, i) => isHeldOut(i) === wanted));
    check(training, rest!, { random, what: `training of ${count}, seed ${seed}` });
    check(validation, heldOut!, { random, what: `validation of ${count}, seed ${seed}` });
  }
});

Deno.test("holdOut() and renumbered() keep what the assistant says in conversations", () => {
  const starts = Array.from({ length: 45 }, (_, d) => 10 * d);
  const answers = starts.flatMap((start) => [start + 2, start + 4, start + 6, start + 10]);
  const tokens = Uint16Array.from({ length: 450 }, (_, i) => i);
  const dataset = tokenDataset(tokens, starts, answers);
  const { training, validation } = holdOut(
    renumbered(dataset, Uint32Array.from({ length: 450 }, (_, i) => 7 * i)),
  );
  for (const part of [training, validation]) {
    for (let d = 0; d < part.documents; d++) {
      const start = part.documentStart(d), [id] = part.read(start, start + 1);
      const said = part.answersOf!(d).flatMap(({ start, end }) => [...part.read(start, end)]);
      assert.deepEqual(said, [2, 3, 6, 7, 8, 9].map((place) => id! + 7 * place));
    }
  }
  assert.throws(() => holdOut(tokenDataset(tokens, [0], [2, 4])), {
    name: "UserError",
    message: /^Cannot hold out a conversation for validation as there must be at least two/,
  });
});

Deno.test("renumbered() changes ids and nothing else", () => {
  const other = renumbered(datasetOf([[2, 0, 1], [2]]), Uint32Array.of(7, 8, 9));
  check(other, [[9, 7, 8], [9]], { random: new Random(1), what: "renumbered" });
});
