import { quoted } from "../../files/printable.ts";
import { toByteAlphabet } from "./byte_level.ts";
import {
  type AddedToken,
  type Model,
  type TokenizerFile,
  UnsupportedTokenizer,
} from "./tokenizer_file.ts";

/**
 * Names of tokens that end a document, the likeliest first: GPT-2's, that of SentencePiece and Llama 2, Gemma's,
 * Llama 3's, and others, BERT's last.
 */
const END_TOKENS = [
  "<|endoftext|>",
  "</s>",
  "<eos>",
  "<|end_of_text|>",
  "<｜end▁of▁sentence｜>",
  "<|eos|>",
  "[EOS]",
  "<EOS>",
  "<|im_end|>",
  "[SEP]",
];

/** Most ids of a tokenizer; a file with more is damaged. */
const MOST_IDS = 1_000_000;

/** The tokens of a tokenizer by id, and their roles. */
export interface Vocabulary {
  /** V: the ids are 0 to V − 1. */
  readonly size: number;
  /** Tokens by id; there may be holes. */
  readonly tokens: readonly string[];
  /** The tokens that were added to the model's own. */
  readonly added: readonly AddedToken[];
  /** The special tokens that are not text, by id. */
  readonly specials: ReadonlyMap<number, string>;
  /** The token that ends a document. */
  readonly end: { readonly id: number; readonly content: string };
  /** The token that ends a document by default. */
  readonly usualEnd: string | undefined;
  /** Id of text that the vocabulary cannot spell; if undefined, such text is left out. */
  readonly unknown: number | undefined;
}

/** Reads the vocabulary of a file; `endOfText` and `size` are those of `ParseTokenizerOptions`. */
export function readVocabulary(
  { model, addedTokens }: TokenizerFile,
  { endOfText, size }: { endOfText?: string | undefined; size?: number | undefined },
): Vocabulary {
  // tokens that were added without a row in the model, as padding often is, are text to it
  const added = addedTokens.filter(({ id, content }) =>
    id < (size ?? Infinity) ||
    (endOfText === undefined ? END_TOKENS.includes(content) : content === endOfText)
  );
  const ofModel: string[] = []; // by id
  for (const [token, id] of model.tokens) ofModel[checked(id, token)] = token;
  const tokens = ofModel.slice();
  // the model's own token keeps an id that is given twice
  for (const { content, id } of added) tokens[checked(id, content)] ??= content;
  const special = added.filter((token) => token.special);
  const suffix = model.end_of_word_suffix ?? "";
  let merged: ReadonlySet<string> | undefined;
  /** Whether a special token never stands for text: it is not among the tokens of the model, or is a name there. */
  const isMark = ({ id }: { id: number }) => {
    const token = ofModel[id];
    if (token === undefined) return true;
    return isName(token.replace(suffix, "")) && !(merged ??= mergedTokens(model)).has(token);
  };
  const usualEnd = usualEndOf(added, special.filter(isMark), tokens);
  const content = endOfText ?? usualEnd;
  if (content === undefined) {
    throw new UnsupportedTokenizer(
      "the token that ends a document must be known, from eos_token in a tokenizer_config.json " +
        "beside it or by its name among the special tokens",
      special.map(({ content }) => content),
    );
  }
  const spellings = [content, toByteAlphabet(new TextEncoder().encode(content))];
  const id = added.find((token) => token.content === content)?.id ??
    spellings.map((spelled) => tokens.indexOf(spelled)).find((id) => id >= 0);
  if (id === undefined) {
    throw new UnsupportedTokenizer("its end-of-text token must be in its vocabulary", content);
  }
  if (size !== undefined && size < tokens.length) {
    throw new UnsupportedTokenizer(`its ids must be below the model's ${size}`, tokens.length - 1);
  }
  const end = { id, content }, { unk_id, unk_token } = model;
  const unknown = unk_id ?? (unk_token ? tokens.indexOf(unk_token) : -1);
  if (unknown !== -1 && tokens[unknown] === undefined) {
    throw new UnsupportedTokenizer("model.unk_id must be the id of a token", unknown);
  }
  return {
    size: size ?? tokens.length,
    tokens,
    added,
    specials: new Map([...special, end].filter(isMark).map(({ id, content }) => [id, content])),
    end,
    usualEnd,
    unknown: unknown < 0 || unknown === id ? undefined : unknown, // GPT-2's files name one token for both
  };
}

/** An id that a token may have. */
function checked(id: number, token: string): number {
  if (Number.isInteger(id) && id >= 0 && id < MOST_IDS) return id;
  throw new UnsupportedTokenizer(
    `the id of ${quoted(token)} must be a whole number below ${MOST_IDS}`,
    id,
  );
}

/**
 * The token that ends a document unless a configuration names another: one of `END_TOKENS` among the special tokens,
 * or else among all added ones; otherwise the only special token that is a name; if there is none, one of
 * `END_TOKENS` in the vocabulary.
 */
function usualEndOf(
  added: readonly AddedToken[],
  names: readonly AddedToken[],
  tokens: readonly string[],
): string | undefined {
  const endAmong = (list: readonly AddedToken[]) =>
    END_TOKENS.find((name) => list.some(({ content }) => content === name));
  const found = endAmong(added.filter(({ special }) => special)) ?? endAmong(added);
  if (found !== undefined || names.length > 1) return found;
  return names.length === 1 ? names[0]!.content : END_TOKENS.find((name) => tokens.includes(name));
}

/** A token that stands for a byte. */
export const BYTE_TOKEN = /^<0x[0-9A-F]{2}>$/;

/** Whether a token has letters between punctuation, as `</s>` and `[SEP]` have, and stands for no byte. */
function isName(token: string): boolean {
  return /^[^\p{L}\p{M}\p{N}]+[\p{L}\p{M}\p{N}].*[^\p{L}\p{M}\p{N}]$/su.test(token) &&
    !BYTE_TOKEN.test(token);
}

/** The tokens that the merges of a BPE make: they stand for text, even if they look like names. */
function mergedTokens({ kind, merges, continuing_subword_prefix: prefix }: Model): Set<string> {
  if (kind !== "BPE") return new Set();
  return new Set(merges.map(([left, right]) => left + right.slice(prefix?.length ?? 0)));
}
