import assert from "node:assert/strict";
import { loadCorpus } from "../../data/tokens/corpus.ts";
import { tokenDataset } from "../../data/tokens/token_dataset.ts";
import { heldOutPrompt } from "../../train/prompts.ts";
import { byteTokenizer } from "../generate/models.ts";

const tokenizer = byteTokenizer();

/** A text of these documents. */
function corpusOf(...documents: string[]) {
  const tokens = documents.map((text) => [...tokenizer.encodeDocument(text), tokenizer.endOfText]);
  const starts = tokens.map((_, i) => tokens.slice(0, i).flat().length);
  return { validation: tokenDataset(Uint32Array.from(tokens.flat()), starts), tokenizer };
}

Deno.test("heldOutPrompt() has the first words of a document, at most half of it", () => {
  const cases = [
    ["Once upon a time, there was a bear.", "Once upon a time"],
    ["\n  First Citizen:\nBefore we proceed any further, hear me speak.", "First Citizen"],
    ["12 and 13 are 25.", "12 and"],
    ["emma", ""],
    ["", ""],
    ["one\ttwo\rthree four", "one\ttwo"],
    ["Donaudampfschifffahrtsgesellschaft is a word of German.", "Donaudampf"],
    [
      `Donaudampfschifffahrtsgesellschaft is ${"a long word. ".repeat(9)}`,
      "Donaudampfschifffahrtsgesellschaft is a",
    ],
    ["One day, Tom and his dog went to the lake.", "One day"],
    ["Tom, who had a dog, went to the lake.", "Tom, who had a"],
    ["Is it? It is a question, as you see.", "Is it"],
    ["吾輩は猫である。名前はまだ無い。".repeat(5), "吾輩は猫である。名前"],
    ["😀".repeat(30), "😀".repeat(10)],
  ];
  for (const [text, prompt] of cases) {
    assert.equal(heldOutPrompt(corpusOf(text!, "another"), 0), prompt, text);
  }
});

Deno.test("heldOutPrompt() takes documents in turn", () => {
  const corpus = corpusOf("a cat sat here", "the hat fell down", "no dog ran off");
  assert.deepEqual([0, 1, 2, 3, 4].map((turn) => heldOutPrompt(corpus, turn)), [
    ...["a cat", "the hat", "no dog", "a cat", "the hat"],
  ]);
});

Deno.test("heldOutPrompt() takes whole lines or words of a single document in turn", () => {
  const lines = Array.from({ length: 40 }, (_, i) => `Line ${i} of the whole text, and its end.`);
  const corpus = corpusOf(lines.join("\n"));
  assert.deepEqual([0, 1, 2, 7].map((turn) => heldOutPrompt(corpus, turn)), [
    ...["Line 1 of the", "Line 7 of the", "Line 14 of the", "Line 7 of the"],
  ]);
  assert.equal(
    heldOutPrompt(corpusOf("€".repeat(5) + " word".repeat(300)), 0),
    "word word word word",
  );
  assert.equal(heldOutPrompt(corpusOf("x"), 3), "");
});

Deno.test("heldOutPrompt() fits the built-in stories", async () => {
  const corpus = await loadCorpus({ data: "sample" });
  for (let turn = 0; turn < 20; turn++) {
    assert.match(heldOutPrompt(corpus, turn), /^(Once upon a time|One \w+ \w+)$/);
  }
  corpus.close();
});
