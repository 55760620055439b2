import { createMerger } from "./bpe.ts";
import type { Library } from "./pattern.ts";
import { type Model, UnsupportedTokenizer } from "./tokenizer_file.ts";
import type { Vocabulary } from "./vocabulary.ts";

/**
 * The models of a `tokenizer.json`: how a word becomes ids.
 *
 * @module
 */

/** Encodes a word from the pre-tokenizer. */
export type WordModel = (word: string) => readonly number[];

/** What a model looks up. */
interface WordModelParts extends Pick<Vocabulary, "unknown"> {
  /** Ids by token of the model; unless it is a BPE, without the tokens that are not text. */
  readonly ids: ReadonlyMap<string, number>;
  readonly library: Library;
}

/** Makes the function that turns words into ids. */
export function createWordModel(
  model: Model,
  { specials, unknown }: Vocabulary,
  library: Library,
): WordModel {
  const isBpe = model.kind === "BPE"; // its texts become tokens by merges alone, and none makes a mark
  const ids = new Map(model.tokens.filter(([, id]) => isBpe || !specials.has(id)));
  const parts = { ids, unknown, library };
  switch (model.kind) {
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

function known(ids: readonly (number | undefined)[]): number[] {
  return ids.filter((id) => id !== undefined);
}

/** Makes the function that spells a text by the byte tokens `<0x00>` to `<0xFF>`, if the vocabulary has them. */
function createByteFallback(
  { byte_fallback: isUsed }: Model,
  ids: ReadonlyMap<string, number>,
): (text: string) => number[] | undefined {
  const encoder = new TextEncoder();
  const idOf = (byte: number) => ids.get(`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`);
  return (text) => {
    const tokens = isUsed ? Array.from(encoder.encode(text), idOf) : [undefined];
    return tokens.includes(undefined) ? undefined : tokens as number[];
  };
}

/** Byte-pair encoding: a word's characters, merged. */
function createBpe(model: Model, { ids, unknown }: WordModelParts): WordModel {
  if (model.dropout) throw new UnsupportedTokenizer("model.dropout must be null", model.dropout);
  const prefix = model.continuing_subword_prefix ?? "";
  const suffix = model.end_of_word_suffix ?? "";
  const idOf = (token: string): number => {
    const id = ids.get(token);
    if (id !== undefined) return id;
    throw new UnsupportedTokenizer("model.vocab must hold the tokens of all merges", token);
  };
  const merge = createMerger(model.merges.map(([left, right]) => [
    idOf(left),
    idOf(right),
    idOf(left + right.slice(prefix.length)),
  ]));
  const fallback = createByteFallback(model, ids);

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
function createUnigram(model: Model, { ids, unknown, library }: WordModelParts): WordModel {
  const { tokens, scores } = model;
  // tokens that are not text must not be found: a lone surrogate matches nothing in a well-formed text
  const vocab = tokens.map(([token], i) => [ids.has(token) ? token : `\ud800${token}`, scores[i]]);
  if (vocab.length === 0) throw new UnsupportedTokenizer("model.vocab must hold tokens", []);
  const unigram = new library!.Unigram({ ...model, type: "Unigram", vocab } as never, "");
  const fallback = createByteFallback(model, ids);

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

/** Largest limit for the characters of a word in WordPiece: the time for a word grows with the cube of its length. */
const LONGEST_WORD = 1000;

/** WordPiece: the longest token that begins a word, then the same for the rest of the word. */
function createWordPiece(model: Model, { ids, unknown, library }: WordModelParts): WordModel {
  const pieces = new library!.WordPiece({
    continuing_subword_prefix: "##",
    ...model,
    max_input_chars_per_word: Math.min(model.max_input_chars_per_word ?? 100, LONGEST_WORD),
    type: "WordPiece",
    vocab: Object.fromEntries(ids),
  } as never);
  return (word) => known(pieces.encode([word]).map((token) => ids.get(token) ?? unknown));
}
