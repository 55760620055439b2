import type { Package } from "../../files/packages.ts";
import { quoted } from "../../files/printable.ts";
import { createTimeLimit, TimeLimitError } from "../../files/time_limit.ts";
import { UserError } from "../../files/user_error.ts";
import { UnsupportedTokenizer } from "./tokenizer_file.ts";

/**
 * The patterns of a tokenizer: texts and regular expressions that split a text, or are replaced in it.
 *
 * @module
 */

/** npm:@huggingface/tokenizers; it is not loaded for a tokenizer of GPT-2's kind, which needs nothing of it. */
export type Library = Package<"@huggingface/tokenizers"> | undefined;

/** Where parts of a text begin and end. */
export type Places = [start: number, end: number][];

/** Finds the matches of a pattern in a text, from left to right. */
export type Pattern = (text: string) => Places;

/** The characters of words, as Rust's `\w`, inside a class of a regular expression. */
export const WORD = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}";

/** The pattern of a regular expression with the flags `g` and `u`. */
export function createPattern(regexp: RegExp): Pattern {
  return (text) => {
    const places: Places = [];
    for (const { index, 0: { length } } of text.matchAll(regexp)) {
      // V8 15.0 finds empty matches between the two halves of a character: /(?!🦖)/gu in "🦖"
      if (length === 0 && text.codePointAt(index - 1)! > 0xffff) continue;
      places.push([index, index + length]);
    }
    return places;
  };
}

/** A text in which `content` replaces whatever a pattern matches. */
export function replaceMatches(text: string, pattern: Pattern, content: string): string {
  let replaced = "", done = 0;
  for (const [start, end] of pattern(text)) {
    replaced += text.slice(done, start) + content;
    done = end;
  }
  return replaced + text.slice(done);
}

/**
 * Escapes and classes of a pattern, and what has no counterpart in JavaScript: atomic groups, possessive quantifiers,
 * and the modifier m, which in Ruby lets a dot match the end of a line.
 */
const PATTERN_PARTS = /\\[^]|\[(?:\\[^]|[^\\\]])*\]|\(\?(?:>|\w*m)|[*+?]\+/g;

/**
 * A pattern of a `tokenizer.json`: a text, or a regular expression for Oniguruma in Ruby's syntax, which
 * npm:@huggingface/tokenizers translates. Its time is limited.
 */
export function patternOf(given: unknown, library: Library): Pattern {
  const { String: text, Regex: regex } = (given ?? {}) as { String?: unknown; Regex?: unknown };
  if (typeof text === "string" && text !== "") {
    return createPattern(new RegExp(RegExp.escape(text), "gu"));
  }
  if (typeof regex !== "string") {
    throw new UnsupportedTokenizer("its patterns must be texts that are not empty", given);
  }
  if (regex.match(PATTERN_PARTS)?.some((part) => /^(?:\(\?|[*+?])/.test(part))) {
    throw new UnsupportedTokenizer(
      "its patterns must have no possessive quantifiers, atomic groups or modifier m",
      regex,
    );
  }
  try {
    const split = { type: "Split", pattern: { Regex: regex }, behavior: "Isolated", invert: false };
    const { pattern } = new library!.SplitPreTokenizer(split as never) as unknown as {
      pattern: RegExp;
    };
    const limited = limitTime(createPattern(pattern), regex);
    limited(""); // compiles it
    return limited;
  } catch {
    throw new UnsupportedTokenizer("its patterns must be ones that JavaScript can match", regex);
  }
}

/** Time that a pattern may take in a text; those in use take less than a microsecond per character. */
const LIMIT_MS = 1000, LIMIT_MS_PER_CHARACTER = 0.1;

function limitTime(pattern: Pattern, written: string): Pattern {
  const limited = createTimeLimit();
  return (text) => {
    const timeoutMs = Math.ceil(LIMIT_MS + LIMIT_MS_PER_CHARACTER * text.length);
    try {
      return limited(() => pattern(text), timeoutMs);
    } catch (error) {
      const isLate = error instanceof TimeLimitError;
      if (!isLate && !(error instanceof RangeError)) throw error;
      throw new UserError(
        `Cannot match the tokenizer's pattern ${quoted(written)} as it must backtrack less: ` +
          `on a text of ${text.length} characters it takes more ` +
          (isLate ? `than ${timeoutMs} ms` : "memory than JavaScript allows"),
      );
    }
  };
}
