import assert from "node:assert/strict";
import { expectedTokens, sampleStories, storyEntropy } from "../../../data/text/stories.ts";
import { gpt2Tokenizer } from "../../../data/tokenizer/tokenizer.ts";
import { freshSeed } from "../../seeds.ts";
import { derivations } from "./derivations.ts";

const seed = freshSeed();
const stories = sampleStories({ seed, count: 2000 });

/** Standard errors by which an estimate may be off: one in 10¹⁰ fails by chance. */
const ERRORS = 7;

/** Mean and standard error. */
function estimate(values: number[]): { mean: number; error: number } {
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  const variance = values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / (values.length - 1);
  return { mean, error: Math.sqrt(variance / values.length) };
}

Deno.test("sampleStories() writes the same stories for the same seed", () => {
  assert.deepEqual(sampleStories({ seed, count: 20 }), stories.slice(0, 20));
  assert.notDeepEqual(sampleStories({ seed: seed + 1, count: 20 }), stories.slice(0, 20));
});

Deno.test("sampleStories() writes plain ASCII, and a consonant after each article a", () => {
  for (const story of stories) {
    assert.match(story, /^[\n\x20-\x7e]+$/, `seed ${seed}`);
    assert.doesNotMatch(story, /\ba [aeiou]/i, `seed ${seed}`);
  }
});

Deno.test("sampleStories() writes each story in exactly one way", () => {
  for (const story of stories) {
    assert.equal(derivations(story).length, 1, `seed ${seed}: ${story}`);
  }
});

Deno.test("storyEntropy() is the mean of -ln P over stories", () => {
  const { mean, error } = estimate(stories.map((story) => -derivations(story)[0]!));
  assert.ok(
    Math.abs(mean - storyEntropy()) < ERRORS * error,
    `seed ${seed}: mean ${mean} ± ${error}, entropy ${storyEntropy()}`,
  );
});

Deno.test("storyEntropy() is the entropy that is printed in reports and published figures", () => {
  assert.equal(storyEntropy().toFixed(9), "50.076636716");
});

Deno.test("expectedTokens() is the mean number of tokens of a story", async () => {
  const tokenizer = await gpt2Tokenizer();
  const countTokens = (text: string) => tokenizer.encodeDocument(text).length;
  const { mean, error } = estimate(stories.map(countTokens));
  const expected = expectedTokens(countTokens);
  assert.ok(
    Math.abs(mean - expected) < ERRORS * error,
    `seed ${seed}: mean ${mean} ± ${error}, expected ${expected}`,
  );
});

Deno.test("STORIES do not derive a text that is no story", () => {
  const story = stories[0]!;
  for (const text of [story.slice(0, -1), `${story} `, story.replace("a", "o"), ""]) {
    assert.deepEqual(derivations(text), []);
  }
});

Deno.test("sampleStories() draws all words of a slot equally often", () => {
  // patterns in which a slot may hold all of its words, and their number
  const slots = [
    { name: "hero", pattern: /named (\w+)/, words: 16 },
    { name: "feeling", pattern: /felt (\w+)\.$/, words: 12 },
    { name: "way", pattern: /went (\w+) to the/, words: 16 },
    { name: "family", pattern: /birthday of \w+ (\w+),/, words: 8 },
  ];
  const many = sampleStories({ seed, count: 12_000 });
  for (const { name, pattern, words } of slots) {
    const counts = new Map<string, number>();
    for (const story of many) {
      const word = pattern.exec(story)?.[1];
      if (word) counts.set(word, (counts.get(word) ?? 0) + 1);
    }
    assert.equal(counts.size, words, `seed ${seed}: ${name}`);
    const mean = counts.values().reduce((a, b) => a + b) / words;
    for (const [word, count] of counts) {
      // nearly Poisson: a word of any slot fails by chance once in 10¹¹ runs
      assert.ok(
        Math.abs(count - mean) < 7.5 * Math.sqrt(mean),
        `seed ${seed}: ${name} ${word} ${count} times, mean ${mean}`,
      );
    }
  }
});
