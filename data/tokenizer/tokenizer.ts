import { hash } from "node:crypto";
import { isObject, parseJsonObject } from "../../files/json.ts";
import { load } from "../../files/packages.ts";
import { quoted } from "../../files/printable.ts";
import { UserError } from "../../files/user_error.ts";
import { createAddedTokenSplitter } from "./added_tokens.ts";
import {
  byteLevelFile,
  type ByteLevelTables,
  byteLevelTables,
  compactTables,
  END_OF_TEXT,
  isGpt2Kind,
  tablesOfRanks,
  toByteAlphabet,
} from "./byte_level.ts";
import type { ChatTemplate } from "./chat_template.ts";
import { createTokenDecoder } from "./decoders.ts";
import { createNormalizer } from "./normalizers.ts";
import type { Library } from "./pattern.ts";
import { copied, createSplitter, isByteLevel } from "./pre_tokenizers.ts";
import { readTokenizerFile, type TokenizerFile, UnsupportedTokenizer } from "./tokenizer_file.ts";
import { readVocabulary, type Vocabulary } from "./vocabulary.ts";
import { createWordModel } from "./word_models.ts";

export type { ByteLevelTables, ChatTemplate };

/**
 * Encodes texts as ids and decodes ids. A tokenizer of GPT-2's kind, byte-level BPE, gives back the same text; others
 * may normalize a text first, or have no ids for parts of it.
 */
export interface Tokenizer {
  /** V: ids are 0 to V − 1; some of them may have no token. */
  readonly vocabularySize: number;
  /** Id of the token that ends a document; in some models it also occurs in text. */
  readonly endOfText: number;
  /**
   * Ids at which a generated text ends, `endOfText` among them; it alone by default. A model may name several:
   * the end of a document and the end of a turn.
   */
  readonly endIds?: readonly number[];
  /** The token that ends a document: `<|endoftext|>` for GPT-2. */
  readonly endOfTextToken: string;
  /**
   * Id of the token that begins every text, such as Llama's `<s>`: documents in training, and prompts. Absent if the
   * post-processor of `json` puts none there, as GPT-2's.
   */
  readonly beginOfText?: number;
  /**
   * The `bos_token`, which chat templates use, if it is not the token that ends a document. Only `beginOfText` says
   * whether texts begin with it.
   */
  readonly bosToken?: string;
  /** How chats become text. It came with the model, and is kept with it. */
  readonly chatTemplate?: ChatTemplate;
  /** The file that has it, for error messages. */
  readonly chatTemplateFile?: string;
  /** The Hugging Face `tokenizer.json` that describes the tokenizer. */
  readonly json: string;
  /** SHA-256 in hexadecimal of `json`, and of the token that ends a document if `json` does not imply it. */
  readonly hash: string;
  /** Ids of a text, without `beginOfText`; special tokens in it, such as `<|endoftext|>`, become those tokens. */
  encode(text: string): number[];
  /** Ids of a document or a part of it, without `beginOfText`; special tokens in it are text like any other. */
  encodeDocument(text: string): number[];
  /** Text of ids, with special tokens written out; bytes that are not UTF-8 become U+FFFD. */
  decode(ids: Iterable<number>): string;
  /**
   * Decodes ids as they come. It returns whole characters only, and nothing for special tokens, except those that
   * are text as well, such as a "!" that is declared special for padding.
   *
   * @param before ids that the text continues: some tokenizers leave out the blank before the first id of a text.
   */
  decoder(before?: Iterable<number>): { push(...ids: readonly number[]): string; end(): string };
  /** UTF-8 bytes of a token inside a text, perhaps a part of a character; none for special tokens that are not text. */
  bytes(id: number): Uint8Array;
  /** Length of `bytes(id)`. */
  byteLength(id: number): number;
}

/**
 * GPT-2's tokenizer with OpenAI's 50,257 ids, from the tables of npm:gpt-tokenizer.
 *
 * @example Encode a text and decode its ids
 * ```ts
 * import { gpt2Tokenizer } from "./tokenizer.ts";
 *
 * const tokenizer = await gpt2Tokenizer();
 * const ids = tokenizer.encode("Once upon a time");
 * console.log(ids, tokenizer.decode(ids)); // [7454, 2402, 257, 640] "Once upon a time"
 * ```
 */
