import assert from "node:assert/strict";
import {
  attentionTable,
  lensTable,
  neighboursTable,
  percent,
  predictionsTable,
  quotedToken,
} from "../../inspect/tables.ts";
import { likely, tokens, WORDS } from "./views.ts";

/** A prediction of every token after the first, and one after the text. */
const predictions = WORDS.map((_, t) => {
  const next = tokens[t + 1];
  return {
    top: [likely(3, 0.5), likely(1, 0.25), likely(2, 0.125)],
    entropy: 1,
    ...(next ? { next: { ...next, probability: 0.25, rank: 2, loss: Math.log(4) } } : {}),
  };
});
const text = { ids: tokens.map(({ id }) => id), tokens, predictions };

/** The characters of the longest line. */
const widthOf = (table: string) => Math.max(...table.split("\n").map(({ length }) => length));

Deno.test("predictionsTable() has a line per token, and one for what comes next", () => {
  assert.equal(
    predictionsTable(text),
    `token              prob  rank  alternatives
"<|endoftext|>"       —     —
" time"          25.0 %     2  "\\n" 50.0 %, " \\xf0\\x9f" 12.5 %
" \\xf0\\x9f"      25.0 %     2  "\\n" 50.0 %, " time" 25.0 %
"\\n"             25.0 %     2  " time" 25.0 %, " \\xf0\\x9f" 12.5 %
next                  —     —  "\\n" 50.0 %, " time" 25.0 %, " \\xf0\\x9f" 12.5 %

loss 1.386 nats per token
perplexity 4.00
`,
  );
});

Deno.test("tables fit terminals of any width from 40 columns on", () => {
  const weights = tokens.map((_, t) => tokens.map((_, s) => s <= t ? 1 / (t + 1) : 0));
  const neighbours = tokens.map(() => tokens.map((token) => ({ ...token, cosine: 0.5 })));
  for (const width of [40, 60, 80, 200]) {
    const tables = [
      predictionsTable(text, width),
      attentionTable({ tokens, weights }, width),
      neighboursTable({ ...text, neighbours }, width),
      lensTable({ ...text, layers: [predictions, predictions] }, width),
    ];
    for (const table of tables) {
      assert.ok(widthOf(table) <= width, `${width}:\n${table}`);
      if (width === 200) assert.ok(widthOf(table) >= 60, table);
    }
  }
});

Deno.test("attentionTable() sorts by weight and leaves out what has none", () => {
  const weights = [[1, 0, 0, 0], [0.25, 0.75, 0, 0], [0.001, 0, 0.999, 0], [0, 0.5, 0, 0.5]];
  assert.equal(
    attentionTable({ tokens, weights }),
    `#  token            attends to
0  "<|endoftext|>"  100.0 % 0 "<|endoftext|>"
1  " time"          75.0 % 1 " time", 25.0 % 0 "<|endoftext|>"
2  " \\xf0\\x9f"      99.9 % 2 " \\xf0\\x9f"
3  "\\n"             50.0 % 1 " time", 50.0 % 3 "\\n"
`,
  );
});

Deno.test("lensTable() leaves out layers that have no room, never the last", () => {
  const layers = Array.from(
    { length: 13 },
    (_, layer) =>
      predictions.map((prediction) => ({ ...prediction, top: [likely(1, layer / 100)] })),
  );
  const lens = { ...text, layers };
  const shown = (width: number) =>
    lensTable(lens, width).split("\n")[0]!.match(/embedding|layer \d+(, output)?/g);
  assert.deepEqual(shown(Infinity), [
    "embedding",
    ...Array.from({ length: 11 }, (_, layer) => `layer ${layer}`),
    "layer 11, output",
  ]);
  assert.deepEqual(shown(40), ["layer 11, output"]);
  assert.deepEqual(shown(110), ["embedding", "layer 3", "layer 7", "layer 11, output"]);
  assert.match(lensTable(lens, 110), /\n\ncolumns that do not fit: 9 of 13\n$/);
  assert.match(lensTable(lens), /^" time" +" \\xf0\\x9f" +" time" 0 % \(2\) .* 12.0 % \(2\)$/m);
});

Deno.test("quotedToken() escapes what would change a terminal, and cuts long tokens", () => {
  const shown = (text: string) => quotedToken({ id: 0, text, bytes: [] });
  assert.equal(shown("a\x1b[2J\r\n\t"), String.raw`"a\u{1b}[2J\r\n\t"`);
  assert.equal(shown("x".repeat(100)), `"${"x".repeat(24)}…"`);
});

Deno.test("percent() has a digit for small probabilities", () => {
  assert.deepEqual([1, 0.5, 0.0123, 0.0012, 0.00099, 0.000098, 1e-7, 0].map(percent), [
    ..."100.0 %|50.0 %|1.2 %|0.12 %|0.10 %|0.01 %|1e-5 %|0 %".split("|"),
  ]);
});

Deno.test("predictionsTable() has a line for each token of a novel", () => {
  const count = 150_000; // more than a call has room for
  const novel = {
    ids: [],
    tokens: tokens.slice(0, 1),
    predictions: Array(count).fill(predictions[0]),
  };
  assert.ok(predictionsTable(novel).split("\n").length > count);
});
