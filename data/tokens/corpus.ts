import { createHash } from "node:crypto";
import {
  type DataSources,
  type DataSpec,
  openSources,
  type SourceOptions,
} from "../text/sources.ts";
import { expectedTokens, storyEntropy } from "../text/stories.ts";
import { renumbered, type TokenizedText } from "./token_file.ts";
import { findTokenized, hashSource, type TokenizedSource, tokenizeSource } from "./tokenize.ts";
import { compactTokenizer, gpt2Tokenizer, type Tokenizer } from "../tokenizer/tokenizer.ts";

/** `compact` keeps the tokens that the data uses, `full` all there are, `auto` decides by the data. */
export type VocabularyMode = "auto" | "full" | "compact";

/** A data set, tokenized and divided into training and validation text. */
export interface Corpus {
  /** What it is called in messages: `sample`, `tinystories`, or the files' names. */
  readonly name: string;
  /** What was named: each file of the hub at the commit that was found, others by their whole paths. */
  readonly data: DataSpec;
  /** The tokenizer of both texts. */
  readonly tokenizer: Tokenizer;
  /** What to train on. */
  readonly training: TokenizedText;
  /** The data set's own validation text, or what was held out: no story is in both. */
  readonly validation: TokenizedText;
  /** Whether the data set brings its validation text; else it was held out. */
  readonly ownValidation: boolean;
  /** Whether the tokenizer is whole or a part of one. */
  readonly vocabulary: "full" | "compact";
  /** Least loss that any model can reach, in nats per token; known for `sample` alone. */
  readonly entropyPerToken?: number;
  /** Whether the tokens came from the cache. */
  readonly cached: boolean;
  /** SHA-256 of the documents, in hexadecimal. */
  readonly hash: string;
  /** Gives back the files that the texts are read from. */
  close(): void;
}

/** What to load, and how. */
export interface CorpusOptions extends SourceOptions {
  /** What to read: see `openSources()`. */
  readonly data: DataSpec;
  /** `auto` by default. */
  readonly vocabulary?: VocabularyMode;
  /** The tokenizer that the vocabulary is taken from: GPT-2's, unless given; `auto` leaves others whole. */
  readonly baseTokenizer?: Tokenizer | undefined;
  /** The tokenizer of a model that is there already: the text comes in its ids, as they are. */
  readonly tokenizer?: Tokenizer;
  /** Where token files are kept; without, the tokens stay in memory. */
  readonly cacheDirectory?: string;
  /** Workers that tokenize; one for each core if not given. */
  readonly workers?: number | undefined;
}

/** `auto` takes the compact vocabulary where the data uses less than this share of the full one. */
const COMPACT_SHARE = 1 / 5;

/** Tokens in GPT-2's vocabulary. */
const GPT2_TOKENS = 50257;

/**
 * Finds a data set, chooses its vocabulary, and tokenizes it, or takes the tokens from the cache.
 *
 * What has no validation text of its own is divided by document: every twentieth is held out. The
 * tokens are read from their files when they are needed, however many they are.
 *
 * @throws {UserError} if the data cannot be had or read, or if it holds no text.
 */
export async function loadCorpus(options: CorpusOptions): Promise<Corpus> {
  const { data, vocabulary = "auto", baseTokenizer } = options;
  const sources = await openSources(data, options);
  const base = async () => baseTokenizer ?? await gpt2Tokenizer();
  const texts = options.tokenizer
    ? await tokenizeFor(options.tokenizer, sources, { ...options, base })
    : await tokenize(await base(), sources, options);

  const { used } = texts;
  let { tokenizer, training, validation } = texts;
  let compact = false;
  if (vocabulary !== "full") {
    const auto = !baseTokenizer && used.length < COMPACT_SHARE * tokenizer.vocabularySize;
    compact = options.tokenizer
      ? tokenizer.vocabularySize < GPT2_TOKENS
      : vocabulary === "compact" || auto;
  }
  if (compact && !options.tokenizer) {
    ({ tokenizer, training, validation } = renumber(
      texts,
      await compactTokenizer(tokenizer, used),
    ));
  }
  return {
    name: sources.training.name,
    ...{ tokenizer, training, validation },
    data: sources.data,
    ownValidation: sources.validation !== undefined,
    vocabulary: compact ? "compact" : "full",
    ...(data === "sample" ? { entropyPerToken: sampleEntropyPerToken(tokenizer) } : {}),
    cached: texts.cached,
    hash: texts.hash,
    close() {
      training.close();
      validation.close();
    },
  };
}

/**
 * The hash that `loadCorpus()` gives data for a model's tokenizer. It comes from the cache, or else the data is
 * read; nothing is tokenized.
 *
 * @throws {UserError} if the data cannot be downloaded or read.
 */
