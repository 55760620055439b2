import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import {
  byteCounts,
  freeBytesAt,
  isSystemError,
  reasonOf,
  syncDirectory,
} from "../../files/disk.ts";
import { UserError } from "../../files/user_error.ts";
import type { Piece } from "../text/documents.ts";
import { encoderTables } from "../tokenizer/encode.ts";
import type { DataProgress, Portion, Source } from "../text/sources.ts";
import {
  MemorySink,
  TokenFile,
  TokenFileWriter,
  type TokenizedText,
  type TokenSink,
  tokensType,
} from "./token_file.ts";
import type { Tokenizer } from "../tokenizer/tokenizer.ts";
import { openPool, type TokenizerPool } from "./tokenize_pool.ts";
import { BEGINS, ENDS, type TokenizedUnit, type Unit } from "./tokenize_unit.ts";

/** A source, tokenized. */
export interface TokenizedSource {
  /** Its text, or where some was held out, the rest. */
  readonly text: TokenizedText;
  /** What was held out, if anything. */
  readonly heldOut?: TokenizedText;
  /** Ids that occur in either, in ascending order. */
  readonly usedIds: readonly number[];
  /** SHA-256 of the documents, each followed by a zero byte, in hexadecimal. */
  readonly textHash: string;
  /** Whether it was found in the cache. */
  readonly cached: boolean;
}

/** How to tokenize a source. */
export interface TokenizeOptions {
  /** The tokenizer. */
  readonly tokenizer: Tokenizer;
  /** Whether to hold every twentieth document out, for validation. */
  readonly holdOut: boolean;
  /** Where token files are kept; without, the tokens stay in memory. */
  readonly cacheDirectory?: string | undefined;
  /** Workers that tokenize; if not given, one for each core, but no more than can be fed. */
  readonly workers?: number | undefined;
  /** Ends the work; with a cache directory, the next call resumes there. */
  readonly signal?: AbortSignal | undefined;
  /** Is called with sentences for the user: how many rows hold no text. */
  readonly onNotice?: ((sentence: string) => void) | undefined;
  /** Is called with the progress of the work. */
  readonly onProgress?: ((progress: DataProgress) => void) | undefined;
  /** Milliseconds between records of how far the work is, for tests. */
  readonly recordMs?: number;
  /** Free bytes at a path, for tests. */
  readonly freeBytes?: ((path: string) => number) | undefined;
}

/** Every so many-th document is held out for validation. */
const HELD_OUT = 20;

/** Bytes of text in a unit of work, not counting what completes its last document. */
const UNIT_BYTES = 2 ** 20;

/** Workers that one thread keeps busy with reading, writing and hashing; a gigabyte is enough for them. */
const MOST_WORKERS = 16;

/** Bytes of a source for which another worker is worth starting. */
const WORTH_A_WORKER = 16 * 2 ** 20;

/**
 * Workers that fit a gigabyte of memory where the tokenizer has no tables to share; each then holds its
 * vocabulary and merges itself.
 */
const WORKERS_WITHOUT_TABLES = 4;

/** How often what is done is recorded, so that an interrupted run resumes there. */
const RECORD_MS = 2000;

/**
 * Tokenizes a source, or finds its tokens in the cache.
 *
 * Documents come in the order of the source however many workers there are. In a cache directory the
 * work survives its process: the next run resumes one that was ended at any point, to the same
 * bytes. What is finished appears under its name at once.
 *
 * @throws {UserError} if the source holds no text, another process works on it, or the disk is too full.
 */
export async function tokenizeSource(
  source: Source,
  options: TokenizeOptions,
): Promise<TokenizedSource> {
  const { cacheDirectory } = options;
  if (cacheDirectory === undefined) return await tokenizeInMemory(source, options);
  return findTokenized(source, { ...options, cacheDirectory }) ??
    await tokenizeIntoCache(source, { ...options, cacheDirectory });
}

/** What the cache has of a source: nothing, where that is absent, damaged or of an older version. */
export function findTokenized(
  source: Source,
  options: Pick<TokenizeOptions, "tokenizer" | "holdOut"> & { cacheDirectory: string },
): TokenizedSource | undefined {
  const { final, partial } = pathsOf(source, options);
  if (!existsSync(final)) return undefined;
  try {
    const tokenized = openTokenized(source, options);
    rmSync(partial, { recursive: true, force: true }); // left if it was ended right after the renaming
    return tokenized;
  } catch {
    return undefined;
  }
}

