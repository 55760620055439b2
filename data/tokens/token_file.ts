import { createHash } from "node:crypto";
import {
  closeSync,
  fstatSync,
  fsyncSync,
  ftruncateSync,
  openSync,
  readSync,
  writeSync,
} from "node:fs";
import { UserError } from "../../files/user_error.ts";

/** A tokenized text: documents one after the other, each followed by end-of-text. */
export interface TokenizedText {
  /** Tokens in it. */
  readonly length: number;
  /** Documents in it. */
  readonly documents: number;
  /** UTF-8 bytes of the documents. */
  readonly bytes: number;
  /**
   * The tokens from `start` to before `end`.
   *
   * @throws {UserError} if the file that they are in is damaged there.
   */
  read(start: number, end: number): Tokens;
  /** Where a document starts; for the one after the last, where the text ends. */
  documentStart(index: number): number;
  /** Gives back what it holds open. */
  close(): void;
}

/** Ids in as little room as the vocabulary allows. */
export type Tokens = Uint16Array<ArrayBuffer> | Uint32Array<ArrayBuffer>;

/** What a text is made of while it grows. */
export interface TokenSink {
  /** Tokens so far. */
  readonly length: number;
  /** Documents so far. */
  readonly documents: number;
  /** Appends tokens; documents begin at the places `starts` among them. */
  append(tokens: Tokens, starts: readonly number[]): void;
  /** The tokens from `start` to before `end`. */
  read(start: number, end: number): Tokens;
  /** Where a document starts. */
  documentStart(index: number): number;
  /** Takes what exceeds so many tokens and documents away again. */
  truncate(extent: { length: number; documents: number }): void;
}

/** A text whose tokens are in memory. */
export function textOf(
  { tokens, documentStarts, bytes = 0 }: {
    tokens: Tokens;
    documentStarts: ArrayLike<number>;
    bytes?: number;
  },
): TokenizedText {
  return {
    length: tokens.length,
    documents: documentStarts.length,
    bytes,
    read: (start, end) => tokens.subarray(start, end),
    documentStart: (index) => documentStarts[index] ?? tokens.length,
    close() {},
  };
}

/** The same text in other ids. */
export function renumbered(text: TokenizedText, newIds: Uint32Array): TokenizedText {
  return {
    length: text.length,
    documents: text.documents,
    bytes: text.bytes,
    read: (start, end) => text.read(start, end).map((id) => newIds[id]!) as Tokens,
    documentStart: (index) => text.documentStart(index),
    close: () => text.close(),
  };
}

/** Array type of the ids of a vocabulary. */
export function tokensType(
  vocabularySize: number,
): Uint16ArrayConstructor | Uint32ArrayConstructor {
  return vocabularySize <= 2 ** 16 ? Uint16Array : Uint32Array;
}

/** Which text and tokenizer a token file was made from. */
export interface TokenFileOrigin {
  /** `Source.fingerprint` of the text, in hexadecimal. */
  readonly fingerprint: string;
  /** `Tokenizer.hash` of the tokenizer. */
  readonly tokenizerHash: string;
}

/**
 * A token file is this header, padded with zeros to 256 bytes, then the tokens (u16 or u32), where each
 * document starts among them (f64), which ids occur (a bit each, the lowest of a byte first), and the
 * SHA-256 of each megabyte of tokens and starts together; all little-endian.
 *
 * magic "TOYTOKEN", u32 version, u32 bytes per token, f64 tokens, f64 documents, f64 text bytes, f64
 * size of the vocabulary, then in 32 bytes each: hash of the text, hash of the tokenizer, fingerprint of
 * the source, SHA-256 of the header up to here and of everything behind the starts.
 *
 * So a file is opened by reading little of it, and still nothing damaged is taken for tokens: each
 * megabyte is checked when it is first read.
 */
const MAGIC = "TOYTOKEN";
/** Changes with the layout, and with the way in which documents are read from files. */
const VERSION = 3;
const HEADER_BYTES = 256;
const CHECKSUM_AT = 144;
const BLOCK_BYTES = 2 ** 20;
const START_BYTES = 8;

/** Files with no more than so many bytes are checked whole when they are opened: it takes no time. */
const CHECKED_AT_ONCE = 64 * 2 ** 20;

/** A token file, read in slices. */
export class TokenFile implements TokenizedText {
  readonly length: number;
  readonly documents: number;
  readonly bytes: number;
  /** SHA-256 of the documents, in hexadecimal. */
  readonly textHash: string;
  readonly #path: string;
  readonly #file: number;
  readonly #Tokens: Uint16ArrayConstructor | Uint32ArrayConstructor;
  /** Which ids occur. */
  readonly #used: Uint8Array;
  readonly #blockHashes: Uint8Array;
  readonly #checked: Uint8Array;