export async function hashData(
  options: CorpusOptions & { readonly tokenizer: Tokenizer },
): Promise<string> {
  const sources = await openSources(options.data, options);
  const found = find(options.tokenizer, sources, options) ??
    find(await gpt2Tokenizer(), sources, options);
  if (found) {
    found.training.close();
    found.validation.close();
    return found.hash;
  }
  const { training, validation } = sources;
  const hash = await hashSource(training, options);
  return hashOf(hash, validation && await hashSource(validation, options));
}

/** The hash of a data set, by those of its documents. */
function hashOf(training: string, validation: string | undefined): string {
  if (validation === undefined) return training;
  return createHash("sha256").update(training).update(validation).digest("hex");
}

/** Tokenizes a whole data set for evaluation, holding nothing back. */
export async function loadWhole(
  options: Omit<CorpusOptions, "data" | "tokenizer" | "baseTokenizer" | "vocabulary"> & {
    readonly data: DataSpec;
    readonly tokenizer: Tokenizer;
  },
): Promise<TokenizedText> {
  const { training } = await openSources(options.data, options);
  return (await tokenizeSource(training, { ...options, holdOut: false })).text;
}

/** Both texts of a data set, in the ids of one tokenizer. */
interface Texts {
  tokenizer: Tokenizer;
  training: TokenizedText;
  validation: TokenizedText;
  /** Ids that occur in either, in ascending order. */
  used: readonly number[];
  cached: boolean;
  hash: string;
}

async function tokenize(
  tokenizer: Tokenizer,
  sources: DataSources,
  options: Omit<CorpusOptions, "tokenizer">,
): Promise<Texts> {
  const one = (source: DataSources["training"], holdOut: boolean) =>
    tokenizeSource(source, { ...options, tokenizer, holdOut });
  const training = await one(sources.training, !sources.validation);
  try {
    return textsOf(tokenizer, training, sources.validation && await one(sources.validation, false));
  } catch (error) {
    training.text.close();
    throw error;
  }
}

/** What the cache has of a data set. */
function find(
  tokenizer: Tokenizer,
  sources: DataSources,
  { cacheDirectory }: Pick<CorpusOptions, "cacheDirectory">,
): Texts | undefined {
  if (cacheDirectory === undefined) return undefined;
  const one = (source: DataSources["training"], holdOut: boolean) =>
    findTokenized(source, { tokenizer, holdOut, cacheDirectory });
  const training = one(sources.training, !sources.validation);
  const validation = sources.validation && one(sources.validation, false);
  if (training && (validation || !sources.validation)) {
    return textsOf(tokenizer, training, validation);
  }
  training?.text.close();
  validation?.text.close();
}

function textsOf(
  tokenizer: Tokenizer,
  training: TokenizedSource,
  validation: TokenizedSource | undefined,
): Texts {
  const used = validation
    ? [...new Set([...training.usedIds, ...validation.usedIds])].sort((a, b) => a - b)
    : training.usedIds;
  return {
    tokenizer,
    training: training.text,
    validation: validation?.text ?? training.heldOut!,
    used,
    cached: training.cached && (validation?.cached ?? true),
    hash: hashOf(training.textHash, validation?.textHash),
  };
}

/**
 * The texts in the ids of a given tokenizer.  One that was made compact for this data need not tokenize
 * it: the tokens of the whole vocabulary, if they are in the cache, are given its ids.
 */
async function tokenizeFor(
  tokenizer: Tokenizer,
  sources: DataSources,
  options: Omit<CorpusOptions, "tokenizer"> & { base: () => Promise<Tokenizer> },
): Promise<Texts> {
  const found = find(tokenizer, sources, options);
  if (found) return found;
  const whole = find(await options.base(), sources, options);
  if (whole) {
    const compact = await compactTokenizer(whole.tokenizer, whole.used);
    if (compact.hash === tokenizer.hash) return renumber(whole, tokenizer);
    whole.training.close();
    whole.validation.close();
  }
  return await tokenize(tokenizer, sources, options);
}

/** Entropy of the sample stories per token, the token that ends a story counted. */
function sampleEntropyPerToken(tokenizer: Tokenizer): number {
  return storyEntropy() / (expectedTokens((text) => tokenizer.encodeDocument(text).length) + 1);
}

/** The same texts in the ids of a compact tokenizer that keeps all tokens they use. */
function renumber(texts: Texts, compact: Tokenizer): Texts {
  const vocab = (tokenizer: Tokenizer) =>
    JSON.parse(tokenizer.json).model.vocab as Record<string, number>;
  const oldIds = vocab(texts.tokenizer);
  const newIds = new Uint32Array(texts.tokenizer.vocabularySize);
  for (const [token, id] of Object.entries(vocab(compact))) newIds[oldIds[token]!] = id;
  return {
    ...texts,
    tokenizer: compact,
    training: renumbered(texts.training, newIds),
    validation: renumbered(texts.validation, newIds),
  };
}
