import assert from "node:assert/strict";
import { loadCorpus } from "../../data/tokens/corpus.ts";
import { tokenDataset } from "../../data/tokens/token_dataset.ts";
import { givenPrompt, heldOutPrompt } from "../../train/prompts.ts";
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

Deno.test("heldOutPrompt() and givenPrompt() of conversations end where an answer begins", async () => {
  const chat = byteTokenizer(), tokens = Uint32Array.from(chat.encode("Q:a A:b. Q:c A:d."));
  const training = tokenDataset(tokens, [0, 9], [6, 8, 15, 17]);
  const corpus = { training, validation: training, tokenizer: chat };
  assert.deepEqual([0, 1, 2].map((turn) => heldOutPrompt(corpus, turn)), [
    "Q:a A:",
    "Q:c A:",
    "Q:a A:",
  ]);
  const chatTemplate = "{{ '!' }}{% for m in messages %}Q:{{ m.content }} {% endfor %}" +
    "{% if add_generation_prompt %}A:{% endif %}";
  const begun = { ...chat, chatTemplate, beginOfText: chat.encode("!")[0]! };
  assert.equal(await givenPrompt({ training, tokenizer: begun }, "x"), "Q:x A:");
  const text = { training: tokenDataset(tokens), tokenizer: begun };
  assert.equal(await givenPrompt(text, "x"), "x");
});
