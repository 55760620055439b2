import { hash as digest } from "node:crypto";
import {
  fstatSync,
  fsyncSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
} from "node:fs";
import { join } from "node:path";
import {
  openFile,
  readAt,
  replaceFile,
  syncDirectory,
  TEMPORARY_NAME,
  writeAll,
} from "../../files/disk.ts";
import { toJsonBytes } from "../../files/json.ts";
import { UserError } from "../../files/user_error.ts";
import { type TokenDataset, tokenDataset, tokensType } from "./token_dataset.ts";
import type { TokenBlock } from "./tokenize_block.ts";

/**
 * Token files: a directory of three plain files, or of four if the documents are conversations.
 *
 *     tokens.bin     the ids, u16 or u32, little-endian, as nanoGPT's
 *     documents.bin  where each document starts among them, f64; read whole: 8 bytes per document
 *     answers.bin    where each answer of conversations starts and ends, f64; read whole: 16 bytes per answer
 *     meta.json      what the tokens were made from, which ids occur, and a checksum per megabyte of the others;
 *                    until these are complete, how far they are recorded
 *
 * Opening large files reads little of them, and yet no damaged token is ever returned: each megabyte is
 * compared with its checksum when it is first read.
 *
 * @module
 */

const TOKENS = "tokens.bin", DOCUMENTS = "documents.bin", ANSWERS = "answers.bin";
const META = "meta.json";

/** Changes with the files' layout, and with the way in which documents are read, cut into blocks and tokenized. */
const VERSION = 5;

/** Bytes per checksum. */
const CHECKED_BYTES = 2 ** 20;

/** Most bytes of tokens that are all compared with their checksums on opening, which is fast. */
const CHECKED_AT_ONCE = 64 * 2 ** 20;

/** Tokenized documents. */
export interface TokenizedDocuments extends TokenDataset {
  /** SHA-256 of the clean documents, a zero byte after each, in hexadecimal. */
  readonly hash: string;
  /** UTF-8 bytes of the documents. */
  readonly bytes: number;
  /** Ids that occur, in ascending order. */
  readonly usedIds: readonly number[];
  /** Whether the tokens were found in the cache. */
  readonly cached: boolean;
  /** Bytes of the token files in the cache, or that they would have there; `meta.json` has some more. */
  readonly fileBytes: number;
  /** Closes the files that hold the tokens. */
  close(): void;
}

/** The content of meta.json, which begins with the SHA-256 of the rest. */
interface Meta extends Pick<TokenizedDocuments, "hash" | "bytes" | "usedIds"> {
  readonly version: number;
  /** Fingerprint of the documents and hash of the tokenizer that the tokens were made from. */
  readonly origin: readonly [fingerprint: string, tokenizerHash: string];
  readonly bytesPerToken: number;
  readonly files: Readonly<Record<string, Checksums>>;
}

/** The SHA-256 of each megabyte of a file. */
interface Checksums {
  readonly bytes: number;
  readonly sha256: readonly string[];
}

/**
 * Opens token files, whose tokens are read in slices.
 *
 * @throws {Error} if they are absent, of another version or origin, or damaged as far as they are read.
 */
export function openTokenFiles(directory: string, origin: Meta["origin"]): TokenizedDocuments {
  const { files, bytesPerToken, hash, bytes, usedIds } = readMeta(directory, origin);
  const open = (name: string) => openChecked(join(directory, name), files[name]!);
  const readWhole = (name: string) => {
    using file = open(name);
    return new Float64Array(file.read(0, file.bytes).buffer);
  };
  const starts = readWhole(DOCUMENTS);
  const answers = files[ANSWERS] ? readWhole(ANSWERS) : undefined;
  const Type = bytesPerToken === 2 ? Uint16Array : Uint32Array;
  using stack = new DisposableStack();
  const file = stack.use(open(TOKENS)), length = file.bytes / bytesPerToken;
  if (file.bytes <= CHECKED_AT_ONCE) file.read(0, file.bytes);
  const subarray = (start: number, end: number) => {
    const to = Math.max(start, Math.min(end, length));
    return new Type(file.read(start * bytesPerToken, to * bytesPerToken).buffer);
  };
  const opened = stack.move();
  return {
    ...tokenDataset({ length, subarray }, starts, answers),
    hash,
    bytes,
    cached: true,
    fileBytes: file.bytes + starts.byteLength + (answers?.byteLength ?? 0),
    usedIds,
    close: () => opened.dispose(),
  };
}

function readMeta(directory: string, origin: Meta["origin"]): Meta {
  const path = join(directory, META);
  const { sha256: checksum, ...meta } = JSON.parse(readFileSync(path, "utf8"));
  const isUsable = meta.version === VERSION &&
    digest("sha256", JSON.stringify(meta)) === checksum &&
    meta.origin.join() === origin.join();
  if (!isUsable) throw damaged(path, "it must be whole and of this version, text and tokenizer");
  return meta;
}

