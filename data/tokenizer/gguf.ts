import { printable, quoted } from "../../files/printable.ts";
import { UserError } from "../../files/user_error.ts";
import type { Tokenizer } from "./tokenizer.ts";
import { mergedPair, stagesOf, type TokenizerFile } from "./tokenizer_file.ts";
import { isGpt2Kind } from "./byte_level.ts";

/** A tokenizer's tables in a GGUF file. */
export interface GgufTokenizer {
  /** Tokens by id: in the byte alphabet, added tokens as they are written. */
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
 * @throws {UserError} if it is not of GPT-2's kind: GGUF has names for others, but a `tokenizer.json` does not
 * say which.
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
