import {
  checkFields,
  type FieldKind,
  type Fields,
  isObject,
  type JsonObject,
} from "../../files/json.ts";
import { quoted } from "../../files/printable.ts";

/**
 * A Hugging Face `tokenizer.json` (https://huggingface.co/docs/tokenizers/components): the fields that are read, in one
 * spelling, with checked types.
 *
 * @module
 */

/** What is read of a file. */
export interface TokenizerFile {
  readonly model: Model;
  /** They change a text before it is split, one after the other. */
  readonly normalizers: readonly Component[];
  /** They split a text into words, each the pieces of the one before. */
  readonly preTokenizers: readonly Component[];
  /** They turn tokens into text, one after the other. */
  readonly decoders: readonly Component[];
  readonly addedTokens: readonly AddedToken[];
  /** Id of the token that Hugging Face's library puts before a text by default, such as Llama's `<s>`. */
  readonly begin: number | undefined;
}

const FILE_FIELDS = {
  normalizer: "object?",
  pre_tokenizer: "object?",
  decoder: "object?",
  added_tokens: "objects?",
} as const;

const MODEL_KINDS = ["BPE", "Unigram", "WordPiece", "WordLevel"] as const;

/** The model: how words become tokens. */
export interface Model extends Fields<Omit<typeof MODEL_FIELDS, "merges">> {
  readonly kind: typeof MODEL_KINDS[number];
  /** Tokens and their ids. */
  readonly tokens: readonly (readonly [token: string, id: number])[];
  /** Of a Unigram: the log-probabilities of the tokens. */
  readonly scores: readonly number[];
  /** Pairs of tokens in the order in which they are merged. */
  readonly merges: readonly (readonly [left: string, right: string])[];
}

const MODEL_FIELDS = {
  type: "text?", // in older files the other fields imply it
  merges: "list?",
  dropout: "number?",
  unk_token: "text?",
  unk_id: "whole?",
  continuing_subword_prefix: "text?",
  end_of_word_suffix: "text?",
  fuse_unk: "boolean?",
  byte_fallback: "boolean?",
  ignore_merges: "boolean?",
  max_input_chars_per_word: "whole?",
} as const;

/** A token that is found in a text before the text is split into words. */
export type AddedToken = Fields<typeof ADDED_TOKEN_FIELDS>;

const ADDED_TOKEN_FIELDS = {
  id: "whole",
  content: "text",
  special: "boolean?", // whether it is not text but marks something, such as the end of a document
  single_word: "boolean?", // whether it must stand alone: letters and digits beside it make it text
  lstrip: "boolean?", // whether it takes the white space before it
  rstrip: "boolean?", // whether it takes the white space after it
  normalized: "boolean?", // whether it is sought after the text is normalized, not before
} as const;

/** A normalizer, pre-tokenizer or decoder. */
export type Component = {
  [Type in keyof typeof COMPONENT_FIELDS]:
    & { readonly type: Type }
    & Fields<typeof COMPONENT_FIELDS[Type]>;
}[keyof typeof COMPONENT_FIELDS];

/** Types of the fields of components, by the component's type. */
const COMPONENT_FIELDS = {
  BertNormalizer: {
    clean_text: "boolean?",
    handle_chinese_chars: "boolean?",
    strip_accents: "boolean?",
    lowercase: "boolean?",
  },
  BertPreTokenizer: {},
  BPEDecoder: { suffix: "text?" },
  ByteFallback: {},
  ByteLevel: { add_prefix_space: "boolean?", use_regex: "boolean?" },
  CharDelimiterSplit: { delimiter: "text" },
  Digits: { individual_digits: "boolean?" },
  FixedLength: { length: "whole" },
  Fuse: {},
  Lowercase: {},
  Metaspace: {
    replacement: "text?",
    prepend_scheme: "text?",
    add_prefix_space: "boolean?",
    split: "boolean?",
  },
  Precompiled: { precompiled_charsmap: "text?" },
  Prepend: { prepend: "text" },
  Punctuation: { behavior: "text?" },
  Replace: { pattern: "object", content: "text" },
  Split: { pattern: "object", behavior: "text", invert: "boolean?" },
  Strip: {
    strip_left: "boolean?",
    strip_right: "boolean?",
    content: "text?",
    start: "whole?",
    stop: "whole?",
  },
  Whitespace: {},
  WhitespaceSplit: {},
  WordPiece: { prefix: "text?", cleanup: "boolean?" },
} as const satisfies Record<string, Readonly<Record<string, FieldKind>>>;

/** Sequences within each other, at most: files have one or two, and recursion needs a bound. */
const MOST_DEPTH = 32;

/** Reads the parsed file. */
export function readTokenizerFile(json: JsonObject): TokenizerFile {
  const file = check(json, FILE_FIELDS, "");
  return {
    normalizers: componentsOf(file.normalizer, "normalizer"),
    preTokenizers: componentsOf(file.pre_tokenizer, "pre_tokenizer"),
    decoders: componentsOf(file.decoder, "decoder"),
    addedTokens: (file.added_tokens ?? [])
      .map((token) => check(token, ADDED_TOKEN_FIELDS, "added_tokens ")),
    model: readModel(json.model as JsonObject),
    begin: beginOf(json.post_processor),
  };
}

