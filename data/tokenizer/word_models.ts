import type { Package } from "../../files/packages.ts";
import { createMerger } from "./bpe.ts";
import { BYTE_ALPHABET } from "./byte_level.ts";
import {
  mergedPair,
  type ModelConfig,
  modelKind,
  UnsupportedTokenizer,
  type WrittenMerge,
} from "./tokenizer_file.ts";

/**
 * The models of a `tokenizer.json`: how a word becomes ids.
 *
 * @module
 */

/** Encodes a word from the pre-tokenizer. */
export type WordModel = (word: string) => readonly number[];

/** The vocabulary and library that a model uses. */
export interface WordModelParts {
  /** Ids by token of the model; unless it is a BPE, without the tokens that are not text. */
  readonly ids: ReadonlyMap<string, number>;
  /** Id of text that the vocabulary cannot spell; if undefined, such text is left out. */
  readonly unknown: number | undefined;
  /** Loaded for Unigram and WordPiece. */
  readonly library: Package<"@huggingface/tokenizers"> | undefined;
}

/** Makes the function that turns words into ids. */
export function createWordModel(model: ModelConfig, parts: WordModelParts): WordModel {
  const { ids, unknown } = parts, kind = modelKind(model);
  if (Array.isArray(model.vocab) !== (kind === "Unigram")) {
    throw new UnsupportedTokenizer(
      `model.vocab must be a list for a Unigram and a table for others`,
      kind,
    );
  }
  switch (kind) {
    case "BPE":
      return createBpe(model, parts);
    case "Unigram":
      return createUnigram(model, parts);
    case "WordPiece":
      return createWordPiece(model, parts);
    case "WordLevel":
      return (word) => known([ids.get(word) ?? unknown]);
  }
}

/**
 * The tokens that stand for text even if they are declared special.
 *
 * In a BPE these are the letters and the results of merges. Other models look up whole words, and only the form of a
 * token decides: letters between punctuation, as in `</s>` and `[SEP]`, are a name.
 */
export function textTokens(model: ModelConfig, tokens: Iterable<string>): Set<string> {
  const wanted = new Set(tokens);
  if (modelKind(model) !== "BPE") {
    const isName = /^[^\p{L}\p{M}\p{N}]+[\p{L}\p{M}\p{N}].*[^\p{L}\p{M}\p{N}]$/su;
    return new Set([...wanted].filter((token) => !isName.test(token)));
  }
  const prefix = model.continuing_subword_prefix ?? "", suffix = model.end_of_word_suffix ?? "";
  const isLetter = (token: string) => {
    const start = token.startsWith(prefix) ? prefix.length : 0;
    const end = token.length - (token.endsWith(suffix) ? suffix.length : 0);
    return token.length > 0 && [...token.slice(start, end)].length <= 1;
  };
  const isByte = (token: string) => model.byte_fallback === true && BYTE.test(token);
  const text = new Set([...wanted].filter((token) => isLetter(token) || isByte(token)));
  for (const pair of model.merges ?? []) {
    const token = mergedToken(pair, prefix);
    if (wanted.has(token)) text.add(token);
  }
  return text;
}

/** A token that stands for a byte. */
const BYTE = /^<0x[0-9A-F]{2}>$/;

/** The token that a merge makes of two. */
function mergedToken(merge: WrittenMerge, prefix: string): string {
  const [left, right] = mergedPair(merge);
  return left + right.slice(prefix.length);
}

function known(ids: readonly (number | undefined)[]): number[] {
  return ids.filter((id) => id !== undefined);
}

/** Makes the function that spells a text by the byte tokens `<0x00>` to `<0xFF>`, if the vocabulary has them. */
function createByteFallback(
  { ids }: WordModelParts,
): (text: string) => readonly number[] | undefined {
  const bytes = Array.from(
    BYTE_ALPHABET,
    (_, byte) => ids.get(`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`),
  );
  const encoder = new TextEncoder();
  return (text) => {
    const tokens = Array.from(encoder.encode(text), (byte) => bytes[byte]);
    return tokens.includes(undefined) ? undefined : tokens as number[];
  };
}

