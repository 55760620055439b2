import { createHash, type Hash } from "node:crypto";
import {
  closeSync,
  fstatSync,
  fsyncSync,
  ftruncateSync,
  openSync,
  readFileSync,
  rmSync,
} from "node:fs";
import { join } from "node:path";
import { readAt, writeAll, writeSynced } from "../../files/disk.ts";
import { UserError } from "../../files/user_error.ts";
import { type TokenDataset, type Tokens, tokensType } from "./token_dataset.ts";

/**
 * Token files: a directory of three plain files.
 *
 *     tokens.bin     the ids, u16 or u32, little-endian, as nanoGPT's
 *     documents.bin  where each document starts among them, f64; read whole: 8 bytes per document
 *     meta.json      what the tokens were made from, which ids occur, and checksums
 *
 * Opening reads little, and still nothing damaged is taken for tokens: each megabyte is checked when it
 * is first read.
 *
 * @module
 */

const TOKENS = "tokens.bin", DOCUMENTS = "documents.bin", META = "meta.json";

/** Changes with the files' layout, and with the way in which documents are read and tokenized. */
const VERSION = 4;

/** Bytes of tokens per checksum. */
const BLOCK_BYTES = 2 ** 20;

/** Bytes of a document's start. */
const START_BYTES = 8;

/** Most bytes of files that are checked whole when they are opened, which is fast. */
const CHECKED_AT_ONCE = 64 * 2 ** 20;

/** The documents and the tokenizer that token files were made from. */
export interface TokenFileOrigin {
  /** `Documents.fingerprint`. */
  readonly fingerprint: string;
  /** `Tokenizer.hash`. */
  readonly tokenizerHash: string;
}

/** What the tokenizing of documents gives, beside their tokens. */
export interface TokenSummary {
  /** SHA-256 of the clean documents, a zero byte after each, in hexadecimal. */
  readonly hash: string;
  /** UTF-8 bytes of the documents. */
  readonly bytes: number;
  /** Ids that occur, in ascending order. */
  readonly usedIds: readonly number[];
}

/** The content of meta.json, which begins with the SHA-256 of the rest. */
interface Meta extends TokenFileOrigin, TokenSummary {
  readonly version: number;
  readonly bytesPerToken: number;
  readonly tokens: number;
  readonly documents: number;
  /** SHA-256 of documents.bin. */
  readonly documentsSha256: string;
  /** SHA-256 of each megabyte of tokens.bin. */
  readonly tokensSha256: readonly string[];
}

/** Token files that are open, read in slices. */
export class TokenFile implements TokenDataset, TokenSummary {
  readonly length: number;
  readonly documents: number;
  readonly hash: string;
  readonly bytes: number;
  readonly usedIds: readonly number[];
  readonly #path: string;
  readonly #handle: number;
  readonly #Tokens: Uint16ArrayConstructor | Uint32ArrayConstructor;
  readonly #starts: Float64Array;
  readonly #checksums: readonly string[];
  readonly #checked: Uint8Array;

