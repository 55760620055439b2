import {
  checkFields,
  type FieldKind,
  type Fields,
  isObject,
  type JsonObject,
} from "../../files/json.ts";
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
  /** What is put around the tokens of a text; only `beginOf()` reads it, which expects anything. */
  readonly post_processor?: unknown;
}

const FILE_FIELDS = {
  normalizer: "object?",
  pre_tokenizer: "object?",
  decoder: "object?",
  added_tokens: "objects?",
} as const;

/** The model: how words become tokens. */
export interface ModelConfig extends Fields<typeof MODEL_FIELDS> {
  /** Ids by token; of a Unigram, tokens with their log-probabilities by id. */
  readonly vocab?: Readonly<Record<string, number>> | readonly (readonly [string, number])[];
  readonly merges?: readonly WrittenMerge[];
}

const MODEL_FIELDS = {
  type: "text?", // in older files the other fields imply it
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
export interface AddedToken extends Fields<typeof ADDED_TOKEN_FIELDS> {
  readonly id: number;
}

/** Types of the fields of an added token. */
const ADDED_TOKEN_FIELDS = {
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
  Sequence: { normalizers: "objects?", pretokenizers: "objects?", decoders: "objects?" },
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
  const checkComponent = (component: JsonObject, path: string, depth = 0): JsonObject => {
    if (depth > MOST_DEPTH) {
      throw new UnsupportedTokenizer(`${path} must nest at most ${MOST_DEPTH} sequences`, depth);
    }
    const { type } = check(component, { type: "text" }, `${path}.`) as { type: string };
    const kinds = Object.hasOwn(COMPONENT_FIELDS, type)
      ? COMPONENT_FIELDS[type as Component["type"]]
      : {};
    const checked = check(component, kinds, `${path}.`);
    for (const name of type === "Sequence" ? SEQUENCES : []) {
      const parts = checked[name] as JsonObject[] | undefined;
      if (parts) checked[name] = parts.map((part) => checkComponent(part, path, depth + 1));
    }
    return checked;
  };
  const file = check(given, FILE_FIELDS, "");
  for (const name of ["normalizer", "pre_tokenizer", "decoder"]) {
    if (file[name]) file[name] = checkComponent(file[name] as JsonObject, name);
  }
  file.added_tokens = ((file.added_tokens ?? []) as JsonObject[])
    .map((token) => check(token, { ...ADDED_TOKEN_FIELDS, id: "whole" }, "added_tokens "));
  const kinds = { ...MODEL_FIELDS, merges: "list?" } as const;
  const model = file.model = check(given.model as JsonObject, kinds, "model.");
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

/** The fields in which a sequence lists its components: normalizers, pre-tokenizers or decoders. */
const SEQUENCES = ["normalizers", "pretokenizers", "decoders"] as const;

/** The components that run one after the other. */
export function stagesOf(config: Component | null | undefined): Component[] {
  if (config?.type !== "Sequence") return config ? [config] : [];
  const parts = SEQUENCES.flatMap((name) => (config[name] ?? []) as unknown as Component[]);
  return parts.flatMap(stagesOf);
}

const MODEL_KINDS = ["BPE", "Unigram", "WordPiece", "WordLevel"] as const;

/**
 * The kind of a model, which older files do not name.
 *
 * @throws {UnsupportedTokenizer} if it is none of these.
 */
export function modelKind({ type, vocab, merges }: ModelConfig): typeof MODEL_KINDS[number] {
  const implied = Array.isArray(vocab) ? "Unigram" : merges ? "BPE" : "WordPiece";
  const kind = MODEL_KINDS.find((name) => name === (type ?? implied));
  if (kind) return kind;
  throw new UnsupportedTokenizer("model.type must be BPE, Unigram, WordPiece or WordLevel", type);
}

/** A merge of two tokens, which older files write as one text with a blank between them. */
export type WrittenMerge = string | readonly [string, string];

/** The two tokens of a merge. */
export function mergedPair(merge: WrittenMerge): readonly [string, string] {
  if (typeof merge !== "string") return merge;
  const [left = "", right = ""] = merge.split(" ");
  return [left, right];
}

/** SentencePiece's spelling of a blank. */
export const BLANK = "\u2581";

/** Whether Metaspace puts SentencePiece's blank before a text that has none: `always`, `first` or `never`. */
export function prependScheme(
  { prepend_scheme: scheme, add_prefix_space: added }: Fields<typeof COMPONENT_FIELDS.Metaspace>,
): string {
  return scheme ?? (added === false ? "never" : "always");
}

/** Id of the token that Hugging Face's library puts before a text by default, such as Llama's `<s>`. */
export function beginOf({ post_processor: given }: TokenizerFile): number | undefined {
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
