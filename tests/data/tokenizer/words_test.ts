import assert from "node:assert/strict";
import { Random } from "../../../data/random.ts";
import { GPT2_WORDS, WordCutter, WordTable } from "../../../data/tokenizer/words.ts";
import { freshSeed } from "../../seeds.ts";
import { oddText } from "../texts.ts";

const cutter = new WordCutter();

function wordsOf(text: string): string[] {
  const bytes = new TextEncoder().encode(text), words: string[] = [];
  for (let start = 0, end; start < bytes.length; start = end) {
    end = cutter.endOfWord(bytes, start, bytes.length);
    words.push(new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes.subarray(start, end)));
  }
  return words;
}

Deno.test("WordCutter splits as GPT-2's pattern does", () => {
  const seed = freshSeed(), random = new Random(seed);
  for (let round = 0; round < 3000; round++) {
    const text = oddText(random);
    const expected = [...text.match(GPT2_WORDS) ?? []];
    assert.deepEqual(wordsOf(text), expected, `seed ${seed}: ${JSON.stringify(text)}`);
  }
});

Deno.test("WordCutter tells blanks, contractions and characters of four bytes apart", () => {
  assert.deepEqual(wordsOf(""), []);
  assert.deepEqual(wordsOf("  a \n b  "), [" ", " a", " \n", " b", "  "]);
  assert.deepEqual(wordsOf("I'll 'sup 's'"), ["I", "'ll", " '", "sup", " '", "s", "'"]);
  assert.deepEqual(wordsOf("𝒜b𝟙2🦖!\u{1F996}"), ["𝒜b", "𝟙2", "🦖!🦖"]);
});

Deno.test("WordTable numbers distinct words in the order in which they are added", () => {
  const seed = freshSeed(), random = new Random(seed);
  const table = new WordTable(), numbers = new Map<string, number>();
  const encoder = new TextEncoder(), decoder = new TextDecoder();
  for (let round = 0; round < 300_000; round++) {
    const word = random.below(200_000).toString(36), bytes = encoder.encode(`x${word}y`);
    const known = numbers.get(word);
    const found = table.find(bytes, 1, bytes.length - 1);
    assert.equal(found, known ?? -1, `seed ${seed}: ${word}`);
    if (known !== undefined) continue;
    numbers.set(word, table.size);
    table.add(bytes, 1, bytes.length - 1);
  }
  assert.ok(table.size === numbers.size && table.size > 2 ** 16);
  for (const [word, number] of numbers) assert.equal(decoder.decode(table.bytesOf(number)), word);
  const long = new Uint8Array(3_000_000).fill(7);
  table.add(long, 0, long.length);
  assert.deepEqual(table.bytesOf(table.size - 1), long);
  table.clear();
  assert.equal(table.find(long, 0, long.length), -1);
});
