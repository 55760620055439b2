import {
  drawStory,
  KEPT_SLOTS,
  type Pattern,
  SEXES,
  STORIES,
  wordsFor,
} from "../data/text/stories.ts";
import { Random } from "../data/random.ts";

/**
 * Beginnings of the built-in stories for a model to continue, and how well a text follows their grammar.
 *
 * @module
 */

/** A slot of the grammar that names a subject of the story. */
export type StoryRole = "hero" | "animal" | "thing";

/** All roles. */
export const STORY_ROLES: readonly StoryRole[] = ["hero", "animal", "thing"];

/** A story of the grammar in two parts. A model continues the first one. */
export interface Beginning {
  /** The beginning, without white space at its end. */
  readonly text: string;
  /** The rest of the story. */
  readonly rest: string;
  /** The words of the beginning that the rest names again. */
  readonly kept: Readonly<Partial<Record<StoryRole, string>>>;
}

/**
 * Beginnings of stories, in turn of three kinds: an opening, which names the hero; a story without its ending, which
 * also names the animal; and a story up to the place where its thing is named again.
 *
 * @returns `count` beginnings, the same for the same seed.
 */
export function storyBeginnings({ seed, count }: { seed: number; count: number }): Beginning[] {
  const random = new Random(seed);
  return Array.from({ length: count }, (_, i) => {
    const role = STORY_ROLES[i % STORY_ROLES.length]!;
    for (;;) {
      const { sentences, bindings } = drawStory(random), story = sentences.join("");
      const hero = bindings.get("hero")!, word = bindings.get(role);
      const again = story.lastIndexOf(` ${word}`);
      const isNamedAgain = word !== undefined && again > story.indexOf(` ${word}`);
      if (role === "thing" && !isNamedAgain) continue; // of 24 stories one names its thing twice
      const text = {
        hero: sentences[0]!,
        animal: sentences.slice(0, -1).join(""),
        thing: story.slice(0, again),
      }[role];
      return { text, rest: story.slice(text.length), kept: { hero, [role]: word } };
    }
  });
}

/** How well a text follows the grammar. */
export interface Judgement {
  /** Whole sentences in the text. */
  sentences: number;
  /** Sentences that the grammar can write, each judged alone. */
  accepted: number;
  /** The heroes, animals and things that the text names, each once. A story of the grammar names at most one each. */
  named: Readonly<Record<StoryRole, readonly string[]>>;
}

/** A sentence ends at a mark, perhaps in quotes, before a space and a capital letter or a quote. */
const SENTENCE_END = /(?<=[.?!]"?)\s+(?=["A-Z])/;

/**
 * Judges a text by the grammar; an unfinished last sentence is not counted.
 *
 * @param options.from index of the first character that is judged: sentences that end before it do not count.
 */
export function judgeStory(text: string, { from = 0 }: { from?: number } = {}): Judgement {
  let end = text.length - text.trimStart().length;
  const sentences = text.trim().split(SENTENCE_END).filter((sentence) => {
    end = text.indexOf(sentence, end) + sentence.length;
    return end > from && /[.?!]"?$/.test(sentence);
  });
  const words = new Set(text.match(/\b[A-Za-z]+\b/g));
  const named = (slot: StoryRole, sex = "") =>
    wordsFor(slot, new Map([["sex", sex]])).filter((word) => words.has(word));
  return {
    sentences: sentences.length,
    accepted: sentences.filter((s) => SENTENCES.some((sentence) => sentence.test(s))).length,
    named: {
      hero: SEXES.flatMap((sex) => named("hero", sex)),
      animal: named("animal"),
      thing: named("thing"),
    },
  };
}

/** Patterns of the sentences of the grammar. */
const SENTENCES: readonly RegExp[] = [...new Set(STORIES.flat(2))]
  .flatMap((pattern) => SEXES.map((sex) => matcherOf(pattern, sex)));

/** The pattern of a sentence about heroes of one sex, with any words in its slots. */
function matcherOf(pattern: Pattern, sex: string): RegExp {
  const bound = new Set<string>();
  const parts = pattern.map((part, place) => {
    if (place % 2 === 0) return RegExp.escape(part);
    if (bound.has(part)) return `\\k<${part}>`;
    const words = wordsFor(part, new Map([["sex", sex]])).join("|");
    if (!KEPT_SLOTS.has(part)) return `(?:${words})`;
    bound.add(part);
    return `(?<${part}>${words})`;
  });
  return new RegExp(`^${parts.join("")}$`);
}