/** An object whose fields have these types, without those that are null. */
function check<Kinds extends Readonly<Record<string, FieldKind>>>(
  object: JsonObject,
  kinds: Kinds,
  path: string,
): Fields<Kinds> {
  checkFields(
    object,
    kinds,
    (requirement, value) => new UnsupportedTokenizer(path + requirement, value),
  );
  return Object.fromEntries(
    Object.entries(object).filter(([, value]) => value !== null),
  ) as Fields<Kinds>;
}

/** The components that run one after the other. */
function componentsOf(
  given: JsonObject | null | undefined,
  path: string,
  depth = 0,
): Component[] {
  if (!given) return [];
  if (depth > MOST_DEPTH) {
    throw new UnsupportedTokenizer(`${path} must nest at most ${MOST_DEPTH} sequences`, depth);
  }
  const { type } = check(given, { type: "text" }, `${path}.`);
  if (type !== "Sequence") {
    const kinds = Object.hasOwn(COMPONENT_FIELDS, type)
      ? COMPONENT_FIELDS[type as Component["type"]]
      : {};
    return [check(given, kinds, `${path}.`) as Component];
  }
  const lists = {
    normalizers: "objects?",
    pretokenizers: "objects?",
    decoders: "objects?",
  } as const;
  const { normalizers, pretokenizers, decoders } = check(given, lists, `${path}.`);
  const parts = [normalizers ?? [], pretokenizers ?? [], decoders ?? []].flat();
  return parts.flatMap((part) => componentsOf(part, path, depth + 1));
}

function readModel(given: JsonObject): Model {
  const { merges, ...model } = check(given, MODEL_FIELDS, "model."), { vocab } = given;
  if (!isObject(vocab) && !Array.isArray(vocab)) {
    throw new UnsupportedTokenizer("model.vocab must be a table of tokens", vocab);
  }
  const isList = Array.isArray(vocab), implied = isList ? "Unigram" : merges ? "BPE" : "WordPiece";
  const kinds = MODEL_KINDS.filter((name) => isList === (name === "Unigram"));
  const { type = implied } = model, kind = kinds.find((name) => name === type);
  if (!kind) {
    throw new UnsupportedTokenizer(
      `model.type must be ${kinds.join(" or ")} for a model.vocab that is a ${
        isList ? "list" : "table"
      }`,
      type,
    );
  }
  const entries: unknown[] = isList ? vocab : Object.entries(vocab);
  const wrong = entries.findIndex((entry) => !isEntry(entry));
  if (wrong >= 0) {
    throw new UnsupportedTokenizer("model.vocab must hold tokens and numbers", entries[wrong]);
  }
  const tokens = entries as [string, number][];
  return {
    ...model,
    kind,
    tokens: isList ? tokens.map(([token], id) => [token, id]) : tokens,
    scores: isList ? tokens.map(([, score]) => score) : [],
    merges: (merges ?? []).map(readMerge),
  };
}

function isEntry(entry: unknown): boolean {
  return Array.isArray(entry) && entry.length === 2 && typeof entry[0] === "string" &&
    Number.isFinite(entry[1]);
}

/** A merge of two tokens, which older files write as one text with a blank between them. */
function readMerge(merge: unknown): [string, string] {
  const pair = typeof merge === "string" ? merge.split(" ") : merge;
  const isPair = Array.isArray(pair) && pair.length === 2 &&
    pair.every((token) => typeof token === "string");
  if (isPair) return pair as [string, string];
  throw new UnsupportedTokenizer("model.merges must hold pairs of tokens", merge);
}

/** Whether a word's characters are merged, without chance and without marks at its ends. */
export function isPlainBpe(model: Model): boolean {
  return model.kind === "BPE" && !model.dropout && !model.continuing_subword_prefix &&
    !model.end_of_word_suffix;
}

/** SentencePiece's spelling of a blank. */
export const BLANK = "\u2581";

/** Whether Metaspace puts SentencePiece's blank before a text that has none: `always`, `first` or `never`. */
export function prependScheme(
  { prepend_scheme: scheme, add_prefix_space: added }: Fields<typeof COMPONENT_FIELDS.Metaspace>,
): string {
  return scheme ?? (added === false ? "never" : "always");
}

/** Id of the token that a post-processor puts before a text; the post-processor may be anything. */
function beginOf(given: unknown): number | undefined {
  const { type, processors } = Object(given) as JsonObject;
  for (const stage of type === "Sequence" && Array.isArray(processors) ? processors : [given]) {
    const { type, single, special_tokens: tokens } = Object(stage) as JsonObject;
    if (type !== "TemplateProcessing" || !Array.isArray(single)) continue;
    const { id: name } = Object(Object(single[0]).SpecialToken) as JsonObject;
    const { ids } = Object(Object(tokens)[String(name)]) as JsonObject;
    if (Array.isArray(ids) && Number.isSafeInteger(ids[0]) && ids[0] >= 0) return ids[0];
  }
  return undefined;
}

/** The post-processor that puts a token before a text. */
export function beginningWith({ content, id }: { content: string; id: number }): JsonObject {
  const token = { SpecialToken: { id: content, type_id: 0 } };
  const [first, second] = ["A", "B"].map((id, type_id) => ({ Sequence: { id, type_id } }));
  return {
    type: "TemplateProcessing",
    single: [token, first],
    pair: [token, first, second],
    special_tokens: { [content]: { id: content, ids: [id], tokens: [content] } },
  };
}

/** Thrown if a `tokenizer.json` requires something that is not supported. */
export class UnsupportedTokenizer extends Error {
  constructor(requirement: string, value: unknown) {
    super(`${requirement}: current value is ${quoted(value)}`);
  }
}