/** Where the tokens of a source are kept, and where they are while they are being made. */
function pathsOf(
  { fingerprint }: Source,
  { tokenizer, holdOut, cacheDirectory }:
    & Pick<TokenizeOptions, "tokenizer" | "holdOut">
    & { cacheDirectory: string },
): { final: string; partial: string } {
  const name = [
    fingerprint.slice(0, 16),
    tokenizer.hash.slice(0, 16),
    ...(holdOut ? ["split"] : []),
  ].join("-");
  return { final: join(cacheDirectory, name), partial: join(cacheDirectory, `${name}.partial`) };
}

const TEXT_FILE = "text.tokens", HELD_OUT_FILE = "held-out.tokens";

function openTokenized(
  source: Source,
  options: Pick<TokenizeOptions, "tokenizer" | "holdOut"> & { cacheDirectory: string },
): TokenizedSource {
  const { final } = pathsOf(source, options);
  const origin = { fingerprint: source.fingerprint, tokenizerHash: options.tokenizer.hash };
  const text = new TokenFile(join(final, TEXT_FILE), origin);
  if (!options.holdOut) {
    return { text, usedIds: text.usedIds(), textHash: text.textHash, cached: true };
  }
  try {
    const heldOut = new TokenFile(join(final, HELD_OUT_FILE), origin);
    const usedIds = [...new Set([...text.usedIds(), ...heldOut.usedIds()])].sort((a, b) => a - b);
    return { text, heldOut, usedIds, textHash: text.textHash, cached: true };
  } catch (error) {
    text.close();
    throw error;
  }
}

async function tokenizeInMemory(
  source: Source,
  options: TokenizeOptions,
): Promise<TokenizedSource> {
  const { tokenizer: { vocabularySize }, holdOut } = options;
  const text = new MemorySink(vocabularySize), heldOut = new MemorySink(vocabularySize);
  const work = nothingDone();
  const textHash = await appendAll(source, { ...options, text, heldOut, work });
  if (holdOut) text.truncate(holdTailOut(text, heldOut));
  const shares = sharesOf(work.bytes, text, heldOut);
  const first = text.finish(shares.text), second = heldOut.finish(shares.heldOut);
  return {
    text: first.text,
    ...(holdOut ? { heldOut: second.text } : {}),
    usedIds: [...new Set([...first.usedIds, ...second.usedIds])].sort((a, b) => a - b),
    textHash,
    cached: false,
  };
}

/** How much of a source is done; what files hold beyond it is done again. */
interface Work {
  /** Units. */
  units: number;
  /** UTF-8 bytes of their documents. */
  bytes: number;
  /** Whether the last document continues. */
  open: boolean;
  text: Extent;
  heldOut: Extent;
  /** Once all units are done, the hash of the documents: what is left is to finish the files. */
  textHash?: string;
}

interface Extent {
  length: number;
  documents: number;
}

function nothingDone(): Work {
  const nothing = { length: 0, documents: 0 };
  return { units: 0, bytes: 0, open: false, text: nothing, heldOut: nothing };
}

function extentOf({ length, documents }: Extent): Extent {
  return { length, documents };
}

async function tokenizeIntoCache(
  source: Source,
  options: TokenizeOptions & { cacheDirectory: string },
): Promise<TokenizedSource> {
  const { final, partial } = pathsOf(source, options);
  let lock: Deno.FsFile | undefined;
  try {
    mkdirSync(partial, { recursive: true });
    lock = Deno.openSync(join(partial, "lock"), { create: true, write: true });
    if (!lock.tryLockSync(true)) {
      throw new UserError(
        `Cannot tokenize ${source.name} as another process is doing so: wait until it has finished`,
      );
    }
    const found = findTokenized(source, options); // another process has just finished
    if (found) return found;
    const finished = await tokenizeInto(partial, source, options);
    syncDirectory(finished);
    rmSync(final, { recursive: true, force: true }); // damaged, or it would have been taken
    renameSync(finished, final);
    syncDirectory(dirname(final));
  } catch (error) {
    if (!isSystemError(error)) throw error;
    throw new UserError(
      `Cannot write token files into ${dirname(partial)} as ${reasonOf(error)}; ` +
        `once that is solved, the same command resumes`,
    );
  } finally {
    lock?.close();
  }
  rmSync(partial, { recursive: true, force: true });
  return { ...openTokenized(source, options), cached: false };
}

