import { quoted } from "../../files/printable.ts";
import { toByteAlphabet } from "./byte_level.ts";
import {
  type AddedToken,
  type ModelConfig,
  modelKind,
  type TokenizerFile,
  UnsupportedTokenizer,
} from "./tokenizer_file.ts";
import { textTokens } from "./word_models.ts";

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
}

/**
 * Reads the vocabulary of a file.
 *
 * @param options.endOfText the token that ends a document, if it is not the usual one.
 * @param options.size V of the model that uses it, which may be larger than the ids need.
 * @throws {UnsupportedTokenizer} if an id is out of range, or if no token is known to end a document.
 */
export function readVocabulary(
  { model, added_tokens = [] }: TokenizerFile,
  { endOfText, size }: { endOfText?: string | undefined; size?: number | undefined },
): Vocabulary {
  // tokens that were added without a row in the model, as padding often is, are text to it
  const added = added_tokens.filter(({ id, content }) =>
    id < (size ?? Infinity) ||
    (endOfText === undefined ? END_TOKENS.includes(content) : content === endOfText)
  );
  const ofModel: string[] = []; // by id
  for (const [token, id] of modelTokens(model)) {
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
  const specials = new Map(
    [...special, end].filter(isName).map(({ id, content }) => [id, content]),
  );
  return { size: size ?? tokens.length, tokens, added, specials, end, usualEnd };
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

/** Tokens and ids of a model, without the tokens that were added to it. */
export function modelTokens({ vocab }: ModelConfig): [string, number][] {
  if (Array.isArray(vocab)) return vocab.map(([token], id) => [token, id]);
  return Object.entries(vocab as Readonly<Record<string, number>>);
}

/** Ids by token for the model of words, and the id of the unknown token. */
export function modelIds(
  model: ModelConfig,
  { tokens, specials, end }: Vocabulary,
): { ids: ReadonlyMap<string, number>; unknown: number | undefined } {
  const isBpe = modelKind(model) === "BPE"; // a text never becomes a token that no merge makes
  const ids = new Map(modelTokens(model).filter(([, id]) => isBpe || !specials.has(id)));
  const unknown = model.unk_id ?? (model.unk_token ? tokens.indexOf(model.unk_token) : -1);
  if (unknown !== -1 && tokens[unknown] === undefined) {
    throw new UnsupportedTokenizer("model.unk_id must be the id of a token", unknown);
  }
  // the unknown token does not end a document, though GPT-2's files name one token for both
  return { ids, unknown: unknown < 0 || unknown === end.id ? undefined : unknown };
}
