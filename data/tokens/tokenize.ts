import { createHash, hash as digest } from "node:crypto";
import { mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { isSystemError, reasonOf } from "../../files/disk.ts";
import { UserError } from "../../files/user_error.ts";
import { type Documents, type ReadOptions, reported } from "../text/documents.ts";
import type { Tokenizer } from "../tokenizer/tokenizer.ts";
import { tokenBlocks } from "./workers.ts";
import { concatenated, tokenDataset, type Tokens } from "./token_dataset.ts";
import { createTokenFiles, openTokenFiles, type TokenizedDocuments } from "./token_file.ts";
import type { TokenBlock } from "./tokenize_block.ts";

/** How to tokenize documents. */
export interface TokenizeOptions extends ReadOptions {
  /** What makes the tokens. */
  readonly tokenizer: Tokenizer;
  /** Directory of the token files; by default the tokens stay in memory. */
  readonly cacheDirectory?: string | undefined;
  /** Whether tokens that the directory lacks stay in memory; by default they are written there. */
  readonly readOnly?: boolean | undefined;
  /** Workers that tokenize; by default one per core, at most three, and fewer for little text. */
  readonly workers?: number | undefined;
}

/** Milliseconds between records of progress, from which an interrupted run resumes. */
const RECORD_MS = 2000;

/**
 * Tokenizes documents, or finds their tokens in the cache.
 *
 * The tokens come in the order of the documents, however many workers there are. With a cache directory
 * the next call resumes work that ended at any point, and writes the same bytes.
 *
 * @throws {UserError} if the documents hold no text, another process tokenizes them, or the cache cannot be
 * written; the reason of `signal` if it aborts.
 */
export async function tokenizeDocuments(
  documents: Documents,
  options: TokenizeOptions,
): Promise<TokenizedDocuments> {
  const { cacheDirectory, readOnly = false } = options, cached = openCached(documents, options);
  if (cached) return cached;
  return cacheDirectory === undefined || readOnly
    ? await tokenizeInMemory(documents, options)
    : await tokenizeIntoCache(documents, { ...options, cacheDirectory });
}

/** The tokens of documents from the cache; undefined if they are absent, damaged or of another version. */
export function openCached(
  documents: Documents,
  { tokenizer, cacheDirectory }: Pick<TokenizeOptions, "tokenizer" | "cacheDirectory">,
): TokenizedDocuments | undefined {
  if (cacheDirectory === undefined) return undefined;
  try {
    return openTokenFiles(...placeIn(cacheDirectory, documents, tokenizer));
  } catch {
    return undefined; // the files are made anew, whatever is wrong with them
  }
}

/** Where the token files of documents are, and what they are made from. */
function placeIn(
  cacheDirectory: string,
  { fingerprint, areConversations }: Documents,
  { hash, bosToken, chatTemplate }: Tokenizer,
) {
  const suffix = areConversations
    ? `-chat-${digest("sha256", JSON.stringify([chatTemplate, bosToken])).slice(0, 16)}`
    : "";
  const name = `${fingerprint.slice(0, 16)}-${hash.slice(0, 16)}${suffix}`;
  return [join(cacheDirectory, name), [fingerprint, hash]] as const;
}

async function tokenizeInMemory(
  documents: Documents,
  options: TokenizeOptions,
): Promise<TokenizedDocuments> {
  const parts: Tokens[] = [], starts: number[] = [], answers: number[] = [];
  let length = 0;
  const about = await readAll(documents, 0, options, (block) => {
    for (const start of block.starts) starts.push(length + start);
    for (const place of block.answers) answers.push(length + place);
    parts.push(block.tokens);
    length += block.tokens.length;
  });
  const tokens = concatenated(parts);
  return {
    ...tokenDataset(tokens, starts, documents.areConversations ? answers : undefined),
    ...about,
    cached: false,
    usedIds: [...new Set(tokens)].sort((a, b) => a - b),
    fileBytes: tokens.byteLength +
      Float64Array.BYTES_PER_ELEMENT * (starts.length + answers.length),
    close() {},
  };
}

async function tokenizeIntoCache(
  documents: Documents,
  options: TokenizeOptions & { cacheDirectory: string },
): Promise<TokenizedDocuments> {
  const { tokenizer, cacheDirectory, signal } = options;
  const [path, origin] = placeIn(cacheDirectory, documents, tokenizer);
  try {
    mkdirSync(path, { recursive: true });
    const lockFile = join(path, "lock");
    using lock = Deno.openSync(lockFile, { create: true, write: true });
    if (!lock.tryLockSync(true)) {
      throw new UserError(
        `Cannot tokenize ${documents.name} as another process is doing so: ` +
          `wait until it has finished`,
      );
    }
    let found = openCached(documents, options); // if another process has just finished
    if (!found) {
      const { vocabularySize } = tokenizer, { areConversations } = documents;
      using files = createTokenFiles(path, { vocabularySize, areConversations });
      let recorded = performance.now();
      const about = await readAll(documents, files.done, options, (block) => {
        files.append(block);
        if (performance.now() - recorded < RECORD_MS && !signal?.aborted) return;
        files.record();
        recorded = performance.now();
      });
      files.finish({ ...about, origin });
      found = { ...openTokenFiles(path, origin), cached: false };
    }
    rmSync(lockFile, { force: true }); // a process that has just finished may have removed it
    return found;
  } catch (error) {
    if (!isSystemError(error)) throw error;
    throw new UserError(
      `Cannot write token files into ${cacheDirectory} as ${reasonOf(error)}; ` +
        `once that is solved, the same command resumes the work`,
    );
  }
}

/** Reads all documents and calls `append` with each tokenized block in order, except the first `done` ones. */
async function readAll(
  documents: Documents,
  done: number,
  options: TokenizeOptions,
  append: (block: TokenBlock) => void,
): Promise<Pick<TokenizedDocuments, "hash" | "bytes">> {
  const hash = createHash("sha256"), tokenized = tokenBlocks(documents, done, options);
  let blocks = 0, bytes = 0;
  for await (const block of reported(documents, "tokenizing", tokenized, options)) {
    hash.update(block.text);
    bytes += block.text.length - block.ended;
    if (blocks++ >= done) append(block);
  }
  return { hash: hash.digest("hex"), bytes };
}
