import { Buffer, isUtf8 } from "node:buffer";
import { isObject } from "../../files/json.ts";
import { printable, quoted } from "../../files/printable.ts";
import { DataError } from "../text/data_error.ts";
import { cutPoint, joinLineEnds, LARGEST_PIECE, type PlaceUnit } from "../text/documents.ts";
import { fieldNames, fieldOf, listOfNames } from "../text/fields.ts";
import { Encoder, type EncoderTables } from "../tokenizer/encode.ts";
import { parseTokenizer, type Tokenizer } from "../tokenizer/tokenizer.ts";

/** A stretch of a source that is tokenized at once: pieces of documents, one after the other. */
export interface Unit {
  /** The pieces, before each a spare byte at least, so that cleaning them takes no further room. */
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** Where each piece begins in `bytes`. */
  readonly starts: Uint32Array<ArrayBuffer>;
  /** Where each piece ends in `bytes`. */
  readonly ends: Uint32Array<ArrayBuffer>;
  /** Whether a document begins (1) and ends (2) in each piece, as a sum. */
  readonly edges: Uint8Array<ArrayBuffer>;
  /** Where each piece is in its file: see `Piece`. */
  readonly places: Float64Array<ArrayBuffer>;
  /** What these places count. */
  readonly placeUnit: PlaceUnit;
  /** The file, for messages. */
  readonly file: string;
  /** Where the pieces are JSON objects: the field that holds the document. */
  readonly field?: string;
}

/** What becomes of a unit. */
export interface TokenizedUnit {
  /** The documents, cleaned, each followed by a zero byte; in the memory that the unit had. */
  readonly text: Uint8Array<ArrayBuffer>;
  /** The tokens, each document followed by end-of-text; none if only the text was asked for. */
  readonly tokens: Uint16Array<ArrayBuffer> | Uint32Array<ArrayBuffer>;
  /** Where documents begin in `tokens`; what precedes the first belongs to a document of an earlier unit. */
  readonly starts: Uint32Array<ArrayBuffer>;
  /** Documents that end in the unit. */
  readonly ended: number;
  /** Lines, elements or rows without one: null, or nothing but white space. */
  readonly empty: number;
  /** Whether the last document continues in the next unit. */
  readonly open: boolean;
}

/** What tells tokenizers apart, in a form that can be sent to a worker. */
export interface UnitTokenizerOptions {
  /** The `tokenizer.json`. */
  readonly json: string;
  /** What is faster, where the tokenizer allows it. */
  readonly tables?: EncoderTables;
  readonly vocabularySize: number;
  /** Id of the token that ends a document, and how it is written. */
  readonly endOfText: number;
  readonly endOfTextToken: string;
}

export const BEGINS = 1, ENDS = 2;

/** Tokenizes units; with `textOnly` it cleans their text and no more. */
export type UnitTokenizer = (unit: Unit, options: { textOnly: boolean }) => TokenizedUnit;

/** Makes the function that tokenizes units. */
export async function createUnitTokenizer(
  { json, tables, vocabularySize, endOfText, endOfTextToken }: UnitTokenizerOptions,
): Promise<UnitTokenizer> {
  const encoder = tables ? new Encoder(tables) : new DocumentEncoder(
    await parseTokenizer(json, "tokenizer.json", { endOfText: endOfTextToken, vocabularySize }),
  );
  return (unit, { textOnly }) => {
    const starts: number[] = [];
    const counts = { empty: 0 };
    let length = 0, ended = 0;
    encoder.reset();
    for (const { start, end, begins, ends } of cleanDocuments(unit, counts)) {
      if (begins) starts.push(encoder.length);
      if (!textOnly) encodeInPieces(encoder, unit.bytes, start, end);
      if (ends) encoder.push(endOfText);
      if (ends) ended++;
      length = ends ? end + 1 : end;
    }
    const ids = encoder.ids.subarray(0, textOnly ? 0 : encoder.length);
    return {
      text: unit.bytes.subarray(0, length),
      tokens: vocabularySize <= 2 ** 16 ? new Uint16Array(ids) : ids.slice(),
      starts: Uint32Array.from(starts),
      ended,
      ...counts,
      open: (unit.edges.at(-1)! & ENDS) === 0,
    };
  };
}

