import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { isSystemError, reasonOf, replaceFile, syncDirectory } from "../../files/disk.ts";
import { UserError } from "../../files/user_error.ts";
import { BLOCK_BYTES } from "../text/blocks.ts";
import { clean } from "../text/clean.ts";
import { checkRows, type Documents, type ReadOptions } from "../text/documents.ts";
import type { Tokenizer } from "../tokenizer/tokenizer.ts";
import { concatenated, tokenDataset, type Tokens } from "./token_dataset.ts";
import { openTokenFiles, TokenFileWriter, type TokenizedDocuments } from "./token_file.ts";
import type { TokenBlock } from "./tokenize_block.ts";
import { openPool } from "./tokenize_pool.ts";

/** How to tokenize documents. */
export interface TokenizeOptions extends ReadOptions {
  /** What makes the tokens. */
  readonly tokenizer: Tokenizer;
  /** Directory of the token files; by default the tokens stay in memory. */
  readonly cacheDirectory?: string | undefined;
  /** Workers that tokenize; by default one per core, at most three, and fewer for little text. */
  readonly workers?: number | undefined;
}

/** Milliseconds between records of progress, from which an interrupted run resumes. */
const RECORD_MS = 2000;

/**
 * Tokenizes documents, or finds their tokens in the cache.
 *
 * The tokens come in the order of the documents, however many workers there are. With a cache directory
 * the next call resumes work that ended at any point, and writes the same bytes; the token files get their
 * name when they are complete.
 *
 * @throws {UserError} if the documents hold no text, another process tokenizes them, or the cache cannot be
 * written; the reason of `signal` if it aborts.
 */
export async function tokenizeDocuments(
  documents: Documents,
  options: TokenizeOptions,
): Promise<TokenizedDocuments> {
  const { cacheDirectory } = options;
  if (cacheDirectory === undefined) return await tokenizeInMemory(documents, options);
  return openCached(documents, options) ??
    await tokenizeIntoCache(documents, { ...options, cacheDirectory });
}

/** The tokens of documents from the cache; undefined if they are absent, damaged or of another version. */
export function openCached(
  documents: Documents,
  { tokenizer, cacheDirectory }: Pick<TokenizeOptions, "tokenizer" | "cacheDirectory">,
): TokenizedDocuments | undefined {
  if (cacheDirectory === undefined) return undefined;
  const { path, partial, origin } = placeIn(cacheDirectory, documents, tokenizer);
  if (!existsSync(path)) return undefined;
  let files: TokenizedDocuments;
  try {
    files = openTokenFiles(path, origin);
  } catch {
    return undefined; // the files are made anew, whatever is wrong with them
  }
  try {
    rmSync(partial, { recursive: true, force: true }); // of a process that was killed after renaming
  } catch {
    // it may remain: the cache may be read-only
  }
  return files;
}

/** Where the token files of documents are, where they are made, and what they are made from. */
function placeIn(
  cacheDirectory: string,
  { fingerprint, areConversations }: Documents,
  { hash, beginOfText, bosToken, chatTemplate }: Tokenizer,
) {
  // earlier versions left out the token before each document; their files have the name without the suffix
  const suffix = areConversations
    ? `-chat-${sha256(JSON.stringify([chatTemplate, bosToken])).slice(0, 16)}`
    : beginOfText === undefined
    ? ""
    : "-begin";
  const path = join(cacheDirectory, `${fingerprint.slice(0, 16)}-${hash.slice(0, 16)}${suffix}`);
  return { path, partial: `${path}.partial`, origin: { fingerprint, tokenizerHash: hash } };
}

function sha256(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}

async function tokenizeInMemory(
  documents: Documents,
  options: TokenizeOptions,
): Promise<TokenizedDocuments> {
  const parts: Tokens[] = [], starts: number[] = [], answers: number[] = [];
  const progress = nothingDone();
  const { hash, unanswered } = await appendAll(documents, options, progress, (block) => {
    const offset = progress.length - block.tokens.length;
    for (const start of block.starts) starts.push(offset + start);
    for (const place of block.answers) answers.push(offset + place);
    parts.push(block.tokens);
  });
  const tokens = concatenated(parts);
  return {
    ...tokenDataset(tokens, starts, documents.areConversations ? answers : undefined),
    hash,
    bytes: progress.bytes,
    unanswered,
    usedIds: [...new Set(tokens)].sort((a, b) => a - b),
    fileBytes: tokens.byteLength +
      Float64Array.BYTES_PER_ELEMENT * (starts.length + answers.length),
    close() {},
  };
}

/** Work that is recorded as done; what token files hold beyond it is overwritten. */
interface Progress {
  blocks: number;
  /** UTF-8 bytes of the documents in them. */
  bytes: number;
  /** Tokens. */
  length: number;
  documents: number;
  /** Answers of conversations. */
  answers: number;
}

function nothingDone(): Progress {
  return { blocks: 0, bytes: 0, length: 0, documents: 0, answers: 0 };
}

