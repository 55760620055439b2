import assert from "node:assert/strict";
import { Random } from "../../../data/random.ts";
import { Batches, type BatchesOptions } from "../../../data/tokens/batches.ts";
import { type TokenDataset, tokenDataset } from "../../../data/tokens/token_dataset.ts";
import { IGNORED } from "../../../files/ignored.ts";
import { freshSeed } from "../../seeds.ts";
import { CHATS, text } from "./token_texts.ts";

const OPTIONS: BatchesOptions = {
  batchSize: 3,
  contextLength: 4,
  sequence: "packed",
  seed: 7,
  padding: 9,
};

for (const sequence of ["packed", "padded"] as const) {
  Deno.test(`Batches ${sequence} asks for the next token everywhere`, () => {
    const batches = new Batches(text(30, 2, 41, 27), { ...OPTIONS, sequence });
    for (let i = 0; i < 3 * batches.perEpoch; i++) {
      const { inputs, targets, counted } = batches.at(i);
      // tokens count up: a target that is not its input plus one is a lost or doubled shift
      targets.forEach((target, m) => {
        if (target !== IGNORED) assert.equal(target, inputs[m]! + 1);
      });
      assert.equal(counted, targets.filter((t) => t !== IGNORED).length);
      assert.ok(counted > 0);
    }
  });
}

for (const sequence of ["packed", "padded"] as const) {
  Deno.test(`Batches ${sequence} counts the targets of batches without reading them`, () => {
    const source = text(30, 2, 1, 41, 27, 5);
    const batches = new Batches(source, { ...OPTIONS, sequence });
    const blind = new Batches({ ...source, read: assert.fail }, { ...OPTIONS, sequence });
    for (const [index, count] of [[0, 1], [3, 4], [1, 3 * batches.perEpoch]] as const) {
      let counted = 0;
      for (let i = index; i < index + count; i++) counted += batches.at(i).counted;
      assert.equal(blind.counted(index, count), counted);
    }
  });
}

Deno.test("Batches visits every row once per epoch, in an order that depends on epoch and seed", () => {
  const source = text(400);
  const epoch = (seed: number, number: number) => {
    const batches = new Batches(source, { ...OPTIONS, batchSize: 1, seed });
    return Array.from(
      { length: batches.perEpoch },
      (_, i) => batches.at(number * batches.perEpoch + i).inputs[0]!,
    );
  };
  const first = epoch(1, 0);
  assert.equal(new Set(first).size, first.length);
  const places = (starts: number[]) => starts.map((s) => Math.floor((s - Math.min(...starts)) / 4));
  assert.deepEqual(places(first).sort((a, b) => a - b), first.map((_, i) => i));
  assert.notDeepEqual(places(first), places(epoch(1, 1)));
  assert.notDeepEqual(places(first), places(epoch(2, 0)));
});

Deno.test("Batches cuts each epoch at a phase within the tokens that the rows leave over", () => {
  // 23 tokens: five rows of four targets, and two tokens more, by which the rows may be shifted
  const batches = new Batches(text(23), { ...OPTIONS, batchSize: 5 });
  assert.equal(batches.perEpoch, 1);
  const phases = Array.from({ length: 60 }, (_, epoch) => {
    const { inputs, targets } = batches.at(epoch);
    const starts = [0, 1, 2, 3, 4].map((row) => inputs[4 * row]! - 100).sort((a, b) => a - b);
    const phase = starts[0]!;
    assert.deepEqual(starts, [0, 4, 8, 12, 16].map((start) => start + phase));
    assert.ok(targets.every((target) => target < 123), "beyond the text");
    return phase;
  });
  assert.deepEqual(new Set(phases), new Set([0, 1, 2]));
});

Deno.test("Batches rounds the batches per epoch up, and knows the epoch in which a batch begins", () => {
  const batches = new Batches(text(41), OPTIONS); // ten rows, in batches of three
  assert.equal(batches.perEpoch, 4);
  const epochs = [0, 3, 4, 6, 7, 10].map((index) => Math.floor(batches.epochsBefore(index)));
  assert.deepEqual(epochs, [0, 0, 1, 1, 2, 3]);
  assert.deepEqual([0, 5, 10].map((index) => batches.epochsBefore(index)), [0, 1.5, 3]);
  assert.equal(new Batches(text(37), OPTIONS).perEpoch, 3); // nine rows
});

