import assert from "node:assert/strict";
import { sampleStories } from "../../../data/text/stories.ts";
import { tokenDataset } from "../../../data/tokens/token_dataset.ts";
import {
  compactTokenizer,
  gpt2Tokenizer,
  parseTokenizer,
  type Tokenizer,
} from "../../../data/tokenizer/tokenizer.ts";
import { misfitsOf } from "../../../data/tokens/vocabulary_fit.ts";

const gpt2 = await gpt2Tokenizer();
const stories = sampleStories({ seed: 1, count: 300 });
const compact = await compactTokenizer(gpt2, stories.flatMap((text) => gpt2.encodeDocument(text)));
const other = Array.from(
  { length: 300 },
  (_, i) => `Quarterly revenue of subsidiary ${i} exceeded projections significantly.`,
);

function tokenized(documents: readonly string[], tokenizer: Tokenizer) {
  const ids = documents.flatMap((text) => [...tokenizer.encodeDocument(text), tokenizer.endOfText]);
  return tokenDataset(Uint32Array.from(ids));
}

const misfits = (documents: readonly string[], tokenizer: Tokenizer) =>
  misfitsOf(tokenizer, tokenized(documents, tokenizer), "runs/base");

Deno.test("misfitsOf() says by which factor a text is longer in a vocabulary of another text", async () => {
  const lengthIn = (tokenizer: Tokenizer) => tokenizer.encodeDocument(other.join("")).length;
  const times = lengthIn(compact) / lengthIn(gpt2);
  const [sentence, ...more] = await misfits(other, compact);
  assert.deepEqual(more, []);
  const said =
    /^the text becomes ([\d.]+) times as long in the (\d+) tokens of runs\/base as in GPT-2's 50257: /
      .exec(sentence!);
  assert.ok(Math.abs(Number(said?.[1]) - times) < 0.1 * times, `${sentence}, where it is ${times}`);
  assert.equal(Number(said?.[2]), compact.vocabularySize);
  assert.match(sentence!, /--vocabulary full.*--tokenizer/);
});

Deno.test("misfitsOf() returns no warning if the vocabulary fits", async () => {
  assert.deepEqual(await misfits(stories, compact), []);
  assert.deepEqual(await misfits(other, gpt2), []);
  assert.deepEqual(await misfits([""], compact), []);
});

Deno.test("misfitsOf() names the share of a text that is unknown to the tokenizer", async () => {
  const words = ["[UNK]", "[SEP]", "the", "cat", "sat"];
  const wordPiece = await parseTokenizer(
    JSON.stringify({
      model: {
        ...{ type: "WordPiece", unk_token: "[UNK]", continuing_subword_prefix: "##" },
        max_input_chars_per_word: 100,
        vocab: Object.fromEntries(words.map((word, id) => [word, id])),
      },
      pre_tokenizer: { type: "Whitespace" },
      decoder: { type: "WordPiece", prefix: "##", cleanup: false },
      added_tokens: [0, 1].map((id) => ({ id, content: words[id], special: true })),
    }),
    "tokenizer.json",
    { endOfText: "[SEP]" },
  );
  assert.deepEqual(await misfits(["the cat sat"], wordPiece), []);
  assert.deepEqual(await misfits(["the dog sat", "the cat sat"], wordPiece), [
    "17 % of the text's tokens stand for characters that are unknown to the tokenizer of runs/base: " +
    "it can neither learn nor write them",
  ]);
});
