import { Buffer } from "node:buffer";
import type { Part, PartsOrigin } from "./blocks.ts";
import { DataError } from "./data_error.ts";

/**
 * Finds documents in a stream of bytes: in text, in lines of JSON, in an array of JSON. A reader looks at a window of
 * the stream at a time.
 *
 * @module
 */

/** Separates documents in a text file. */
export const SEPARATOR = "<|endoftext|>";

/** Most bytes of a part of a document. */
export const LARGEST_PART = 2 ** 18;

/** Most bytes of a line, element or row, which is parsed whole. */
export const LONGEST_RECORD = 16 * 2 ** 20;

/** Bytes that a window has in addition to those that the reader left. */
const WINDOW_BYTES = 2 ** 20;

/** Bytes of a stream that a reader looks at. */
interface Window {
  readonly bytes: Buffer;
  /** Place of the window in the stream. */
  readonly offset: number;
  /** Whether the stream ends here. */
  readonly isLast: boolean;
  /** Is set by the reader: the bytes that it needs no more. The others begin the next window. */
  used: number;
}

/** The windows of a stream, without a byte order mark at its beginning. */
export async function* windows(
  chunks: AsyncIterable<Uint8Array>,
  leastBytes = WINDOW_BYTES,
): AsyncGenerator<Window> {
  let waiting: Uint8Array[] = [], length = 0, offset = 0;
  const next = (isLast: boolean): Window => {
    const bytes = Buffer.concat(waiting);
    const hasMark = offset === 0 && bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf;
    if (hasMark) offset = 3;
    return { bytes: hasMark ? bytes.subarray(3) : bytes, offset, isLast, used: 0 };
  };
  for await (const chunk of chunks) {
    waiting.push(chunk);
    length += chunk.length;
    if (length < leastBytes) continue;
    const window = next(false);
    yield window;
    offset += window.used;
    [waiting, length] = [[window.bytes.subarray(window.used)], 0];
  }
  yield next(true);
}

/**
 * The documents of a text, separated by `<|endoftext|>` anywhere in a line.
 *
 * Documents of more than `most` bytes are cut into parts by `cutPoint()`. The cuts do not depend on the
 * chunks in which the text arrives.
 */
export async function* textParts(
  chunks: AsyncIterable<Uint8Array>,
  { most = LARGEST_PART }: { most?: number } = {},
): AsyncGenerator<Part[]> {
  let isBeginning = true; // whether the next part begins a document
  for await (const window of windows(chunks, 4 * most)) {
    const { bytes, offset, isLast } = window;
    const text = bytes.toString("latin1"); // searching a string is ten times as fast
    const parts: Part[] = [];
    let at = 0;
    // a part depends on its own bytes and on a separator right after them
    while (at < bytes.length && (isLast || bytes.length - at >= most + SEPARATOR.length)) {
      const separator = text.indexOf(SEPARATOR, at), place = offset + at;
      const end = separator >= 0 ? separator : isLast ? bytes.length : Infinity;
      if (end - at <= most) {
        const part = bytes.subarray(at, end);
        if (!isBeginning || part.length > 0) parts.push({ bytes: part, place });
        isBeginning = true;
        at = end + (separator >= 0 ? SEPARATOR.length : 0);
      } else {
        const cut = cutPoint(bytes, at, at + most), part = bytes.subarray(at, cut);
        at = cut;
        if (isBeginning && part.toString().trim() === "") continue; // white space precedes the document
        parts.push({ bytes: part, place, open: true });
        isBeginning = false;
      }
    }
    window.used = at;
    yield parts;
  }
}

const TAB = 0x09, LINE_FEED = 0x0a, RETURN = 0x0d, BLANK = 0x20;

