import { quoted } from "../../files/printable.ts";
import { UserError } from "../../files/user_error.ts";
import type { Tokenizer } from "./tokenizer.ts";
import {
  BLANK,
  type Component,
  isPlainBpe,
  type Model,
  prependScheme,
  readTokenizerFile,
  type TokenizerFile,
} from "./tokenizer_file.ts";
import { BYTE_TOKEN } from "./vocabulary.ts";

/**
 * Tokenizers as llama.cpp keeps them in GGUF files (src/llama-vocab.cpp there): a byte-level BPE, whose way to cut a
 * text into words has a name, or SentencePiece's BPE, which has scores in place of merges. `gguf_reader.ts` reads them.
 *
 * @module
 */

/** llama.cpp's kinds of tokens (its include/llama.h). */
export const NORMAL = 1, UNKNOWN = 2, CONTROL = 3, USER_DEFINED = 4, UNUSED = 5, BYTE = 6;

/** A way to cut a text into words. */
export interface Words {
  readonly preTokenizers: readonly Component[];
  readonly normalizers?: readonly { type: string }[];
  readonly ignoreMerges?: true;
}

function byteLevel({ words }: { words: boolean }): Component {
  return {
    type: "ByteLevel",
    add_prefix_space: false,
    ...{ trim_offsets: true }, // Hugging Face's library needs it
    use_regex: words,
  };
}

/** The words of a pattern, as Llama 3 and Qwen2 have them; they differ in digits. */
function patternWords(digits: string): Component[] {
  const pattern = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" + digits +
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
  return [
    { type: "Split", pattern: { Regex: pattern }, behavior: "Isolated", invert: false },
    byteLevel({ words: false }),
  ];
}

/** llama.cpp's names of the ways to cut a text into words that are supported here. */
export const WORDS: Readonly<Record<string, Words>> = {
  "gpt-2": { preTokenizers: [byteLevel({ words: true })] },
  "llama-bpe": { preTokenizers: patternWords("\\p{N}{1,3}"), ignoreMerges: true },
  "qwen2": { preTokenizers: patternWords("\\p{N}"), normalizers: [{ type: "NFC" }] },
  "smollm": {
    preTokenizers: [{ type: "Digits", individual_digits: true }, byteLevel({ words: true })],
  },
};

/**
 * A tokenizer as llama.cpp reads it from a GGUF file: names of values, and the values with their types.
 *
 * @throws {UserError} if it cuts a text into words in a way that has no name there, or if its merges cannot become
 * scores.
 */
export function ggufTokenizer(
  { json, vocabularySize, byteLength, beginOfText: begin }: Tokenizer,
) {
  const file = readTokenizerFile(JSON.parse(json)), { model } = file;
  const prefix = sentencePiecePrefix(file);
  const pre = prefix === undefined ? nameOfWords(file) : "default";
  if (pre === undefined) {
    throw new UserError(
      "Cannot export the tokenizer to GGUF as it must be SentencePiece's BPE with byte fallback, or a byte-level " +
        `BPE with the words of ${Object.keys(WORDS).join(", ")}: current pre-tokenizer is ${
          quoted(file.preTokenizers.map(({ type }) => type).join(", ") || null)
        }, model ${model.kind}`,
    );
  }
  const tokens = Array.from({ length: vocabularySize }, (_, id) => `[UNUSED${id}]`);
  const kinds = new Array<number>(vocabularySize).fill(UNUSED);
  const set = (token: string, id: number, kind: number) => {
    tokens[id] = token;
    kinds[id] = byteLength(id) > 0 ? kind : CONTROL;
  };
  for (const [token, id] of model.tokens) set(token, id, NORMAL);
  for (const { content, id } of file.addedTokens) {
    const hasRow = id < vocabularySize; // in the model
    if (hasRow && kinds[id] !== NORMAL) set(content, id, USER_DEFINED);
  }
  let unknown = -1;
  if (prefix !== undefined) {
    tokens.forEach((token, id) => {
      if (BYTE_TOKEN.test(token) && kinds[id] === NORMAL) kinds[id] = BYTE;
    });
    if (model.unk_token) unknown = tokens.indexOf(model.unk_token);
    if (unknown >= 0) kinds[unknown] = UNKNOWN;
  }
  const ofKind = prefix === undefined
    ? [["tokenizer.ggml.merges", ["string", model.merges.map((pair) => pair.join(" "))]]] as const
    : [
      ["tokenizer.ggml.scores", ["float32", scoresOf(model, { tokens, kinds })]],
      ["tokenizer.ggml.add_space_prefix", ["bool", prefix]],
    ] as const;
  const begins = begin !== undefined && begin < vocabularySize;
  return [
    ["tokenizer.ggml.model", ["string", prefix === undefined ? "gpt2" : "llama"]],
    ["tokenizer.ggml.pre", ["string", pre]],
    ["tokenizer.ggml.tokens", ["string", tokens]],
    ["tokenizer.ggml.token_type", ["int32", kinds]],
    ...ofKind,
    ["tokenizer.ggml.add_bos_token", ["bool", begins]],
    ...(begins ? [["tokenizer.ggml.bos_token_id", ["uint32", begin]]] as const : []),
    ...(unknown < 0 ? [] : [["tokenizer.ggml.unknown_token_id", ["uint32", unknown]]] as const),
  ] as const;
}

