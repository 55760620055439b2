import { Buffer } from "node:buffer";
import { END_OF_TEXT } from "./tokenizer.ts";

/**
 * Cutting streams of bytes into documents, and those into pieces that fit memory.
 *
 * @module
 */

/** A document, or a stretch of one that is too long to be held whole; as it stands in its file. */
export interface Piece {
  /** UTF-8, or a JSON value. */
  readonly bytes: Uint8Array;
  /** Whether a document begins here. */
  readonly begins: boolean;
  /** Whether it ends here. */
  readonly ends: boolean;
  /** Where this is in its file: byte of a text from 0, or number of a line or row from 1. */
  readonly place: number;
}

/** Bytes in a piece at most. */
export const LARGEST_PIECE = 2 ** 18;

/** Bytes in a line at most, where a line is a document: it has to be parsed whole. */
const LONGEST_LINE = 32 * 2 ** 20;

const SEPARATOR = Buffer.from(END_OF_TEXT);
const TAB = 0x09, LINE_FEED = 0x0a, RETURN = 0x0d, BLANK = 0x20;

/**
 * The documents of a text, which are separated by lines of `<|endoftext|>`, some at a time.
 *
 * What exceeds `most` is cut where `cutPoint()` says. Neither these cuts nor anything else depends on
 * how the text arrives in chunks. White space longer than `most` is no line, nor trimmed.
 */
export async function* textPieces(
  chunks: AsyncIterable<Uint8Array>,
  { most = LARGEST_PIECE }: { most?: number } = {},
): AsyncGenerator<Piece[]> {
  let window = Buffer.alloc(0); // of the text
  let offset = 0; // of the window in the text
  let begins = true; // whether the next piece begins a document
  let atLine = true; // whether only blanks precede the window in its line
  for await (const { chunk, last } of regroup(chunks, 4 * most)) {
    window = Buffer.concat([window, chunk]);
    const pieces: Piece[] = [];
    let at = offset === 0 && hasByteOrderMark(window) ? 3 : 0;
    let separator = window.indexOf(SEPARATOR, at);
    // what a piece comes to depends on so much: its own bytes, and a line behind them
    while (at < window.length && (last || window.length - at > 2 * most + 4)) {
      let line: Line | undefined;
      if (separator >= 0 && separator < at) separator = window.indexOf(SEPARATOR, at);
      while (separator >= 0) {
        const start = lineStart(window, separator, { from: at, atLine });
        if (start !== undefined && start - at > most) break; // of no concern to this piece
        line = start === undefined ? undefined : lineAround(window, separator, { start, most });
        if (line) break;
        separator = window.indexOf(SEPARATOR, separator + 1);
      }
      const end = line?.start ?? (last ? window.length : Infinity);
      const place = offset + at;
      if (end - at <= most) {
        const bytes = window.subarray(at, end);
        if (!begins || bytes.length > 0) pieces.push({ bytes, begins, ends: true, place });
        begins = true;
        atLine = false;
        at = line?.end ?? end;
      } else {
        const cut = cutPoint(window, at, at + most);
        const bytes = window.subarray(at, cut);
        atLine = lineStart(window, cut, { from: at, atLine }) !== undefined;
        at = cut;
        if (begins && bytes.toString().trim() === "") continue; // it has not begun yet
        pieces.push({ bytes, begins, ends: false, place });
        begins = false;
      }
    }
    offset += at;
    window = window.subarray(at);
    yield pieces;
  }
}

/** A line of a text that separates documents, without its line end. */
interface Line {
  start: number;
  end: number;
}

/** The line that begins at `start` and holds a separator, if nothing but blanks follows in it. */
function lineAround(
  bytes: Uint8Array,
  separator: number,
  { start, most }: { start: number; most: number },
): Line | undefined {
  let end = separator + SEPARATOR.length;
  while (bytes[end] === BLANK || bytes[end] === TAB) end++;
  if (end - start > most) return undefined;
  const next = bytes[end];
  const ends = next === undefined || next === LINE_FEED || next === RETURN ||
    isUnicodeLineEnd(bytes, end);
  return ends ? { start, end } : undefined;
}

