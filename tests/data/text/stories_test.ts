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
  storyBeginnings,
  storyEntropy,
  type StoryRole,
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
    const { sentences, accepted, named: { hero, animal, thing } } = judgeStory(story);
    assert.ok(sentences >= 4, story);
    assert.equal(accepted, sentences, story);
    assert.deepEqual([hero.length, animal.length], [1, 1], story);
    assert.ok(thing.length <= 1, story);
    assert.ok(story.includes(` ${animal[0]}`) && story.includes(hero[0]!), story);
  }
});

Deno.test("judgeStory() rejects sentences that the grammar does not write", () => {
  assert.deepEqual(judgeStory("Time time time time. Once upon a time, there was a time."), {
    sentences: 2,
    accepted: 0,
    named: { hero: [], animal: [], thing: [] },
  });
  const hero = "Once upon a time, there was a shy girl named Lily. Lily sang softly and felt very";
  assert.deepEqual(judgeStory(hero), {
    sentences: 1,
    accepted: 1,
    named: { hero: ["Lily"], animal: [], thing: [] },
  });
  assert.equal(judgeStory(hero.replace("girl", "boy")).accepted, 0);
  assert.deepEqual(judgeStory(hero.replace("Lily sang", "Tom sang")).named.hero, ["Lily", "Tom"]);
  assert.equal(judgeStory("").sentences, 0);
});

Deno.test("judgeStory() counts the sentences that end after a place", () => {
  const [first, second] = ["Once upon a time, there was a shy girl named Lily.", "Lily ate a cat."];
  const count = (from: number) => judgeStory(` ${first}\n${second}`, { from });
  assert.deepEqual([count(0).sentences, count(0).accepted], [2, 1]);
  assert.deepEqual([count(first.length).sentences, count(first.length).accepted], [2, 1]);
  assert.deepEqual([count(first.length + 1).sentences, count(first.length + 1).accepted], [1, 0]);
  assert.equal(count(200).sentences, 0);
  // what a model adds to a sentence that was complete makes it another sentence
  const added = judgeStory(`${first} and so on.`, { from: first.length });
  assert.deepEqual([added.sentences, added.accepted], [1, 0]);
});

Deno.test("storyBeginnings() are parts of stories whose rest names the same hero, animal or thing again", () => {
  const beginnings = storyBeginnings({ seed, count: 60 });
  assert.deepEqual(storyBeginnings({ seed, count: 7 }), beginnings.slice(0, 7));
  for (const [i, { text, rest, kept }] of beginnings.entries()) {
    assert.equal(derivations(text + rest).length, 1, `seed ${seed}: ${text}|${rest}`);
    assert.equal(text, text.trimEnd());
    assert.deepEqual(Object.keys(kept), [["hero"], ["hero", "animal"], ["hero", "thing"]][i % 3]);
    for (const [role, word] of Object.entries(kept)) {
      for (const part of [text, rest]) {
        assert.deepEqual(
          judgeStory(part).named[role as StoryRole],
          [word],
          `seed ${seed}: ${part}`,
        );
      }
    }
    if (i % 3 === 2) assert.ok(rest.startsWith(` ${kept.thing}`), `seed ${seed}: ${rest}`);
    else assert.ok(rest.startsWith("\n"), `seed ${seed}: ${rest}`);
  }
  assert.ok(new Set(beginnings.map(({ kept }) => kept.hero)).size > 8, `seed ${seed}`);
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
    assert.deepEqual(new Set(judgeStory(text).named.hero), new Set([hero, other]), text);
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
