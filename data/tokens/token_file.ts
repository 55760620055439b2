import { createHash } from "node:crypto";
import {
  closeSync,
  fstatSync,
  fsyncSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
} from "node:fs";
import { join } from "node:path";
import { readAt, writeAll, writeSynced } from "../../files/disk.ts";
import { UserError } from "../../files/user_error.ts";
import { createAnswersOf, type TokenDataset, type Tokens, tokensType } from "./token_dataset.ts";

/**
 * Token files: a directory of three plain files, or of four if the documents are conversations.
 *
 *     tokens.bin     the ids, u16 or u32, little-endian, as nanoGPT's
 *     documents.bin  where each document starts among them, f64; read whole: 8 bytes per document
 *     answers.bin    where each answer of conversations starts and ends, f64; read whole: 16 bytes per answer
 *     meta.json      what the tokens were made from, which ids occur, and checksums
 *
 * Opening large files reads little of them, and yet no damaged token is ever returned: each megabyte is
 * compared with its checksum when it is first read.
 *
 * @module
 */

const TOKENS = "tokens.bin", DOCUMENTS = "documents.bin", ANSWERS = "answers.bin";
const META = "meta.json";

/** Changes with the files' layout, and with the way in which documents are read and tokenized. */
const VERSION = 4;

/** Bytes of tokens per checksum. */
const BLOCK_BYTES = 2 ** 20;

/** Bytes of a document's start, and of an answer's start and end. */
const START_BYTES = 8, ANSWER_BYTES = 16;

/** Most bytes of tokens that are all compared with their checksums on opening, which is fast. */
const CHECKED_AT_ONCE = 64 * 2 ** 20;

/** The documents and the tokenizer that token files were made from. */
export interface TokenFileOrigin {
  /** `Documents.fingerprint`. */
  readonly fingerprint: string;
  /** `Tokenizer.hash`. */
  readonly tokenizerHash: string;
}

/** Tokenized documents. */
export interface TokenizedDocuments extends TokenDataset {
  /** SHA-256 of the clean documents, a zero byte after each, in hexadecimal. */
  readonly hash: string;
  /** UTF-8 bytes of the documents. */
  readonly bytes: number;
  /** Conversations that are left out because the assistant says nothing in them. */
  readonly unanswered: number;
  /** Ids that occur, in ascending order. */
  readonly usedIds: readonly number[];
  /** Bytes of tokens and starts of documents in files; `meta.json` has some more. */
  readonly fileBytes: number;
  /** Closes the files that hold the tokens. */
  close(): void;
}

/** The content of meta.json, which begins with the SHA-256 of the rest. */
interface Meta extends TokenFileOrigin, Pick<TokenizedDocuments, "hash" | "bytes" | "usedIds"> {
  readonly version: number;
  readonly bytesPerToken: number;
  readonly tokens: number;
  readonly documents: number;
  /** SHA-256 of documents.bin. */
  readonly documentsSha256: string;
  /** Of conversations: SHA-256 of answers.bin. */
  readonly answersSha256?: string;
  /** Of conversations: those that are left out. */
  readonly unanswered?: number;
  /** SHA-256 of each megabyte of tokens.bin. */
  readonly tokensSha256: readonly string[];
}

/**
 * Opens token files, whose tokens are read in slices.
 *
 * @throws {Error} if they are absent, of another version or origin, or damaged as far as they are read.
 */
