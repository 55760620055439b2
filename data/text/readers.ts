import { Buffer } from "node:buffer";
import type { Part } from "./blocks.ts";
import type { ConversationFields } from "./conversations.ts";
import { DataError } from "./data_error.ts";

/**
 * Finds documents in a stream of bytes: in text, in lines of JSON, in an array of JSON.
 *
 * @module
 */

/** A file that is being read. */
export interface OpenFile {
  /** Name in messages. */
  readonly file: string;
  readonly handle: number;
  readonly bytes: number;
  /** The field or column that holds the documents; a nested one is `data.text`. */
  readonly column: string;
  /** The fields or columns in its place if the documents are conversations. */
  readonly conversation?: ConversationFields | undefined;
  /** Is set to the end of what has been read. */
  readonly progress: { bytesRead: number };
}

/** Separates documents in a text file. */
export const SEPARATOR = "<|endoftext|>";

/** Most bytes of a part of a document. */
export const LARGEST_PART = 2 ** 18;

/** Most bytes of a line, element or row, which is parsed whole. */
export const LONGEST_RECORD = 16 * 2 ** 20;

const TAB = 0x09, LINE_FEED = 0x0a, RETURN = 0x0d, BLANK = 0x20;

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
  let window = Buffer.alloc(0); // of the text
  let offset = 0; // of the window in the text
  let isBeginning = true; // whether the next part begins a document
  for await (const { chunk, last } of regroup(chunks, 4 * most)) {
    window = Buffer.concat([window, chunk]);
    const bytesAsText = window.toString("latin1"); // searching a string is ten times as fast
    const parts: Part[] = [];
    let at = offset === 0 && hasByteOrderMark(window) ? 3 : 0;
    let separator = bytesAsText.indexOf(SEPARATOR, at);
    // a part depends on its own bytes and on a separator right after them
    while (at < window.length && (last || window.length - at >= most + SEPARATOR.length)) {
      if (separator >= 0 && separator < at) separator = bytesAsText.indexOf(SEPARATOR, at);
      const end = separator >= 0 ? separator : last ? window.length : Infinity;
      const place = offset + at;
      if (end - at <= most) {
        const bytes = window.subarray(at, end);
        if (!isBeginning || bytes.length > 0) parts.push({ bytes, place });
        isBeginning = true;
        at = end + (separator >= 0 ? SEPARATOR.length : 0);
      } else {
        const cut = cutPoint(window, at, at + most);
        const bytes = window.subarray(at, cut);
        at = cut;
        if (isBeginning && bytes.toString().trim() === "") continue; // white space precedes the document
        parts.push({ bytes, place, open: true });
        isBeginning = false;
      }
    }
    offset += at;
    window = window.subarray(at);
    yield parts;
  }
}

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
  { file, longest = LONGEST_RECORD }: { file: string; longest?: number },
): AsyncGenerator<Part[]> {
  let window = Buffer.alloc(0); // from the beginning of a line
  let number = 0;
  const check = (length: number) => {
    if (length > longest) throw tooLong(file, { record: `line ${number + 1}`, longest });
  };
  for await (const { chunk, last } of regroup(chunks, 4 * LARGEST_PART)) {
    window = Buffer.concat([window, chunk]);
    const whole = last ? window.length : window.lastIndexOf(LINE_FEED) + 1;
    const parts: Part[] = [];
    let start = number === 0 && hasByteOrderMark(window) ? 3 : 0;
    for (let end; start < whole; start = end + 1) {
      end = window.indexOf(LINE_FEED, start);
      if (end < 0) end = whole;
      check(end - start);
      number++;
      const bytes = window.subarray(start, end);
      if (!bytes.every(isBlank)) parts.push({ bytes, place: number });
    }
    window = window.subarray(whole);
    check(window.length);
    yield parts;
  }
}

/**
 * The elements of a JSON array, each a document; they are not parsed here.
 *
 * @throws {DataError} if the array is not whole, or an element is too long.
 */
export async function* arrayParts(
  chunks: AsyncIterable<Uint8Array>,
  { file, longest = LONGEST_RECORD }: { file: string; longest?: number },
): AsyncGenerator<Part[]> {
  let window = Buffer.alloc(0); // from the beginning of an element
  let at = 0; // how far the window has been searched
  let number = 0; // of the element; 0 before the array
  let depth = 0; // of brackets and braces; 0 before and after the array
  let inString = false;
  const fail = (requirement: string, found: string) =>
    new DataError(`${file} as its JSON array must ${requirement}: ${found}`);
  for await (const { chunk, last } of regroup(chunks, 4 * LARGEST_PART)) {
    window = Buffer.concat([window, chunk]);
    const bytesAsText = window.toString("latin1"); // as above
    const parts: Part[] = [];
    let start = 0;
    for (let mark; (mark = bytesAsText[at]) !== undefined; at++) {
      if (inString) {
        const quote = bytesAsText.indexOf('"', at);
        inString = quote < 0 || isEscaped(bytesAsText, quote);
        at = quote < 0 ? window.length - 1 : quote;
        continue;
      }
      if (depth === 0 && number > 0) break; // only white space may follow
      if (mark === '"') inString = true;
      if (depth === 0 && mark === "[") {
        number = 1;
        start = at + 1;
      } else if (depth === 1 && (mark === "," || mark === "]")) {
        const bytes = window.subarray(start, at);
        const isEmpty = mark === "]" && number === 1 && bytes.every(isBlank);
        if (!isEmpty) parts.push({ bytes, place: number });
        number++;
        start = at + 1;
      }
      if (mark === "[" || mark === "{") depth++;
      if (mark === "]" || mark === "}") depth--;
    }
    if (depth === 0 && !window.subarray(start).every(isBlank)) {
      throw fail("be all that the file holds", "there is more");
    }
    window = window.subarray(start);
    at -= start;
    if (window.length > longest) throw tooLong(file, { record: `element ${number}`, longest });
    yield parts;
    if (last && depth > 0) throw fail("end with ]", `it breaks off in element ${number}`);
  }
}

/** Whether an odd number of backslashes precedes a place. */
function isEscaped(text: string, at: number): boolean {
  let start = at;
  while (text[start - 1] === "\\") start--;
  return (at - start) % 2 === 1;
}

/** The error for a record that is too long to be parsed. */
export function tooLong(
  file: string,
  { record, longest }: { record: string; longest: number },
): DataError {
  const mebibytes = longest / 2 ** 20;
  return new DataError(`${file} as ${record} must be at most ${mebibytes} MiB long: it is longer`);
}

export function hasByteOrderMark(bytes: Uint8Array): boolean {
  return bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf;
}

/** Whether a byte is white space in JSON. */
function isBlank(byte: number): boolean {
  return byte === BLANK || byte === TAB || byte === RETURN || byte === LINE_FEED;
}

/** Turns `\r\n` into `\n` in place and returns the new end of the text. */
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

/** Joins chunks until they have `least` bytes, and marks the last one. */
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