/** Opens a file, each megabyte of which is compared with its checksum when it is first read. */
function openChecked(path: string, { bytes, sha256: checksums }: Checksums) {
  using stack = new DisposableStack();
  const { handle } = stack.use(openFile(path, "r")), { size } = fstatSync(handle);
  if (size !== bytes) {
    throw damaged(path, `it must be ${bytes} bytes long: current length is ${size}`);
  }
  const isChecked = new Uint8Array(checksums.length), opened = stack.move();
  return {
    bytes,
    read(start: number, end: number): Uint8Array<ArrayBuffer> {
      for (let i = Math.floor(start / CHECKED_BYTES); i * CHECKED_BYTES < end; i++) {
        if (isChecked[i]) continue;
        if (digest("sha256", readBetween(handle, ...checkedPart(i, bytes))) !== checksums[i]) {
          throw damaged(path, `its bytes from ${i * CHECKED_BYTES} do not match their checksum`);
        }
        isChecked[i] = 1;
      }
      return readBetween(handle, start, end);
    },
    [Symbol.dispose]: () => opened.dispose(),
  };
}

/** Where the part of a file begins and ends that a checksum is of. */
function checkedPart(index: number, bytes: number): [start: number, end: number] {
  return [index * CHECKED_BYTES, Math.min((index + 1) * CHECKED_BYTES, bytes)];
}

function damaged(path: string, reason: string): UserError {
  return new UserError(
    `Cannot read token file ${path} as ${reason}: delete it, and it is made anew`,
  );
}

/**
 * Creates token files in a directory, or continues those of an earlier process as far as it recorded them; files that
 * hold less than that are written anew.
 */
export function createTokenFiles(
  directory: string,
  { vocabularySize, areConversations }: {
    vocabularySize: number;
    areConversations?: boolean | undefined;
  },
) {
  const names = areConversations ? [TOKENS, DOCUMENTS, ANSWERS] : [TOKENS, DOCUMENTS];
  const paths = names.map((name) => join(directory, name)), metaFile = join(directory, META);
  for (const name of readdirSync(directory)) { // what processes left that were killed as they wrote META
    if (TEMPORARY_NAME.test(name)) rmSync(join(directory, name));
  }
  const progress = readProgress(metaFile, paths);
  if (!progress) { // another process may be reading damaged or outdated files: they are replaced, not emptied
    for (const path of [metaFile, ...paths]) rmSync(path, { force: true });
  }
  let { blocks, sizes } = progress ?? { blocks: 0, sizes: names.map(() => 0) };
  using stack = new DisposableStack();
  const handles = paths.map((path) => stack.use(openFile(path, "a+")).handle);
  paths.forEach((path, i) => truncateSync(path, sizes[i]));
  const Type = tokensType(vocabularySize), opened = stack.move();
  /** Makes all that has been appended survive a power cut, and then what describes it. */
  const write = (meta: unknown) => {
    handles.forEach((handle) => fsyncSync(handle));
    replaceFile(metaFile, [toJsonBytes(meta)]);
  };
  return {
    /** Blocks that an earlier process has appended. */
    done: blocks,
    append({ tokens, starts, answers }: Pick<TokenBlock, "tokens" | "starts" | "answers">) {
      const length = sizes[0]! / Type.BYTES_PER_ELEMENT;
      const placesOf = (given: Uint32Array) => Float64Array.from(given, (place) => length + place);
      const parts = [tokens, placesOf(starts), placesOf(answers)];
      handles.forEach((handle, i) => {
        const { buffer, byteOffset, byteLength } = parts[i]!;
        writeAll(handle, new Uint8Array(buffer, byteOffset, byteLength));
      });
      sizes = sizes.map((size, i) => size + parts[i]!.byteLength); // all or none, if a disk is full
      blocks++;
    },
    /** Makes all that has been appended be found by another process. */
    record: () => write({ version: VERSION, blocks, sizes }),
    /** Completes the files: reads them once more for the checksums and the ids that occur. */
    finish(about: Pick<Meta, "origin" | "hash" | "bytes">) {
      const isUsed = new Uint8Array(vocabularySize), files: Record<string, Checksums> = {};
      names.forEach((name, i) => {
        const bytes = sizes[i]!, sums: string[] = [];
        for (let at = 0; at * CHECKED_BYTES < bytes; at++) {
          const part = readBetween(handles[i]!, ...checkedPart(at, bytes));
          if (name === TOKENS) { for (const id of new Type(part.buffer)) isUsed[id] = 1; }
          sums.push(digest("sha256", part));
        }
        files[name] = { bytes, sha256: sums };
      });
      const usedIds = Array.from(isUsed.keys()).filter((id) => isUsed[id]);
      const bytesPerToken = Type.BYTES_PER_ELEMENT;
      const meta: Meta = { version: VERSION, ...about, bytesPerToken, usedIds, files };
      write({ sha256: digest("sha256", JSON.stringify(meta)), ...meta });
      syncDirectory(directory);
    },
    [Symbol.dispose]: () => opened.dispose(),
  };
}

/** How far files are recorded; undefined if they hold less than that. */
function readProgress(
  metaFile: string,
  paths: readonly string[],
): { blocks: number; sizes: number[] } | undefined {
  try {
    const { version, blocks, sizes } = JSON.parse(readFileSync(metaFile, "utf8"));
    const isUsable = version === VERSION && Number.isSafeInteger(blocks) && blocks >= 0 &&
      paths.every((path, i) => statSync(path).size >= sizes[i]!);
    return isUsable ? { blocks, sizes } : undefined;
  } catch {
    return undefined; // no process has recorded anything
  }
}

/** The bytes of a file from one place to another. */
function readBetween(file: number, start: number, end: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(end - start), count = readAt(file, bytes, start);
  if (count === bytes.length) return bytes;
  throw new UserError(`Cannot read a token file past its end at ${start + count}`);
}