  /**
   * Opens a token file.
   *
   * @throws {UserError} if it is no token file, is truncated or damaged, as far as looked at.
   * @throws {UserError} if it has another version or another origin than expected.
   */
  constructor(path: string, expected?: TokenFileOrigin) {
    this.#path = path;
    this.#file = openSync(path, "r");
    try {
      const size = fstatSync(this.#file).size;
      const header = readFully(this.#file, 0, Math.min(size, HEADER_BYTES));
      if (new TextDecoder().decode(header.subarray(0, 8)) !== MAGIC) {
        throw this.#unreadable(`it must begin with ${MAGIC}`);
      }
      if (size < HEADER_BYTES) throw this.#unreadable(`its header is cut off after ${size} bytes`);
      const view = new DataView(header.buffer);
      const version = view.getUint32(8, true);
      if (version !== VERSION) {
        throw new UserError(
          `Cannot read token file ${path} as its version must be ${VERSION}: ` +
            `current version is ${version}`,
        );
      }
      const bytesPerToken = view.getUint32(12, true);
      const [tokens, documents, bytes, vocabularySize] = [16, 24, 32, 40]
        .map((at) => view.getFloat64(at, true)) as [number, number, number, number];
      const body = tokens * bytesPerToken + documents * START_BYTES;
      const blocks = Math.ceil(body / BLOCK_BYTES), usedBytes = Math.ceil(vocabularySize / 8);
      const length = HEADER_BYTES + body + usedBytes + 32 * blocks;
      if (![2, 4].includes(bytesPerToken) || size !== length) {
        throw this.#unreadable(`it must be ${length} bytes long: current length is ${size}`);
      }
      const hex = (at: number) => header.subarray(at, at + 32).toHex();
      const rest = readFully(this.#file, HEADER_BYTES + body, usedBytes + 32 * blocks);
      const checksum = createHash("sha256").update(header.subarray(0, CHECKSUM_AT)).update(rest);
      if (checksum.digest("hex") !== hex(CHECKSUM_AT)) {
        throw this.#unreadable("the checksum of its header does not match: it is damaged");
      }
      if (
        expected && (hex(112) !== expected.fingerprint || hex(80) !== expected.tokenizerHash)
      ) {
        throw new UserError(`Cannot use token file ${path} as it is of another text or tokenizer`);
      }
      this.length = tokens;
      this.documents = documents;
      this.bytes = bytes;
      this.textHash = hex(48);
      this.#Tokens = bytesPerToken === 2 ? Uint16Array : Uint32Array;
      this.#used = rest.subarray(0, usedBytes);
      this.#blockHashes = rest.subarray(usedBytes);
      this.#checked = new Uint8Array(blocks);
      if (body <= CHECKED_AT_ONCE) this.#check(0, body);
    } catch (error) {
      closeSync(this.#file);
      throw error;
    }
  }

  /** The ids that occur, in ascending order. */
  usedIds(): number[] {
    const ids: number[] = [];
    this.#used.forEach((bits, i) => {
      for (let bit = 0; bit < 8; bit++) if (bits >> bit & 1) ids.push(8 * i + bit);
    });
    return ids;
  }

  read(start: number, end: number): Tokens {
    const size = this.#Tokens.BYTES_PER_ELEMENT;
    const from = Math.max(0, start), to = Math.min(end, this.length);
    return new this.#Tokens(this.#readBody(from * size, Math.max(0, to - from) * size).buffer);
  }

  documentStart(index: number): number {
    if (index >= this.documents) return this.length;
    const at = this.length * this.#Tokens.BYTES_PER_ELEMENT + index * START_BYTES;
    return new DataView(this.#readBody(at, START_BYTES).buffer).getFloat64(0, true);
  }

  close(): void {
    closeSync(this.#file);
  }

  #readBody(at: number, length: number): Uint8Array<ArrayBuffer> {
    this.#check(at, at + length);
    return readFully(this.#file, HEADER_BYTES + at, length);
  }

  /** Checks what has not been checked of a stretch of the body. */
  #check(start: number, end: number): void {
    const body = this.length * this.#Tokens.BYTES_PER_ELEMENT + this.documents * START_BYTES;
    for (let i = Math.floor(start / BLOCK_BYTES); i * BLOCK_BYTES < end; i++) {
      if (this.#checked[i]) continue;
      const at = i * BLOCK_BYTES;
      const block = readFully(this.#file, HEADER_BYTES + at, Math.min(BLOCK_BYTES, body - at));
      const expected = this.#blockHashes.subarray(32 * i, 32 * i + 32).toHex();
      if (createHash("sha256").update(block).digest("hex") !== expected) {
        throw this.#unreadable(
          `its bytes from ${HEADER_BYTES + at} on do not match their checksum: ` +
            `delete it, and it is made anew`,
        );
      }
      this.#checked[i] = 1;
    }
  }

  #unreadable(reason: string): SyntaxError {
    return new UserError(`Cannot read token file ${this.#path} as ${reason}`);
  }
}

/**
 * Writes a token file, in any number of sittings: until it is finished, it has no header, and where
 * documents start is in a second file.
 */
export class TokenFileWriter implements TokenSink {
  #length: number;
  #documents: number;
  readonly #file: number;
  readonly #startsFile: number;
  readonly #vocabularySize: number;
  readonly #Tokens: Uint16ArrayConstructor | Uint32ArrayConstructor;

  /**
   * Opens the files, and keeps of them what an earlier sitting is known to have written.
   *
   * @param startsPath the second file.
   */
  constructor(
    path: string,
    startsPath: string,
    { vocabularySize, length, documents }: {
      vocabularySize: number;
      length: number;
      documents: number;
    },
  ) {
    this.#vocabularySize = vocabularySize;
    this.#Tokens = tokensType(vocabularySize);
    this.#file = openSync(path, length > 0 ? "r+" : "w+");
    this.#startsFile = openSync(startsPath, documents > 0 ? "r+" : "w+");
    const has = fstatSync(this.#file).size, hasStarts = fstatSync(this.#startsFile).size;
    if (length > 0 && has < this.#at(length) || hasStarts < documents * START_BYTES) {
      this.close();
      throw new UserError(
        `Cannot resume token file ${path} as it must hold ${length} tokens: it is shorter`,
      );
    }
    [this.#length, this.#documents] = [length, documents];
    this.truncate({ length, documents });
  }

  get length(): number {
    return this.#length;
  }

  get documents(): number {
    return this.#documents;
  }

  /** Bytes that tokens and starts take. */
  get bodyBytes(): number {
    return this.#length * this.#Tokens.BYTES_PER_ELEMENT + this.#documents * START_BYTES;
  }

  append(tokens: Tokens, starts: readonly number[]): void {
    const places = Float64Array.from(starts, (start) => this.#length + start);
    writeFully(this.#file, bytesOf(tokens), this.#at(this.#length));
    writeFully(this.#startsFile, bytesOf(places), this.#documents * START_BYTES);
    this.#length += tokens.length;
    this.#documents += starts.length;
  }

  read(start: number, end: number): Tokens {
    const size = this.#Tokens.BYTES_PER_ELEMENT;
    return new this.#Tokens(readFully(this.#file, this.#at(start), (end - start) * size).buffer);
  }

  documentStart(index: number): number {
    const place = readFully(this.#startsFile, index * START_BYTES, START_BYTES);
    return new DataView(place.buffer).getFloat64(0, true);
  }

  truncate({ length, documents }: { length: number; documents: number }): void {
    ftruncateSync(this.#file, this.#at(length));
    ftruncateSync(this.#startsFile, documents * START_BYTES);
    [this.#length, this.#documents] = [length, documents];
  }

  /** Brings everything so far to the disk. */
  sync(): void {
    fsyncSync(this.#file);
    fsyncSync(this.#startsFile);
  }

  /**
   * Completes the file: adds starts, ids and checksums, and the header last.
   *
   * Between blocks it lets others run; it may be stopped there, and called again.
   */
  async finish(
    { bytes, textHash, fingerprint, tokenizerHash, onProgress = () => {}, signal }:
      & TokenFileOrigin
      & {
        /** UTF-8 bytes of the documents. */
        bytes: number;
        /** SHA-256 of the documents. */
        textHash: string;
        /** Is called with the bytes read so far, of `bodyBytes`. */
        onProgress?: ((doneBytes: number) => void) | undefined;
        signal?: AbortSignal | undefined;
      },
  ): Promise<void> {
    const tokenBytes = this.#length * this.#Tokens.BYTES_PER_ELEMENT;
    const body = this.bodyBytes;
    ftruncateSync(this.#file, HEADER_BYTES + tokenBytes);
    for (let at = 0; at < this.#documents * START_BYTES; at += BLOCK_BYTES) {
      const length = Math.min(BLOCK_BYTES, this.#documents * START_BYTES - at);
      const places = readFully(this.#startsFile, at, length);
      writeFully(this.#file, places, HEADER_BYTES + tokenBytes + at);
    }
    const used = new Uint8Array(8 * Math.ceil(this.#vocabularySize / 8));
    const blockHashes: Uint8Array[] = [];
    for (let at = 0; at < body; at += BLOCK_BYTES) {
      const block = readFully(this.#file, HEADER_BYTES + at, Math.min(BLOCK_BYTES, body - at));
      blockHashes.push(createHash("sha256").update(block).digest());
      const length = Math.max(0, Math.min(block.length, tokenBytes - at));
      for (const id of new this.#Tokens(block.buffer, 0, length / this.#Tokens.BYTES_PER_ELEMENT)) {
        used[id] = 1;
      }
      onProgress(at + block.length);
      if (at % (16 * BLOCK_BYTES) !== 0) continue;
      await new Promise((resolve) => setTimeout(resolve));
      signal?.throwIfAborted();
    }
    const bits = new Uint8Array(used.length / 8);
    used.forEach((one, id) => bits[id >> 3]! |= one << (id & 7));
    const rest = new Uint8Array(bits.length + 32 * blockHashes.length);
    rest.set(bits);
    blockHashes.forEach((hash, i) => rest.set(hash, bits.length + 32 * i));

    const header = new Uint8Array(HEADER_BYTES);
    const view = new DataView(header.buffer);
    header.set(new TextEncoder().encode(MAGIC));
    view.setUint32(8, VERSION, true);
    view.setUint32(12, this.#Tokens.BYTES_PER_ELEMENT, true);
    [this.#length, this.#documents, bytes, this.#vocabularySize]
      .forEach((value, i) => view.setFloat64(16 + 8 * i, value, true));
    header.set(Uint8Array.fromHex(textHash), 48);
    header.set(Uint8Array.fromHex(tokenizerHash), 80);
    header.set(Uint8Array.fromHex(fingerprint), 112);
    const checksum = createHash("sha256").update(header.subarray(0, CHECKSUM_AT)).update(rest);
    header.set(checksum.digest(), CHECKSUM_AT);
    writeFully(this.#file, rest, HEADER_BYTES + body);
    writeFully(this.#file, header, 0);
    fsyncSync(this.#file);
  }

  /** Closes the files. */
  close(): void {
    closeSync(this.#file);
    closeSync(this.#startsFile);
  }

  /** Where a token stands in the file. */
  #at(token: number): number {
    return HEADER_BYTES + token * this.#Tokens.BYTES_PER_ELEMENT;
  }
}

/** A text that gathers in memory. */
export class MemorySink implements TokenSink {
  length = 0;
  #tokens: Tokens;
  readonly #starts: number[] = [];

  constructor(vocabularySize: number) {
    this.#tokens = new (tokensType(vocabularySize))(2 ** 16);
  }

  get documents(): number {
    return this.#starts.length;
  }

  append(tokens: Tokens, starts: readonly number[]): void {
    const length = this.length + tokens.length;
    if (length > this.#tokens.length) {
      const Type = this.#tokens.constructor as Uint32ArrayConstructor;
      const larger = new Type(Math.max(2 * this.#tokens.length, length));
      larger.set(this.#tokens.subarray(0, this.length));
      this.#tokens = larger;
    }
    this.#tokens.set(tokens, this.length);
    for (const start of starts) this.#starts.push(this.length + start);
    this.length = length;
  }

  read(start: number, end: number): Tokens {
    return this.#tokens.slice(start, end);
  }

  documentStart(index: number): number {
    return this.#starts[index]!;
  }

  truncate({ length, documents }: { length: number; documents: number }): void {
    this.length = length;
    this.#starts.length = documents;
  }

  /** The text, and the ids that occur in it. */
  finish(bytes: number): { text: TokenizedText; usedIds: number[] } {
    const tokens = this.#tokens.slice(0, this.length);
    const text = textOf({ tokens, documentStarts: Float64Array.from(this.#starts), bytes });
    return { text, usedIds: [...new Set(tokens)].sort((a, b) => a - b) };
  }
}

function bytesOf(
  { buffer, byteOffset, byteLength }: Tokens | Float64Array<ArrayBuffer>,
): Uint8Array<ArrayBuffer> {
  return new Uint8Array(buffer, byteOffset, byteLength);
}

/** Reads so many bytes at a place; a read may give fewer than it was asked for. */
function readFully(file: number, at: number, length: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(length);
  for (let done = 0; done < length;) {
    const count = readSync(file, bytes, done, length - done, at + done);
    if (count === 0) throw new UserError(`Cannot read a token file past its end at ${at + done}`);
    done += count;
  }
  return bytes;
}

/** Writes all of some bytes at a place; a write may take fewer than it was given. */
function writeFully(file: number, bytes: Uint8Array, at: number): void {
  for (let done = 0; done < bytes.length;) {
    done += writeSync(file, bytes, done, bytes.length - done, at + done);
  }
}