/** Byte-pair encoding: a word's characters, merged. */
function createBpe(model: ModelConfig, parts: WordModelParts): WordModel {
  const { ids, unknown } = parts;
  if (model.dropout) throw new UnsupportedTokenizer("model.dropout must be null", model.dropout);
  const prefix = model.continuing_subword_prefix ?? "";
  const suffix = model.end_of_word_suffix ?? "";
  const idOf = (token: string): number => {
    const id = ids.get(token);
    if (id !== undefined) return id;
    throw new UnsupportedTokenizer("model.vocab must hold the tokens of all merges", token);
  };
  const merge = createMerger((model.merges ?? []).map((pair) => {
    const [left, right] = mergedPair(pair);
    return [idOf(left), idOf(right), idOf(mergedToken(pair, prefix))];
  }));
  const fallback = model.byte_fallback ? createByteFallback(parts) : () => undefined;

  return (word) => {
    const whole = model.ignore_merges ? ids.get(word) : undefined;
    if (whole !== undefined) return [whole];
    const characters = Array.from(word);
    const last = characters.length - 1;
    const tokens: number[] = [];
    let wasUnknown = false;
    characters.forEach((character, i) => {
      const spelled = (i > 0 ? prefix : "") + character + (i === last ? suffix : "");
      const id = ids.get(spelled);
      const bytes = id === undefined ? fallback(spelled) : [id];
      for (const byte of bytes ?? []) tokens.push(byte);
      const isNew = !bytes && !(wasUnknown && model.fuse_unk);
      if (isNew && unknown !== undefined) tokens.push(unknown);
      wasUnknown = bytes === undefined;
    });
    return merge(tokens);
  };
}

/** Unigram: the likeliest tokens that spell a word. */
function createUnigram(model: ModelConfig, parts: WordModelParts): WordModel {
  const { ids, unknown, library } = parts;
  const vocabulary = model.vocab as [string, number][];
  // tokens that are not text must not be found: a lone surrogate matches nothing in a well-formed text
  const spelled = vocabulary.map((
    [token, score],
  ) => [ids.has(token) ? token : `\ud800${token}`, score]);
  if (spelled.length === 0) throw new UnsupportedTokenizer("model.vocab must hold tokens", []);
  const unigram = new library!.Unigram({ ...model, type: "Unigram", vocab: spelled } as never, "");
  const fallback = model.byte_fallback ? createByteFallback(parts) : () => undefined;

  return (word) => {
    const tokens: number[] = [];
    let unspelled = "";
    const flush = () => {
      if (unspelled === "") return;
      for (const id of fallback(unspelled) ?? known([unknown])) tokens.push(id);
      unspelled = "";
    };
    for (const token of unigram.tokenize(word)) {
      const id = ids.get(token);
      if (id === undefined) {
        unspelled += token;
      } else {
        flush();
        tokens.push(id);
      }
    }
    flush();
    return tokens;
  };
}

/** Largest limit for the characters of a word in WordPiece; models use 100. */
const LONGEST_WORD = 1000;

/** WordPiece: the longest token that begins a word, then the same for the rest of the word. */
function createWordPiece(model: ModelConfig, { ids, unknown, library }: WordModelParts): WordModel {
  const longest = model.max_input_chars_per_word ?? 100;
  if (longest > LONGEST_WORD) { // the time for a word grows with the cube of its length
    throw new UnsupportedTokenizer(
      `model.max_input_chars_per_word must be at most ${LONGEST_WORD}`,
      longest,
    );
  }
  const pieces = new library!.WordPiece({
    continuing_subword_prefix: "##",
    ...model,
    type: "WordPiece",
    vocab: Object.fromEntries(ids),
  } as never);
  return (word) => known(pieces.encode([word]).map((token) => ids.get(token) ?? unknown));
}