for (const beginOfText of [undefined, 5]) {
  const first = beginOfText === undefined ? "the token before it" : "its first token";
  Deno.test(`Batches gives the positions of documents apart, each of which begins with ${first}`, () => {
    const lengths = [3, 9, 1, 1, 30, 2, 17], source = text(...lengths);
    const begins = new Set(
      lengths.slice(1).map((_, d) => source.documentStart(d + 1) - (beginOfText ? 0 : 1)),
    );
    const apart = new Batches(source, { ...OPTIONS, documents: "apart", beginOfText });
    const joined = new Batches(source, OPTIONS);
    for (let i = 0; i < 3 * apart.perEpoch; i++) {
      const { positions, ...batch } = apart.at(i);
      assert.deepEqual(batch, joined.at(i));
      const expected: number[] = [];
      for (const [m, token] of batch.inputs.entries()) {
        const isFirst = m % 4 === 0 || begins.has(token - 100);
        expected.push(isFirst ? 0 : expected[m - 1]! + 1);
      }
      assert.deepEqual([...positions!], expected);
    }
  });
}

Deno.test("Batches knows how many tokens of a document a row holds on average", () => {
  const source = text(...new Array(20).fill([1, 3, 4]).flat()); // 160 tokens, contexts of which repeat
  const options = { ...OPTIONS, batchSize: 1, contextLength: 8, beginOfText: 5 };
  assert.equal(new Batches(source, options).documentTokens, 8);
  const apart = new Batches(text(...new Array(40).fill(4)), { ...options, documents: "apart" });
  const phases = [4 * 4 + 4 * 4, 1 + 4 * 4 + 3 * 3, 2 * 2 + 4 * 4 + 2 * 2].map((pairs) =>
    pairs / 8
  );
  const { documentTokens } = apart;
  assert.ok(documentTokens > Math.min(...phases) && documentTokens < Math.max(...phases));
  const padded = { ...options, sequence: "padded", documents: "apart" } as const;
  assert.equal(new Batches(text(9, 9, 9), padded).documentTokens, 8);
  assert.equal(new Batches(text(5, 5, 5), padded).documentTokens, (4 * 4 + 4 * 4) / 8);
});

Deno.test("Batches counts positions in padded rows and in their padding from 0", () => {
  const options = { ...OPTIONS, sequence: "padded", documents: "apart" } as const;
  const { inputs, positions } = new Batches(text(3, 9, 1), options).at(0);
  const rows = [0, 4, 8].map((m) => [inputs[m]! - 100, ...positions!.subarray(m, m + 4)]);
  const padding = OPTIONS.padding - 100;
  assert.deepEqual(rows.sort((a, b) => a[0]! - b[0]!), [
    [padding, 0, 1, 2, 3],
    [0, 0, 1, 0, 1],
    [3, 0, 1, 2, 3],
  ]);
});

Deno.test("Batches packs conversations whole, each with positions from 0, and asks for answers alone", () => {
  const options = { ...OPTIONS, batchSize: 2, contextLength: 9, documents: "apart" } as const;
  const batches = new Batches(CHATS, options), _ = IGNORED;
  assert.deepEqual(batches.conversations, { used: 3, cut: 0, leftOut: 0 });
  assert.equal(batches.perEpoch, 1);
  const { inputs, targets, positions, counted } = batches.at(0);
  const rows = [0, 1].map((b) => {
    const row = <T extends Uint32Array>(all: T) => [...all.subarray(9 * b, 9 * b + 9)];
    return [row(inputs), row(targets), row(positions!)];
  }).sort((a, b) => a[0]![0]! - b[0]![0]!);
  assert.deepEqual(rows, [
    [ // the first and the last
      [100, 101, 102, 103, 114, 115, 116, 117, 118],
      [_, 102, 103, _, _, _, 117, 118, 119],
      [0, 1, 2, 3, 0, 1, 2, 3, 4],
    ],
    [
      [105, 106, 107, 108, 109, 110, 111, 9, 9],
      [_, 107, _, _, _, 111, 112, _, _],
      [0, 1, 2, 3, 4, 5, 6, 0, 1],
    ],
  ]);
  assert.equal(counted, 8);
  assert.equal(batches.counted(0, 3), 24);
  const again = Array.from({ length: 8 }, (_, i) => batches.at(i).inputs[0]);
  assert.ok(new Set(again).size > 1, "epochs have different orders");
});