export function gpt2Tokenizer(): Promise<Tokenizer> {
  return gpt2 ??= load("gpt-tokenizer/bpeRanks/r50k_base")
    .then(({ default: ranks }) => byteLevelTokenizer(tablesOfRanks(ranks as (string | number[])[])))
    .catch((error) => {
      gpt2 = undefined; // the package may be found the next time
      throw error;
    });
}

/** GPT-2's tokenizer once it was made, which takes 0.4 s of a CPU: it never changes, and a program trains many models. */
let gpt2: Promise<Tokenizer> | undefined;

/** The tokenizer of these tables; it splits a text into words as GPT-2 does. */
export async function byteLevelTokenizer(tables: ByteLevelTables): Promise<Tokenizer> {
  const written = byteLevelFile(tables), json = JSON.stringify(written);
  const tokenizer = await createTokenizer(readTokenizerFile(written), { json });
  madeFrom.set(tokenizer, tables);
  return tokenizer;
}

/** Tables of tokenizers that were made from tables, which take longer to read from the JSON. */
const madeFrom = new WeakMap<Tokenizer, ByteLevelTables>();

/** Properties of a tokenizer that a `tokenizer.json` leaves open. */
export interface ParseTokenizerOptions {
  /** The token that ends a document; by default it is found by its name. */
  readonly endOfText?: string | undefined;
  /** V of the model that uses the tokenizer, which may be larger than the ids need. */
  readonly vocabularySize?: number | undefined;
}

/** What to do if another file is named. */
export const NAME_A_TOKENIZER = "Name a tokenizer.json: the command tokenizer makes one from text";

/**
 * The tokenizer that a `tokenizer.json` describes.
 *
 * It may be of any kind that Hugging Face's library has for text: byte-level BPE as in GPT-2 or Llama 3,
 * SentencePiece's BPE or Unigram, or WordPiece, with normalizers and added tokens. The ids are those of that library
 * with `add_special_tokens=False`.
 *
 * @param where the file's path, for error messages.
 * @throws {UserError} if the text is not a `tokenizer.json`, or if something in it is not supported.
 */
export async function parseTokenizer(
  json: string,
  where = "tokenizer.json",
  options: ParseTokenizerOptions = {},
): Promise<Tokenizer> {
  const parsed = parseJsonObject(json, where, NAME_A_TOKENIZER);
  if (!isObject(parsed.model)) {
    throw new UserError(`Cannot read ${where} as it must be a tokenizer.json: it has no model`, {
      hint: NAME_A_TOKENIZER,
    });
  }
  try {
    const file = readTokenizerFile(parsed), tables = byteLevelTables(file);
    // a file that equals its tables is written anew, so that equal tokenizers have one hash
    const [used, written] = tables
      ? [{ ...file, begin: undefined }, JSON.stringify(byteLevelFile(tables))]
      : [file, json];
    const tokenizer = await createTokenizer(used, { ...options, json: written });
    tokenizer.encode(""); // throws if the encoder cannot be made
    return tokenizer;
  } catch (error) {
    if (!(error instanceof UnsupportedTokenizer)) throw error;
    throw new UserError(`Cannot use ${where} as ${error.message}`);
  }
}

/**
 * A smaller tokenizer that encodes a given text as the full one does.
 *
 * It keeps the 256 bytes, the tokens that the text uses, and the tokens from which these are merged. Other merges
 * are dropped, and the tokens get new ids in the old order. Any other text is still encoded without loss, but in more
 * tokens. On a small data set this shrinks embedding and head, which take most of a small model's time.
 *
 * @throws {UserError} if the full tokenizer is not of GPT-2's kind.
 */