/** The documents of a unit, or stretches of them, as they are tokenized. */
export function* textsOf(unit: Unit, counts: { empty: number }): Generator<string> {
  for (const { start, end } of cleanDocuments(unit, counts)) {
    yield Buffer.from(unit.bytes.buffer, unit.bytes.byteOffset + start, end - start).toString();
  }
}

/** Encodes a text; of a long one, a part at a time, so that the room for the worst case stays small. */
function encodeInPieces(
  encoder: Pick<Encoder, "encode">,
  bytes: Uint8Array,
  start: number,
  end: number,
): void {
  for (let at = start; at < end;) {
    const next = end - at > LARGEST_PIECE ? cutPoint(bytes, at, at + LARGEST_PIECE) : end;
    encoder.encode(bytes, at, next);
    at = next;
  }
}

/** Where a document, or a stretch of one, lies in the memory of its unit. */
interface Stretch {
  start: number;
  end: number;
  begins: boolean;
  ends: boolean;
}

/**
 * Cleans the documents of a unit, in its own memory: `\r\n` becomes `\n`, white space at beginnings and
 * ends goes, as do documents of nothing else, and a zero byte follows each.
 *
 * What is yielded is there until the next is asked for.
 *
 * @param counts to which lines, elements and rows without a document are added.
 */
function* cleanDocuments(unit: Unit, counts: { empty: number }): Generator<Stretch> {
  const { bytes, edges } = unit;
  let to = 0; // as each document has a spare byte, this stays before what is yet to be cleaned
  for (let i = 0; i < edges.length; i++) {
    const begins = (edges[i]! & BEGINS) !== 0, ends = (edges[i]! & ENDS) !== 0;
    let start = unit.starts[i]!;
    let end = unit.field === undefined ? unit.ends[i]! : unwrapJson(unit, i);
    const hasReturns = checkText(unit, i, end);
    while (begins && start < end) {
      const width = widthOfSpace(bytes, start);
      if (width === 0) break;
      start += width;
    }
    while (ends && end > start) {
      let last = end - 1;
      while ((bytes[last]! & 0xc0) === 0x80) last--;
      if (widthOfSpace(bytes, last) === 0) break;
      end = last;
    }
    if (begins && ends && start === end) {
      if (unit.placeUnit !== "byte") counts.empty++;
      continue;
    }
    bytes.copyWithin(to, start, end);
    end = hasReturns ? joinLineEnds(bytes, to, to + end - start) : to + end - start;
    if (ends) bytes[end] = 0;
    yield { start: to, end, begins, ends };
    to = ends ? end + 1 : end;
  }
}

/** Bytes of 0 that no text has: in a row, as blocks that were never written, or as so large a share. */
const MANY_ZEROS = "\0".repeat(16), LARGE_SHARE = 1 / 8;

/**
 * Checks that a piece is text.
 *
 * @returns whether there are returns in it.
 */
function checkText(unit: Unit, i: number, end: number): boolean {
  const { bytes, starts, places, placeUnit, file } = unit;
  const start = starts[i]!;
  const piece = Buffer.from(bytes.buffer, bytes.byteOffset + start, end - start);
  const fail = (requirement: string, byte: number) =>
    new DataError(
      placeUnit === "byte"
        ? `${file} as it must be ${requirement}: ` +
          `the first byte that is not is at ${places[i]! + byte}`
        : `${file} as ${placeUnit} ${places[i]} must be ${requirement}: ` +
          `it is not`,
    );
  if (!isUtf8(piece)) throw fail("UTF-8", firstInvalidByte(piece));
  const bytesAsText = piece.toString("latin1"); // searched faster than bytes
  if (bytesAsText.includes("\0")) {
    const zeros = bytesAsText.split("\0").length - 1;
    const isMost = zeros >= MANY_ZEROS.length && zeros > LARGE_SHARE * piece.length;
    const place = bytesAsText.indexOf(isMost ? "\0" : MANY_ZEROS);
    if (place >= 0) throw fail("text, not bytes of 0", place);
  }
  return bytesAsText.includes("\r");
}