/** Tokenizes a source in a directory, resuming what is there, and returns where the result is. */
async function tokenizeInto(
  directory: string,
  source: Source,
  options: TokenizeOptions,
): Promise<string> {
  const { tokenizer, holdOut, signal, onProgress, recordMs = RECORD_MS } = options;
  const finished = join(directory, "finished"), recordFile = join(directory, "record.json");
  mkdirSync(finished, { recursive: true });
  let work = readWork(recordFile);
  checkRoom(source, { ...options, directory, done: work });

  const open = (file: string, extent: Extent) =>
    new TokenFileWriter(join(finished, file), join(directory, `${file}.starts`), {
      vocabularySize: tokenizer.vocabularySize,
      ...extent,
    });
  const writers: TokenFileWriter[] = [];
  const openAll = () => {
    writers.push(open(TEXT_FILE, work.text));
    if (holdOut) writers.push(open(HELD_OUT_FILE, work.heldOut));
  };
  const closeAll = () => {
    for (const writer of writers.splice(0)) writer.close();
  };
  try {
    openAll();
  } catch {
    closeAll();
    work = nothingDone(); // the files lack what they should hold
    openAll();
  }
  try {
    const [text, heldOut] = writers as [TokenFileWriter, TokenFileWriter | undefined];
    const record = () => {
      for (const writer of writers) writer.sync();
      writeWork(recordFile, work);
    };
    if (work.textHash === undefined) {
      let recorded = performance.now();
      const onUnit = () => {
        if (performance.now() - recorded < recordMs) return;
        record();
        recorded = performance.now();
      };
      let textHash: string;
      try {
        textHash = await appendAll(source, { ...options, text, heldOut, work, onUnit });
      } catch (error) {
        if (signal?.aborted) record();
        throw error;
      }
      // nothing is cut off before it is on record that it will be
      if (heldOut) work.text = holdTailOut(text, heldOut);
      if (heldOut) work.heldOut = extentOf(heldOut);
      work.textHash = textHash;
      record();
    }
    text.truncate(work.text);
    const shares = sharesOf(work.bytes, text, heldOut);
    const totalBytes = writers.reduce((sum, { bodyBytes }) => sum + bodyBytes, 0);
    let before = 0;
    for (const writer of writers) {
      await writer.finish({
        bytes: writer === text ? shares.text : shares.heldOut,
        textHash: work.textHash,
        fingerprint: source.fingerprint,
        tokenizerHash: tokenizer.hash,
        signal,
        onProgress(done) {
          const doneBytes = before + done;
          onProgress?.({ stage: "finishing", name: source.name, doneBytes, totalBytes });
        },
      });
      before += writer.bodyBytes;
    }
    return finished;
  } finally {
    closeAll();
  }
}

/** Changes with everything that decides how sources are cut into units and tokenized. */
const WORK_VERSION = 2;

function readWork(path: string): Work {
  try {
    const { version, ...work } = JSON.parse(readFileSync(path, "utf8"));
    return version === WORK_VERSION ? work : nothingDone();
  } catch {
    return nothingDone(); // or the process was ended before anything was recorded
  }
}

function writeWork(path: string, work: Work): void {
  const temporary = `${path}.tmp`;
  writeFileSync(temporary, JSON.stringify({ version: WORK_VERSION, ...work }), { flush: true });
  renameSync(temporary, path);
}

/** Bytes of text that a token stands for at least, in most languages and tokenizers. */
const BYTES_PER_TOKEN = 3;

/** Makes sure that what tokens take, as a rule, is free, as far as one may know. */
function checkRoom(
  { name, textBytes }: Source,
  { tokenizer, directory, done, freeBytes = freeBytesAt }:
    & Pick<TokenizeOptions, "tokenizer" | "freeBytes">
    & { directory: string; done: Work },
): void {
  const needed = (textBytes - done.bytes) / BYTES_PER_TOKEN *
    tokensType(tokenizer.vocabularySize).BYTES_PER_ELEMENT;
  const free = freeBytes(directory);
  if (free >= needed) return;
  const [neededCount, freeCount] = byteCounts(needed, free);
  throw new UserError(
    `Cannot tokenize ${name} as about ${neededCount} must be free in ${dirname(directory)}: ` +
      `current space is ${freeCount}; make room, or put the run and its cache elsewhere`,
  );
}

/**
 * Tokenizes what is not done yet of a source and appends it.
 *
 * @returns the hash of all documents.
 */
