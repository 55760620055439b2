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

/**
 * Reads the vocabulary of a file.
 *
 * @param options.endOfText the token that ends a document, if it is not the usual one.
 * @param options.size V of the model that uses it, which may be larger than the ids need.
 * @throws {UnsupportedTokenizer} if an id is out of range, or if no token is known to end a document.
 */
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
  for (const [token, id] of model.tokens) {
    checkId(token, id);
    ofModel[id] = token;
  }
  const tokens = ofModel.slice();
  for (const { content, id } of added) {
    checkId(content, id);
    tokens[id] ??= content; // the model's own token keeps an id that is given twice
  }
  const idOf = createIdOf(added, tokens);
  const special = added.filter((token) => token.special);
  const contents = special.map(({ content }) => content);
  const candidates = endOfText === undefined ? contents : [...contents, endOfText];
  const texts = textTokens(
    model,
    candidates.flatMap((content) => ofModel[idOf(content) ?? -1] ?? []),
  );
  const isName = ({ id }: { id: number }) => !texts.has(ofModel[id] ?? "");
  const usualEnd = usualEndOf(added, special.filter(isName), tokens);
  const content = endOfText ?? usualEnd;
  if (content === undefined) {
    throw new UnsupportedTokenizer(
      "the token that ends a document must be known, from eos_token in a tokenizer_config.json " +
        "beside it or by its name among the special tokens",
      contents,
    );
  }
  const id = idOf(content);
  if (id === undefined) {
    throw new UnsupportedTokenizer("its end-of-text token must be in its vocabulary", content);
  }
  if (size !== undefined && size < tokens.length) {
    throw new UnsupportedTokenizer(`its ids must be below the model's ${size}`, tokens.length - 1);
  }
  const end = { id, content };
  return {
    size: size ?? tokens.length,
    tokens,
    added,
    specials: new Map([...special, end].filter(isName).map(({ id, content }) => [id, content])),
    end,
    usualEnd,
    unknown: unknownOf(model, { tokens, end }),
  };
}

function checkId(token: string, id: number): void {
  if (Number.isInteger(id) && id >= 0 && id < MOST_IDS) return;
  throw new UnsupportedTokenizer(
    `the id of ${quoted(token)} must be a whole number below ${MOST_IDS}`,
    id,
  );
}

/**
 * A function that finds the id of a token by its content. Added tokens come before others, and of several the first one
 * counts.
 */
function createIdOf(
  added: readonly AddedToken[],
  tokens: readonly string[],
): (content: string) => number | undefined {
  const firstIds = (entries: (readonly [string, number])[]) => new Map(entries.toReversed());
  const addedIds = firstIds(added.map(({ content, id }) => [content, id]));
  const tokenIds = firstIds(tokens.flatMap((token, id) => [[token, id] as const])); // without holes
  return (content) =>
    addedIds.get(content) ?? tokenIds.get(content) ??
      tokenIds.get(toByteAlphabet(new TextEncoder().encode(content)));
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

function unknownOf(
  { unk_id, unk_token }: Model,
  { tokens, end }: Pick<Vocabulary, "tokens" | "end">,
): number | undefined {
  const id = unk_id ?? (unk_token ? tokens.indexOf(unk_token) : -1);
  if (id !== -1 && tokens[id] === undefined) {
    throw new UnsupportedTokenizer("model.unk_id must be the id of a token", id);
  }
  return id < 0 || id === end.id ? undefined : id; // GPT-2's files name one token for both
}

/** A token that stands for a byte. */
export const BYTE_TOKEN = /^<0x[0-9A-F]{2}>$/;

/**
 * The tokens that stand for text even if they are declared special.
 *
 * In a BPE these are the letters and the results of merges. Other models look up whole words, and only the form of a
 * token decides: letters between punctuation, as in `</s>` and `[SEP]`, are a name.
 */
function textTokens(model: Model, tokens: Iterable<string>): Set<string> {
  const wanted = new Set(tokens);
  if (model.kind !== "BPE") {
    const isName = /^[^\p{L}\p{M}\p{N}]+[\p{L}\p{M}\p{N}].*[^\p{L}\p{M}\p{N}]$/su;
    return new Set([...wanted].filter((token) => !isName.test(token)));
  }
  const prefix = model.continuing_subword_prefix ?? "", suffix = model.end_of_word_suffix ?? "";
  const isLetter = (token: string) => {
    const start = token.startsWith(prefix) ? prefix.length : 0;
    const end = token.length - (token.endsWith(suffix) ? suffix.length : 0);
    return token.length > 0 && [...token.slice(start, end)].length <= 1;
  };
  const isByte = (token: string) => model.byte_fallback === true && BYTE_TOKEN.test(token);
  const text = new Set([...wanted].filter((token) => isLetter(token) || isByte(token)));
  for (const [left, right] of model.merges) {
    const token = left + right.slice(prefix.length);
    if (wanted.has(token)) text.add(token);
  }
  return text;
}