/**
 * Where to cut a text that continues past `end`, so that both sides together have the tokens of the whole:
 * before the last blank that ends a word, because the patterns of all tokenizers begin a word there; else
 * before the last line end that ends a word; else between two characters.
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

/** Whether anything but white space precedes a place. */
function endsWord(bytes: Uint8Array, at: number): boolean {
  const before = bytes[at - 1]!;
  if (before < 0x80) return before > BLANK;
  let first = at - 1;
  while (first > 0 && first > at - 4 && (bytes[first]! & 0xc0) === 0x80) first--;
  return !/\p{White_Space}|\ufeff|\ufffd/u.test(Buffer.from(bytes.subarray(first, at)).toString());
}

/**
 * The lines of a text that are not blank, each a document.
 *
 * @throws {DataError} if a line is too long.
 */
export async function* lineParts(
  chunks: AsyncIterable<Uint8Array>,
  { file }: Pick<PartsOrigin, "file">,
): AsyncGenerator<Part[]> {
  let number = 0;
  for await (const window of windows(chunks)) {
    const { bytes, isLast } = window, parts: Part[] = [];
    while (window.used < bytes.length) {
      const feed = bytes.indexOf(LINE_FEED, window.used), end = feed < 0 ? bytes.length : feed;
      checkLength(end - window.used, `${file} as line ${number + 1}`);
      if (feed < 0 && !isLast) break;
      const line = bytes.subarray(window.used, end);
      number++;
      if (!line.every(isBlank)) parts.push({ bytes: line, place: number });
      window.used = end + 1;
    }
    yield parts;
  }
}

/** What matters in JSON: brackets, commas, quotes, and what is escaped in a string. */
const MARKS = /["[\]{},]|\\[^]/g;

/**
 * The elements of a JSON array, each a document; they are not parsed here.
 *
 * @throws {DataError} if the array is not whole, or an element is too long.
 */
export async function* arrayParts(
  chunks: AsyncIterable<Uint8Array>,
  { file }: Pick<PartsOrigin, "file">,
): AsyncGenerator<Part[]> {
  let number = 0; // of the element at the beginning of the window; 0 before the array
  let isOver = false;
  const fail = (requirement: string, found: string) =>
    new DataError(`${file} as its JSON array must ${requirement}: ${found}`);
  for await (const window of windows(chunks)) {
    const { bytes, isLast } = window, parts: Part[] = [];
    let depth = number === 0 ? 0 : 1; // of brackets and braces
    let isInString = false;
    for (const { 0: mark, index } of isOver ? [] : bytes.toString("latin1").matchAll(MARKS)) {
      if (mark === '"') isInString = !isInString;
      if (isInString) continue;
      if (depth === 0 && mark === "[") {
        number = 1;
        window.used = index + 1;
      } else if (depth === 1 && (mark === "," || mark === "]")) {
        const element = bytes.subarray(window.used, index);
        checkLength(element.length, `${file} as element ${number}`);
        const isEmpty = mark === "]" && number === 1 && element.every(isBlank);
        if (!isEmpty) parts.push({ bytes: element, place: number });
        number++;
        window.used = index + 1;
      }
      if (mark === "[" || mark === "{") depth++;
      if (mark === "]" || mark === "}") depth--;
      isOver = depth === 0;
      if (isOver) break;
    }
    const rest = bytes.subarray(window.used);
    if (isOver && !rest.every(isBlank)) throw fail("be all that the file holds", "there is more");
    checkLength(rest.length, `${file} as element ${number}`);
    yield parts;
    if (isLast && !isOver) throw fail("end with ]", `it breaks off in element ${number}`);
  }
}

/**
 * Checks the length of a record, which is to be parsed.
 *
 * @throws {DataError} if it is too long.
 */
export function checkLength(bytes: number, record: string): void {
  if (bytes <= LONGEST_RECORD) return;
  throw new DataError(
    `${record} must be at most ${LONGEST_RECORD / 2 ** 20} MiB long: it is longer`,
  );
}

/** Whether a byte is white space in JSON. */
function isBlank(byte: number): boolean {
  return byte === BLANK || byte === TAB || byte === RETURN || byte === LINE_FEED;
}