  /**
   * Opens token files.
   *
   * @throws {Error} if they are absent, of another version or origin, or damaged as far as they are read.
   */
  constructor(directory: string, origin: TokenFileOrigin) {
    const meta = readMeta(directory, origin);
    this.#path = join(directory, TOKENS);
    this.length = meta.tokens;
    this.documents = meta.documents;
    ({ hash: this.hash, bytes: this.bytes, usedIds: this.usedIds } = meta);
    this.#Tokens = meta.bytesPerToken === 2 ? Uint16Array : Uint32Array;
    this.#checksums = meta.tokensSha256;
    this.#checked = new Uint8Array(meta.tokensSha256.length);
    const documents = readFileSync(join(directory, DOCUMENTS));
    if (sha256(documents) !== meta.documentsSha256) {
      throw damaged(join(directory, DOCUMENTS), "it does not match its checksum");
    }
    this.#starts = new Float64Array(Uint8Array.from(documents).buffer);
    this.#handle = openSync(this.#path, "r");
    try {
      const size = fstatSync(this.#handle).size, expected = this.length * meta.bytesPerToken;
      if (size !== expected) {
        throw damaged(this.#path, `it must be ${expected} bytes long: current length is ${size}`);
      }
      if (size <= CHECKED_AT_ONCE) this.#check(0, size);
    } catch (error) {
      this.close();
      throw error;
    }
  }

  read(start: number, end: number): Tokens {
    const size = this.#Tokens.BYTES_PER_ELEMENT;
    const from = start * size, to = Math.max(from, Math.min(end, this.length) * size);
    this.#check(from, to);
    return new this.#Tokens(readFully(this.#handle, from, to).buffer);
  }

  documentStart(index: number): number {
    return this.#starts[index] ?? this.length;
  }

  close(): void {
    closeSync(this.#handle);
  }

  /** Checks the blocks between two places that have not been checked yet. */
  #check(start: number, end: number): void {
    const fileEnd = this.length * this.#Tokens.BYTES_PER_ELEMENT;
    for (let i = Math.floor(start / BLOCK_BYTES); i * BLOCK_BYTES < end; i++) {
      if (this.#checked[i]) continue;
      const from = i * BLOCK_BYTES, to = Math.min(from + BLOCK_BYTES, fileEnd);
      if (sha256(readFully(this.#handle, from, to)) !== this.#checksums[i]) {
        throw damaged(this.#path, `its bytes from ${from} do not match their checksum`);
      }
      this.#checked[i] = 1;
    }
  }
}

function readMeta(directory: string, origin: TokenFileOrigin): Meta {
  const path = join(directory, META);
  const { sha256: checksum, ...meta } = JSON.parse(readFileSync(path, "utf8"));
  if (meta.version !== VERSION) {
    throw new UserError(
      `Cannot read token file ${path} as its version must be ${VERSION}: ` +
        `current version is ${meta.version}`,
    );
  }
  if (sha256(JSON.stringify(meta)) !== checksum) {
    throw damaged(path, "it does not match its checksum");
  }
  if (
    meta.fingerprint !== origin.fingerprint || meta.tokenizerHash !== origin.tokenizerHash
  ) throw new UserError(`Cannot use token file ${path} as it is of another text or tokenizer`);
  return meta;
}

function damaged(path: string, reason: string): UserError {
  return new UserError(
    `Cannot read token file ${path} as ${reason}: delete it, and it is made anew`,
  );
}

/** Writes token files in any number of sessions; they are complete once meta.json is there. */
export class TokenFileWriter {
  #length: number;
  #documents: number;
  readonly #directory: string;
  readonly #tokensHandle: number;
  readonly #documentsHandle: number;
  readonly #Tokens: Uint16ArrayConstructor | Uint32ArrayConstructor;
  /** A one for each id that occurs. */
  readonly #used: Uint8Array;
  readonly #documentsHash = createHash("sha256");
  readonly #checksums: string[] = [];
  #block: Hash = createHash("sha256"); // of the block that is not full yet
  #blockBytes = 0;

  /**
   * Opens the files, and keeps what an earlier session is known to have written.
   *
   * @throws {Error} if they are shorter than that.
   */
  constructor(
    directory: string,
    { vocabularySize, length, documents }: {
      vocabularySize: number;
      length: number;
      documents: number;
    },
  ) {
    this.#directory = directory;
    this.#Tokens = tokensType(vocabularySize);
    this.#used = new Uint8Array(vocabularySize);
    const open = (name: string, size: number) =>
      openSync(join(directory, name), size > 0 ? "r+" : "w+");
    const size = length * this.#Tokens.BYTES_PER_ELEMENT, startsSize = documents * START_BYTES;
    this.#tokensHandle = open(TOKENS, size);
    this.#documentsHandle = open(DOCUMENTS, startsSize);
    rmSync(join(directory, META), { force: true }); // if an earlier session was ended right after it
    try {
      for (let at = 0; at < size; at += BLOCK_BYTES) {
        const block = readFully(this.#tokensHandle, at, Math.min(size, at + BLOCK_BYTES));
        this.#account(new this.#Tokens(block.buffer));
      }
      for (let at = 0; at < startsSize; at += BLOCK_BYTES) {
        const block = readFully(this.#documentsHandle, at, Math.min(startsSize, at + BLOCK_BYTES));
        this.#documentsHash.update(block);
      }
      ftruncateSync(this.#tokensHandle, size);
      ftruncateSync(this.#documentsHandle, startsSize);
    } catch (error) {
      this.close();
      throw error;
    }
    [this.#length, this.#documents] = [length, documents];
  }

  /** Appends tokens, among which documents start at `starts`. */
  append(tokens: Tokens, starts: ArrayLike<number>): void {
    const places = bytesOf(Float64Array.from(starts, (start) => this.#length + start));
    const tokensAt = this.#length * this.#Tokens.BYTES_PER_ELEMENT;
    writeAll(this.#tokensHandle, bytesOf(tokens), tokensAt);
    writeAll(this.#documentsHandle, places, this.#documents * START_BYTES);
    this.#account(tokens);
    this.#documentsHash.update(places);
    this.#length += tokens.length;
    this.#documents += starts.length;
  }

  /** Notes which ids occur, and the checksums of full blocks. */
  #account(tokens: Tokens): void {
    for (const id of tokens) this.#used[id] = 1;
    const bytes = bytesOf(tokens);
    for (let at = 0; at < bytes.length;) {
      const part = bytes.subarray(at, at + BLOCK_BYTES - this.#blockBytes);
      this.#block.update(part);
      at += part.length;
      this.#blockBytes += part.length;
      if (this.#blockBytes === BLOCK_BYTES) this.#endBlock();
    }
  }

  #endBlock(): void {
    this.#checksums.push(this.#block.digest("hex"));
    this.#block = createHash("sha256");
    this.#blockBytes = 0;
  }

  /** Makes everything so far survive a power cut. */
  sync(): void {
    fsyncSync(this.#tokensHandle);
    fsyncSync(this.#documentsHandle);
  }

  /** Completes the files. */
  finish(about: TokenFileOrigin & Omit<TokenSummary, "usedIds">): void {
    this.sync();
    if (this.#blockBytes > 0) this.#endBlock();
    const meta: Meta = {
      version: VERSION,
      fingerprint: about.fingerprint,
      tokenizerHash: about.tokenizerHash,
      hash: about.hash,
      bytes: about.bytes,
      bytesPerToken: this.#Tokens.BYTES_PER_ELEMENT,
      tokens: this.#length,
      documents: this.#documents,
      usedIds: Array.from(this.#used.keys()).filter((id) => this.#used[id]),
      documentsSha256: this.#documentsHash.digest("hex"),
      tokensSha256: this.#checksums,
    };
    const json = JSON.stringify({ sha256: sha256(JSON.stringify(meta)), ...meta });
    writeSynced(join(this.#directory, META), [new TextEncoder().encode(json)]);
  }

  /** Closes the files. */
  close(): void {
    closeSync(this.#tokensHandle);
    closeSync(this.#documentsHandle);
  }
}

function bytesOf({ buffer, byteOffset, byteLength }: ArrayBufferView): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength);
}

function sha256(content: Uint8Array | string): string {
  return createHash("sha256").update(content).digest("hex");
}

/** Reads the bytes from one place to another. */
function readFully(file: number, start: number, end: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(end - start), count = readAt(file, bytes, start);
  if (count === bytes.length) return bytes;
  throw new UserError(`Cannot read a token file past its end at ${start + count}`);
}
