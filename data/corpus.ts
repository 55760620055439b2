import { createHash } from "node:crypto";
import { readFileSync, statSync } from "node:fs";
import { basename, join } from "node:path";
import { expectedTokens, SAMPLE_COUNT, sampleStories, storyEntropy } from "./stories.ts";
import { readTokenFile, type TokenizedText, writeTokenFile } from "./token_file.ts";
import { compactTokenizer, END_OF_TEXT, gpt2Tokenizer, type Tokenizer } from "./tokenizer.ts";

/** `compact` keeps the tokens that the data uses, `full` all of GPT-2's, `auto` decides by the data. */
export type VocabularyMode = "auto" | "full" | "compact";

/** A data set, tokenized and divided into training and validation text. */
export interface Corpus {
  /** What it is called in messages: `sample`, or the files' names. */
  readonly name: string;
  /** The tokenizer of both texts. */
  readonly tokenizer: Tokenizer;
  /** What to train on. */
  readonly training: TokenizedText;
  /** Held out by document: no story is in both. */
  readonly validation: TokenizedText;
  /** Whether the tokenizer is GPT-2's own or a part of it. */
  readonly vocabulary: "full" | "compact";
  /** Least loss that any model can reach, in nats per token; known for `sample` alone. */
  readonly entropyPerToken?: number;
  /** Whether the tokens came from the cache. */
  readonly cached: boolean;
  /** SHA-256 of the documents, in hexadecimal. */
  readonly hash: string;
}

/** What to load, and how. */
export interface CorpusOptions {
  /** `sample`, the built-in stories, or paths of UTF-8 text files. */
  readonly data: "sample" | readonly string[];
  /** `auto` unless said otherwise. */
  readonly vocabulary?: VocabularyMode;
  /** A checkpoint's tokenizer, to be used as it is. */
  readonly tokenizer?: Tokenizer;
  /** Where token files are kept, by the hashes of text and tokenizer. */
  readonly cacheDirectory?: string;
  /** Hears how many characters of how many are tokenized. */
  readonly onProgress?: (done: number, total: number) => void;
}

/** Every so many-th document is held out for validation. */
const HELD_OUT = 20;

/** `auto` takes the compact vocabulary where the data uses less than this share of the full one. */
const COMPACT_SHARE = 1 / 5;

/** The seed of the data set `sample`: it is one fixed text. */
const SAMPLE_SEED = 1;

/**
 * Reads a data set, chooses its vocabulary, and tokenizes it, or takes the tokens from the cache.
 *
 * @throws {Error} if a file cannot be read; {RangeError} if it holds no text, or is not UTF-8.
 */
export async function loadCorpus(options: CorpusOptions): Promise<Corpus> {
  const { data, vocabulary = "auto", cacheDirectory, onProgress = () => {} } = options;
  const documents = readDocuments(data);
  const textHash = hashDocuments(documents);
  const full = options.tokenizer ?? await gpt2Tokenizer();
  const progress = { done: 0, total: documents.reduce((sum, text) => sum + text.length, 0) };

  const tokenize = (tokenizer: Tokenizer, texts: readonly string[]): TokenizedText => {
    const ids: number[][] = [];
    for (const text of texts) {
      ids.push(tokenizer.encodeDocument(text));
      progress.done += text.length;
      onProgress(progress.done, progress.total);
    }
    return joinDocuments(ids, texts, tokenizer);
  };
  const cachePath = (tokenizer: Tokenizer) =>
    cacheDirectory &&
    join(cacheDirectory, `${textHash.slice(0, 16)}-${tokenizer.hash.slice(0, 16)}.tokens`);
  const fromCache = (tokenizer: Tokenizer): TokenizedText | undefined => {
    const path = cachePath(tokenizer);
    if (!path) return undefined;
    try {
      return readTokenFile(path, { textHash, tokenizerHash: tokenizer.hash });
    } catch {
      return undefined; // absent or damaged: it is written anew
    }
  };

  let tokenizer = full;
  let text = fromCache(full);
  const cached = text !== undefined;
  if (!text) {
    text = tokenize(full, documents);
    const path = cachePath(full);
    if (path) writeTokenFile(path, text, { textHash, tokenizerHash: full.hash });
  }
  let chosen: "full" | "compact" = "full";
  if (!options.tokenizer && vocabulary !== "full") {
    const used = usedIds(text.tokens, full.vocabularySize);
    if (vocabulary === "compact" || used.length < COMPACT_SHARE * full.vocabularySize) {
      tokenizer = await compactTokenizer(full, used);
      text = renumber(text, full, tokenizer);
      chosen = "compact";
    }
  } else if (full.vocabularySize < 50257) {
    chosen = "compact";
  }
  const name = data === "sample" ? "sample" : data.map((path) => basename(path)).join(", ");
  return {
    name,
    tokenizer,
    ...holdOut(text),
    vocabulary: chosen,
    ...(data === "sample" ? { entropyPerToken: sampleEntropyPerToken(tokenizer) } : {}),
    cached,
    hash: textHash,
  };
}

