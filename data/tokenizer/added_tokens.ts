import type { AddedToken } from "./tokenizer_file.ts";

/** An added token, and its spelling in the searched texts. */
export type SpelledToken = AddedToken & { readonly spelled: string };

const WORD = "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}]";
const STARTS_WITH_WORD = new RegExp(`^${WORD}`, "u");
const WHITE_SPACE_AT_START = /^\p{White_Space}*/u;
const WHITE_SPACE = /^\p{White_Space}$/u;

/**
 * Makes the function that finds the longest token at a place of a text. It walks a tree of UTF-16 units, so that its
 * time does not depend on the number of tokens.
 */
function createTree(
  tokens: Iterable<SpelledToken>,
): (text: string, start: number) => SpelledToken | undefined {
  const children = new Map<number, number>(); // by parent and unit, as one number
  const ends = new Map<number, SpelledToken>();
  const keyOf = (node: number, text: string, at: number) => node * 0x10000 + text.charCodeAt(at);
  for (const token of tokens) {
    const { spelled } = token;
    let node = 0;
    for (let at = 0; at < spelled.length; at++) {
      const key = keyOf(node, spelled, at);
      node = children.get(key) ?? children.size + 1;
      children.set(key, node);
    }
    ends.set(node, token);
  }
  return (text, start) => {
    let found: SpelledToken | undefined, node: number | undefined = 0;
    for (let at = start; at < text.length; at++) {
      node = children.get(keyOf(node, text, at));
      if (node === undefined) break;
      found = ends.get(node) ?? found;
    }
    return found;
  };
}

/** Matches the UTF-16 units with which the texts begin. */
function beginnings(texts: readonly string[]): RegExp {
  const units = new Set(texts.map((text) => text.charCodeAt(0)));
  const written = [...units].map((unit) => `\\u${unit.toString(16).padStart(4, "0")}`);
  return new RegExp(`[${written.join("")}]`, "g");
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
  const longestAt = createTree(sought);
  const beginning = beginnings(sought.map(({ spelled }) => spelled));
  const anyText = tokens.some(({ special }) => !special);

  return (text, { special }) => {
    if (sought.length === 0 || !(special || anyText)) return text === "" ? [] : [text];
    const parts: (string | number)[] = [];
    let done = 0;
    beginning.lastIndex = 0;
    for (let match; (match = beginning.exec(text));) {
      const token = longestAt(text, match.index);
      if (!token) continue;
      let start = match.index, end = start + token.spelled.length;
      beginning.lastIndex = end;
      if (token.special && !special) continue;
      if (token.single_word) {
        // V8 15.0 finds no letter of two units before the end of a text: /[\p{L}]$/u fails on "𝒜"
        const before = Array.from(text.slice(Math.max(0, start - 2), start)).at(-1) ?? "";
        const after = text.slice(end, end + 2);
        if (STARTS_WITH_WORD.test(before) || STARTS_WITH_WORD.test(after)) continue;
      }
      if (token.lstrip) { while (start > done && WHITE_SPACE.test(text[start - 1]!)) start--; }
      if (token.rstrip) end += WHITE_SPACE_AT_START.exec(text.slice(end))![0].length;
      if (start > done) parts.push(text.slice(done, start));
      parts.push(token.id);
      done = Math.max(done, end);
    }
    if (done < text.length) parts.push(text.slice(done));
    return parts;
  };
}
