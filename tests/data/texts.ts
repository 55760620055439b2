import type { Random } from "../../data/random.ts";

const BLANKS = ["  ", "\n\n", "\t", "\r", "\u00a0", "\u0085", "\ufeff", "\u2003 "];
const CONTRACTIONS = ["don't", "I'LL", " we've", "'s", "'", "l're"];
const SYMBOLS = ["🦖", "👩‍👩‍👧", "\0", "é", "e\u0301", "ß", "日本語", "𝒜", "𝟙", "½"];
const WORDS = [" the", " 123", "story", " unbelievable", "...", " Lily"];

/** A text of all sorts of characters, blanks and contractions. */
export function oddText(random: Random): string {
  const one = (parts: readonly string[]) => parts[random.below(parts.length)]!;
  const parts = Array.from({ length: 1 + random.below(30) }, () => {
    switch (random.below(6)) {
      case 0:
        return String.fromCodePoint(random.below(0x300));
      case 1:
        return String.fromCodePoint(random.below(0x2ffff));
      case 2:
        return one(BLANKS);
      case 3:
        return one(CONTRACTIONS);
      case 4:
        return one(SYMBOLS);
      default:
        return one(WORDS);
    }
  });
  return parts.join("").toWellFormed();
}
