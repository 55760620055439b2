import { hash as digest } from "node:crypto";
import { type DatasetOptions, type DataSpec, openDataset } from "../text/dataset.ts";
import type { Documents } from "../text/documents.ts";
import { expectedTokens, storyEntropy } from "../text/stories.ts";
import { withChatFormat } from "../tokenizer/chat_format.ts";
import {
  compactTokenizer,
  gpt2Tokenizer,
  idsInPart,
  type Tokenizer,
} from "../tokenizer/tokenizer.ts";
import { holdOut, renumbered, type TokenDataset } from "./token_dataset.ts";
import type { TokenizedDocuments } from "./token_file.ts";
import { openCached, tokenizeDocuments, type TokenizeOptions } from "./tokenize.ts";

/**
 * From the name of data to the batches of a training:
 *
 *     DataSpec            "sample", "tinystories", names of files
 *        │ openDataset()          text/dataset.ts, files.ts
 *     Documents           for training and, if the data set has them, for validation
 *        │ read()                 text/formats.ts and its readers, blocks.ts
 *     Block               about a megabyte of documents as they stand in their file
 *        │ clean() and tokenize   text/clean.ts, tokenize_block.ts; in workers: workers.ts
 *     TokenBlock          clean text, which is hashed, and tokens
 *        │ tokenizeDocuments()    tokenize.ts
 *     TokenizedDocuments  tokens.bin, documents.bin and meta.json in the cache: token_file.ts
 *        │ loadCorpus()           this file
 *     Corpus              a TokenDataset for training, one for validation, and their tokenizer
 *        │ Batches.at(i)          batches.ts
 *     Batch               inputs and targets, u32 [B,T]
 *
 * @module
 */

/** `compact` keeps the tokens that the data uses, `full` keeps all, `auto` decides by the data. */
export type VocabularyMode = "auto" | "full" | "compact";

/** A data set, tokenized and divided for training and validation. */
export interface Corpus
  extends Pick<TokenizedDocuments, "bytes" | "cached" | "fileBytes" | "close"> {
  /** Name in messages: `sample`, `tinystories`, or the names of files. */
  readonly name: string;
  /** The name of the data, with each file of the hub at its commit and other files by absolute paths. */
  readonly data: DataSpec;
  /** In the same way the name of the validation text, if it is named separately. */
  readonly validationData?: DataSpec;
  /** The tokenizer of training and validation. */
  readonly tokenizer: Tokenizer;
  /** Documents of the training text, with those that are held out. */
  readonly documents: number;
  /** Tokens to train on. */
  readonly training: TokenDataset;
  /** Tokens of the validation text, or of documents that were held out if there is none. */
  readonly validation: TokenDataset;
  /** Whether the tokenizer has all tokens of its vocabulary, or those that the data uses; absent if it was given. */
  readonly vocabulary?: "full" | "compact";
  /** Least loss that a model can reach, in nats per token; known if all text is `sample`. */
  readonly entropyPerToken?: number;
  /** SHA-256 of all documents, in hexadecimal. */
  readonly hash: string;
  /** In the same way that of the validation text alone, if the data set has one and nothing is held out. */
  readonly validationHash?: string;
}

/** The data to load, and how. */
export interface CorpusOptions
  extends DatasetOptions, Pick<TokenizeOptions, "cacheDirectory" | "readOnly" | "workers"> {
  /** What to read: see `openDataset()`. */
  readonly data: DataSpec | Documents;
  /** `auto` by default. */
  readonly vocabulary?: VocabularyMode;
  /** The tokenizer whose vocabulary is used, by default GPT-2's; `auto` keeps any other whole. */
  readonly baseTokenizer?: Tokenizer | undefined;
  /** The tokenizer of an existing model; the tokens get its ids. */
  readonly tokenizer?: Tokenizer;
  /** Whether nothing is held out: without text to validate with, `validation` is the training text. */
  readonly whole?: boolean;
}

/** Share of the full vocabulary that the data uses, below which `auto` chooses the compact one. */
const COMPACT_SHARE = 1 / 5;

/**
 * Finds a data set, chooses its vocabulary, and tokenizes it or finds its tokens in the cache.
 *
 * If neither the options nor the data set name validation text, every twentieth document is held out.
 *
 * @throws {DataError} if the data cannot be read; {UserError} if it holds no text.
 */
export async function loadCorpus(options: CorpusOptions): Promise<Corpus> {
  const { data, validationData, whole = false, onNotice } = options;
  const dataset = await openDataset(data, options), { training, validation } = dataset;
  using stack = new DisposableStack();
  const parts = { ...options, documents: validation ? [training, validation] : [training], stack };
  const { tokenized, tokenizer, vocabulary } = options.tokenizer
    ? await tokenizeFor(options.tokenizer, parts)
    : await tokenizeAndChoose(parts);
  const hashes = tokenized.map(({ hash }) => hash), [trainingHash, validationHash] = hashes;
  if (validationHash === trainingHash) {
    onNotice?.(
      `the text to validate with is that of the training: its loss says nothing about other text`,
    );
  }
  const [first, second = whole ? first : undefined] = tokenized;
  const divided = second ? { training: first!, validation: second } : holdOut(first!);
  const isSample = data === "sample" && (validationData ?? data) === data, opened = stack.move();
  return {
    name: training.name,
    data: dataset.data,
    ...(dataset.validationData ? { validationData: dataset.validationData } : {}),
    ...(validationHash === undefined ? {} : { validationHash }),
    tokenizer,
    documents: first!.documents,
    ...divided,
    ...(vocabulary ? { vocabulary } : {}),
    ...(isSample ? { entropyPerToken: sampleEntropyPerToken(tokenizer) } : {}),
    cached: tokenized.every(({ cached }) => cached),
    hash: validation ? digest("sha256", hashes.join("")) : trainingHash!,
    bytes: tokenized.reduce((sum, { bytes }) => sum + bytes, 0),
    fileBytes: tokenized.reduce((sum, { fileBytes }) => sum + fileBytes, 0),
    close: () => opened.dispose(),
  };
}

