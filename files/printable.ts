/**
 * Makes text from a file, the network or a model safe to print: it may hold escape sequences that change a
 * terminal, characters that reorder a line, or megabytes.
 *
 * @module
 */

/** Most UTF-16 units of foreign text in a message. */
const LONGEST = 200;

/** Characters that are invisible, or that change the display of their neighbours. */
const UNPRINTABLE = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;

/** Control characters except line feed and tab, and characters that override the direction of text. */
const CONTROLS = /(?![\n\t])[\p{Cc}\u202a-\u202e\u2066-\u2069]/gu;

/** Foreign text as part of a message: on one line, escaped and cut. */
export function printable(text: string, longest = LONGEST): string {
  return escaped(cut(text, longest), UNPRINTABLE);
}

/** A foreign value as part of a message: JSON on one line, escaped and cut. */
export function quoted(value: unknown, longest = LONGEST): string {
  if (typeof value === "number") return `${value}`; // JSON has no NaN
  if (typeof value !== "string") return printable(jsonOf(value), longest);
  return escaped(JSON.stringify(cut(value, longest)), UNPRINTABLE);
}

function jsonOf(value: unknown): string {
  try {
    return String(JSON.stringify(value));
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    return Array.isArray(value) ? "[…]" : "{…}"; // thousands of levels
  }
}

/** Text of any length for a terminal: only characters that would change the terminal are escaped. */
export function terminalText(text: string): string {
  return escaped(text, CONTROLS);
}

function cut(text: string, longest: number): string {
  if (text.length <= longest) return text;
  const splitsPair = /[\ud800-\udbff]/.test(text[longest - 1]!);
  return `${text.slice(0, splitsPair ? longest - 1 : longest)}…`;
}

function escaped(text: string, characters: RegExp): string {
  return text.replace(characters, (character) => `\\u{${character.codePointAt(0)!.toString(16)}}`);
}
