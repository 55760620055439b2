import { isObject } from "../../files/json.ts";
import { load } from "../../files/packages.ts";
import { quoted } from "../../files/printable.ts";
import { standIn } from "../../files/stand_in.ts";
import { BYTE_ALPHABET, toByteAlphabet } from "./byte_alphabet.ts";
import {
  checkTokenizerFile,
  gpt2File,
  mergedPair,
  type TokenizerFile,
  UnsupportedTokenizer,
} from "./tokenizer_file.ts";
import { createTokenizer } from "./tokenizer_json.ts";

/** The token between documents, as text. */
export const END_OF_TEXT = "<|endoftext|>";

/**
 * Text in, ids out, and text back: the same text where the tokenizer is of GPT-2's kind, byte-level BPE;
 * others may normalize it first, or have no ids for parts of it.
 */
export interface Tokenizer {
  /** V: ids are 0 to V − 1; some of them may stand for nothing. */
  readonly vocabularySize: number;
  /** Id of the token that ends a document; in some models it also occurs in text. */
  readonly endOfText: number;
  /**
   * Ids at which a generated text ends, `endOfText` among them; it alone by default. A model may name several:
   * the end of a document and the end of a turn.
   */
  readonly endIds?: readonly number[];
  /** How the token that ends a document is written: `<|endoftext|>` for GPT-2. */
  readonly endOfTextToken: string;
  /** The Hugging Face `tokenizer.json` that says all this. */
  readonly json: string;
  /** SHA-256 in hexadecimal of `json`, and of what ends a document where `json` leaves that open. */
  readonly hash: string;
  /** Ids of a text; special tokens written in it, such as `<|endoftext|>`, become those tokens. */
  encode(text: string): number[];
  /** Ids of a document, in which special tokens are text like any other. */
  encodeDocument(text: string): number[];
  /** Text of ids, special tokens written out; bytes that are no UTF-8 become U+FFFD. */
  decode(ids: Iterable<number>): string;
  /**
   * Decodes ids one at a time, giving out whole characters only, and nothing for special tokens, except
   * those that are text as well, such as a "!" that is declared special for padding.
   *
   * @param before ids that the text continues: some tokenizers leave out the blank before its first.
   */
  decoder(before?: Iterable<number>): { push(id: number): string; end(): string };
  /** UTF-8 bytes that a token stands for inside a text; 0 for special tokens that are no text. */
  byteLength(id: number): number;
}

/** The tables of a tokenizer of GPT-2's kind. */
export interface ByteLevelTables {
  /** Token strings in the byte alphabet, by id; end-of-text comes behind them. */
  readonly tokens: readonly string[];
  /** Pairs in the order in which they are merged. */
  readonly merges: readonly (readonly [string, string])[];
}

/** GPT-2's tokenizer: 50,257 ids, those of OpenAI, from the tables of npm:gpt-tokenizer. */
export async function gpt2Tokenizer(): Promise<Tokenizer> {
  const { default: ranks } = await load("gpt-tokenizer/bpeRanks/r50k_base");
  const encoder = new TextEncoder();
  const tokens = (ranks as (string | number[])[]).map((token) =>
    toByteAlphabet(typeof token === "string" ? encoder.encode(token) : Uint8Array.from(token))
  );
  return byteLevelTokenizer({ tokens, merges: recoverMerges(tokens) });
}

/** The tokenizer of some tables, which cuts text into words as GPT-2 does. */
export function byteLevelTokenizer(tables: ByteLevelTables): Promise<Tokenizer> {
  const file = byteLevelFile(tables);
  return createTokenizer(file, { json: JSON.stringify(file), trusted: true });
}

/** What a `tokenizer.json` does not say. */
export interface ParseTokenizerOptions {
  /** The token that ends a document, where it is none of the usual, or another of them. */
  readonly endOfText?: string | undefined;
  /** V of the model that it is for, which may be larger than the ids need. */
  readonly vocabularySize?: number | undefined;
}

/**
 * The tokenizer that a `tokenizer.json` describes.
 *
 * It may be of any kind that Hugging Face's library has for text: byte-level BPE as GPT-2's or Llama
 * 3's, SentencePiece's BPE or Unigram, WordPiece, with normalizers and added tokens. The ids are those
 * of that library with `add_special_tokens=False`.
 *
 * @param where the file's path, for error messages.
 * @throws {SyntaxError} if the text is no `tokenizer.json`.
 * @throws {RangeError} if something in it is not supported.
 */
export async function parseTokenizer(
  json: string,
  where = "tokenizer.json",
  { endOfText, vocabularySize }: ParseTokenizerOptions = {},
): Promise<Tokenizer> {
  let parsed: unknown;
  try {
    parsed = JSON.parse(json);
  } catch {
    throw new SyntaxError(`Cannot read ${where} as ${standIn(json) ?? "it must be JSON"}`);
  }
  if (!isObject(parsed) || !isObject(parsed.model)) {
    throw new SyntaxError(`Cannot read ${where} as it must be a tokenizer.json: it has no model`);
  }
  try {
    const file = checkTokenizerFile(parsed);
    // GPT-2's kind is written in one way, whoever wrote it first, so that equal ones have one hash
    const tables = byteLevelTables(file);
    const written = tables ? JSON.stringify(byteLevelFile(tables)) : json;
    return await createTokenizer(file, { json: written, endOfText, vocabularySize });
  } catch (error) {
    if (!(error instanceof UnsupportedTokenizer)) throw error;
    throw new RangeError(`Cannot use ${where} as ${error.message}`);
  }
}