/** Puts the document of a JSON object in the object's place, where it fits, and returns its end. */
function unwrapJson(
  { bytes, starts, ends, places, placeUnit, file, field }: Unit,
  i: number,
): number {
  const fail = (requirement: string, value: string) =>
    new DataError(
      `${file} as ${placeUnit} ${places[i]} must ${requirement}: ${value}`,
    );
  const json = bytes.subarray(starts[i]!, ends[i]!);
  if (!isUtf8(json)) throw fail("be UTF-8", "it is not");
  let value: unknown;
  try {
    value = parseJson(new TextDecoder().decode(json));
  } catch (error) {
    const reason = printable((error as Error).message.split("\n")[0]!);
    throw fail("be JSON", placeUnit === "line" ? `${reason}; ${ONE_PER_LINE}` : reason);
  }
  if (!isObject(value)) throw fail("be a JSON object", `current value is ${quoted(value, 40)}`);
  const text = fieldOf(value, field!);
  if (text === null) return starts[i]!;
  if (typeof text === "string") {
    return starts[i]! + new TextEncoder().encodeInto(text, json).written;
  }
  throw fail(
    `hold a string in its field ${field}`,
    (text === undefined ? "" : `current value is ${quoted(text, 40)}; `) +
      `its fields are ${listOfNames(fieldNames(value))}; choose with --text-field`,
  );
}

const ONE_PER_LINE = "objects must be one per line, or all in one array";

/** Parses JSON, in which Python writes NaN, Infinity and -Infinity as such: here they are null. */
function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    if (!/NaN|Infinity/.test(text)) throw error;
    return JSON.parse(withoutNaN(text));
  }
}

/** JSON with null in place of what is no number; a pattern for strings would overflow the stack. */
function withoutNaN(json: string): string {
  let known = "";
  for (let at = 0; at < json.length;) {
    const quote = json.indexOf('"', at), start = quote < 0 ? json.length : quote;
    known += json.slice(at, start).replace(/\bNaN\b|-?\bInfinity\b/g, "null");
    let end = start;
    do {
      end = json.indexOf('"', end + 1);
    } while (end >= 0 && isEscaped(json, end));
    at = end < 0 ? json.length : end + 1;
    known += json.slice(start, at);
  }
  return known;
}

/** Whether an odd number of backslashes stands before a place. */
function isEscaped(text: string, at: number): boolean {
  let start = at;
  while (text[start - 1] === "\\") start--;
  return (at - start) % 2 === 1;
}

/** Bytes of the character at a place, if `String.trim()` takes it away; else 0. */
function widthOfSpace(bytes: Uint8Array, at: number): number {
  const first = bytes[at]!;
  if (first < 0x80) return first === 0x20 || (first >= 0x09 && first <= 0x0d) ? 1 : 0;
  const width = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  const character = Buffer.from(bytes.subarray(at, at + width)).toString();
  return character.trim() === "" ? width : 0;
}

/** Offset of the first byte that is no UTF-8, by halving. */
function firstInvalidByte(bytes: Uint8Array): number {
  const valid = (end: number) => {
    try {
      new TextDecoder("utf-8", { fatal: true }).decode(bytes.subarray(0, end), { stream: true });
      return true;
    } catch {
      return false;
    }
  };
  let low = 0, high = bytes.length;
  while (low < high) {
    const middle = Math.floor((low + high + 1) / 2);
    if (valid(middle)) low = middle;
    else high = middle - 1;
  }
  return low;
}

/** A tokenizer of any kind as an `Encoder`. */
class DocumentEncoder implements Pick<Encoder, "ids" | "length" | "reset" | "push" | "encode"> {
  ids: Uint32Array<ArrayBuffer> = new Uint32Array(0);
  length = 0;
  readonly #tokenizer: Tokenizer;

  constructor(tokenizer: Tokenizer) {
    this.#tokenizer = tokenizer;
  }

  reset(): void {
    this.ids = new Uint32Array(2 ** 16);
    this.length = 0;
  }

  push(id: number): void {
    this.#append([id]);
  }

  encode(bytes: Uint8Array, start: number, end: number): void {
    this.#append(
      this.#tokenizer.encodeDocument(Buffer.from(bytes.subarray(start, end)).toString()),
    );
  }

  #append(ids: readonly number[]): void {
    if (this.length + ids.length > this.ids.length) {
      const larger = new Uint32Array(Math.max(2 * this.ids.length, this.length + ids.length));
      larger.set(this.ids.subarray(0, this.length));
      this.ids = larger;
    }
    this.ids.set(ids, this.length);
    this.length += ids.length;
  }
}