Deno.test("Batches cuts conversations after an answer, and puts one in each row if sequences are padded", () => {
  const options = { ...OPTIONS, contextLength: 5, sequence: "padded", documents: "apart" } as const;
  const batches = new Batches(CHATS, options);
  assert.deepEqual(batches.conversations, { used: 3, cut: 1, leftOut: 0 });
  const targets = [...batches.at(0).targets].filter((target) => target !== IGNORED);
  assert.deepEqual(targets.sort((a, b) => a - b), [102, 103, 107, 117, 118, 119]);
  assert.equal(batches.counted(0, 1), 6);
  assert.throws(() => new Batches(CHATS, { ...options, documents: "joined" }), RangeError);
});

Deno.test("Batches.at() gives the same batch in any order", () => {
  const batches = new Batches(text(101, 50), OPTIONS);
  const forward = Array.from({ length: 40 }, (_, i) => batches.at(i));
  for (let i = 39; i >= 0; i--) assert.deepEqual(batches.at(i), forward[i]);
});

Deno.test("Batches puts one document in each row, truncated or padded, if sequences are padded", () => {
  const batches = new Batches(text(2, 9, 3), { ...OPTIONS, sequence: "padded" });
  const { inputs, targets, counted } = batches.at(0);
  const none = IGNORED;
  const rows = [0, 1, 2].map((b) => [inputs, targets].map((t) => [...t.slice(4 * b, 4 * b + 4)]));
  rows.sort((a, b) => a[0]![0]! - b[0]![0]!);
  assert.deepEqual(rows, [
    [[100, 9, 9, 9], [101, none, none, none]],
    [[102, 103, 104, 105], [103, 104, 105, 106]],
    [[111, 112, 9, 9], [112, 113, none, none]],
  ]);
  assert.equal(counted, 7);
});

Deno.test("Batches sorts positions by token for the embedding's gradient", () => {
  const tokens = Uint32Array.of(3, 5, 3, 3, 5, 1, 3, 0, 0);
  const batches = new Batches(tokenDataset(tokens), {
    ...OPTIONS,
    batchSize: 1,
    contextLength: 8,
  });
  const { inputs, order } = batches.at(0);
  assert.deepEqual([...inputs], [3, 5, 3, 3, 5, 1, 3, 0]);
  assert.deepEqual([...order], [7, 5, 0, 2, 3, 6, 1, 4]);
});

for (const V of [1, 256, 257, 50257, 2 ** 32]) {
  Deno.test(`Batches groups ${V} different tokens as a comparing sort would`, () => {
    const seed = freshSeed(), random = new Random(seed);
    const [batchSize, contextLength] = [7, 29], M = batchSize * contextLength;
    // few of them, so that runs are longer than one
    const some = Array.from({ length: 50 }, () => random.below(V));
    const tokens = Uint32Array.from({ length: M + 1 }, () => some[random.below(50)]!);
    const batches = new Batches(tokenDataset(tokens), {
      ...OPTIONS,
      ...{ batchSize, contextLength },
    });
    const { inputs, order } = batches.at(0);
    const sorted = [...inputs.keys()].sort((a, b) => inputs[a]! - inputs[b]! || a - b);
    assert.deepEqual([...order], sorted, `seed ${seed}`);
  });
}

Deno.test("Batches throws if there are fewer tokens than in a row", () => {
  assert.throws(() => new Batches(text(4), OPTIONS), {
    name: "UserError",
    message: "Cannot cut rows of 4 tokens as the text must have at least 5 tokens: " +
      "current number is 4",
    hint: "Use more text, a shorter --context-length, or --sequence padded",
  });
});

Deno.test("Batches reads rows beyond 2³² tokens", () => {
  const length = 6_000_000_001;
  const tokens = (start: number, end: number) =>
    Uint32Array.from({ length: end - start }, (_, i) => (start + i) % 1_000_000_007);
  const places: number[] = [];
  const source: TokenDataset = {
    ...text(1),
    length,
    read(start, end) {
      places.push(start);
      return tokens(start, end);
    },
  };
  const batches = new Batches(source, { ...OPTIONS, contextLength: 1000 });
  assert.equal(batches.perEpoch, 2_000_000);
  for (const index of [0, 1, 1_999_999, 2_000_000, 123_456_789]) {
    const { inputs } = batches.at(index);
    const expected = places.splice(0).flatMap((start) => [...tokens(start, start + 1000)]);
    assert.deepEqual([...inputs], expected);
  }
  assert.equal(Math.floor(batches.epochsBefore(123_456_789)), 61);
});
