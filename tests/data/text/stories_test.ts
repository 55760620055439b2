import assert from "node:assert/strict";
import {
  bind,
  type Bindings,
  expectedTokens,
  judgeStory,
  sampleStories,
  separator,
  SEXES,
  STORIES,
  storyEntropy,
  wordsFor,
} from "../../../data/text/stories.ts";
import { gpt2Tokenizer } from "../../../data/tokenizer/tokenizer.ts";
import { freshSeed } from "../../seeds.ts";

const seed = freshSeed();
const stories = sampleStories({ seed, count: 1000 });

/** Every way in which the grammar writes a story, as the natural logarithm of its probability. */
function derivations(text: string): number[] {
  const found: number[] = [];
  for (const story of STORIES) {
    /** Reads a part of a pattern of a sentence at a place of the text, then the rest of the story. */
    const walk =
      (sentence: number, pattern: readonly string[] | undefined, part: number) =>
      (at: number, bindings: Bindings, logP: number): void => {
        const patterns = story[sentence];
        if (!patterns) {
          if (at === text.length) found.push(logP);
        } else if (!pattern) {
          const between = separator(sentence, story.length);
          if (!text.startsWith(between, at)) return;
          for (const one of patterns) {
            walk(sentence, one, 0)(at + between.length, bindings, logP - Math.log(patterns.length));
          }
        } else if (part === pattern.length) {
          walk(sentence + 1, undefined, 0)(at, bindings, logP);
        } else {
          const isSlot = part % 2 === 1, name = pattern[part]!;
          const words = isSlot ? wordsFor(name, bindings) : [name];
          for (const word of words.filter((word) => text.startsWith(word, at))) {
            const next = isSlot ? bind(bindings, name, word) : bindings;
            walk(sentence, pattern, part + 1)(
              at + word.length,
              next,
              logP - Math.log(words.length),
            );
          }
        }
      };
    for (const sex of SEXES) {
      walk(0, undefined, 0)(0, new Map([["sex", sex]]), -Math.log(STORIES.length * SEXES.length));
    }
  }
  return found;
}

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
    Math.abs(mean - storyEntropy()) < 5 * error,
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
    Math.abs(mean - expected) < 5 * error,
    `seed ${seed}: mean ${mean} ± ${error}, expected ${expected}`,
  );
});

Deno.test("STORIES do not derive a text that is no story", () => {
  const story = stories[0]!;
  for (const text of [story.slice(0, -1), `${story} `, story.replace("a", "o"), ""]) {
    assert.deepEqual(derivations(text), []);
  }
});

Deno.test("judgeStory() accepts every sentence of every story", () => {
  for (const story of stories.slice(0, 200)) {
    const { sentences, accepted, namesHero, keepsHero } = judgeStory(story);
    assert.ok(sentences >= 4, story);
    assert.equal(accepted, sentences, story);
    assert.ok(namesHero && keepsHero, story);
  }
});

Deno.test("judgeStory() rejects sentences that the grammar does not write", () => {
  assert.deepEqual(judgeStory("Time time time time. Once upon a time, there was a time."), {
    sentences: 2,
    accepted: 0,
    namesHero: false,
    keepsHero: false,
  });
  const hero = "Once upon a time, there was a shy girl named Lily. Lily sang softly and felt very";
  assert.deepEqual(judgeStory(hero), {
    sentences: 1,
    accepted: 1,
    namesHero: true,
    keepsHero: true,
  });
  assert.equal(judgeStory(hero.replace("girl", "boy")).accepted, 0);
  assert.equal(judgeStory(hero.replace("Lily sang", "Tom sang")).keepsHero, false);
  assert.equal(judgeStory("").sentences, 0);
});

Deno.test("judgeStory() rejects a sentence in which two words are swapped", () => {
  for (const story of stories.slice(0, 200)) {
    // the first two words of the last sentence
    const swapped = story.replace(/\n(\S+) (\S+)(?= [^\n]*$)/, "\n$2 $1");
    assert.notEqual(swapped, story, `seed ${seed}`);
    const { sentences, accepted } = judgeStory(swapped);
    assert.ok(accepted < sentences, swapped);
  }
});

Deno.test("judgeStory() detects that the name of a hero changes", () => {
  let changed = 0;
  for (const story of stories.slice(0, 200)) {
    const hero = /named (\w+)/.exec(story)![1]!;
    const [opening, ...rest] = story.split(hero);
    const later = rest.slice(1);
    if (later.length === 0) continue; // the hero is named once only
    const other = hero === "Lily" ? "Tom" : "Lily";
    const text = [opening, rest[0]].join(hero) + later.map((part) => other + part).join("");
    assert.equal(judgeStory(text).namesHero, true, text);
    assert.equal(judgeStory(text).keepsHero, false, text);
    changed++;
  }
  assert.ok(changed > 0);
});

Deno.test("sampleStories() draws all words of a slot equally often", () => {
  // patterns in which a slot may hold all of its words, and their number
  const slots = [
    { name: "hero", pattern: /named (\w+)/, words: 16 },
    { name: "feeling", pattern: /felt (\w+)\.$/, words: 12 },
    { name: "way", pattern: /went (\w+) to the/, words: 16 },
    { name: "family", pattern: /birthday of \w+ (\w+),/, words: 8 },
  ];
  const many = sampleStories({ seed, count: 8000 });
  for (const { name, pattern, words } of slots) {
    const counts = new Map<string, number>();
    for (const story of many) {
      const word = pattern.exec(story)?.[1];
      if (word) counts.set(word, (counts.get(word) ?? 0) + 1);
    }
    assert.equal(counts.size, words, `seed ${seed}: ${name}`);
    const mean = counts.values().reduce((a, b) => a + b) / words;
    for (const [word, count] of counts) {
      // nearly Poisson: six standard deviations
      assert.ok(
        Math.abs(count - mean) < 6 * Math.sqrt(mean),
        `seed ${seed}: ${name} ${word} ${count} times, mean ${mean}`,
      );
    }
  }
});
