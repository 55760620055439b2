import { printable, quoted } from "../../files/printable.ts";
import { UserError } from "../../files/user_error.ts";
import { gpt2File, isGpt2Kind } from "./byte_level.ts";
import { parseTokenizer, type Tokenizer } from "./tokenizer.ts";
import { type AddedToken, mergedPair, stagesOf, type TokenizerFile } from "./tokenizer_file.ts";

/** The tables of a tokenizer in a GGUF file. */
export interface GgufTokenizer {
  /** Tokens by id, in the byte alphabet; added tokens as text. */
  readonly tokens: string[];
  /** The kind of each token, in llama.cpp's numbers. */
  readonly kinds: number[];
  /** Pairs with a blank between them, in the order in which they are merged. */
  readonly merges: string[];
}

/** llama.cpp's kinds of tokens (its include/llama.h). */
const NORMAL = 1, CONTROL = 3, USER_DEFINED = 4, UNUSED = 5;

/**
 * A tokenizer as llama.cpp reads it from a GGUF file.
 *
 * @throws {UserError} if it is not of GPT-2's kind. GGUF knows others by name, and a `tokenizer.json` does not give
 * that name.
 */
export function ggufTokenizer(
  { json, vocabularySize, byteLength }: Pick<Tokenizer, "json" | "vocabularySize" | "byteLength">,
): GgufTokenizer {
  const file = JSON.parse(json) as TokenizerFile;
  const { model, added_tokens: added = [] } = file;
  if (!isGpt2Kind(file)) {
    const [words] = stagesOf(file.pre_tokenizer);
    throw new UserError(
      "Cannot export the tokenizer to GGUF as it must be a byte-level BPE with GPT-2's words: " +
        `current pre-tokenizer is ${quoted(words?.type ?? null)}, model ${
          printable(String(model.type))
        }`,
    );
  }
  const tokens = Array.from({ length: vocabularySize }, (_, id) => `[UNUSED${id}]`);
  const kinds = new Array<number>(vocabularySize).fill(UNUSED);
  const set = (token: string, id: number, kind: number) => {
    tokens[id] = token;
    kinds[id] = kind;
  };
  const isText = (id: number) => byteLength(id) > 0;
  for (const [token, id] of Object.entries(model.vocab as Record<string, number>)) {
    set(token, id, isText(id) ? NORMAL : CONTROL);
  }
  for (const { content, id } of added) {
    if (id >= vocabularySize) continue; // the model has no row for it
    if (kinds[id] !== NORMAL) set(content, id, isText(id) ? USER_DEFINED : CONTROL);
  }
  return { tokens, kinds, merges: (model.merges ?? []).map((pair) => mergedPair(pair).join(" ")) };
}

/** A value of a GGUF file, or a list of them. */
type Value = number | boolean | string | readonly (number | boolean | string)[];

/** Names that llama.cpp has for GPT-2's way to cut text into words. */
const GPT2_WORDS: readonly unknown[] = ["gpt-2", "gpt2", "default", undefined];

/**
 * The tokenizer of a GGUF file.
 *
 * @param values those of the file.
 * @param vocabularySize V of the model, which may be larger than the number of tokens.
 * @param where the file's path, for error messages.
 * @throws {UserError} if it is not of GPT-2's kind, or if its tables do not fit together.
 */
export async function readGgufTokenizer(
  values: ReadonlyMap<string, Value>,
  { vocabularySize, where }: { vocabularySize: number; where: string },
): Promise<Tokenizer> {
  const refuse = (requirement: string, value: unknown) =>
    new UserError(`Cannot load ${where} as ${requirement}: current value is ${quoted(value)}`);
  const get = (name: string) => values.get(`tokenizer.ggml.${name}`);
  if (get("model") !== "gpt2") throw refuse("tokenizer.ggml.model must be gpt2", get("model"));
  if (!GPT2_WORDS.includes(get("pre"))) {
    throw refuse("tokenizer.ggml.pre must be gpt-2", get("pre"));
  }
  const list = <T extends number | string>(
    name: string,
    type: "number" | "string",
  ): readonly T[] => {
    const value = get(name);
    if (Array.isArray(value) && (value.length === 0 || typeof value[0] === type)) return value;
    throw refuse(`tokenizer.ggml.${name} must be a list of ${type}s`, value);
  };
  const tokens = list<string>("tokens", "string"), merges = list<string>("merges", "string");
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
  const [end, turn, message] = ["eos", "eot", "eom"].map(id);

  const vocab: Record<string, number> = Object.create(null), added: AddedToken[] = [];
  tokens.forEach((content, id) => {
    const kind = kinds[id] ?? NORMAL;
    if (kind === UNUSED) return;
    const special = kind === CONTROL || id === end;
    if (kind === NORMAL && !special) vocab[content] = id;
    else added.push({ id, content, special });
  });
  const json = JSON.stringify(
    gpt2File({ vocab, merges, added, prefix: get("add_space_prefix") === true }),
  );
  const tokenizer = await parseTokenizer(json, where, {
    vocabularySize,
    ...(end === undefined ? {} : { endOfText: tokens[end]! }),
  });
  const ends = [turn, message].filter((id) => id !== undefined);
  return { ...tokenizer, endIds: [...new Set([tokenizer.endOfText, ...ends])] };
}
