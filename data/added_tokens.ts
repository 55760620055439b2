import { type AddedToken, UnsupportedTokenizer } from "./tokenizer_file.ts";

/** Finds added tokens in a text and cuts it there. */
export interface AddedTokens {
  /**
   * Stretches of text, and ids of the tokens between them.
   *
   * @param options.special whether tokens that are no text are found, or left as the text they look like.
   */
  cut(text: string, options: { special: boolean }): (string | number)[];
}

/** An added token and how it is spelled in the texts that are searched. */
export type SpelledToken = AddedToken & { readonly spelled: string };

const WORD = "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}]";
const STARTS_WITH_WORD = new RegExp(`^${WORD}`, "u");
const WHITE_SPACE_AT_START = /^\p{White_Space}*/u;
const WHITE_SPACE = /^\p{White_Space}$/u;

function oneOf(spellings: readonly string[]): RegExp {
  try {
    return new RegExp(spellings.map((text) => RegExp.escape(text)).join("|"), "gu");
  } catch {
    throw new UnsupportedTokenizer("its added tokens must be fewer or shorter", spellings.length);
  }
}

/** Makes the finder of some tokens: of those that begin at one place, the longest is found. */
export function createAddedTokens(tokens: readonly SpelledToken[]): AddedTokens {
  const bySpelling = new Map(
    tokens.filter(({ spelled }) => spelled !== "").map((token) => [token.spelled, token]),
  );
  const spellings = [...bySpelling.keys()].sort((a, b) => b.length - a.length);
  const pattern = oneOf(spellings);
  const anyText = tokens.some(({ special }) => !special);

  return {
    cut(text, { special }) {
      if (spellings.length === 0 || !(special || anyText)) return text === "" ? [] : [text];
      const parts: (string | number)[] = [];
      let done = 0;
      for (const { 0: found, index } of text.matchAll(pattern)) {
        const token = bySpelling.get(found)!;
        if (token.special && !special) continue;
        let start = index, end = index + found.length;
        if (token.single_word) {
          // V8 15.0 finds no letter of two units before the end of a text: /[\p{L}]$/u fails on "𝒜"
          const before = Array.from(text.slice(Math.max(0, start - 2), start)).at(-1) ?? "";
          const joined = STARTS_WITH_WORD.test(before) ||
            STARTS_WITH_WORD.test(text.slice(end, end + 2));
          if (joined) continue;
        }
        if (token.lstrip) { while (start > done && WHITE_SPACE.test(text[start - 1]!)) start--; }
        if (token.rstrip) end += WHITE_SPACE_AT_START.exec(text.slice(end))![0].length;
        if (start > done) parts.push(text.slice(done, start));
        parts.push(token.id);
        done = Math.max(done, end);
      }
      if (done < text.length) parts.push(text.slice(done));
      return parts;
    },
  };
}