export function openTokenFiles(directory: string, origin: TokenFileOrigin): TokenizedDocuments {
  const meta = readMeta(directory, origin);
  const { tokens: length, documents, hash, bytes, usedIds, tokensSha256: checksums } = meta;
  const { unanswered = 0 } = meta;
  const starts = readPlaces(join(directory, DOCUMENTS), meta.documentsSha256);
  const answers = meta.answersSha256 === undefined
    ? undefined
    : readPlaces(join(directory, ANSWERS), meta.answersSha256);
  const documentStart = (index: number) => starts[index] ?? length;
  const Type = meta.bytesPerToken === 2 ? Uint16Array : Uint32Array;
  const path = join(directory, TOKENS), handle = openSync(path, "r");
  const close = () => closeSync(handle);
  const tokenBytes = length * Type.BYTES_PER_ELEMENT;
  const isChecked = new Uint8Array(checksums.length);
  const check = (start: number, end: number) => {
    for (let i = Math.floor(start / BLOCK_BYTES); i * BLOCK_BYTES < end; i++) {
      if (isChecked[i]) continue;
      const from = i * BLOCK_BYTES;
      const block = readBetween(handle, from, Math.min(from + BLOCK_BYTES, tokenBytes));
      if (sha256(block) !== checksums[i]) {
        throw damaged(path, `its bytes from ${from} do not match their checksum`);
      }
      isChecked[i] = 1;
    }
  };
  try {
    const { size } = fstatSync(handle);
    if (size !== tokenBytes) {
      throw damaged(path, `it must be ${tokenBytes} bytes long: current length is ${size}`);
    }
    if (size <= CHECKED_AT_ONCE) check(0, size);
  } catch (error) {
    close();
    throw error;
  }
  return {
    length,
    documents,
    hash,
    bytes,
    unanswered,
    fileBytes: tokenBytes + starts.byteLength + (answers?.byteLength ?? 0),
    usedIds,
    close,
    read(start, end) {
      const from = start * Type.BYTES_PER_ELEMENT;
      const to = Math.max(from, Math.min(end * Type.BYTES_PER_ELEMENT, tokenBytes));
      check(from, to);
      return new Type(readBetween(handle, from, to).buffer);
    },
    documentStart,
    ...(answers ? { answersOf: createAnswersOf(answers, documentStart) } : {}),
  };
}

/** The places in a file that is read whole. */
function readPlaces(path: string, checksum: string): Float64Array {
  const bytes = readFileSync(path);
  if (sha256(bytes) !== checksum) throw damaged(path, "it does not match its checksum");
  return new Float64Array(Uint8Array.from(bytes).buffer);
}

function readMeta(directory: string, origin: TokenFileOrigin): Meta {
  const path = join(directory, META);
  const { sha256: checksum, ...meta } = JSON.parse(readFileSync(path, "utf8"));
  const isUsable = meta.version === VERSION && sha256(JSON.stringify(meta)) === checksum &&
    meta.fingerprint === origin.fingerprint && meta.tokenizerHash === origin.tokenizerHash;
  if (!isUsable) throw damaged(path, "it must be whole and of this version, text and tokenizer");
  return meta;
}

function damaged(path: string, reason: string): UserError {
  return new UserError(
    `Cannot read token file ${path} as ${reason}: delete it, and it is made anew`,
  );
}

/** Writes token files, by one process or several in turn; they are complete once meta.json exists. */
export class TokenFileWriter {
  #length: number;
  #documents: number;
  #answers: number;
  readonly #directory: string;
  readonly #vocabularySize: number;
  readonly #tokensHandle: number;
  readonly #documentsHandle: number;
  readonly #answersHandle: number | undefined;

  /**
   * Opens the files, of which `length` tokens, `documents` starts and, of conversations, `answers` are kept.
   *
   * @throws {Error} if they hold less than that.
   */
  constructor(
    directory: string,
    { vocabularySize, length, documents, answers }: {
      vocabularySize: number;
      length: number;
      documents: number;
      answers?: number;
    },
  ) {
    this.#directory = directory;
    this.#vocabularySize = vocabularySize;
    [this.#length, this.#documents, this.#answers] = [length, documents, answers ?? 0];
    const open = (name: string, size: number) => {
      const path = join(directory, name);
      const current = statSync(path, { throwIfNoEntry: false })?.size ?? 0;
      if (current < size) throw damaged(path, `it must be at least ${size} bytes long`);
      if (current > size) truncateSync(path, size);
      return openSync(path, current > 0 ? "r+" : "w+");
    };
    this.#documentsHandle = open(DOCUMENTS, documents * START_BYTES);
    this.#answersHandle = answers === undefined ? undefined : open(ANSWERS, answers * ANSWER_BYTES);
    this.#tokensHandle = open(TOKENS, this.#tokenBytes);
    rmSync(join(directory, META), { force: true }); // a process may have been killed right after it
  }

  get #Type(): Uint16ArrayConstructor | Uint32ArrayConstructor {
    return tokensType(this.#vocabularySize);
  }

  get #tokenBytes(): number {
    return this.#length * this.#Type.BYTES_PER_ELEMENT;
  }