/** The parts of a data set, and how to tokenize them. */
interface Parts extends CorpusOptions {
  /** The documents for training, then those for validation if there are any. */
  readonly documents: readonly Documents[];
  /** Closes all token files that were opened. */
  readonly stack: DisposableStack;
}

/** The parts of a data set in the ids of its tokenizer. */
interface TokenizedParts {
  readonly tokenized: readonly Omit<TokenizedDocuments, "usedIds">[];
  readonly tokenizer: Tokenizer;
  /** The vocabulary that was chosen; absent for the tokenizer of a model. */
  readonly vocabulary?: "full" | "compact";
}

/**
 * Tokenizes with the tokenizer of a model. If it was made compact for this data, tokens of the whole vocabulary in
 * the cache serve as well.
 */
async function tokenizeFor(given: Tokenizer, parts: Parts): Promise<TokenizedParts> {
  const tokenizer = await fittingTo(given, parts);
  const found = findAll(tokenizer, parts);
  if (found) return { tokenized: found, tokenizer };
  const { chatTemplate } = tokenizer, usual = parts.baseTokenizer ?? await gpt2Tokenizer();
  const base = chatTemplate === undefined ? usual : { ...usual, chatTemplate };
  const whole = findAll(base, parts);
  if (whole && (await compactTokenizer(base, usedIds(whole))).hash === tokenizer.hash) {
    const newIds = idsInPart(tokenizer, base);
    return { tokenized: whole.map((part) => renumbered(part, newIds)), tokenizer };
  }
  return { tokenized: await tokenizeAll(tokenizer, parts), tokenizer };
}

/** Tokenizes with the base tokenizer, then keeps its vocabulary or the part that the data uses. */
async function tokenizeAndChoose(parts: Parts): Promise<TokenizedParts> {
  const { vocabulary = "auto", baseTokenizer } = parts;
  const base = await fittingTo(baseTokenizer ?? await gpt2Tokenizer(), parts);
  const tokenized = await tokenizeAll(base, parts), used = usedIds(tokenized);
  const isSmallPart = !baseTokenizer && used.length < COMPACT_SHARE * base.vocabularySize;
  const isCompact = vocabulary === "compact" || (vocabulary === "auto" && isSmallPart);
  if (!isCompact) return { tokenized, tokenizer: base, vocabulary: "full" };
  const tokenizer = await fittingTo(await compactTokenizer(base, used), parts);
  const newIds = idsInPart(tokenizer, base);
  const compact = tokenized.map((part) => renumbered(part, newIds));
  return { tokenized: compact, tokenizer, vocabulary: "compact" };
}

/** A tokenizer, with a chat template if any documents are conversations. */
async function fittingTo(tokenizer: Tokenizer, { documents }: Parts): Promise<Tokenizer> {
  const hasConversations = documents.some(({ areConversations }) => areConversations);
  return hasConversations ? await withChatFormat(tokenizer) : tokenizer;
}

/** The tokens of all parts from the cache; undefined if some are absent. */
function findAll(
  tokenizer: Tokenizer,
  { documents, cacheDirectory, stack }: Parts,
): TokenizedDocuments[] | undefined {
  const found = documents.flatMap((part) => openCached(part, { tokenizer, cacheDirectory }) ?? []);
  for (const { close } of found) stack.defer(close);
  return found.length === documents.length ? found : undefined;
}

/** The tokens of all parts. */
async function tokenizeAll(
  tokenizer: Tokenizer,
  { documents, stack, ...options }: Parts,
): Promise<TokenizedDocuments[]> {
  const tokenized: TokenizedDocuments[] = [];
  for (const part of documents) {
    tokenized.push(await tokenizeDocuments(part, { ...options, tokenizer }));
    stack.defer(tokenized.at(-1)!.close);
  }
  return tokenized;
}

/** Ids that occur in any part, in ascending order. */
function usedIds(parts: readonly TokenizedDocuments[]): number[] {
  return [...new Set(parts.flatMap(({ usedIds }) => usedIds))].sort((a, b) => a - b);
}

/** Entropy of the sample stories per token, the tokens that begin and end a story included. */
function sampleEntropyPerToken(tokenizer: Tokenizer): number {
  const around = tokenizer.beginOfText === undefined ? 1 : 2;
  return storyEntropy() /
    (expectedTokens((text) => tokenizer.encodeDocument(text).length) + around);
}