async function appendAll(
  source: Source,
  { text, heldOut, work, onUnit = () => {}, ...options }: TokenizeOptions & {
    text: TokenSink;
    heldOut: TokenSink | undefined;
    work: Work;
    onUnit?: () => void;
  },
): Promise<string> {
  const { holdOut, signal, onProgress = () => {}, onNotice = () => {} } = options;
  const documents = () => text.documents + (heldOut?.documents ?? 0);
  const sinkOf = (document: number) =>
    holdOut && document % HELD_OUT === HELD_OUT - 1 ? heldOut! : text;
  const append = ({ tokens, starts }: TokenizedUnit) => {
    let sink = work.open ? sinkOf(documents() - 1) : text;
    let from = 0, places: number[] = [];
    const flush = (to: number) => {
      if (to > from || places.length > 0) sink.append(tokens.subarray(from, to), places);
      [from, places] = [to, []];
    };
    for (const start of starts) {
      const next = sinkOf(documents() + places.length);
      if (next !== sink) flush(start);
      sink = next;
      places.push(start - from);
    }
    flush(tokens.length);
  };

  const hash = createHash("sha256");
  const { units: done } = work;
  const pool = await openPoolFor(source, options);
  try {
    let units = 0, empty = 0, ended = 0;
    const spare: ArrayBuffer[] = [];
    for await (const { unit, bytesRead } of tokenizeUnits(source, pool, { done, spare, signal })) {
      hash.update(unit.text);
      empty += unit.empty;
      ended += unit.ended;
      const textBytes = unit.text.length - unit.ended;
      if (unit.text.buffer.byteLength === USUAL_MEMORY) spare.push(unit.text.buffer);
      onProgress({
        stage: "tokenizing",
        name: source.name,
        doneBytes: bytesRead,
        totalBytes: source.bytes,
      });
      if (units++ < done) continue;
      append(unit);
      work.units++;
      work.bytes += textBytes;
      work.open = unit.open;
      work.text = extentOf(text);
      if (heldOut) work.heldOut = extentOf(heldOut);
      onUnit();
    }
    checkEmpty(source, { empty, rows: empty + ended }, onNotice);
  } finally {
    pool.close();
  }
  return hash.digest("hex");
}

/**
 * The hash that `tokenizeSource()` gives a source's documents, without tokenizing them: they are only read and
 * cleaned.
 */
export async function hashSource(
  source: Source,
  options: Pick<TokenizeOptions, "tokenizer" | "workers" | "signal" | "onProgress">,
): Promise<string> {
  const { name, bytes: totalBytes } = source, { signal, onProgress = () => {} } = options;
  const hash = createHash("sha256");
  const pool = await openPoolFor(source, { ...options, holdOut: false });
  try {
    const spare: ArrayBuffer[] = [], done = Infinity;
    for await (const { unit, bytesRead } of tokenizeUnits(source, pool, { done, spare, signal })) {
      hash.update(unit.text);
      if (unit.text.buffer.byteLength === USUAL_MEMORY) spare.push(unit.text.buffer);
      onProgress({ stage: "reading", name, doneBytes: bytesRead, totalBytes });
    }
  } finally {
    pool.close();
  }
  return hash.digest("hex");
}

/**
 * Says how many rows of a source hold no text.
 *
 * @throws {UserError} if none does.
 */
export function checkEmpty(
  { name }: Source,
  { empty, rows }: { empty: number; rows: number },
  onNotice: (sentence: string) => void,
): void {
  if (rows === empty) {
    throw new UserError(
      `Cannot use ${name} as data must hold text: ` +
        (rows > 0 ? `the text of all its ${rows} rows is null or blank` : "it is empty"),
    );
  }
  if (empty > 0) {
    onNotice(`skipped ${empty} of ${rows} rows of ${name}: their text is null or blank`);
  }
}

async function openPoolFor(
  source: Source,
  { tokenizer, workers = Math.min(MOST_WORKERS, navigator.hardwareConcurrency) }: TokenizeOptions,
): Promise<TokenizerPool> {
  const { json, vocabularySize, endOfText, endOfTextToken } = tokenizer;
  const tables = encoderTables(json);
  const count = Math.min(
    workers,
    Math.ceil(source.bytes / WORTH_A_WORKER),
    tables ? Infinity : WORKERS_WITHOUT_TABLES,
  );
  const options = { json, vocabularySize, endOfText, endOfTextToken };
  return await openPool(count, { ...options, ...(tables ? { tables } : {}) });
}