export async function compactTokenizer(
  full: Tokenizer,
  usedIds: Iterable<number>,
): Promise<Tokenizer> {
  const tables = gpt2TablesOf(full), { chatTemplate } = full;
  if (tables) {
    const compact = await byteLevelTokenizer(compactTables(tables, usedIds));
    return chatTemplate === undefined ? compact : { ...compact, chatTemplate };
  }
  throw new UserError(
    `Cannot make a tokenizer compact as it must be of GPT-2's kind and end documents with ` +
      `${END_OF_TEXT}: current end is ${quoted(full.endOfTextToken)}`,
  );
}

/** The tables of a tokenizer that differs from GPT-2's only in tokens and merges; undefined for any other. */
function gpt2TablesOf(tokenizer: Tokenizer): ByteLevelTables | undefined {
  const { json, endOfTextToken } = tokenizer;
  if (endOfTextToken !== END_OF_TEXT) return undefined;
  return madeFrom.get(tokenizer) ?? byteLevelTables(readTokenizerFile(JSON.parse(json)));
}

/** Whether `part` is `full`, or what `compactTokenizer()` makes of it for some text. */
export async function isPartOf(part: Tokenizer, full: Tokenizer): Promise<boolean> {
  if (part.hash === full.hash) return true;
  const some = gpt2TablesOf(part)?.tokens, all = gpt2TablesOf(full);
  if (!some || !all) return false;
  const ids = new Map(all.tokens.map((token, id) => [token, id]));
  const used = some.flatMap((token) => ids.get(token) ?? []);
  return used.length === some.length &&
    (await byteLevelTokenizer(compactTables(all, used))).hash === part.hash;
}

/** By the ids of `full`, the ids of the same tokens in `part`, which `compactTokenizer()` made of it; 0 without one. */
export function idsInPart(part: Tokenizer, full: Tokenizer): Uint32Array {
  const newIds = new Uint32Array(full.vocabularySize);
  const ids = new Map(gpt2TablesOf(part)!.tokens.map((token, id) => [token, id]));
  gpt2TablesOf(full)!.tokens.forEach((token, id) => newIds[id] = ids.get(token) ?? 0);
  newIds[full.endOfText] = part.endOfText;
  return newIds;
}

/**
 * Makes a tokenizer from the content of a `tokenizer.json`. The encoder is made when it is first used, which is never if
 * all tokens come from a file.
 */
async function createTokenizer(
  file: TokenizerFile,
  { json, endOfText, vocabularySize }: ParseTokenizerOptions & { json: string },
): Promise<Tokenizer> {
  const vocabulary = readVocabulary(file, { endOfText, size: vocabularySize });
  const { end, usualEnd, size, tokens } = vocabulary, { begin } = file;
  const library = isGpt2Kind(file) ? undefined : await load("@huggingface/tokenizers");
  const parts = { file, vocabulary, library };
  let encode: ReturnType<typeof createEncode> | undefined;
  const encodeAs = (isDocument: boolean) => (text: string) =>
    (encode ??= createEncode(parts))(text, { special: !isDocument });
  const hasBegin = begin !== undefined && tokens[begin] !== undefined;
  return {
    vocabularySize: size,
    endOfText: end.id,
    ...(hasBegin ? { beginOfText: begin } : {}),
    endOfTextToken: end.content,
    json,
    hash: hash("sha256", end.content === usualEnd ? json : `${json}\n${end.content}`),
    encodeDocument: encodeAs(true),
    encode: encodeAs(false),
    ...createDecoding(parts),
  };
}

/** The parts from which encoder and decoder are made. */
interface Parts {
  readonly file: TokenizerFile;
  readonly vocabulary: Vocabulary;
  readonly library: Library;
}

/** Most words in the cache, and the longest of them: a few words make up most of any text. */
const CACHED_WORDS = 2 ** 16, CACHED_LENGTH = 64;

/**
 * Makes the function that encodes a text: it is split at added tokens, some of which are sought before it is normalized,
 * others after, then into words, which the model turns into ids.
 */
