import { checkFields, type FieldKind, isObject, type JsonObject } from "../../files/json.ts";
import { quoted } from "../../files/printable.ts";

/**
 * The fields of a Hugging Face `tokenizer.json` that are read
 * (https://huggingface.co/docs/tokenizers/components), and their types.
 *
 * @module
 */

/** The file as a whole. */
export interface TokenizerFile {
  readonly model: ModelConfig;
  readonly normalizer?: Component | null;
  readonly pre_tokenizer?: Component | null;
  readonly decoder?: Component | null;
  readonly added_tokens?: readonly AddedToken[];
}

/** Types of the fields that are read. */
const FILE_FIELDS = {
  normalizer: "object?",
  pre_tokenizer: "object?",
  decoder: "object?",
  added_tokens: "objects?",
} as const;

const MODEL_FIELDS = {
  type: "text?",
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

/** Types of the fields of an added token. */
export const ADDED_TOKEN_FIELDS = {
  content: "text",
  special: "boolean?",
  single_word: "boolean?",
  lstrip: "boolean?",
  rstrip: "boolean?",
  normalized: "boolean?",
} as const;

/** Types of the fields of normalizers, pre-tokenizers and decoders, by the component's type. */
const COMPONENT_FIELDS: Readonly<Record<string, Readonly<Record<string, FieldKind>>>> = {
  BertNormalizer: {
    clean_text: "boolean?",
    handle_chinese_chars: "boolean?",
    strip_accents: "boolean?",
    lowercase: "boolean?",
  },
  BPEDecoder: { suffix: "text?" },
  ByteLevel: { add_prefix_space: "boolean?", use_regex: "boolean?" },
  CharDelimiterSplit: { delimiter: "text" },
  Digits: { individual_digits: "boolean?" },
  FixedLength: { length: "whole" },
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
  Sequence: { normalizers: "objects?", pretokenizers: "objects?", decoders: "objects?" },
  Split: { pattern: "object", behavior: "text", invert: "boolean?" },
  Strip: {
    strip_left: "boolean?",
    strip_right: "boolean?",
    content: "text?",
    start: "whole?",
    stop: "whole?",
  },
  WordPiece: { prefix: "text?", cleanup: "boolean?" },
};

/** Most components in a file, nested ones included. */
const MOST_STAGES = 100;

/**
 * Makes sure that all fields that are read have their types, and drops those that are null.
 *
 * @throws {UnsupportedTokenizer} naming the first field of another type.
 */
export function checkTokenizerFile(given: JsonObject): TokenizerFile {
  const check = (
    object: JsonObject,
    kinds: Readonly<Record<string, FieldKind>>,
    path: string,
  ): JsonObject => {
    checkFields(
      object,
      kinds,
      (requirement, value) => new UnsupportedTokenizer(path + requirement, value),
    );
    return Object.fromEntries(Object.entries(object).filter(([, value]) => value !== null));
  };
  let stages = 0;
  const checkStage = (stage: JsonObject, path: string): JsonObject => {
    if (++stages > MOST_STAGES) {
      throw new UnsupportedTokenizer(`its ${path} must have at most ${MOST_STAGES} parts`, stages);
    }
    const { type } = check(stage, { type: "text" }, `${path}.`);
    const known = Object.hasOwn(COMPONENT_FIELDS, type as string);
    const checked = check(stage, known ? COMPONENT_FIELDS[type as string]! : {}, `${path}.`);
    for (const name of type === "Sequence" ? ["normalizers", "pretokenizers", "decoders"] : []) {
      const parts = checked[name] as JsonObject[] | undefined;
      if (parts) checked[name] = parts.map((part) => checkStage(part, path));
    }
    return checked;
  };
  const file = check(given, FILE_FIELDS, "");
  for (const name of ["normalizer", "pre_tokenizer", "decoder"]) {
    if (file[name]) file[name] = checkStage(file[name] as JsonObject, name);
  }
  file.added_tokens = ((file.added_tokens ?? []) as JsonObject[])
    .map((token) => check(token, { ...ADDED_TOKEN_FIELDS, id: "whole" }, "added_tokens "));
  const model = file.model = check(given.model as JsonObject, MODEL_FIELDS, "model.");
  const { merges = [], vocab } = model as { merges?: unknown[]; vocab?: unknown };
  const wrongMerge = merges.findIndex((merge) => !isMerge(merge));
  if (wrongMerge >= 0) {
    throw new UnsupportedTokenizer("model.merges must hold pairs of tokens", merges[wrongMerge]);
  }
  if (!isObject(vocab) && !Array.isArray(vocab)) {
    throw new UnsupportedTokenizer("model.vocab must be a table of tokens", vocab);
  }
  const entries = Array.isArray(vocab) ? vocab : Object.values(vocab);
  const isEntry = Array.isArray(vocab) ? isScored : (id: unknown) => typeof id === "number";
  const wrong = entries.findIndex((entry) => !isEntry(entry));
  if (wrong >= 0) {
    throw new UnsupportedTokenizer("model.vocab must hold tokens and numbers", entries[wrong]);
  }
  return file as unknown as TokenizerFile;
}

function isMerge(merge: unknown): boolean {
  const pair = typeof merge === "string" ? merge.split(" ") : merge;
  return Array.isArray(pair) && pair.length === 2 && pair.every((part) => typeof part === "string");
}

function isScored(entry: unknown): boolean {
  return Array.isArray(entry) && entry.length === 2 && typeof entry[0] === "string" &&
    Number.isFinite(entry[1]);
}

/** A normalizer, pre-tokenizer or decoder; the fields depend on its type. */
export interface Component {
  readonly type: string;
  readonly [field: string]: unknown;
}

/**
 * The components that run one after the other.
 *
 * @param parts the field in which a sequence lists its components.
 */
export function stagesOf(
  config: Component | null | undefined,
  parts: "normalizers" | "pretokenizers" | "decoders",
): Component[] {
  if (!config) return [];
  if (config.type !== "Sequence") return [config];
  return ((config[parts] ?? []) as Component[]).flatMap((part) => stagesOf(part, parts));
}

/** How words become tokens. */
export interface ModelConfig {
  /** `BPE`, `Unigram`, `WordPiece` or `WordLevel`; in older files the other fields imply it. */
  readonly type?: string;
  /** Ids by token; of a Unigram, tokens with their log-probabilities by id. */
  readonly vocab?: Readonly<Record<string, number>> | readonly (readonly [string, number])[];
  readonly merges?: readonly WrittenMerge[];
  readonly dropout?: number | null;
  readonly unk_token?: string | null;
  readonly unk_id?: number | null;
  readonly continuing_subword_prefix?: string | null;
  readonly end_of_word_suffix?: string | null;
  readonly fuse_unk?: boolean;
  readonly byte_fallback?: boolean;
  readonly ignore_merges?: boolean;
  readonly max_input_chars_per_word?: number;
}

/** The kinds of model. */
export type ModelKind = "BPE" | "Unigram" | "WordPiece" | "WordLevel";

/**
 * The kind of a model, which older files do not name.
 *
 * @throws {UnsupportedTokenizer} if it is none of these.
 */
export function modelKind(model: ModelConfig): ModelKind {
  const { type } = model;
  switch (type) {
    case "BPE":
    case "Unigram":
    case "WordPiece":
    case "WordLevel":
      return type;
    case undefined:
      if (Array.isArray(model.vocab)) return "Unigram";
      return model.merges ? "BPE" : "WordPiece";
    default:
      throw new UnsupportedTokenizer(
        "model.type must be BPE, Unigram, WordPiece or WordLevel",
        type,
      );
  }
}

/** A merge of two tokens, which older files write as one text with a blank between them. */
export type WrittenMerge = string | readonly [string, string];

/** The two tokens of a merge. */
export function mergedPair(merge: WrittenMerge): readonly [string, string] {
  if (typeof merge !== "string") return merge;
  const [left = "", right = ""] = merge.split(" ");
  return [left, right];
}

/** Whether SentencePiece's blank is put before a text that has none: `always`, `first` or `never`. */
export function prependScheme({ prepend_scheme: scheme, add_prefix_space: added }: Component) {
  return scheme ?? (added === false ? "never" : "always");
}

/** A token that is found in a text before the text is split into words. */
export interface AddedToken {
  readonly id: number;
  readonly content: string;
  /** Whether it is not text but marks something, such as the end of a document. */
  readonly special?: boolean;
  /** Whether it must stand alone: letters and digits beside it make it text. */
  readonly single_word?: boolean;
  /** Whether it takes the white space before it. */
  readonly lstrip?: boolean;
  /** Whether it takes the white space behind it. */
  readonly rstrip?: boolean;
  /** Whether it is searched for after the text is normalized, not before. */
  readonly normalized?: boolean;
}

/** Thrown if a `tokenizer.json` requires something that is not supported. */
export class UnsupportedTokenizer extends Error {
  constructor(requirement: string, value: unknown) {
    super(`${requirement}: current value is ${quoted(value)}`);
  }
}