/** The units of a source, tokenized by all workers at once, in order; of those done, the text alone. */
async function* tokenizeUnits(
  source: Source,
  pool: TokenizerPool,
  { done, spare, signal }: {
    done: number;
    spare: ArrayBuffer[];
    signal: AbortSignal | undefined;
  },
): AsyncGenerator<{ unit: TokenizedUnit; bytesRead: number }> {
  const working: { result: Promise<TokenizedUnit>; load: number; bytesRead: number }[] = [];
  let loads = 0, units = 0;
  const first = async () => {
    const { result, load, bytesRead } = working.shift()!;
    loads -= load;
    return { unit: await result, bytesRead };
  };
  for await (const { unit, bytesRead } of unitsOf(source, spare)) {
    signal?.throwIfAborted();
    const load = loadOf(unit);
    while (working.length > 0 && loads + load > 2 * pool.size) yield await first();
    const result = pool.run(unit, { textOnly: units++ < done });
    result.catch(() => {}); // it is heard when its turn comes
    working.push({ result, load, bytesRead });
    loads += load;
  }
  while (working.length > 0) {
    yield await first();
    signal?.throwIfAborted();
  }
}

/**
 * How much a unit weighs, of which each worker has two at most: a usual one 1. Where a document makes it
 * large, it counts for more workers than it takes, for what parses it leaves several times its size
 * behind in the memory of each worker that had one.
 */
function loadOf({ bytes }: Unit): number {
  return Math.max(1, bytes.length / USUAL_MEMORY) ** 2;
}

/**
 * The pieces of a source, gathered into units of work; where they end depends on the source alone.
 *
 * @param spare memory of earlier units, to be used again.
 */
export async function* unitsOf(
  source: Source,
  spare: ArrayBuffer[] = [],
): AsyncGenerator<{ unit: Unit; bytesRead: number }> {
  let pieces: Piece[] = [], bytes = 0;
  let last: Portion | undefined;
  const gather = () => {
    const unit = unitOf(pieces, last!, memoryFor(bytes + pieces.length, spare));
    [pieces, bytes] = [[], 0];
    return { unit, bytesRead: last!.bytesRead };
  };
  for await (const portion of source.read()) {
    if (last && pieces.length > 0 && last.file !== portion.file) yield gather();
    last = portion;
    for (const piece of portion.pieces) {
      pieces.push(piece);
      bytes += piece.bytes.length;
      if (bytes >= UNIT_BYTES) yield gather();
    }
  }
  if (pieces.length > 0) yield gather();
}

/** Memory of so many bytes at least. */
function memoryFor(length: number, spare: ArrayBuffer[]): Uint8Array<ArrayBuffer> {
  const usual = length <= USUAL_MEMORY ? spare.pop() ?? new ArrayBuffer(USUAL_MEMORY) : undefined;
  return new Uint8Array(usual ?? new ArrayBuffer(length));
}

/** Room for a unit whose last document is of a usual length. */
const USUAL_MEMORY = UNIT_BYTES * 5 / 4;

function unitOf(
  pieces: readonly Piece[],
  { file, field, placeUnit }: Portion,
  bytes: Uint8Array<ArrayBuffer>,
): Unit {
  const starts = new Uint32Array(pieces.length), ends = new Uint32Array(pieces.length);
  let at = 0;
  pieces.forEach((piece, i) => {
    starts[i] = ++at; // a byte is left free
    bytes.set(piece.bytes, at);
    ends[i] = at += piece.bytes.length;
  });
  return {
    bytes,
    ...{ starts, ends },
    edges: Uint8Array.from(pieces, (p) => (p.begins ? BEGINS : 0) + (p.ends ? ENDS : 0)),
    places: Float64Array.from(pieces, ({ place }) => place),
    placeUnit,
    file,
    ...(field === undefined ? {} : { field }),
  };
}

/**
 * Copies what is to be held out of a text that is too short for anything to have been: its last
 * document, or the last twentieth of a single one.
 *
 * @returns what is left of the text.
 */
function holdTailOut(text: TokenSink, heldOut: TokenSink): Extent {
  const { length, documents } = text;
  if (heldOut.documents > 0) return { length, documents };
  const single = documents === 1;
  const cut = single ? Math.floor(length * (1 - 1 / HELD_OUT)) : text.documentStart(documents - 1);
  for (let at = cut; at < length; at += UNIT_BYTES) {
    heldOut.append(text.read(at, Math.min(length, at + UNIT_BYTES)), at === cut ? [0] : []);
  }
  return { length: cut, documents: single ? 1 : documents - 1 };
}

/** Divides the bytes of a text between its parts, by their tokens. */
function sharesOf(
  bytes: number,
  text: TokenSink,
  heldOut: TokenSink | undefined,
): { text: number; heldOut: number } {
  const length = text.length + (heldOut?.length ?? 0);
  const share = Math.round(bytes * text.length / length);
  return { text: share, heldOut: bytes - share };
}