function createEncode(
  { file, vocabulary, library }: Parts,
): (text: string, options: { special: boolean }) => number[] {
  const normalize = createNormalizer(file.normalizers, library);
  const added = vocabulary.added.map((token) => {
    const { id, content, normalized = !token.special } = token;
    const special = token.special || id === vocabulary.end.id;
    return { ...token, special, normalized, spelled: normalized ? normalize(content) : content };
  });
  const splitBefore = createAddedTokenSplitter(added.filter((token) => !token.normalized));
  const splitAfter = createAddedTokenSplitter(added.filter((token) => token.normalized));
  const splitWords = createSplitter(file, library), byteLevel = isByteLevel(file);
  const model = createWordModel(file.model, vocabulary, library), utf8 = new TextEncoder();
  let cache = new Map<string, readonly number[]>();
  const encodeWord = (word: string): readonly number[] => {
    const ids = model(byteLevel ? toByteAlphabet(utf8.encode(word)) : word);
    if (word.length <= CACHED_LENGTH) {
      if (cache.size >= CACHED_WORDS) cache = new Map();
      cache.set(copied(word), ids);
    }
    return ids;
  };
  return (text, options) => {
    const ids: number[] = [];
    // lone surrogates become U+FFFD here, as they would in UTF-8
    const parts = splitBefore(text.toWellFormed(), options).flatMap((part) =>
      typeof part === "number" ? part : splitAfter(normalize(part), options)
    );
    for (const [i, part] of parts.entries()) {
      if (typeof part === "number") {
        ids.push(part);
        continue;
      }
      for (const word of splitWords(part, i === 0)) {
        for (const id of cache.get(word) ?? encodeWord(word)) ids.push(id);
      }
    }
    return ids;
  };
}

const NOTHING = new Uint8Array(0);

/** The bytes of several tokens; each has so few that `Buffer.concat()` takes three times as long. */
function joined(tokens: readonly Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(tokens.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const token of tokens) {
    for (let i = 0; i < token.length; i++) bytes[at++] = token[i]!;
  }
  return bytes;
}

function createDecoding(
  { file, vocabulary: { size, tokens, specials, end }, library }: Parts,
): Pick<Tokenizer, "decode" | "decoder" | "bytes" | "byteLength"> {
  const decodeToken = createTokenDecoder(file.decoders, library);
  const dropsBlank = file.decoders.some(({ type }) => type === "BPEDecoder"); // at the end of a text
  const inside: Uint8Array[] = []; // cached bytes by id, for tokens that do not begin a text
  const bytesOf = (id: number, atStart: boolean): Uint8Array => {
    if (!Number.isInteger(id) || id < 0 || id >= size) {
      throw new RangeError(`Cannot decode as ids must be below ${size}: current id is ${id}`);
    }
    const token = tokens[id];
    if (token === undefined || specials.has(id)) return NOTHING;
    return atStart ? decodeToken(token, true) : inside[id] ??= decodeToken(token, false);
  };
  const decoder = (before: Iterable<number> = []) => {
    const utf8 = new TextDecoder("utf-8", { ignoreBOM: true });
    let atStart = true, held = "";
    const decode = (ids: Iterable<number>) => {
      const parts = Array.from(ids, (id) => {
        const bytes = bytesOf(id, atStart);
        if (specials.has(id)) atStart ||= id === end.id;
        else if (tokens[id] !== undefined) atStart = false;
        return bytes;
      });
      const bytes = parts.length === 1 ? parts[0]! : joined(parts); // each call of decode() takes a microsecond
      const text = held + utf8.decode(bytes, { stream: true });
      held = dropsBlank && text.endsWith(" ") ? " " : "";
      return held ? text.slice(0, -1) : text;
    };
    decode(before);
    return {
      push: (...ids: readonly number[]) => decode(ids),
      end: () => {
        held = "";
        return utf8.decode();
      },
    };
  };
  return {
    decoder,
    decode(ids) {
      const { push, end: finish } = decoder();
      let text = "";
      for (const id of ids) {
        const special = specials.get(id);
        if (special !== undefined) text += finish();
        text += push(id) + (special ?? "");
      }
      return text + finish();
    },
    bytes: (id) => bytesOf(id, false).slice(),
    byteLength: (id) => bytesOf(id, false).length,
  };
}
