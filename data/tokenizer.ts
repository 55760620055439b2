import { createHash } from "node:crypto";

/** The token between documents, as text. */
export const END_OF_TEXT = "<|endoftext|>";

/** A byte-level BPE tokenizer: any text in, ids out, and the same text back. */
export interface Tokenizer {
  /** V: ids are 0 to V − 1. */
  readonly vocabularySize: number;
  /** Id of the token that ends a document. */
  readonly endOfText: number;
  /** The Hugging Face `tokenizer.json` that says all this. */
  readonly json: string;
  /** SHA-256 of `json`, in hexadecimal. */
  readonly hash: string;
  /** Ids of a text; `<|endoftext|>` in it becomes the end-of-text token. */
  encode(text: string): number[];
  /** Ids of a document, in which `<|endoftext|>` is text like any other. */
  encodeDocument(text: string): number[];
  /** Text of ids; bytes that are no UTF-8 become U+FFFD. */
  decode(ids: Iterable<number>): string;
  /** Decodes ids one at a time, giving out whole characters only. */
  decoder(): { push(id: number): string; end(): string };
  /** UTF-8 bytes that a token stands for; 0 for end-of-text. */
  byteLength(id: number): number;
}

/** The parts of a `tokenizer.json` that make a byte-level BPE. */
interface Tables {
  /** Token strings in the byte alphabet, by id. */
  tokens: string[];
  /** Pairs in the order in which they are merged. */
  merges: [string, string][];
}

/** GPT-2's tokenizer: 50,257 ids, those of OpenAI, from the tables of npm:gpt-tokenizer. */
export async function gpt2Tokenizer(): Promise<Tokenizer> {
  const { default: ranks } = await import("npm:gpt-tokenizer@4.0.0/bpeRanks/r50k_base");
  const encoder = new TextEncoder();
  const tokens = (ranks as (string | number[])[]).map((token) =>
    toByteAlphabet(typeof token === "string" ? encoder.encode(token) : Uint8Array.from(token))
  );
  return build({ tokens, merges: recoverMerges(tokens) });
}

/**
 * The tokenizer that a `tokenizer.json` describes.
 *
 * @param where the file's path, for error messages.
 * @throws {SyntaxError} if the text is no JSON.
 * @throws {RangeError} if it describes another kind of tokenizer than GPT-2's byte-level BPE.
 */
export function parseTokenizer(json: string, where = "tokenizer.json"): Promise<Tokenizer> {
  let file: TokenizerFile;
  try {
    file = JSON.parse(json);
  } catch {
    throw new SyntaxError(`Cannot read ${where} as it must be JSON`);
  }
  const fail = (requirement: string, value: unknown): never => {
    throw new RangeError(
      `Cannot use ${where} as ${requirement}: current value is ${JSON.stringify(value)}`,
    );
  };
  const { model, pre_tokenizer, added_tokens, normalizer } = file ?? {};
  if (model?.type !== "BPE") fail("model.type must be BPE", model?.type);
  if (pre_tokenizer?.type !== "ByteLevel" || pre_tokenizer.add_prefix_space) {
    fail("pre_tokenizer must be ByteLevel without a prefix space", pre_tokenizer);
  }
  if (normalizer) fail("normalizer must be null", normalizer);
  const added = (added_tokens ?? []).map((token) => token.content);
  if (added.join() !== END_OF_TEXT) fail(`added_tokens must be ${END_OF_TEXT} alone`, added);

  const tokens: string[] = [];
  for (const [token, id] of Object.entries(model!.vocab ?? {})) {
    if (token !== END_OF_TEXT) tokens[id] = token;
  }
  if (Object.keys(tokens).length !== tokens.length) {
    fail("model.vocab must number its tokens from 0 on, end-of-text last", tokens.length);
  }
  const missing = [...BYTE_ALPHABET].find((character) => !tokens.includes(character));
  if (missing !== undefined) fail("model.vocab must hold all 256 bytes", `${missing} is missing`);
  if (added_tokens![0]!.id !== tokens.length) {
    fail(`${END_OF_TEXT} must have id ${tokens.length}`, added_tokens![0]!.id);
  }
  const merges = (model!.merges ?? []).map((merge) =>
    (typeof merge === "string" ? merge.split(" ") : merge) as [string, string]
  );
  return build({ tokens, merges });
}

/**
 * A smaller tokenizer that encodes a given text as the full one does.
 *
 * It keeps the 256 bytes, the tokens that the text uses, and the tokens that are merged on the way to
 * them; merges that build anything else are dropped, and ids are given anew in the old order. Any
 * other text is still encoded without loss, only in more tokens. On a small data set this shrinks
 * embedding and head, where most of a small model's time goes.
 */
export function compactTokenizer(
  full: Tokenizer,
  usedIds: Iterable<number>,
): Promise<Tokenizer> {
  const { model } = JSON.parse(full.json) as TokenizerFile;
  const tokens: string[] = [];
  for (const [token, id] of Object.entries(model!.vocab!)) tokens[id] = token;
  const merges = (model!.merges as string[]).map((merge) => merge.split(" ") as [string, string]);
  const parts = new Map(merges.map((pair) => [pair.join(""), pair]));
  const kept = new Set<string>(BYTE_ALPHABET);
  const keep = (token: string) => {
    if (kept.has(token)) return;
    kept.add(token);
    parts.get(token)?.forEach(keep);
  };
  for (const id of usedIds) if (id !== full.endOfText) keep(tokens[id]!);
  // a few more, the most basic, so that rows of logits are whole vectors for the kernels
  for (const token of tokens) if ((kept.size + 1) % VOCABULARY_MULTIPLE !== 0) keep(token);
  return build({
    tokens: tokens.filter((token) => kept.has(token)),
    merges: merges.filter((pair) => kept.has(pair.join(""))),
  });
}

