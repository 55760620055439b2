/** What GPT-2 tells apart when it cuts a text into words. */
export const LETTER = 1, NUMBER = 2, SPACE = 3, OTHER = 4;

const APOSTROPHE = 0x27, BLANK = 0x20;

/** The class of each UTF-16 code unit, filled in as they occur; those of surrogate pairs stay 0. */
const classes = new Uint8Array(0x10000);

/** The class of the character that a code unit belongs to. */
function classAt(text: string, at: number): number {
  return classes[text.charCodeAt(at)] || classify(text, at);
}

function classify(text: string, at: number): number {
  const unit = text.charCodeAt(at);
  const isLowSurrogate = unit >= 0xdc00 && unit <= 0xdfff;
  const codePoint = text.codePointAt(isLowSurrogate ? at - 1 : at)!;
  const kind = classOf(codePoint);
  if (codePoint < 0x10000) classes[codePoint] = kind;
  return kind;
}

/** Finds out the class of a character; it takes a while. */
export function classOf(codePoint: number): number {
  const character = String.fromCodePoint(codePoint);
  if (/\p{L}/u.test(character)) return LETTER;
  if (/\p{N}/u.test(character)) return NUMBER;
  return /\p{White_Space}/u.test(character) ? SPACE : OTHER;
}

/**
 * Cuts a text into words as GPT-2 does before it merges (openai/gpt-2, src/encoder.py), by the pattern
 *
 * `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
 *
 * where `\s` is Unicode's white space. Nothing is lost: the words joined are the text.
 *
 * It is written out because tokenizing in bulk is mostly this.
 *
 * @param text without lone surrogates.
 */
export function gpt2Words(text: string, visit: (word: string) => void): void {
  const end = text.length;
  for (let start = 0, at = 0; start < end; start = at) {
    const first = text.charCodeAt(at);
    if (first === APOSTROPHE) {
      const length = contraction(text, at);
      if (length > 0) {
        visit(text.slice(start, at += length));
        continue;
      }
    }
    if (first === BLANK && at + 1 < end && classAt(text, at + 1) !== SPACE) at++;
    const kind = classAt(text, at);
    do at++; while (at < end && classAt(text, at) === kind);
    // of white space, the last character belongs to the word behind it
    if (kind === SPACE && at < end && at - start > 1) at--;
    visit(text.slice(start, at));
  }
}

/** Length of the contraction that begins at an apostrophe, or 0. */
function contraction(text: string, at: number): number {
  switch (text[at + 1]) {
    case "s":
    case "t":
    case "m":
    case "d":
      return 2;
    case "r":
    case "v":
      return text[at + 2] === "e" ? 3 : 0;
    case "l":
      return text[at + 2] === "l" ? 3 : 0;
    default:
      return 0;
  }
}

/** A copy of a word that does not keep the text alive that it was cut from, as V8's slices do. */
export function detached(word: string): string {
  return `${word} `.slice(0, -1);
}
