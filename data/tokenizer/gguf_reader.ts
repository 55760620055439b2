import type { JsonObject } from "../../files/json.ts";
import { quoted } from "../../files/printable.ts";
import { UserError } from "../../files/user_error.ts";
import { gpt2File } from "./byte_level.ts";
import { parseChatTemplate } from "./chat_template.ts";
import { BYTE, CONTROL, NORMAL, splitsOf, UNKNOWN, UNUSED, WORDS, type Words } from "./gguf.ts";
import { parseTokenizer, type Tokenizer } from "./tokenizer.ts";
import { type AddedToken, beginningWith, BLANK } from "./tokenizer_file.ts";

/**
 * Tokenizers in GGUF files, read as the `tokenizer.json` of the same tokenizer.
 *
 * @module
 */

/** Other names of ways to cut a text into words. */
const ALIASES: Readonly<Record<string, string>> = {
  "gpt2": "gpt-2",
  "default": "gpt-2",
  "llama3": "llama-bpe",
  "llama-v3": "llama-bpe",
};

/** A value of a GGUF file, or a list of them. */
type Value = number | boolean | string | readonly (number | boolean | string)[];

/** Most characters of a token with a score, and most merges that scores stand for: they bound time and memory. */
const LONGEST_TOKEN = 500, MOST_MERGES = 4_000_000;

/**
 * The tokenizer of a GGUF file.
 *
 * @param values those of the file.
 * @param vocabularySize V of the model, which may be larger than the number of tokens.
 * @param where the file's path, for error messages.
 * @throws {UserError} if it is of a kind that is not supported, or if its tables do not fit together.
 */
export async function readGgufTokenizer(
  values: ReadonlyMap<string, Value>,
  { vocabularySize, where }: { vocabularySize: number; where: string },
): Promise<Tokenizer> {
  const refuse = (requirement: string, value: unknown) =>
    new UserError(`Cannot load ${where} as ${requirement}: current value is ${quoted(value)}`);
  const get = (name: string) => values.get(`tokenizer.ggml.${name}`);
  const model = get("model"), pre = get("pre") ?? "default";
  if (model !== "gpt2" && model !== "llama") {
    throw refuse("tokenizer.ggml.model must be gpt2 or llama", model);
  }
  const name = ALIASES[String(pre)] ?? String(pre);
  if (model === "gpt2" && !Object.hasOwn(WORDS, name)) {
    throw refuse(`tokenizer.ggml.pre must be one of ${Object.keys(WORDS).join(", ")}`, pre);
  }
  const list = <T extends number | string>(
    name: string,
    type: "number" | "string",
  ): readonly T[] => {
    const value = get(name);
    if (Array.isArray(value) && (value.length === 0 || typeof value[0] === type)) return value;
    throw refuse(`tokenizer.ggml.${name} must be a list of ${type}s`, value);
  };
  const tokens = list<string>("tokens", "string");
  const kinds = get("token_type") === undefined ? [] : list<number>("token_type", "number");
  if (tokens.length > vocabularySize) {
    throw refuse(`tokenizer.ggml.tokens must be at most ${vocabularySize}`, tokens.length);
  }
  const id = (name: string): number | undefined => {
    const value = get(`${name}_token_id`);
    if (value === undefined) return undefined;
    if (Number.isInteger(value) && value as number >= 0 && value as number < tokens.length) {
      return value as number;
    }
    throw refuse(`tokenizer.ggml.${name}_token_id must be below ${tokens.length}`, value);
  };
  const [end, turn, message, begin] = ["eos", "eot", "eom", "bos"].map(id);
  const template = parseChatTemplate(values.get("tokenizer.chat_template"), where);

  const vocab: Record<string, number> = Object.create(null), added: AddedToken[] = [];
  tokens.forEach((content, id) => {
    const kind = kinds[id] ?? NORMAL;
    if (kind === UNUSED) return;
    const special = kind === CONTROL || kind === UNKNOWN || id === end;
    const isText = (kind === NORMAL || kind === BYTE) && !special;
    if (isText || model === "llama") vocab[content] = id;
    if (!isText) added.push({ id, content, special });
  });
  const beginsTexts = get("add_bos_token") ?? (model === "llama" || name === "llama-bpe");
  const first = beginsTexts === true && begin !== undefined ? tokens[begin]! : undefined;
  const file = model === "llama"
    ? sentencePieceFile({
      vocab,
      merges: mergesOfScores(list<number>("scores", "number"), { tokens, kinds, refuse }),
      added,
      prefix: get("add_space_prefix") !== false,
      unknown: tokens[id("unknown") ?? kinds.indexOf(UNKNOWN)],
    })
    : byteLevelFileOf(WORDS[name]!, {
      vocab,
      merges: list<string>("merges", "string"),
      added,
      prefix: get("add_space_prefix") === true,
    });
  const whole = first === undefined
    ? file
    : { ...file, post_processor: beginningWith({ content: first, id: begin! }) };
  const tokenizer = await parseTokenizer(JSON.stringify(whole), where, {
    vocabularySize,
    ...(end === undefined ? {} : { endOfText: tokens[end]! }),
  });
  const ends = [turn, message].filter((id) => id !== undefined);
  return {
    ...tokenizer,
    endIds: [...new Set([tokenizer.endOfText, ...ends])],
    ...(begin === undefined || begin === end ? {} : { bosToken: tokens[begin]! }),
    ...(template === undefined ? {} : { chatTemplate: template, chatTemplateFile: where }),
  };
}

