import { createHash } from "node:crypto";
import { load, type Package } from "../../files/packages.ts";
import { quoted } from "../../files/printable.ts";
import { type AddedTokens, createAddedTokens } from "./added_tokens.ts";
import { toByteAlphabet } from "./byte_alphabet.ts";
import { createNormalizer } from "./normalizers.ts";
import { createPattern, harmless, LONGEST_PATTERN, UnboundedPattern } from "./pattern.ts";
import { createPreTokenizer, type Cut, type PatternOf } from "./pre_tokenizers.ts";
import { createTokenText } from "./token_text.ts";
import type { Tokenizer } from "./tokenizer.ts";
import { type AddedToken, type TokenizerFile, UnsupportedTokenizer } from "./tokenizer_file.ts";
import { detached } from "./words.ts";
import { createWordModel, modelKind, textTokens, type WordModel } from "./word_models.ts";

/**
 * Names that tokenizers give to the token that ends a document, the likeliest first: those of GPT-2,
 * SentencePiece and Llama 2, Gemma, Llama 3, and BERT among them.
 */
const ENDS = [
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

/** Most ids that a tokenizer may have: beyond lie damaged files. */
const MOST_IDS = 1_000_000;

/** Distinct words whose ids are remembered, and how long they may be: a few make up most of any text. */
const CACHED_WORDS = 200_000, CACHED_LENGTH = 64;

/**
 * Makes a tokenizer of the contents of a `tokenizer.json`.
 *
 * @param options.json the file, as `Tokenizer.json` will give it.
 * @param options.trusted whether it was made here: its model is then created at the first word to encode, and
 * never if tokens come from a file.
 * @param options.endOfText the token that ends a document, if it is not one of the usual.
 * @param options.vocabularySize V of the model that it is for, which may have room to spare.
 * @throws {UnsupportedTokenizer} if something in it is not supported, with the rest of a sentence that
 * begins with "Cannot use FILE as".
 */
export async function createTokenizer(
  given: TokenizerFile,
  { json, trusted = false, endOfText: wantedEnd, vocabularySize: wantedSize }: {
    json: string;
    trusted?: boolean;
    endOfText?: string | undefined;
    vocabularySize?: number | undefined;
  },
): Promise<Tokenizer> {
  // tokens that were added without a row in the model, as padding often is, are text to it
  const isHeld = ({ id, content }: AddedToken) =>
    id < (wantedSize ?? Infinity) ||
    (wantedEnd === undefined ? ENDS.includes(content) : content === wantedEnd);
  const file = { ...given, added_tokens: (given.added_tokens ?? []).filter(isHeld) };
  const { tokens, names, end, usualEnd } = readVocabulary(file, wantedEnd);
  const vocabularySize = wantedSize ?? tokens.length;
  if (vocabularySize < tokens.length) {
    throw new UnsupportedTokenizer(
      `its ids must be below the model's ${vocabularySize}`,
      tokens.length - 1,
    );
  }
  const library = needsLibrary(file) ? await load("@huggingface/tokenizers") : undefined;
  const patternOf = createPatternOf(library);
  const normalize = createNormalizer(file.normalizer, { library, patternOf });
  const { cut, byteLevel } = createPreTokenizer(file.pre_tokenizer, patternOf);
  const cutWords = !byteLevel && separable(file) ? cutBeforeBlanks(cut) : cut;
  const { raw, normalized } = createFinders(file, { end, normalize });

  const createModel = () =>
    createWordModel(file.model, { ...spellings(file, { tokens, names, end }), library });
  let model: WordModel | undefined = trusted ? undefined : createModel();
  let cache = new Map<string, readonly number[]>();
  const encodeWord = (word: string): readonly number[] => {
    model ??= createModel();
    const ids = model(byteLevel ? spell(word) : word);
    if (word.length <= CACHED_LENGTH) {
      if (cache.size >= CACHED_WORDS) cache = new Map();
      cache.set(detached(word), ids);
    }
    return ids;
  };
  const encodeText = (text: string, options: { special: boolean }): number[] => {
    const ids: number[] = [];
    const visit = (word: string) => {
      const wordIds = cache.get(word) ?? encodeWord(word);
      for (let i = 0; i < wordIds.length; i++) ids.push(wordIds[i]!);
    };
    // lone surrogates become U+FFFD here, as they would in UTF-8
    for (const [i, part] of raw.cut(text.toWellFormed(), options).entries()) {
      if (typeof part === "number") ids.push(part);
      else {
        for (const [j, piece] of normalized.cut(normalize(part), options).entries()) {
          if (typeof piece === "number") ids.push(piece);
          else cutWords(piece, i === 0 && j === 0, visit);
        }
      }
    }
    return ids;
  };

  const tokenText = createTokenText(file.decoder, patternOf);
  const inside: Uint8Array[] = []; // bytes of the tokens that were asked for, other than at the start
  const bytesOf = (id: number, atStart: boolean): Uint8Array => {
    if (!Number.isInteger(id) || id < 0 || id >= vocabularySize) {
      throw new RangeError(
        `Cannot decode as ids must be below ${vocabularySize}: current id is ${id}`,
      );
    }
    const token = tokens[id];
    if (token === undefined || names.has(id)) return NOTHING;
    return atStart
      ? tokenText.bytesOf(token, true)
      : inside[id] ??= tokenText.bytesOf(token, false);
  };
  const decoder = (before: Iterable<number> = []) => {
    const utf8 = new TextDecoder("utf-8", { ignoreBOM: true });
    let atStart = true, held = "";
    const push = (id: number) => {
      const bytes = bytesOf(id, atStart);
      if (names.has(id)) atStart ||= id === end.id;
      else if (tokens[id] !== undefined) atStart = false;
      const text = held + utf8.decode(bytes, { stream: true });
      held = tokenText.dropsLastBlank && text.endsWith(" ") ? " " : "";
      return held ? text.slice(0, -1) : text;
    };
    for (const id of before) push(id);
    return {
      push,
      end: () => {
        held = "";
        return utf8.decode();
      },
    };
  };
  return {
    vocabularySize,
    endOfText: end.id,
    endOfTextToken: end.content,
    json,
    hash: hashOf(end.content === usualEnd ? json : `${json}\n${end.content}`),
    encodeDocument: (text) => encodeText(text, { special: false }),
    encode: (text) => encodeText(text, { special: true }),
    decode(ids) {
      const { push, end: finish } = decoder();
      let text = "";
      for (const id of ids) {
        const name = names.get(id);
        if (name !== undefined) text += finish();
        text += push(id) + (name ?? "");
      }
      return text + finish();
    },
    decoder,
    byteLength: (id) => bytesOf(id, false).length,
  };
}

const NOTHING = new Uint8Array(0);

/** What ids stand for. */
interface Vocabulary {
  /** Tokens by id; there may be holes. */
  tokens: string[];
  /** The special tokens that are no text, by id. */
  names: ReadonlyMap<number, string>;
  /** The token that ends a document. */
  end: { id: number; content: string };
  /** What would end a document by default. */
  usualEnd: string | undefined;
}

function readVocabulary(file: TokenizerFile, wantedEnd: string | undefined): Vocabulary {
  const tokens: string[] = [];
  const check = (token: string, id: number) => {
    if (Number.isInteger(id) && id >= 0 && id < MOST_IDS) return;
    throw new UnsupportedTokenizer(
      `the id of ${quoted(token)} must be a whole number below ${MOST_IDS}`,
      id,
    );
  };
  for (const [token, id] of modelVocabulary(file)) {
    check(token, id);
    tokens[id] = token;
  }
  const words = tokens.slice(), added = file.added_tokens ?? [];
  for (const { content, id } of added) {
    check(content, id);
    tokens[id] ??= content; // the model's own token keeps an id that is given twice
  }
  const special = added.filter((token) => token.special);
  const contents = special.map(({ content }) => content);
  const firstIds = (entries: (readonly [string, number])[]) => new Map(entries.toReversed());
  const addedIds = firstIds(added.map(({ content, id }) => [content, id]));
  const tokenIds = firstIds(tokens.flatMap((token, id) => [[token, id] as const])); // without holes
  const idOf = (content: string) =>
    addedIds.get(content) ?? tokenIds.get(content) ?? tokenIds.get(spell(content));
  const candidates = wantedEnd === undefined ? contents : [...contents, wantedEnd];
  const text = textTokens(
    file.model,
    candidates.flatMap((content) => words[idOf(content) ?? -1] ?? []),
  );
  const isText = ({ id }: { id: number }) => text.has(words[id] ?? "");
  const named = special.filter((token) => !isText(token)).map(({ content }) => content);
  const usualEnd = ENDS.find((name) => contents.includes(name)) ??
    ENDS.find((name) => added.some(({ content }) => content === name)) ??
    (named.length === 1 ? named[0] : undefined) ??
    (named.length === 0 ? ENDS.find((name) => tokens.includes(name)) : undefined);
  const content = wantedEnd ?? usualEnd;
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
  const names = new Map(
    [...special, { id, content }].filter((token) => !isText(token))
      .map(({ id, content }) => [id, content]),
  );
  return { tokens, names, end: { id, content }, usualEnd };
}

/** Tokens and ids of the model, without those that were added to it. */
function modelVocabulary({ model }: TokenizerFile): [string, number][] {
  const { vocab } = model;
  if (Array.isArray(vocab)) return vocab.map(([token], id) => [token, id]);
  if (typeof vocab !== "object" || vocab === null) {
    throw new UnsupportedTokenizer("model.vocab must be a table of tokens", vocab);
  }
  return Object.entries(vocab);
}

/** How words are spelled, and what stands for the unknown. */
function spellings(
  file: TokenizerFile,
  { tokens, names, end }: Pick<Vocabulary, "tokens" | "names" | "end">,
): { ids: ReadonlyMap<string, number>; unknown: number | undefined } {
  const { model } = file;
  const isBpe = modelKind(model) === "BPE"; // text never has a token that no merge makes
  const ids = new Map(modelVocabulary(file).filter(([, id]) => isBpe || !names.has(id)));
  const unknown = model.unk_id ?? (model.unk_token ? tokens.indexOf(model.unk_token) : -1);
  if (unknown !== -1 && tokens[unknown] === undefined) {
    throw new UnsupportedTokenizer("model.unk_id must be the id of a token", unknown);
  }
  // what is unknown does not end a document, though GPT-2's files name one token for both
  return { ids, unknown: unknown < 0 || unknown === end.id ? undefined : unknown };
}

/** The finders of added tokens: in the text as it is, and as it is once normalized. */
function createFinders(
  { added_tokens: added = [] }: TokenizerFile,
  { end, normalize }: { end: { id: number }; normalize: (text: string) => string },
): { raw: AddedTokens; normalized: AddedTokens } {
  const spelled = added.map((token) => {
    const { id, content, normalized = !token.special } = token;
    const special = token.special || id === end.id;
    return { ...token, special, normalized, spelled: normalized ? normalize(content) : content };
  });
  return {
    raw: createAddedTokens(spelled.filter((token) => !token.normalized)),
    normalized: createAddedTokens(spelled.filter((token) => token.normalized)),
  };
}

/** Whether anything is left to npm:@huggingface/tokenizers. */
function needsLibrary({ model, normalizer, pre_tokenizer, decoder }: TokenizerFile): boolean {
  return Boolean(normalizer) || ["Unigram", "WordPiece"].includes(modelKind(model)) ||
    JSON.stringify([pre_tokenizer, decoder]).includes('"Regex"');
}

/** Escapes and classes of a pattern, beginnings of its atomic groups, and its possessive quantifiers. */
const PATTERN_PARTS = /\\[^]|\[(?:\\[^]|[^\\\]])*\]|\(\?>|[*+?]\+/g;

/** Patterns of a `tokenizer.json`, written for Oniguruma, as JavaScript's. */
function createPatternOf(library: Package<"@huggingface/tokenizers"> | undefined): PatternOf {
  return (pattern) => {
    const { String: text, Regex: regex } = (pattern ?? {}) as { String?: unknown; Regex?: unknown };
    if (typeof text === "string" && text !== "") {
      return harmless(new RegExp(RegExp.escape(text), "gu"));
    }
    if (typeof regex !== "string") {
      throw new UnsupportedTokenizer("its patterns must be texts that are not empty", pattern);
    }
    if (regex.length > LONGEST_PATTERN) {
      throw new UnsupportedTokenizer(
        `its patterns must have at most ${LONGEST_PATTERN} characters`,
        regex.length,
      );
    }
    // JavaScript has neither, and without them other words may come out
    if (regex.match(PATTERN_PARTS)?.some((part) => /^(?:\(\?>|[*+?]\+)$/.test(part))) {
      throw new UnsupportedTokenizer(
        "its patterns must have no possessive quantifiers and no atomic groups",
        regex,
      );
    }
    let translated: RegExp;
    try {
      const split = new library!.SplitPreTokenizer({
        type: "Split",
        pattern: { Regex: regex },
        behavior: "Isolated",
        invert: false,
      } as never) as unknown as { pattern: RegExp };
      translated = split.pattern;
    } catch {
      throw new UnsupportedTokenizer("its patterns must be ones that JavaScript can match", regex);
    }
    try {
      return createPattern(translated);
    } catch (error) {
      if (!(error instanceof UnboundedPattern)) throw error;
      throw new UnsupportedTokenizer(`its patterns must ${error.message}`, regex);
    }
  };
}

/** How SentencePiece writes a blank. */
const BLANK = "\u2581";

/**
 * Whether a text may be cut before blanks, where the pre-tokenizer leaves it whole: no token reaches
 * from one word into the next, and so no other ids come out.
 */
function separable({ model }: TokenizerFile): boolean {
  const kind = modelKind(model);
  if (kind !== "BPE" && kind !== "Unigram") return false;
  const { continuing_subword_prefix: prefix, end_of_word_suffix: suffix, ignore_merges } = model;
  if (prefix || suffix || ignore_merges) return false; // words' ends matter
  const tokens = modelVocabulary({ model }).map(([token]) => token);
  return tokens.includes(BLANK) && !tokens.some((token) => /[^\u2581]\u2581/.test(token));
}

function cutBeforeBlanks(cut: Cut): Cut {
  return (text, atStart, visit) =>
    cut(text, atStart, (piece, first) => {
      let start = 0;
      for (let at = 1; (at = piece.indexOf(BLANK, at)) > 0; at++) {
        if (piece[at - 1] === BLANK) continue;
        visit(piece.slice(start, at), first && start === 0);
        start = at;
      }
      visit(piece.slice(start), first && start === 0);
    });
}

/** A word in the byte alphabet. */
function spell(word: string): string {
  return toByteAlphabet(new TextEncoder().encode(word));
}

function hashOf(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}
