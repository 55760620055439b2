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
const LONGEST_LINE = 16 * 2 ** 20;

const SEPARATOR = Buffer.from(END_OF_TEXT);
const TAB = 0x09, LINE_FEED = 0x0a, RETURN = 0x0d, BLANK = 0x20;

/**
 * The documents of a text, which are separated by `<|endoftext|>`, wherever in a line it stands, some at
 * a time.
 *
 * What exceeds `most` is cut where `cutPoint()` says. Neither these cuts nor anything else depends on
 * how the text arrives in chunks.
 */
export async function* textPieces(
  chunks: AsyncIterable<Uint8Array>,
  { most = LARGEST_PIECE }: { most?: number } = {},
): AsyncGenerator<Piece[]> {
  let window = Buffer.alloc(0); // of the text
  let offset = 0; // of the window in the text
  let begins = true; // whether the next piece begins a document
  for await (const { chunk, last } of regroup(chunks, 4 * most)) {
    window = Buffer.concat([window, chunk]);
    const pieces: Piece[] = [];
    let at = offset === 0 && hasByteOrderMark(window) ? 3 : 0;
    let separator = window.indexOf(SEPARATOR, at);
    // a piece depends on its own bytes and on a separator right behind them
    while (at < window.length && (last || window.length - at >= most + SEPARATOR.length)) {
      if (separator >= 0 && separator < at) separator = window.indexOf(SEPARATOR, at);
      const end = separator >= 0 ? separator : last ? window.length : Infinity;
      const place = offset + at;
      if (end - at <= most) {
        const bytes = window.subarray(at, end);
        if (!begins || bytes.length > 0) pieces.push({ bytes, begins, ends: true, place });
        begins = true;
        at = end + (separator >= 0 ? SEPARATOR.length : 0);
      } else {
        const cut = cutPoint(window, at, at + most);
        const bytes = window.subarray(at, cut);
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
  let unfinished: Uint8Array[] = [], length = 0; // a line whose end has not come yet
  let number = 0;
  const check = (length: number) => {
    if (length <= longest) return;
    throw new RangeError(
      `Cannot read data file ${file} as line ${number + 1} must be at most ` +
        `${longest / 2 ** 20} MiB long: it is longer`,
    );
  };
  for await (const { chunk, last } of regroup(chunks, 4 * LARGEST_PIECE)) {
    const whole = last ? chunk.length : chunk.lastIndexOf(LINE_FEED) + 1;
    const pieces: Piece[] = [];
    if (whole > 0 || last) {
      const lines = Buffer.concat([...unfinished, chunk.subarray(0, whole)]);
      [unfinished, length] = [[], 0];
      let at = number === 0 && hasByteOrderMark(lines) ? 3 : 0;
      for (let end; at < lines.length; at = end + 1) {
        end = lines.indexOf(LINE_FEED, at);
        if (end < 0) end = lines.length;
        check(end - at);
        number++;
        const bytes = lines.subarray(at, end);
        if (!isBlank(bytes)) pieces.push({ bytes, begins: true, ends: true, place: number });
      }
    }
    unfinished.push(chunk.subarray(whole));
    length += chunk.length - whole;
    check(length);
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
    yield { chunk: waiting.length === 1 ? chunk : Buffer.concat(waiting), last: false };
    waiting = [];
    length = 0;
  }
  yield { chunk: Buffer.concat(waiting), last: true };
}
