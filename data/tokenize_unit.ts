import { Buffer, isUtf8 } from "node:buffer";
import { cutPoint, LARGEST_PIECE } from "./documents.ts";
import { Encoder, type EncoderTables } from "./encode.ts";
import { parseTokenizer, type Tokenizer } from "./tokenizer.ts";

/** A stretch of a source that is tokenized at once: pieces of documents, one after the other. */
export interface Unit {
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** Where each piece ends in `bytes`. */
  readonly ends: Uint32Array<ArrayBuffer>;
  /** Whether a document begins (1) and ends (2) in each piece, as a sum. */
  readonly edges: Uint8Array<ArrayBuffer>;
  /** Where each piece is in its file: see `Piece`. */
  readonly places: Float64Array<ArrayBuffer>;
  /** The file, for messages. */
  readonly file: string;
  /** Where the pieces are JSON objects: the field that holds the document. */
  readonly field?: string;
}

/** What becomes of a unit. */
export interface TokenizedUnit {
  /** The documents, cleaned, each followed by a zero byte. */
  readonly text: Uint8Array<ArrayBuffer>;
  /** The tokens, each document followed by end-of-text; none if only the text was asked for. */
  readonly tokens: Uint16Array<ArrayBuffer> | Uint32Array<ArrayBuffer>;
  /** Where documents begin in `tokens`; before the first, one goes on that began in an earlier unit. */
  readonly starts: Uint32Array<ArrayBuffer>;
  /** Documents that end in the unit. */
  readonly ended: number;
  /** Whether the last document goes on in the next unit. */
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
    const text = new ByteList(unit.bytes.length + unit.ends.length);
    const starts: number[] = [];
    let ended = 0;
    encoder.reset();
    for (const { bytes, begins, ends, place } of documentsOf(unit)) {
      const start = text.length;
      clean(bytes, { begins, ends, into: text }, { file: unit.file, place });
      if (begins && ends && text.length === start) continue;
      if (begins) starts.push(encoder.length);
      if (!textOnly) encodeInPieces(encoder, text.bytes, start, text.length);
      if (ends) {
        text.push(0);
        encoder.push(endOfText);
        ended++;
      }
    }
    const ids = encoder.ids.subarray(0, textOnly ? 0 : encoder.length);
    return {
      text: text.bytes.subarray(0, text.length),
      tokens: vocabularySize <= 2 ** 16 ? new Uint16Array(ids) : ids.slice(),
      starts: Uint32Array.from(starts),
      ended,
      open: (unit.edges.at(-1)! & ENDS) === 0,
    };
  };
}

/** The documents of a unit, or stretches of them, as they are tokenized. */
export function* textsOf(unit: Unit): Generator<string> {
  for (const { bytes, begins, ends, place } of documentsOf(unit)) {
    const text = new ByteList(bytes.length);
    clean(bytes, { begins, ends, into: text }, { file: unit.file, place });
    yield Buffer.from(text.bytes.buffer, 0, text.length).toString();
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

interface DocumentPiece {
  bytes: Uint8Array;
  begins: boolean;
  ends: boolean;
  place: number;
}

function documentsOf(unit: Unit): Generator<DocumentPiece> {
  return unit.field === undefined ? piecesOf(unit) : jsonDocuments(unit);
}

function* piecesOf({ bytes, ends, edges, places }: Unit): Generator<DocumentPiece> {
  for (const [i, end] of ends.entries()) {
    yield {
      bytes: bytes.subarray(ends[i - 1] ?? 0, end),
      begins: (edges[i]! & BEGINS) !== 0,
      ends: (edges[i]! & ENDS) !== 0,
      place: places[i]!,
    };
  }
}

function* jsonDocuments(unit: Unit): Generator<DocumentPiece> {
  const { file, field } = unit;
  const decoder = new TextDecoder(), encoder = new TextEncoder();
  for (const piece of piecesOf(unit)) {
    const fail = (requirement: string, value: string) =>
      new SyntaxError(
        `Cannot read data file ${file} as line ${piece.place} must ${requirement}: ${value}`,
      );
    if (!isUtf8(piece.bytes)) throw fail("be UTF-8", "it is not");
    let value: unknown;
    try {
      value = JSON.parse(decoder.decode(piece.bytes));
    } catch (error) {
      throw fail("be JSON", (error as Error).message.split("\n")[0]!);
    }
    if (value === null || typeof value !== "object" || Array.isArray(value)) {
      throw fail("be a JSON object", `current value is ${JSON.stringify(value).slice(0, 40)}`);
    }
    const text = (value as Record<string, unknown>)[field!];
    if (typeof text !== "string") {
      throw fail(
        `hold a string in its field ${field}`,
        `its fields are ${Object.keys(value).join(", ")}; choose with --text-field`,
      );
    }
    yield { ...piece, bytes: encoder.encode(text) };
  }
}

/**
 * Appends a document, or a stretch of one, as it is tokenized: `\r\n` becomes `\n`, and white space goes
 * at its beginning and end.
 */
function clean(
  bytes: Uint8Array,
  { begins, ends, into }: { begins: boolean; ends: boolean; into: ByteList },
  { file, place }: { file: string; place: number },
): void {
  if (!isUtf8(bytes)) {
    throw new RangeError(
      `Cannot read data file ${file} as it must be UTF-8: ` +
        `the first byte that is not is at ${place + firstInvalidByte(bytes)}`,
    );
  }
  let start = 0, end = bytes.length;
  if (begins) {
    while (start < end) {
      const width = widthOfSpace(bytes, start);
      if (width === 0) break;
      start += width;
    }
  }
  if (ends) {
    while (end > start) {
      let last = end - 1;
      while ((bytes[last]! & 0xc0) === 0x80) last--;
      if (widthOfSpace(bytes, last) === 0) break;
      end = last;
    }
  }
  into.append(bytes.subarray(start, end));
  if (bytes.includes(0x0d)) into.joinLineEnds(into.length - (end - start));
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

/** Bytes that grow. */
class ByteList {
  bytes: Uint8Array<ArrayBuffer>;
  length = 0;

  constructor(room: number) {
    this.bytes = new Uint8Array(room);
  }

  append(more: Uint8Array): void {
    this.#reserve(more.length);
    this.bytes.set(more, this.length);
    this.length += more.length;
  }

  push(byte: number): void {
    this.#reserve(1);
    this.bytes[this.length++] = byte;
  }

  /** Turns `\r\n` into `\n` from a place on. */
  joinLineEnds(from: number): void {
    const { bytes, length } = this;
    let to = from;
    for (let i = from; i < length; i++) {
      if (bytes[i] !== 0x0d || bytes[i + 1] !== 0x0a || i + 1 === length) bytes[to++] = bytes[i]!;
    }
    this.length = to;
  }

  #reserve(count: number): void {
    if (this.length + count <= this.bytes.length) return;
    const larger = new Uint8Array(Math.max(2 * this.bytes.length, this.length + count));
    larger.set(this.bytes.subarray(0, this.length));
    this.bytes = larger;
  }
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