/**
 * A smaller tokenizer that encodes a given text as the full one does.
 *
 * It keeps the 256 bytes, the tokens that the text uses, and the tokens that are merged on the way to
 * them; merges that build anything else are dropped, and ids are given anew in the old order. Any
 * other text is still encoded without loss, only in more tokens. On a small data set this shrinks
 * embedding and head, where most of a small model's time goes.
 *
 * @throws {RangeError} if the full one is not of GPT-2's kind.
 */
export async function compactTokenizer(
  full: Tokenizer,
  usedIds: Iterable<number>,
): Promise<Tokenizer> {
  const tables = byteLevelTables(JSON.parse(full.json));
  if (!tables) {
    throw new RangeError("Cannot make a tokenizer compact as it must be of GPT-2's kind");
  }
  if (full.endOfTextToken !== END_OF_TEXT) {
    throw new RangeError(
      `Cannot make a tokenizer compact as it must end documents with ${END_OF_TEXT}: ` +
        `current end is ${quoted(full.endOfTextToken)}`,
    );
  }
  const { tokens, merges } = tables;
  const pairs = Map.groupBy(merges, (pair) => pair.join(""));
  const kept = new Set<string>(BYTE_ALPHABET);
  const keep = (token: string) => {
    if (kept.has(token)) return;
    kept.add(token);
    pairs.get(token)?.flat().forEach(keep);
  };
  for (const id of usedIds) if (id !== full.endOfText) keep(tokens[id]!);
  // a few more, the most basic, so that rows of logits are whole vectors for the kernels
  for (const token of tokens) if ((kept.size + 1) % VOCABULARY_MULTIPLE !== 0) keep(token);
  return await byteLevelTokenizer({
    tokens: tokens.filter((token) => kept.has(token)),
    merges: merges.filter((pair) => kept.has(pair.join(""))),
  });
}

/** Whether a tokenizer is another one, or what `compactTokenizer()` makes of it for some text. */
export async function isPartOf(part: Tokenizer, full: Tokenizer): Promise<boolean> {
  if (part.endOfTextToken !== full.endOfTextToken) return false;
  if (part.hash === full.hash) return true;
  const [some, all] = [part, full].map(({ json }) => byteLevelTables(JSON.parse(json))?.tokens);
  if (!some || !all || full.endOfTextToken !== END_OF_TEXT) return false;
  const ids = new Map(all.map((token, id) => [token, id]));
  const used = some.flatMap((token) => ids.get(token) ?? []);
  return used.length === some.length &&
    (await compactTokenizer(full, used)).hash === part.hash;
}

const VOCABULARY_MULTIPLE = 8;

/**
 * The tables of a `tokenizer.json`, if it is of GPT-2's kind to the last detail: its words, all 256 bytes,
 * and end-of-text alone behind the other tokens.
 */
function byteLevelTables(file: TokenizerFile): ByteLevelTables | undefined {
  const { model, pre_tokenizer: words, decoder, normalizer, added_tokens: added = [] } = file;
  const { vocab, merges = [] } = model;
  const plain = model.type === "BPE" && !model.dropout && !model.continuing_subword_prefix &&
    !model.end_of_word_suffix && !model.byte_fallback && !model.ignore_merges && !normalizer &&
    words?.type === "ByteLevel" && !words.add_prefix_space && words.use_regex !== false &&
    decoder?.type === "ByteLevel" && added.length === 1 && added[0]!.content === END_OF_TEXT;
  if (!plain || typeof vocab !== "object" || Array.isArray(vocab)) return undefined;
  const entries = Object.entries(vocab).filter(([token]) => token !== END_OF_TEXT);
  const tokens: string[] = new Array(entries.length).fill("");
  for (const [token, id] of entries) if (tokens[id] === "") tokens[id] = token;
  // were there a hole, another id would be too large or occur twice
  const whole = entries.every(([token, id]) => tokens[id] === token) &&
    added[0]!.id === tokens.length && BYTE_ALPHABET.every((byte) => Object.hasOwn(vocab, byte));
  return whole ? { tokens, merges: merges.map(mergedPair) } : undefined;
}

/** Describes byte-level BPE tables, end-of-text last, as Hugging Face describes GPT-2's. */
function byteLevelFile({ tokens, merges }: ByteLevelTables): TokenizerFile {
  return gpt2File({
    vocab: Object.fromEntries([...tokens, END_OF_TEXT].map((token, id) => [token, id])),
    merges: merges.map((pair) => pair.join(" ")),
    added: [{ id: tokens.length, content: END_OF_TEXT, special: true }],
  });
}

/**
 * The merges behind a vocabulary in rank order, the 256 bytes first: each token is the pair that its
 * bytes come to when only the tokens before it exist.
 */
function recoverMerges(tokens: readonly string[]): [string, string][] {
  const V = tokens.length;
  const byteIds = new Map(tokens.slice(0, 256).map((token, id) => [token, id]));
  const ids = new Map<number, number>(); // by the pair that a token is merged from, as one number
  return tokens.slice(256).map((token, place) => {
    const id = 256 + place;
    const parts = Array.from(token, (byte) => byteIds.get(byte)!);
    while (parts.length > 2) {
      let first = id, at = -1;
      for (let i = 0; i + 1 < parts.length; i++) {
        const merged = ids.get(parts[i]! * V + parts[i + 1]!) ?? id;
        if (merged < first) [first, at] = [merged, i];
      }
      parts.splice(at, 2, first);
    }
    const [left, right] = parts as [number, number];
    ids.set(left * V + right, id);
    return [tokens[left]!, tokens[right]!];
  });
}
