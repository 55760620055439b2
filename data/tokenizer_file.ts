/**
 * What this code reads of a Hugging Face `tokenizer.json`
 * (https://huggingface.co/docs/tokenizers/components), and how it refuses one.
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

/** Describes a byte-level BPE as Hugging Face describes GPT-2's. */
export function gpt2File(
  { vocab, merges, added, prefix = false }: {
    vocab: Readonly<Record<string, number>>;
    merges: readonly string[];
    added: readonly AddedToken[];
    prefix?: boolean;
  },
): TokenizerFile {
  const byteLevel = {
    type: "ByteLevel",
    add_prefix_space: prefix,
    trim_offsets: true,
    use_regex: true,
  };
  const file = {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: added.map(
      (
        {
          id,
          content,
          special = false,
          single_word = false,
          lstrip = false,
          rstrip = false,
          ...token
        },
      ) => {
        const { normalized = !special } = token;
        return { id, content, single_word, lstrip, rstrip, normalized, special };
      },
    ),
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
  return file;
}

/** A normalizer, pre-tokenizer or decoder; the fields depend on its type. */
export interface Component {
  readonly type: string;
  readonly [field: string]: unknown;
}

/** The components that run one after the other, under the name that sequences have for them. */
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
  /** `BPE`, `Unigram`, `WordPiece` or `WordLevel`; files of old leave it to the other fields. */
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

/** A merge of two tokens, which files of old write as one text with a blank between them. */
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

/** A token that is found in the text before anything else happens to it. */
export interface AddedToken {
  readonly id: number;
  readonly content: string;
  /** Whether it is no text, but says something about it, as the end of a document does. */
  readonly special?: boolean;
  /** Whether it must stand alone: letters and digits beside it make it text. */
  readonly single_word?: boolean;
  /** Whether it takes the white space before it. */
  readonly lstrip?: boolean;
  /** Whether it takes the white space behind it. */
  readonly rstrip?: boolean;
  /** Whether it is looked for after the text was normalized, not before. */
  readonly normalized?: boolean;
}

/** Thrown where a `tokenizer.json` asks for something that this code cannot do. */
export class UnsupportedTokenizer extends RangeError {
  constructor(requirement: string, value: unknown) {
    super(`${requirement}: current value is ${JSON.stringify(value)}`);
  }
}