  /** Appends tokens, among which documents start at `starts` and answers begin and end at `answers`. */
  append({ tokens, starts, answers }: {
    tokens: Tokens;
    starts: ArrayLike<number>;
    answers: ArrayLike<number>;
  }): void {
    const placesOf = (given: ArrayLike<number>) =>
      bytesOf(Float64Array.from(given, (place) => this.#length + place));
    writeAll(this.#tokensHandle, bytesOf(tokens), this.#tokenBytes);
    writeAll(this.#documentsHandle, placesOf(starts), this.#documents * START_BYTES);
    if (this.#answersHandle !== undefined) {
      writeAll(this.#answersHandle, placesOf(answers), this.#answers * ANSWER_BYTES);
    }
    this.#length += tokens.length;
    this.#documents += starts.length;
    this.#answers += answers.length / 2;
  }

  /** Makes all that has been appended survive a power cut. */
  sync(): void {
    fsyncSync(this.#tokensHandle);
    fsyncSync(this.#documentsHandle);
    if (this.#answersHandle !== undefined) fsyncSync(this.#answersHandle);
  }

  /** Completes the files: reads them once more for the checksums and the ids that occur. */
  finish(about: TokenFileOrigin & Pick<TokenizedDocuments, "hash" | "bytes" | "unanswered">): void {
    this.sync();
    const Type = this.#Type, fileBytes = this.#tokenBytes;
    const isUsed = new Uint8Array(this.#vocabularySize), tokensSha256: string[] = [];
    for (let at = 0; at < fileBytes; at += BLOCK_BYTES) {
      const block = readBetween(this.#tokensHandle, at, Math.min(at + BLOCK_BYTES, fileBytes));
      for (const id of new Type(block.buffer)) isUsed[id] = 1;
      tokensSha256.push(sha256(block));
    }
    const meta: Meta = {
      version: VERSION,
      fingerprint: about.fingerprint,
      tokenizerHash: about.tokenizerHash,
      hash: about.hash,
      bytes: about.bytes,
      bytesPerToken: Type.BYTES_PER_ELEMENT,
      tokens: this.#length,
      documents: this.#documents,
      usedIds: Array.from(isUsed.keys()).filter((id) => isUsed[id]),
      documentsSha256: sha256(
        readBetween(this.#documentsHandle, 0, this.#documents * START_BYTES),
      ),
      ...(this.#answersHandle === undefined ? {} : {
        unanswered: about.unanswered,
        answersSha256: sha256(
          readBetween(this.#answersHandle, 0, this.#answers * ANSWER_BYTES),
        ),
      }),
      tokensSha256,
    };
    const json = JSON.stringify({ sha256: sha256(JSON.stringify(meta)), ...meta });
    writeSynced(join(this.#directory, META), [new TextEncoder().encode(json)]);
  }

  /** Closes the files. */
  close(): void {
    closeSync(this.#tokensHandle);
    closeSync(this.#documentsHandle);
    if (this.#answersHandle !== undefined) closeSync(this.#answersHandle);
  }
}

function bytesOf({ buffer, byteOffset, byteLength }: ArrayBufferView): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength);
}

function sha256(content: Uint8Array | string): string {
  return createHash("sha256").update(content).digest("hex");
}

/** The bytes of a file from one place to another. */
function readBetween(file: number, start: number, end: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(end - start), count = readAt(file, bytes, start);
  if (count === bytes.length) return bytes;
  throw new UserError(`Cannot read a token file past its end at ${start + count}`);
}