async function tokenizeIntoCache(
  documents: Documents,
  options: TokenizeOptions & { cacheDirectory: string },
): Promise<TokenizedDocuments> {
  const { tokenizer, cacheDirectory } = options;
  const { path, partial, origin } = placeIn(cacheDirectory, documents, tokenizer);
  const files = join(partial, "files");
  let lock: Deno.FsFile | undefined;
  try {
    mkdirSync(files, { recursive: true });
    lock = Deno.openSync(join(partial, "lock"), { create: true, write: true });
    if (!lock.tryLockSync(true)) {
      throw new UserError(
        `Cannot tokenize ${documents.name} as another process is doing so: ` +
          `wait until it has finished`,
      );
    }
    const found = openCached(documents, options); // if another process has just finished
    if (found) return found;
    await tokenizeInto(partial, documents, options);
    syncDirectory(files);
    rmSync(path, { recursive: true, force: true }); // damaged or outdated files
    renameSync(files, path);
    syncDirectory(cacheDirectory);
    rmSync(partial, { recursive: true, force: true });
    return openTokenFiles(path, origin);
  } catch (error) {
    if (!isSystemError(error)) throw error;
    throw new UserError(
      `Cannot write token files into ${cacheDirectory} as ${reasonOf(error)}; ` +
        `once that is solved, the same command resumes the work`,
    );
  } finally {
    lock?.close();
  }
}

/** Tokenizes documents into `files` in a directory, and resumes the work that `progress.json` records. */
async function tokenizeInto(
  directory: string,
  documents: Documents,
  options: TokenizeOptions & { cacheDirectory: string },
): Promise<void> {
  const { tokenizer, signal, cacheDirectory } = options, { vocabularySize } = tokenizer;
  const { origin } = placeIn(cacheDirectory, documents, tokenizer);
  const files = join(directory, "files"), progressFile = join(directory, "progress.json");
  let progress = readProgress(progressFile);
  const openWriter = () => {
    const { length, documents: starts, answers } = progress;
    return new TokenFileWriter(files, {
      vocabularySize,
      length,
      documents: starts,
      ...(documents.areConversations ? { answers } : {}),
    });
  };
  let writer: TokenFileWriter;
  try {
    writer = openWriter();
  } catch {
    progress = nothingDone(); // the files hold less than is recorded
    writer = openWriter();
  }
  let recorded = performance.now();
  const record = () => {
    writer.sync();
    const json = JSON.stringify({ version: PROGRESS_VERSION, ...progress });
    replaceFile(progressFile, [new TextEncoder().encode(json)]);
    recorded = performance.now();
  };
  try {
    const { hash, unanswered } = await appendAll(documents, options, progress, (block) => {
      writer.append(block);
      if (performance.now() - recorded >= RECORD_MS) record();
    });
    writer.finish({ ...origin, hash, unanswered, bytes: progress.bytes });
  } catch (error) {
    if (signal?.aborted) record();
    throw error;
  } finally {
    writer.close();
  }
}

/** Changes with everything that decides how documents are divided into blocks and tokenized. */
const PROGRESS_VERSION = 4;

function readProgress(path: string): Progress {
  try {
    const { version, ...progress } = JSON.parse(readFileSync(path, "utf8"));
    return version === PROGRESS_VERSION ? progress : nothingDone();
  } catch {
    return nothingDone(); // the process was killed before anything was recorded
  }
}

/**
 * Tokenizes the remaining documents.
 *
 * @param progress is updated after each block.
 * @param append is called with each block in order, after that.
 * @returns the hash of all documents, and the number of conversations that are left out.
 */
async function appendAll(
  documents: Documents,
  options: TokenizeOptions,
  progress: Progress,
  append: (block: TokenBlock) => void,
): Promise<Pick<TokenizedDocuments, "hash" | "unanswered">> {
  const { name, bytes: totalBytes } = documents, { onProgress, onNotice } = options;
  const hash = createHash("sha256"), done = progress.blocks;
  let blocks = 0, blank = 0, unanswered = 0, rows = 0;
  for await (const block of tokenBlocks(documents, done, options)) {
    hash.update(block.text);
    blank += block.blank;
    unanswered += block.unanswered;
    rows += block.blank + block.unanswered + block.ended;
    onProgress?.({ stage: "tokenizing", name, doneBytes: block.bytesRead, totalBytes });
    if (blocks++ < done) continue;
    progress.blocks++;
    progress.bytes += block.text.length - block.ended;
    progress.length += block.tokens.length;
    progress.documents += block.starts.length;
    progress.answers += block.answers.length / 2;
    append(block);
  }
  checkRows(documents, { blank, unanswered, rows }, onNotice);
  return { hash: hash.digest("hex"), unanswered };
}

/** The blocks of documents, tokenized by all workers at once, in order; the first `done` are only cleaned. */
async function* tokenBlocks(
  documents: Documents,
  done: number,
  { tokenizer, workers, signal }: TokenizeOptions,
): AsyncGenerator<TokenBlock> {
  const { bytes, areConversations } = documents;
  const pool = await openPool(tokenizer, { bytes, areConversations, workers });
  const most = 2 * BLOCK_BYTES * pool.size; // bytes of pending blocks
  const pending: { result: Promise<TokenBlock>; bytes: number }[] = [];
  let blocks = 0, pendingBytes = 0;
  const first = async () => {
    const { result, bytes } = pending.shift()!;
    pendingBytes -= bytes;
    return await result;
  };
  try {
    for await (const block of documents.read()) {
      signal?.throwIfAborted();
      if (blocks++ < done) {
        const { bytesRead } = block, tokens = new Uint16Array(), none = new Uint32Array();
        yield { ...clean(block), bytesRead, tokens, starts: none, answers: none };
        continue;
      }
      const bytes = block.bytes.length;
      while (pending.length > 0 && pendingBytes + bytes > most) yield await first();
      const result = pool.run(block);
      result.catch(() => {}); // first() throws its error
      pending.push({ result, bytes });
      pendingBytes += bytes;
    }
    while (pending.length > 0) {
      yield await first();
      signal?.throwIfAborted();
    }
  } finally {
    pool.close();
  }
}