/** Components without the fields that do not change what they do. */
function meaningOf(components: readonly { type: string }[]): string {
  return JSON.stringify((components as readonly Component[]).map((one) => {
    switch (one.type) {
      case "ByteLevel":
        return [one.type, one.add_prefix_space === true, one.use_regex !== false];
      case "Split":
        return [one.type, one.pattern, one.behavior, one.invert === true];
      case "Digits":
        return [one.type, one.individual_digits === true];
      default:
        return one;
    }
  }));
}

/** llama.cpp's name of the way in which a byte-level BPE cuts a text into words. */
function nameOfWords({ model, normalizers, preTokenizers }: TokenizerFile): string | undefined {
  if (!isPlainBpe(model) || model.byte_fallback) return undefined;
  return Object.keys(WORDS).find((name) => {
    const words = WORDS[name]!;
    return meaningOf(preTokenizers) === meaningOf(words.preTokenizers) &&
      // llama.cpp does not normalize, so that no normalizer is always right there
      (normalizers.length === 0 || meaningOf(normalizers) === meaningOf(words.normalizers ?? [])) &&
      (model.ignore_merges ?? false) === (words.ignoreMerges ?? false);
  });
}

/**
 * Whether SentencePiece's BPE puts a blank before a text, as normalizer and pre-tokenizer say; undefined if a
 * tokenizer is of another kind.
 */
function sentencePiecePrefix(
  { model, normalizers, preTokenizers }: TokenizerFile,
): boolean | undefined {
  if (!isPlainBpe(model) || !model.byte_fallback || model.ignore_merges) return undefined;
  const stages = [...normalizers, ...preTokenizers], [first, second] = stages;
  if (stages.length === 1 && first?.type === "Metaspace") {
    const isWhole = first.split === false && (first.replacement ?? BLANK) === BLANK;
    return isWhole ? prependScheme(first) !== "never" : undefined;
  }
  const isPrefixed = first?.type === "Prepend" && first.prepend === BLANK;
  const replace = isPrefixed ? second : first;
  if (stages.length !== (isPrefixed ? 2 : 1) || replace?.type !== "Replace") return undefined;
  const isBlank = replace.pattern.String === " " && replace.content === BLANK;
  return isBlank ? isPrefixed : undefined;
}

/**
 * The scores that make llama.cpp merge as the merges of a `tokenizer.json` do: it merges any two tokens whose texts
 * joined are a token, the highest score first.
 *
 * @throws {UserError} if the merges leave out such a pair, if a token has merges before and after another's, or if
 * there is no token for a byte.
 */
function scoresOf(
  model: Model,
  { tokens, kinds }: { tokens: readonly string[]; kinds: readonly number[] },
): number[] {
  const refuse = (requirement: string) =>
    new UserError(
      `Cannot export the tokenizer to GGUF as llama.cpp merges by scores: ${requirement}`,
    );
  if (kinds.filter((kind) => kind === BYTE).length !== 256) {
    throw refuse("there must be a token for each of the 256 bytes");
  }
  const places = new Map<string, number>(), pairs = new Set<string>();
  let last = "";
  for (const [left, right] of model.merges) {
    const token = left + right;
    if (token !== last && places.has(token)) {
      throw refuse(`the merges of ${quoted(token, 80)} must follow one another`);
    }
    places.set(token, places.get(token) ?? places.size);
    pairs.add(`${left}\0${right}`);
    last = token;
  }
  const texts = new Set(tokens.filter((_, id) => kinds[id] === NORMAL));
  for (const token of texts) {
    for (const [left, right] of splitsOf(token, texts)) {
      if (pairs.has(`${left}\0${right}`)) continue;
      throw refuse(`${quoted(left, 80)} and ${quoted(right, 80)} must be a merge`);
    }
  }
  return tokens.map((token, id) =>
    kinds[id] === NORMAL ? 0 - (places.get(token) ?? places.size) : 0
  );
}

/** The pairs of tokens that a token can be merged of, the longest left one first. */
export function* splitsOf(
  token: string,
  tokens: { has(token: string): boolean },
): Generator<[left: string, right: string]> {
  for (let at = token.length - 1; at > 0; at--) {
    if (/[\udc00-\udfff]/.test(token[at]!)) continue; // inside a character
    const left = token.slice(0, at), right = token.slice(at);
    if (tokens.has(left) && tokens.has(right)) yield [left, right];
  }
}
