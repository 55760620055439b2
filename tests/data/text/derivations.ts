import {
  bind,
  type Bindings,
  separator,
  SEXES,
  STORIES,
  wordsFor,
} from "../../../data/text/stories.ts";

/** Every way in which the grammar writes a story, as the natural logarithm of its probability. */
export function derivations(text: string): number[] {
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