const VOCABULARY_MULTIPLE = 8;

/** What this code reads and writes of a `tokenizer.json`. */
interface TokenizerFile {
  model?: { type?: string; vocab?: Record<string, number>; merges?: (string | string[])[] };
  pre_tokenizer?: { type?: string; add_prefix_space?: boolean };
  normalizer?: unknown;
  added_tokens?: { id: number; content: string }[];
}

/** Writes the `tokenizer.json` of byte-level BPE tables, end-of-text last, as GPT-2 has it. */
function tokenizerJson({ tokens, merges }: Tables): string {
  const vocab = Object.fromEntries([...tokens, END_OF_TEXT].map((token, id) => [token, id]));
  return JSON.stringify({
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: [{
      id: tokens.length,
      content: END_OF_TEXT,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true,
    }],
    normalizer: null,
    pre_tokenizer: BYTE_LEVEL,
    post_processor: { ...BYTE_LEVEL, trim_offsets: false },
    decoder: BYTE_LEVEL,
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: "",
      end_of_word_suffix: "",
      fuse_unk: false,
      byte_fallback: false,
      vocab,
      merges: merges.map((pair) => pair.join(" ")),
    },
  });
}

const BYTE_LEVEL = {
  type: "ByteLevel",
  add_prefix_space: false,
  trim_offsets: true,
  use_regex: true,
};

/** Distinct words whose ids are remembered; a few words make up most of any text. */
const CACHED_WORDS = 200_000;

/** Makes a tokenizer of its tables. */
async function build(tables: Tables): Promise<Tokenizer> {
  const json = tokenizerJson(tables);
  const { Tokenizer: HuggingFaceTokenizer } = await import("npm:@huggingface/tokenizers@0.2.0");
  // words are cut below, once for all, by Unicode's white space; the library's \s is JavaScript's
  const makeWordTokenizer = () =>
    new HuggingFaceTokenizer(
      { ...JSON.parse(json), pre_tokenizer: { ...BYTE_LEVEL, use_regex: false }, added_tokens: [] },
      {},
    );
  // made when first used: where tokens come from the cache, GPT-2's never is
  let wordTokenizer: ReturnType<typeof makeWordTokenizer> | undefined;
  const endOfText = tables.tokens.length;

  let words = new Map<string, readonly number[]>();
  const encodeDocument = (text: string) => {
    const ids: number[] = [];
    // lone surrogates become U+FFFD here, as they would in UTF-8
    for (const [word] of text.toWellFormed().matchAll(WORDS)) {
      let wordIds = words.get(word);
      if (!wordIds) {
        wordTokenizer ??= makeWordTokenizer();
        wordIds = wordTokenizer.encode(word, { add_special_tokens: false }).ids as number[];
        if (words.size >= CACHED_WORDS) words = new Map();
        words.set(word, wordIds);
      }
      for (const id of wordIds) ids.push(id);
    }
    return ids;
  };
  const bytes: Uint8Array[] = []; // of the tokens that were asked for
  const bytesOf = (id: number) => {
    if (id === endOfText) return new Uint8Array(0);
    const token = tables.tokens[id];
    if (token !== undefined) return bytes[id] ??= fromByteAlphabet(token);
    throw new RangeError(
      `Cannot decode as ids must be below ${endOfText + 1}: current id is ${id}`,
    );
  };
  const decoder = () => {
    const utf8 = new TextDecoder("utf-8", { ignoreBOM: true });
    return {
      push: (id: number) => utf8.decode(bytesOf(id), { stream: true }),
      end: () => utf8.decode(),
    };
  };
  return {
    vocabularySize: endOfText + 1,
    endOfText,
    json,
    hash: createHash("sha256").update(json).digest("hex"),
    encodeDocument,
    encode: (text) =>
      text.split(END_OF_TEXT).flatMap((part, i) =>
        i === 0 ? encodeDocument(part) : [endOfText, ...encodeDocument(part)]
      ),
    decode(ids) {
      const { push, end } = decoder();
      let text = "";
      for (const id of ids) text += id === endOfText ? end() + END_OF_TEXT : push(id);
      return text + end();
    },
    decoder,
    byteLength: (id) => bytesOf(id).length,
  };
}

/**
 * How GPT-2 cuts text into words before merging (openai/gpt-2, src/encoder.py), with Unicode's white
 * space spelled out: JavaScript's `\s` is a slightly different set.
 */
const WORDS =
  /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;

/** GPT-2 writes each byte as a printable character: bytes that print as they are, others from U+0100. */
const BYTE_ALPHABET: readonly string[] = (() => {
  const printable = (byte: number) =>
    (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xff && byte !== 0xad);
  let next = 0x100;
  return Array.from(
    { length: 256 },
    (_, byte) => String.fromCharCode(printable(byte) ? byte : next++),
  );
})();

const BYTE_OF: ReadonlyMap<string, number> = new Map(BYTE_ALPHABET.map((c, byte) => [c, byte]));

function toByteAlphabet(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => BYTE_ALPHABET[byte]!).join("");
}

function fromByteAlphabet(token: string): Uint8Array {
  return Uint8Array.from(token, (character) => BYTE_OF.get(character)!);
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
