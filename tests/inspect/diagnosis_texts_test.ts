import assert from "node:assert/strict";
import { tokenDataset } from "../../data/tokens/token_dataset.ts";
import type { LoadedModel } from "../../generate/load.ts";
import { answersIn, excerptsOf, textRows } from "../../inspect/diagnosis_texts.ts";

const END = 999_999;

/** A model as far as texts for it depend on it. */
function modelOf(contextLength: number): LoadedModel {
  return { gpt: { config: { contextLength } }, tokenizer: { endOfText: END } } as LoadedModel;
}

const numbered = (length: number) => Uint32Array.from({ length }, (_, i) => i);

Deno.test("textRows() are beginnings of documents that are spread over a data set, up to 1,024 tokens of each of 128", () => {
  const starts = Array.from({ length: 100 }, (_, d) => 200 * d);
  const rows = textRows(tokenDataset(numbered(20_000), starts), modelOf(512));
  assert.equal(rows.length, 8); // 128 tokens each
  for (const [first, second, ...rest] of rows) {
    assert.equal(first, END);
    assert.equal(second! % 200, 0);
    assert.deepEqual(rest, Array.from({ length: 126 }, (_, i) => second! + 1 + i));
  }
  const documents = rows.map(([, second]) => second! / 200);
  assert.deepEqual(documents, [0, 61, 23, 85, 47, 9, 70, 32]); // by the golden ratio
});

Deno.test("textRows() of short documents end with them, and are sixteen at most", () => {
  const starts = Array.from({ length: 40 }, (_, d) => 3 * d);
  const rows = textRows(tokenDataset(numbered(120), starts), modelOf(512));
  assert.equal(rows.length, 16);
  for (const row of rows) assert.deepEqual(row, [END, row[1], row[1]! + 1, row[1]! + 2]);
  const short = textRows(tokenDataset(numbered(120), starts), modelOf(2));
  assert.ok(short.every(({ length }) => length === 2));
});

Deno.test("textRows() of one document are parts of it, none beyond its end", () => {
  const rows = textRows(tokenDataset(numbered(100)), modelOf(32));
  assert.equal(rows.length, 4);
  for (const [, first, ...rest] of rows) {
    assert.deepEqual(rest, Array.from({ length: 30 }, (_, i) => first! + 1 + i));
    assert.ok(first! <= 68);
  }
});

Deno.test("excerptsOf() has parts of a text of the same length", () => {
  const parts = excerptsOf(tokenDataset(numbered(100)), 3, 20);
  assert.deepEqual(parts.map(([first]) => first), [0, 49, 18]);
  for (const part of parts) {
    assert.deepEqual(part, Array.from({ length: 20 }, (_, i) => part[0]! + i));
  }
  assert.deepEqual(excerptsOf(tokenDataset(numbered(5)), 1, 20), [[0, 1, 2, 3, 4]]);
});

Deno.test("answersIn() has what the assistant says in the first conversations", () => {
  const chats = tokenDataset(Uint32Array.of(5, 1, 7, 3, 9, 2, 6), [0, 2, 4], [1, 2, 3, 4, 5, 7]);
  assert.deepEqual(answersIn(chats, 10), [1, 3, 2, 6]);
  assert.deepEqual(answersIn(chats, 3), [1, 3, 2]);
  const long = tokenDataset(numbered(300_000), [0], [1, 300_000]); // more than a call has room for
  assert.deepEqual(answersIn(long, 3), [1, 2, 3]);
});