/** The `tokenizer.json` of a byte-level BPE. */
function byteLevelFileOf(
  { preTokenizers, normalizers: [normalizer] = [], ignoreMerges }: Words,
  tables: Parameters<typeof gpt2File>[0],
): JsonObject {
  const file = gpt2File(tables);
  if (preTokenizers === WORDS["gpt-2"]!.preTokenizers) return file;
  return {
    ...file,
    normalizer: normalizer ?? null,
    pre_tokenizer: { type: "Sequence", pretokenizers: preTokenizers },
    model: { ...file.model as JsonObject, ...(ignoreMerges ? { ignore_merges: true } : {}) },
  };
}

/** The merges that scores stand for, in their order. */
function mergesOfScores(
  scores: readonly number[],
  { tokens, kinds, refuse }: {
    tokens: readonly string[];
    kinds: readonly number[];
    refuse: (requirement: string, value: unknown) => Error;
  },
): [string, string][] {
  if (scores.length !== tokens.length) {
    throw refuse(
      `tokenizer.ggml.scores must be as many as tokens, ${tokens.length}`,
      scores.length,
    );
  }
  const ids = [...tokens.keys()].filter((id) => (kinds[id] ?? NORMAL) === NORMAL);
  const texts = new Set(ids.map((id) => tokens[id]!)), merges: [string, string][] = [];
  for (const id of ids.sort((a, b) => scores[b]! - scores[a]! || a - b)) {
    const token = tokens[id]!;
    if (token.length > LONGEST_TOKEN) {
      throw refuse(
        `tokens with scores must have at most ${LONGEST_TOKEN} characters`,
        token.length,
      );
    }
    for (const pair of splitsOf(token, texts)) merges.push(pair);
    if (merges.length > MOST_MERGES) {
      throw refuse(`its scores must stand for at most ${MOST_MERGES} merges`, merges.length);
    }
  }
  return merges;
}

/** The `tokenizer.json` of SentencePiece's BPE, as Hugging Face writes it for Llama 2. */
function sentencePieceFile(
  { vocab, merges, added, prefix, unknown }: {
    vocab: Readonly<Record<string, number>>;
    merges: readonly (readonly [string, string])[];
    added: readonly AddedToken[];
    prefix: boolean;
    unknown: string | undefined;
  },
): JsonObject {
  const normalizers = [{ type: "Replace", pattern: { String: " " }, content: BLANK }];
  const decoders = [
    { type: "Replace", pattern: { String: BLANK }, content: " " },
    { type: "ByteFallback" },
    { type: "Fuse" },
  ];
  const prepend = { type: "Prepend", prepend: BLANK };
  const strip = { type: "Strip", content: " ", start: 1, stop: 0 };
  return {
    ...gpt2File({ vocab: {}, merges: [], added }), // version, added tokens
    normalizer: { type: "Sequence", normalizers: prefix ? [prepend, ...normalizers] : normalizers },
    pre_tokenizer: null,
    post_processor: null,
    decoder: { type: "Sequence", decoders: prefix ? [...decoders, strip] : decoders },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: unknown ?? null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: true,
      byte_fallback: true,
      ignore_merges: false,
      vocab,
      merges,
    },
  };
}
