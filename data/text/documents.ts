import { Buffer } from "node:buffer";
import { END_OF_TEXT } from "../tokenizer/byte_level.ts";
import { DataError } from "./data_error.ts";

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
  /** Its place in the file, in a `PlaceUnit`: bytes from 0, all others from 1. */
  readonly place: number;
}

/** Unit of places: bytes in a text, otherwise what holds one document each. */
export type PlaceUnit = "byte" | "line" | "element" | "row" | "document";

/** Bytes in a piece at most. */
export const LARGEST_PIECE = 2 ** 18;

/** Most bytes of a line, element or row, which is parsed whole. */
export const LONGEST_RECORD = 16 * 2 ** 20;

const TAB = 0x09, LINE_FEED = 0x0a, RETURN = 0x0d, BLANK = 0x20;
const QUOTE = 0x22, COMMA = 0x2c, BACKSLASH = 0x5c;
const OPEN_BRACKET = 0x5b, CLOSE_BRACKET = 0x5d, OPEN_BRACE = 0x7b, CLOSE_BRACE = 0x7d;

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
    const bytesAsText = window.toString("latin1"); // a string is searched ten times as fast
    const pieces: Piece[] = [];
    let at = offset === 0 && hasByteOrderMark(window) ? 3 : 0;
    let separator = bytesAsText.indexOf(END_OF_TEXT, at);
    // a piece depends on its own bytes and on a separator right behind them
    while (at < window.length && (last || window.length - at >= most + END_OF_TEXT.length)) {
      if (separator >= 0 && separator < at) separator = bytesAsText.indexOf(END_OF_TEXT, at);
      const end = separator >= 0 ? separator : last ? window.length : Infinity;
      const place = offset + at;
      if (end - at <= most) {
        const bytes = window.subarray(at, end);
        if (!begins || bytes.length > 0) pieces.push({ bytes, begins, ends: true, place });
        begins = true;
        at = end + (separator >= 0 ? END_OF_TEXT.length : 0);
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
 * Where to cut a text that continues past `end`, so that the tokens of both sides are those of the whole:
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
 * @throws {DataError} if a line is too long.
 */
export async function* linePieces(
  chunks: AsyncIterable<Uint8Array>,
  { file, longest = LONGEST_RECORD }: { file: string; longest?: number },
): AsyncGenerator<Piece[]> {
  let unfinished: Uint8Array[] = [], length = 0; // a line whose end has not come yet
  let number = 0;
  const check = (length: number) => {
    if (length > longest) throw tooLong(file, { record: `line ${number + 1}`, longest });
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
        if (!bytes.every(isBlank)) pieces.push({ bytes, begins: true, ends: true, place: number });
      }
    }
    unfinished.push(chunk.subarray(whole));
    length += chunk.length - whole;
    check(length);
    yield pieces;
  }
}

/**
 * The elements of a JSON array, some at a time, each a document by itself. Whether one is valid is for
 * the parser to find out.
 *
 * @throws {DataError} if it is no whole array, or if an element is too long.
 */
export async function* arrayPieces(
  chunks: AsyncIterable<Uint8Array>,
  { file, longest = LONGEST_RECORD }: { file: string; longest?: number },
): AsyncGenerator<Piece[]> {
  let window = Buffer.alloc(0); // from the beginning of an element on
  let at = 0; // how far it has been looked at
  let number = 0; // of the element; 0 before the array
  let depth = 0; // of brackets and braces; 0 before and behind the array
  let inString = false;
  const fail = (requirement: string, found: string) =>
    new DataError(
      `${file} as its JSON array must ${requirement}: ${found}`,
    );
  for await (const { chunk, last } of regroup(chunks, 4 * LARGEST_PIECE)) {
    window = Buffer.concat([window, chunk]);
    const bytesAsText = window.toString("latin1"); // searched faster
    if (number === 0 && hasByteOrderMark(window)) at = 3;
    const pieces: Piece[] = [];
    let start = 0;
    for (; at < window.length; at++) {
      if (inString) {
        const quote = bytesAsText.indexOf('"', at);
        at = quote < 0 ? window.length - 1 : quote;
        let escapes = at;
        while (window[escapes - 1] === BACKSLASH) escapes--;
        inString = quote < 0 || (at - escapes) % 2 === 1;
        continue;
      }
      const byte = window[at]!;
      if (depth === 0) {
        if (!isBlank(byte)) {
          if (byte !== OPEN_BRACKET || number > 0) {
            throw fail("be all that the file holds", "there is more");
          }
          depth = number = 1;
        }
        start = at + 1;
        continue;
      }
      if (byte === QUOTE) inString = true;
      else if (byte === OPEN_BRACKET || byte === OPEN_BRACE) depth++;
      else if (byte === CLOSE_BRACKET || (byte === CLOSE_BRACE && depth > 1)) depth--;
      if (depth > 0 && (byte !== COMMA || depth > 1)) continue;
      const bytes = window.subarray(start, at);
      start = at + 1;
      if (!bytes.every(isBlank)) pieces.push({ bytes, begins: true, ends: true, place: number });
      else if (depth > 0 || number > 1) {
        throw fail("have one comma between elements", `element ${number} is missing`);
      }
      number++;
    }
    window = window.subarray(start);
    at -= start;
    if (window.length > longest) throw tooLong(file, { record: `element ${number}`, longest });
    yield pieces;
    if (last && depth > 0) throw fail("end with ]", `it breaks off in element ${number}`);
  }
}

/** What to throw at a record that is not parsed because of its length. */
export function tooLong(
  file: string,
  { record, longest }: { record: string; longest: number },
): DataError {
  return new DataError(
    `${file} as ${record} must be at most ${longest / 2 ** 20} MiB long: ` +
      `it is longer`,
  );
}

export function hasByteOrderMark(bytes: Uint8Array): boolean {
  return bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf;
}

/** Whether a byte is white space in JSON. */
function isBlank(byte: number): boolean {
  return byte === BLANK || byte === TAB || byte === RETURN || byte === LINE_FEED;
}

/** Turns `\r\n` into `\n` in place and returns where the text ends then. */
export function joinLineEnds(bytes: Uint8Array, start: number, end: number): number {
  let at = bytes.subarray(start, end).indexOf(RETURN);
  if (at < 0) return end;
  let to = at += start;
  for (; at < end; at++) {
    if (bytes[at] !== RETURN || bytes[at + 1] !== LINE_FEED || at + 1 === end) {
      bytes[to++] = bytes[at]!;
    }
  }
  return to;
}

/** Joins chunks until they have a size that makes work on them worth while, and marks the last one. */
export async function* regroup(
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
