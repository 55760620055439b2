import assert from "node:assert/strict";
import { Random } from "../../../data/random.ts";
import { gpt2Words } from "../../../data/tokenizer/words.ts";
import { freshSeed } from "../../seeds.ts";
import { oddText } from "../texts.ts";

/** GPT-2's pattern as it was published, but with Unicode's white space: JavaScript's differs. */
const WORDS =
  /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;

function wordsOf(text: string): string[] {
  const words: string[] = [];
  gpt2Words(text, (word) => words.push(word));
  return words;
}

Deno.test("gpt2Words() cuts as GPT-2's pattern does", () => {
  const seed = freshSeed(), random = new Random(seed);
  for (let round = 0; round < 3000; round++) {
    const text = oddText(random);
    const expected = [...text.match(WORDS) ?? []];
    assert.deepEqual(wordsOf(text), expected, `seed ${seed}: ${JSON.stringify(text)}`);
  }
});

Deno.test("gpt2Words() tells blanks, contractions and surrogate pairs apart", () => {
  assert.deepEqual(wordsOf(""), []);
  assert.deepEqual(wordsOf("  a \n b  "), [" ", " a", " \n", " b", "  "]);
  assert.deepEqual(wordsOf("I'll 'sup 's'"), ["I", "'ll", " '", "sup", " '", "s", "'"]);
  assert.deepEqual(wordsOf("𝒜b𝟙2🦖!\u{1F996}"), ["𝒜b", "𝟙2", "🦖!🦖"]);
});