/** Tokenizes a whole data set for evaluation, holding nothing back. */
export function loadWhole(
  { data, tokenizer }: { data: readonly string[]; tokenizer: Tokenizer },
): TokenizedText {
  const documents = readDocuments(data);
  return joinDocuments(
    documents.map((text) => tokenizer.encodeDocument(text)),
    documents,
    tokenizer,
  );
}

/** Entropy of the sample stories per token, the token that ends a story counted. */
function sampleEntropyPerToken(tokenizer: Tokenizer): number {
  return storyEntropy() / (expectedTokens((text) => tokenizer.encodeDocument(text).length) + 1);
}

/**
 * The documents of a data set.
 *
 * Files hold documents separated by a line `<|endoftext|>`; a byte order mark and white space around
 * documents are dropped, as are empty documents; line ends become `\n`.
 */
function readDocuments(data: "sample" | readonly string[]): string[] {
  if (data === "sample") return sampleStories({ seed: SAMPLE_SEED, count: SAMPLE_COUNT });
  const documents = data.flatMap((path) =>
    readText(path)
      .replaceAll("\r\n", "\n")
      .split(new RegExp(`^[ \\t]*${END_OF_TEXT.replaceAll("|", "\\|")}[ \\t]*$`, "m"))
      .map((document) => document.trim())
      .filter((document) => document !== "")
  );
  if (documents.length === 0) {
    throw new RangeError(`Cannot use ${data.join(", ")} as data must hold text: it is empty`);
  }
  return documents;
}

function readText(path: string): string {
  let bytes: Uint8Array;
  try {
    if (statSync(path).isDirectory()) throw new Error("it is a directory");
    bytes = readFileSync(path);
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    const reason = code === "ENOENT" ? "there is no such file" : message;
    throw new Error(`Cannot read data file ${path}: ${reason}`);
  }
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new RangeError(
      `Cannot read data file ${path} as it must be UTF-8: ` +
        `the first byte that is not is at ${firstInvalidByte(bytes)}`,
    );
  }
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

function hashDocuments(documents: readonly string[]): string {
  const hash = createHash("sha256");
  for (const document of documents) hash.update(document).update("\0");
  return hash.digest("hex");
}

function joinDocuments(
  ids: readonly number[][],
  texts: readonly string[],
  { vocabularySize, endOfText }: Tokenizer,
): TokenizedText {
  const length = ids.reduce((sum, document) => sum + document.length + 1, 0);
  const tokens = vocabularySize <= 65536 ? new Uint16Array(length) : new Uint32Array(length);
  const documentStarts = new Uint32Array(ids.length);
  const encoder = new TextEncoder();
  let at = 0, bytes = 0;
  ids.forEach((document, i) => {
    documentStarts[i] = at;
    tokens.set(document, at);
    at += document.length;
    tokens[at++] = endOfText;
    bytes += encoder.encode(texts[i]!).length;
  });
  return { tokens, documentStarts, bytes };
}

/** The ids that occur in a text, in ascending order. */
function usedIds(tokens: Iterable<number>, vocabularySize: number): number[] {
  const used = new Uint8Array(vocabularySize);
  for (const id of tokens) used[id] = 1;
  return [...used.keys()].filter((id) => used[id]);
}

/** The same text in the ids of a compact tokenizer that keeps all tokens it uses. */
function renumber(text: TokenizedText, full: Tokenizer, compact: Tokenizer): TokenizedText {
  const vocab = (tokenizer: Tokenizer) =>
    JSON.parse(tokenizer.json).model.vocab as Record<string, number>;
  const oldIds = vocab(full);
  const newId = new Uint32Array(full.vocabularySize);
  for (const [token, id] of Object.entries(vocab(compact))) newId[oldIds[token]!] = id;
  return { ...text, tokens: text.tokens.map((id) => newId[id]!) };
}

/**
 * Divides a text by document. A text of a single document is cut at a twentieth from its end instead:
 * nothing else can be held out of it.
 */
function holdOut(text: TokenizedText): Pick<Corpus, "training" | "validation"> {
  const { tokens, documentStarts } = text;
  const documents = Array.from(
    documentStarts,
    (start, i) => [start, documentStarts[i + 1] ?? tokens.length] as [number, number],
  );
  if (documents.length === 1) {
    const cut = Math.floor(tokens.length * (1 - 1 / HELD_OUT));
    return {
      training: gather(text, [[0, cut]]),
      validation: gather(text, [[cut, tokens.length]]),
    };
  }
  const heldOut = (i: number) => i % HELD_OUT === Math.min(HELD_OUT, documents.length) - 1;
  return {
    training: gather(text, documents.filter((_, i) => !heldOut(i))),
    validation: gather(text, documents.filter((_, i) => heldOut(i))),
  };
}

/** A text of some stretches of another. */
function gather(
  { tokens, bytes }: TokenizedText,
  stretches: readonly [start: number, end: number][],
): TokenizedText {
  const length = stretches.reduce((sum, [start, end]) => sum + end - start, 0);
  const gathered = tokens.slice(0, length);
  const documentStarts = new Uint32Array(stretches.length);
  let at = 0;
  stretches.forEach(([start, end], i) => {
    documentStarts[i] = at;
    gathered.set(tokens.subarray(start, end), at);
    at += end - start;
  });
  return { tokens: gathered, documentStarts, bytes: Math.round(bytes * length / tokens.length) };
}
