import assert from "node:assert/strict";
import { sampleStories } from "../../data/text/stories.ts";
import { judgeStory, storyBeginnings, type StoryRole } from "../../inspect/story_judge.ts";
import { derivations } from "../data/text/derivations.ts";
import { freshSeed } from "../seeds.ts";

const seed = freshSeed();
const stories = sampleStories({ seed, count: 200 });

Deno.test("judgeStory() accepts every sentence of every story", () => {
  for (const story of stories) {
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
  for (const story of stories) {
    // the first two words of the last sentence
    const swapped = story.replace(/\n(\S+) (\S+)(?= [^\n]*$)/, "\n$2 $1");
    assert.notEqual(swapped, story, `seed ${seed}`);
    const { sentences, accepted } = judgeStory(swapped);
    assert.ok(accepted < sentences, swapped);
  }
});

Deno.test("judgeStory() detects that the name of a hero changes", () => {
  let changed = 0;
  for (const story of stories) {
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
