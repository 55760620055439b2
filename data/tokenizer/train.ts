import { refuseOthers } from "../../files/option_names.ts";
import { Heap, pairKey, pairOf } from "./bpe.ts";
import {
  BYTE_ALPHABET,
  byteLevelFile,
  type ByteLevelTables,
  END_OF_TEXT,
  toByteAlphabet,
  writtenToken,
} from "./byte_level.ts";
import { copied, GPT2_WORDS } from "./pre_tokenizers.ts";
import { byteLevelTokenizer, parseTokenizer, type Tokenizer } from "./tokenizer.ts";

/** Options of the training of a tokenizer. */
export interface TrainTokenizerOptions {
  /** V: number of ids; 256 are bytes, one ends documents, and the special tokens have one each. */
  readonly vocabularySize: number;
  /** Least number of occurrences of a pair that is merged; 2 by default. */
  readonly minFrequency?: number;
  /** Further special tokens, such as those of a chat template: their ids are the last ones. */
  readonly specialTokens?: readonly string[];
  /** Is called, after the text is read, with the number of tokens so far and of all tokens. */
  readonly onProgress?: (done: number, total: number) => void;
}

/** Fewest ids that a byte-level tokenizer has. */
export const LEAST_VOCABULARY = BYTE_ALPHABET.length + 1;

/**
 * Trains a byte-level BPE tokenizer of GPT-2's kind on texts. The pair of tokens that occurs most often becomes a
 * token, again and again, until the vocabulary has its size or no pair occurs often enough.
 *
 * The merges are those of Hugging Face's `BpeTrainer` with the byte alphabet as initial alphabet and `ByteLevel` as
 * pre-tokenizer: of pairs that occur equally often, the one with the lower ids comes first. The ids differ: as in
 * GPT-2's own file, the 256 bytes come first in the order of their characters, then the merges, and `<|endoftext|>`
 * last, while `BpeTrainer` puts special tokens first.
 *
 * Only the counts of distinct words are held in memory.
 *
 * @param texts documents, or parts of documents that end before white space.
 * @throws {RangeError} if an option is out of range.
 *
 * @example Train a tokenizer on two sentences
 * ```ts
 * import { trainTokenizer } from "../../mod.ts";
 *
 * const tokenizer = await trainTokenizer(["the cat sat", "the dog sat"], { vocabularySize: 260 });
 * ```
 */
export async function trainTokenizer(
  texts: Iterable<string> | AsyncIterable<string>,
  { vocabularySize, minFrequency = 2, specialTokens = [], onProgress = () => {}, ...others }:
    TrainTokenizerOptions,
): Promise<Tokenizer> {
  refuseOthers("train a tokenizer", "trainTokenizer()", others);
  const check = (name: string, value: number, least: number) => {
    if (Number.isSafeInteger(value) && value >= least) return;
    throw new RangeError(
      `Cannot train a tokenizer as ${name} must be an integer of at least ${least}: ` +
        `current value is ${value}`,
    );
  };
  check("vocabularySize", vocabularySize, LEAST_VOCABULARY + specialTokens.length);
  check("minFrequency", minFrequency, 1);
  const counts = new Map<string, number>(); // by word
  for await (const text of texts) {
    for (const word of text.toWellFormed().match(GPT2_WORDS) ?? []) {
      const count = counts.get(word);
      counts.set(count === undefined ? copied(word) : word, (count ?? 0) + 1);
    }
  }
  const most = vocabularySize - 1 - specialTokens.length; // one id is left for end-of-text
  const tables = learnMerges(counts, { most, minFrequency, onProgress });
  if (specialTokens.length === 0) return await byteLevelTokenizer(tables);
  const added = [END_OF_TEXT, ...specialTokens]
    .map((content, i) => writtenToken({ id: tables.tokens.length + i, content, special: true }));
  const file = { ...byteLevelFile(tables), added_tokens: added };
  return await parseTokenizer(JSON.stringify(file));
}

/** A pair of neighbouring tokens that waits to be merged. */
interface Pair {
  /** The two ids, as `pairKey()` writes them. */
  readonly key: number;
  /** Number of occurrences when it was last counted. */
  count: number;
  /** Words in which it was found; some may have lost it since. */
  readonly words: readonly number[];
}

/**
 * Learns merges from words and how often each occurs.
 *
 * Every token is made in one way: if no merge crosses its ends, its bytes merge as they would alone. Therefore a merge
 * always makes a new token, and each pair enters the queue once.
 */
function learnMerges(
  countsByWord: ReadonlyMap<string, number>,
  { most, minFrequency, onProgress }: {
    most: number;
    minFrequency: number;
    onProgress: (done: number, total: number) => void;
  },
): ByteLevelTables {
  const tokens = [...BYTE_ALPHABET].sort();
  const ids = new Map(tokens.map((token, id) => [token, id])), utf8 = new TextEncoder();
  const wordCounts = [...countsByWord.values()];
  const words: Uint32Array[] = Array.from(
    countsByWord.keys(),
    (word) => Uint32Array.from(toByteAlphabet(utf8.encode(word)), (byte) => ids.get(byte)!),
  );
  const counts = new Map<number, number>(); // of pairs
  const queue = new Heap<Pair>((a, b) => a.count === b.count ? a.key < b.key : a.count > b.count);
  let gained = new Map<number, number[]>(); // words, by the pairs that they gained and the queue does not have
  const change = (left: number, right: number, word: number, by: 1 | -1) => {
    const key = pairKey(left, right);
    counts.set(key, (counts.get(key) ?? 0) + by * wordCounts[word]!);
    if (by < 0) return;
    const found = gained.get(key);
    if (!found) gained.set(key, [word]);
    else if (found.at(-1) !== word) found.push(word); // the gains of a word come together
  };
  const fillQueue = () => {
    for (const [key, words] of gained) {
      const count = counts.get(key)!;
      if (count > 0) queue.push({ key, count, words });
    }
    gained = new Map();
  };
  /** Merges a pair in a word, and counts the pairs that the word gains and loses. */
  const mergeIn = (w: number, [left, right]: readonly [number, number], merged: number) => {
    const word = words[w]!;
    let length = 0;
    for (let i = 0; i < word.length; i++) {
      if (word[i] !== left || word[i + 1] !== right) {
        word[length++] = word[i]!;
        continue;
      }
      if (length > 0) {
        change(word[length - 1]!, left, w, -1);
        change(word[length - 1]!, merged, w, 1);
      }
      i++;
      if (i + 1 < word.length) {
        change(right, word[i + 1]!, w, -1);
        change(merged, word[i + 1]!, w, 1);
      }
      word[length++] = merged;
    }
    words[w] = word.subarray(0, length);
  };

  words.forEach((word, w) => {
    for (let i = 0; i + 1 < word.length; i++) change(word[i]!, word[i + 1]!, w, 1);
  });
  fillQueue();
  const merges: [string, string][] = [];
  for (let pair; tokens.length < most && (pair = queue.pop());) {
    const count = counts.get(pair.key)!;
    if (count !== pair.count) { // it has changed since, and so has its place in the queue
      pair.count = count;
      queue.push(pair);
      continue;
    }
    if (count < minFrequency) break;
    const [left, right] = pairOf(pair.key);
    merges.push([tokens[left]!, tokens[right]!]);
    const merged = tokens.push(tokens[left]! + tokens[right]!) - 1;
    for (const w of pair.words) mergeIn(w, [left, right], merged);
    fillQueue();
    onProgress(tokens.length, most);
  }
  return { tokens, merges };
}
