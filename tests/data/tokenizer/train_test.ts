import assert from "node:assert/strict";
import { BYTE_ALPHABET, toByteAlphabet } from "../../../data/tokenizer/byte_level.ts";
import { Random } from "../../../data/random.ts";
import { trainTokenizer } from "../../../data/tokenizer/train.ts";
import { GPT2_WORDS } from "../../../data/tokenizer/pre_tokenizers.ts";
import { freshSeed } from "../../seeds.ts";
import { oddText } from "../texts.ts";

/** Merges found the slow way: every pair of every word is counted anew for each. */
function mergesOf(
  texts: readonly string[],
  { vocabularySize, minFrequency }: { vocabularySize: number; minFrequency: number },
): string[] {
  const tokens = [...BYTE_ALPHABET].sort();
  let words: number[][] = [];
  for (const text of texts) {
    for (const [word] of text.matchAll(GPT2_WORDS)) {
      const spelled = toByteAlphabet(new TextEncoder().encode(word));
      words.push(Array.from(spelled, (character) => tokens.indexOf(character)));
    }
  }
  const merges: string[] = [];
  while (tokens.length + 1 < vocabularySize) {
    const counts = new Map<string, number>();
    for (const word of words) {
      for (let i = 0; i + 1 < word.length; i++) {
        const pair = `${word[i]} ${word[i + 1]}`;
        counts.set(pair, (counts.get(pair) ?? 0) + 1);
      }
    }
    const pairs = [...counts].map(([pair, count]) => {
      const [left, right] = pair.split(" ").map(Number) as [number, number];
      return { left, right, count };
    });
    pairs.sort((a, b) => b.count - a.count || a.left - b.left || a.right - b.right);
    const best = pairs[0];
    if (!best || best.count < minFrequency) break;
    const { left, right } = best;
    merges.push(`${tokens[left]} ${tokens[right]}`);
    const merged = tokens.push(tokens[left]! + tokens[right]!) - 1;
    words = words.map((word) => {
      const shorter: number[] = [];
      for (let i = 0; i < word.length; i++) {
        const pair = word[i] === left && word[i + 1] === right;
        shorter.push(pair ? merged : word[i]!);
        if (pair) i++;
      }
      return shorter;
    });
  }
  return merges;
}

Deno.test("trainTokenizer() merges what occurs most often, ties by ids", async () => {
  const seed = freshSeed(), random = new Random(seed);
  const alphabets = ["ab", "aaab ", "abc  '", "éd日 a", "aab\n\n"];
  for (let round = 0; round < 120; round++) {
    const alphabet = alphabets[round % alphabets.length]!;
    const letters = Array.from(alphabet);
    const texts = Array.from(
      { length: 1 + random.below(4) },
      () =>
        round % 7 === 0 ? oddText(random) : Array.from(
          { length: random.below(80) },
          () => letters[random.below(letters.length)]!,
        ).join(""),
    );
    const options = {
      vocabularySize: 257 + random.below(40),
      minFrequency: 1 + random.below(3),
    };
    const tokenizer = await trainTokenizer(texts, options);
    const where = `seed ${seed}: ${JSON.stringify([texts, options])}`;
    const { model } = JSON.parse(tokenizer.json);
    assert.deepEqual(model.merges, mergesOf(texts, options), where);
    assert.equal(tokenizer.vocabularySize, 257 + model.merges.length, where);
    assert.equal(tokenizer.endOfText, tokenizer.vocabularySize - 1, where);
    for (const text of texts) assert.equal(tokenizer.decode(tokenizer.encode(text)), text, where);
  }
});

Deno.test("trainTokenizer() gives the merges and ids of Hugging Face's trainer", async () => {
  const { texts, tokenizers } = JSON.parse(
    await Deno.readTextFile(new URL("../../golden/tokenizers.json", import.meta.url)),
  );
  const { model } = tokenizers.find(({ name }: { name: string }) => name === "GPT-2").file;
  const stories = texts.slice(-7);
  async function* stream() {
    for (let i = 0; i < 3; i++) yield* stories as string[];
  }
  const vocabularySize = Object.keys(model.vocab).length;
  const heard: number[] = [];
  const tokenizer = await trainTokenizer(stream(), {
    vocabularySize,
    minFrequency: 1,
    onProgress: (done, total) => {
      assert.equal(total, vocabularySize - 1);
      heard.push(done);
    },
  });
  const ours = JSON.parse(tokenizer.json).model;
  assert.deepEqual(ours.merges, model.merges.map((pair: string[]) => pair.join(" ")));
  // there the special token comes first, here it comes last
  for (const [token, id] of Object.entries<number>(model.vocab)) {
    assert.equal(ours.vocab[token], id === 0 ? vocabularySize - 1 : id - 1, token);
  }
  assert.deepEqual(heard, ours.merges.map((_: string, i: number) => 257 + i));
});

Deno.test("trainTokenizer() throws on a vocabulary that does not hold the bytes", async () => {
  for (const vocabularySize of [256, 0, -1, 300.5, NaN]) {
    await assert.rejects(trainTokenizer(["a"], { vocabularySize }), {
      name: "RangeError",
      message: "Cannot train a tokenizer as vocabularySize must be an integer of at least 257: " +
        `current value is ${vocabularySize}`,
    });
  }
  await assert.rejects(trainTokenizer(["a"], { vocabularySize: 300, minFrequency: 0 }), {
    message: "Cannot train a tokenizer as minFrequency must be an integer of at least 1: " +
      "current value is 0",
  });
  assert.equal((await trainTokenizer([], { vocabularySize: 300 })).vocabularySize, 257);
});

Deno.test("trainTokenizer() adds special tokens, which have the last ids", async () => {
  const texts = ["the cat sat on the mat, and the dog sat on the cat"];
  const specialTokens = ["<|im_start|>", "<|im_end|>"];
  const plain = await trainTokenizer(texts, { vocabularySize: 264 });
  const tokenizer = await trainTokenizer(texts, { vocabularySize: 266, specialTokens });
  const { vocabularySize, endOfText } = tokenizer;
  assert.deepEqual([vocabularySize, endOfText], [266, plain.endOfText]);
  assert.deepEqual(tokenizer.encode("<|im_end|>the cat<|im_start|>"), [
    265,
    ...plain.encode("the cat"),
    264,
  ]);
  const text = "<|im_end|>";
  assert.equal(tokenizer.decode(tokenizer.encodeDocument(text)), text);
  assert.ok(tokenizer.encodeDocument(text).length > 1);
  await assert.rejects(trainTokenizer(texts, { vocabularySize: 258, specialTokens }), RangeError);
});