/** Where the line of a place begins, if only blanks lie between. */
function lineStart(
  bytes: Uint8Array,
  place: number,
  { from, atLine }: { from: number; atLine: boolean },
): number | undefined {
  let start = place;
  while (start > from && (bytes[start - 1] === BLANK || bytes[start - 1] === TAB)) start--;
  if (start === from) return atLine ? start : undefined;
  const before = bytes[start - 1];
  return before === LINE_FEED || before === RETURN || isUnicodeLineEnd(bytes, start - 3)
    ? start
    : undefined;
}

/** Whether U+2028 or U+2029 is at a place: they end lines for regular expressions. */
function isUnicodeLineEnd(bytes: Uint8Array, at: number): boolean {
  return bytes[at] === 0xe2 && bytes[at + 1] === 0x80 && (bytes[at + 2]! & 0xfe) === 0xa8;
}

/**
 * Where to cut a text that goes on past `end`, so that the tokens of both sides are those of the whole:
 * before the last blank that follows something else, since there every pattern in use begins a word;
 * or else before white space; or else, where there is none, between two characters.
 */
export function cutPoint(bytes: Uint8Array, start: number, end: number): number {
  for (let at = end; at > start; at--) {
    if (bytes[at] === BLANK && endsWord(bytes, at)) return at;
  }
  for (let at = end; at > start; at--) {
    if ((bytes[at] === LINE_FEED || bytes[at] === RETURN) && endsWord(bytes, at)) return at;
  }
  for (let at = end; at > start; at--) {
    const inCharacter = (bytes[at]! & 0xc0) === 0x80;
    const inLineEnd = bytes[at] === LINE_FEED && bytes[at - 1] === RETURN;
    if (!inCharacter && !inLineEnd) return at;
  }
  return end;
}

/** Whether what precedes a place is surely no white space. */
function endsWord(bytes: Uint8Array, at: number): boolean {
  const before = bytes[at - 1]!;
  if (before < 0x80) return before > BLANK;
  let first = at - 1;
  while (first > 0 && first > at - 4 && (bytes[first]! & 0xc0) === 0x80) first--;
  return !/\p{White_Space}|\ufeff|\ufffd/u.test(Buffer.from(bytes.subarray(first, at)).toString());
}

/**
 * The lines of a text that hold something, some at a time, each a document by itself.
 *
 * @throws {RangeError} if a line is too long.
 */
export async function* linePieces(
  chunks: AsyncIterable<Uint8Array>,
  { file, longest = LONGEST_LINE }: { file: string; longest?: number },
): AsyncGenerator<Piece[]> {
  let window = Buffer.alloc(0);
  let number = 0;
  for await (const { chunk, last } of regroup(chunks, 4 * LARGEST_PIECE)) {
    window = Buffer.concat([window, chunk]);
    const pieces: Piece[] = [];
    let at = number === 0 && hasByteOrderMark(window) ? 3 : 0;
    for (let end; at < window.length; at = end + 1) {
      end = window.indexOf(LINE_FEED, at);
      if ((end < 0 ? window.length : end) - at > longest) {
        throw new RangeError(
          `Cannot read data file ${file} as line ${number + 1} must be at most ` +
            `${longest / 2 ** 20} MiB long: it is longer`,
        );
      }
      if (end < 0 && !last) break;
      if (end < 0) end = window.length;
      number++;
      const bytes = window.subarray(at, end);
      if (!isBlank(bytes)) pieces.push({ bytes, begins: true, ends: true, place: number });
    }
    window = window.subarray(at);
    yield pieces;
  }
}

function hasByteOrderMark(bytes: Uint8Array): boolean {
  return bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf;
}

function isBlank(bytes: Uint8Array): boolean {
  return bytes.every((byte) => byte === BLANK || byte === TAB || byte === RETURN);
}

/** Joins chunks until they have a size that makes work on them worth while, and marks the last one. */
async function* regroup(
  chunks: AsyncIterable<Uint8Array>,
  least: number,
): AsyncGenerator<{ chunk: Uint8Array; last: boolean }> {
  let waiting: Uint8Array[] = [], length = 0;
  for await (const chunk of chunks) {
    waiting.push(chunk);
    length += chunk.length;
    if (length < least) continue;
    yield { chunk: Buffer.concat(waiting), last: false };
    waiting = [];
    length = 0;
  }
  yield { chunk: Buffer.concat(waiting), last: true };
}
