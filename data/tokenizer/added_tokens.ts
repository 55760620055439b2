import { WORD } from "./pattern.ts";
import { type AddedToken, UnsupportedTokenizer } from "./tokenizer_file.ts";

/** An added token, and its spelling in the searched texts. */
export type SpelledToken = AddedToken & { readonly spelled: string };

const STARTS_WITH_WORD = new RegExp(`^[${WORD}]`, "u");
const WHITE_SPACE_AT_START = /^\p{White_Space}*/u;
const WHITE_SPACE = /^\p{White_Space}$/u;

/** Matches the longest of these texts at each place. */
function longestOf(texts: readonly string[]): RegExp {
  const longestFirst = texts.toSorted((a, b) => b.length - a.length);
  try {
    const regexp = new RegExp(longestFirst.map((text) => RegExp.escape(text)).join("|"), "g");
    regexp.test(""); // compiles it
    return regexp;
  } catch {
    const { length } = longestFirst[0]!;
    throw new UnsupportedTokenizer("its longest added token must have fewer characters", length);
  }
}

/**
 * Makes the function that splits a text into the parts between added tokens and the ids of these tokens; of those that
 * begin at one place, it finds the longest. Without `special`, special tokens are text like any other.
 */
export function createAddedTokenSplitter(
  tokens: readonly SpelledToken[],
): (text: string, options: { special: boolean }) => (string | number)[] {
  // half a character never occurs in the texts, which are well-formed
  const sought = tokens.filter(({ spelled }) => spelled !== "" && spelled.isWellFormed());
  const bySpelling = new Map(sought.map((token) => [token.spelled, token]));
  const longest = longestOf([...bySpelling.keys()]);
  const anyText = tokens.some(({ special }) => !special);

  return (text, { special }) => {
    if (sought.length === 0 || !(special || anyText)) return text === "" ? [] : [text];
    const parts: (string | number)[] = [];
    let done = 0;
    let spaceEnd = 0; // end of the white space after a token: tokens within it do not read it again
    longest.lastIndex = 0;
    for (let match; (match = longest.exec(text));) {
      const token = bySpelling.get(match[0])!;
      let start = match.index, end = start + token.spelled.length;
      if (token.special && !special) continue;
      if (token.single_word) {
        // V8 15.0 finds no letter of two units before the end of a text: /[\p{L}]$/u fails on "𝒜"
        const before = Array.from(text.slice(Math.max(0, start - 2), start)).at(-1) ?? "";
        const after = text.slice(end, end + 2);
        if (STARTS_WITH_WORD.test(before) || STARTS_WITH_WORD.test(after)) continue;
      }
      if (token.lstrip) {
        start = Math.max(start, done);
        while (start > done && WHITE_SPACE.test(text[start - 1]!)) start--;
      }
      if (token.rstrip) {
        if (end > spaceEnd) spaceEnd = end + WHITE_SPACE_AT_START.exec(text.slice(end))![0].length;
        end = spaceEnd;
      }
      if (start > done) parts.push(text.slice(done, start));
      if (start < end) parts.push(token.id); // else the token before has taken its white space
      done = end;
    }
    if (done < text.length) parts.push(text.slice(done));
    return parts;
  };
}
