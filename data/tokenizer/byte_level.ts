import type { JsonObject } from "../../files/json.ts";
import { pairKey } from "./bpe.ts";
import { type AddedToken, isPlainBpe, type TokenizerFile } from "./tokenizer_file.ts";

/**
 * Byte-level BPE as in GPT-2: the byte alphabet, and the tables of tokenizers of that kind.
 *
 * @module
 */

/** The token that ends a document. */
export const END_OF_TEXT = "<|endoftext|>";

/**
 * The byte alphabet: a character for each byte, so that any token can be written as text (openai/gpt-2,
 * src/encoder.py). Printable bytes are written as themselves, the others as U+0100 and up.
 */
export const BYTE_ALPHABET: readonly string[] = (() => {
  const printable = (byte: number) =>
    (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xff && byte !== 0xad);
  let next = 0x100;
  return Array.from(
    { length: 256 },
    (_, byte) => String.fromCharCode(printable(byte) ? byte : next++),
  );
})();

const BYTE_OF: ReadonlyMap<string, number> = new Map(BYTE_ALPHABET.map((c, byte) => [c, byte]));

/** Writes bytes in the byte alphabet. */
export function toByteAlphabet(bytes: Uint8Array): string {
  let text = "";
  for (const byte of bytes) text += BYTE_ALPHABET[byte]!;
  return text;
}

/** The bytes of a text in the byte alphabet, or undefined if it has other characters. */
export function fromByteAlphabet(text: string): Uint8Array | undefined {
  const bytes = Array.from(text, (character) => BYTE_OF.get(character));
  return bytes.includes(undefined) ? undefined : Uint8Array.from(bytes as number[]);
}

/**
 * Whether a tokenizer is of GPT-2's kind: a byte-level BPE that splits a text into words as GPT-2 does. Its added tokens
 * may differ.
 */
export function isGpt2Kind(
  { model, normalizers, preTokenizers, decoders }: TokenizerFile,
): boolean {
  const [words, ...others] = preTokenizers;
  return isPlainBpe(model) && !model.byte_fallback && !model.ignore_merges &&
    normalizers.length === 0 && others.length === 0 && words?.type === "ByteLevel" &&
    !words.add_prefix_space && words.use_regex !== false &&
    decoders.length === 1 && decoders[0]!.type === "ByteLevel";
}

/** The tokens and merges of a tokenizer of GPT-2's kind whose only added token is end-of-text, the last id. */
export interface ByteLevelTables {
  /** Tokens in the byte alphabet, by id, without end-of-text. */
  readonly tokens: readonly string[];
  /** Pairs in the order in which they are merged. */
  readonly merges: readonly (readonly [string, string])[];
}

/** The tables of a `tokenizer.json`; undefined if it holds more than tables do. */
export function byteLevelTables(file: TokenizerFile): ByteLevelTables | undefined {
  const { model: { type, merges, tokens: all }, addedTokens: [end, ...others] } = file;
  const isPlain = isGpt2Kind(file) && type === "BPE" && end?.content === END_OF_TEXT &&
    others.length === 0;
  if (!isPlain) return undefined;
  const entries = all.filter(([token]) => token !== END_OF_TEXT);
  const tokens: string[] = new Array(entries.length).fill("");
  for (const [token, id] of entries) if (tokens[id] === "") tokens[id] = token;
  // if an id is missing, another is too large or occurs twice
  const isWhole = entries.every(([token, id]) => tokens[id] === token), known = new Set(tokens);
  return isWhole && end.id === tokens.length && BYTE_ALPHABET.every((byte) => known.has(byte))
    ? { tokens, merges }
    : undefined;
}

/** The `tokenizer.json` of tables. */
export function byteLevelFile({ tokens, merges }: ByteLevelTables): JsonObject {
  return gpt2File({
    vocab: Object.fromEntries([...tokens, END_OF_TEXT].map((token, id) => [token, id])),
    merges: merges.map((pair) => pair.join(" ")),
    added: [{ id: tokens.length, content: END_OF_TEXT, special: true }],
  });
}

/**
 * The `tokenizer.json` of a byte-level BPE, as Hugging Face writes it for GPT-2. The order of the fields decides the hash.
 *
 * @param options.prefix whether a blank is put before a text that does not begin with one.
 */
export function gpt2File(
  { vocab, merges, added, prefix = false }: {
    vocab: Readonly<Record<string, number>>;
    merges: readonly string[];
    added: readonly AddedToken[];
    prefix?: boolean;
  },
): JsonObject {
  const type = "ByteLevel";
  const byteLevel = { type, add_prefix_space: prefix, trim_offsets: true, use_regex: true };
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: added.map(writtenToken),
    normalizer: null,
    pre_tokenizer: byteLevel,
    post_processor: { ...byteLevel, trim_offsets: false },
    decoder: byteLevel,
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: "",
      end_of_word_suffix: "",
      fuse_unk: false,
      byte_fallback: false,
      vocab,
      merges,
    },
  };
}

/** An added token as a `tokenizer.json` has it. */
export function writtenToken(token: AddedToken): JsonObject {
  return {
    id: token.id,
    content: token.content,
    single_word: token.single_word ?? false,
    lstrip: token.lstrip ?? false,
    rstrip: token.rstrip ?? false,
    normalized: token.normalized ?? !token.special,
    special: token.special ?? false,
  };
}

/** GPT-2's tables, from its tokens by rank: each a text, or bytes that are not UTF-8. */
export function tablesOfRanks(ranks: readonly (string | readonly number[])[]): ByteLevelTables {
  const encoder = new TextEncoder();
  const tokens = ranks.map((token) =>
    toByteAlphabet(typeof token === "string" ? encoder.encode(token) : Uint8Array.from(token))
  );
  return { tokens, merges: recoverMerges(tokens) };
}

/**
 * The merges of a vocabulary in rank order that begins with the 256 bytes. A token is merged from the two tokens to
 * which the earlier merges reduce its bytes.
 */
function recoverMerges(tokens: readonly string[]): [string, string][] {
  const byteIds = new Map(tokens.slice(0, 256).map((token, id) => [token, id]));
  const merged = new Map<number, number>(); // ids by the pair that they are merged of
  return tokens.slice(256).map((token, place) => {
    const id = 256 + place;
    const parts = Array.from(token, (byte) => byteIds.get(byte)!);
    while (parts.length > 2) {
      let first = id, at = -1;
      for (let i = 0; i + 1 < parts.length; i++) {
        const made = merged.get(pairKey(parts[i]!, parts[i + 1]!)) ?? id;
        if (made < first) [first, at] = [made, i];
      }
      parts.splice(at, 2, first);
    }
    const [left, right] = parts as [number, number];
    merged.set(pairKey(left, right), id);
    return [tokens[left]!, tokens[right]!];
  });
}

/** Divides the vocabulary size of a compact tokenizer, so that kernels read rows as whole vectors. */
const VOCABULARY_MULTIPLE = 8;

/** By tables, the places of the merges that make a token: GPT-2's take 0.1 s, and a program trains many models. */
const mergesOf = new WeakMap<ByteLevelTables, ReadonlyMap<string, readonly number[]>>();

/**
 * The part of tables that encodes a text as they do: the bytes, the tokens that the text uses, the tokens from which
 * these are merged, and the first other tokens up to a multiple of `VOCABULARY_MULTIPLE`.
 */
export function compactTables(
  tables: ByteLevelTables,
  usedIds: Iterable<number>,
): ByteLevelTables {
  const { tokens, merges } = tables;
  const places = mergesOf.get(tables) ??
    Map.groupBy(merges.keys(), (place) => merges[place]!.join(""));
  mergesOf.set(tables, places);
  const kept = new Set<string>(BYTE_ALPHABET), keptMerges = new Set<number>();
  const keep = (token: string) => {
    if (kept.has(token)) return;
    kept.add(token);
    for (const place of places.get(token) ?? []) {
      keptMerges.add(place);
      merges[place]!.forEach(keep);
    }
  };
  for (const id of usedIds) if (id < tokens.length) keep(tokens[id]!);
  for (const token of tokens) if ((kept.size + 1) % VOCABULARY_MULTIPLE !== 0) keep(token);
  return {
    tokens: tokens.filter((token) => kept.has(token)),
    merges: merges.filter((_, place) => keptMerges.has(place)),
  };
}
