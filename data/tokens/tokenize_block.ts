import { Buffer } from "node:buffer";
import type { Block } from "../text/blocks.ts";
import { clean, type CleanBlock } from "../text/clean.ts";
import type { Conversation } from "../text/conversations.ts";
import { DataError } from "../text/data_error.ts";
import { cutPoint, LARGEST_PART } from "../text/readers.ts";
import {
  type ChatFormat,
  ConversationError,
  createChatFormat,
  type EncodedConversation,
} from "../tokenizer/chat_format.ts";
import type { Tokenizer } from "../tokenizer/tokenizer.ts";
import { type Tokens, tokensType } from "./token_dataset.ts";

/** A tokenized block. */
export interface TokenBlock extends Omit<CleanBlock, "documents" | "places"> {
  /** The tokens of all documents, end-of-text after each that ends here. */
  readonly tokens: Tokens;
  /** Where documents start in `tokens`; tokens before the first belong to a document of an earlier block. */
  readonly starts: Uint32Array<ArrayBuffer>;
  /** Of conversations: where each answer begins and ends in `tokens`, by turns. */
  readonly answers: Uint32Array<ArrayBuffer>;
}

/** Tokenizes a block. */
export type BlockTokenizer = (block: Block) => TokenBlock;

/** Creates the function that tokenizes blocks of texts, or of conversations, which the chat template writes. */
export async function createBlockTokenizer(
  tokenizer: Tokenizer,
  { areConversations }: { areConversations: boolean },
): Promise<BlockTokenizer> {
  const { vocabularySize, beginOfText, endOfText, encodeDocument } = tokenizer;
  const Type = tokensType(vocabularySize);
  const format = areConversations ? await createChatFormat(tokenizer) : undefined;
  return (block) => {
    const { documents, places, ...cleaned } = clean(block);
    const ids: number[] = [], starts: number[] = [], answers: number[] = [];
    for (const [i, document] of documents.entries()) {
      const isBeginning = i > 0 || !block.continued, isEnding = i < cleaned.ended;
      if (isBeginning) starts.push(ids.length);
      if (typeof document === "string") {
        if (isBeginning && beginOfText !== undefined) ids.push(beginOfText);
        for (const part of partsOf(document)) {
          for (const id of encodeDocument(part)) ids.push(id);
        }
        if (isEnding) ids.push(endOfText);
      } else {
        const encoded = encode(format!, document, block, places[i]!);
        for (const { start, end } of encoded.answers) {
          answers.push(ids.length + start, ids.length + end);
        }
        for (const id of encoded.ids) ids.push(id);
      }
    }
    return {
      ...cleaned,
      tokens: new Type(ids),
      starts: Uint32Array.from(starts),
      answers: Uint32Array.from(answers),
    };
  };
}

/** The parts of a text that are tokenized one by one, as patterns run out of memory in longer texts. */
function* partsOf(text: string): Generator<string> {
  const mostBytes = 3 * text.length;
  if (mostBytes <= LARGEST_PART) return yield text;
  const bytes = Buffer.from(text);
  for (let start = 0, cut; start < bytes.length; start = cut) {
    const isLast = bytes.length - start <= LARGEST_PART;
    cut = isLast ? bytes.length : cutPoint(bytes, start, start + LARGEST_PART);
    yield bytes.toString("utf8", start, cut);
  }
}

/** The tokens of a conversation of a block; errors name its place. */
function encode(
  format: ChatFormat,
  messages: Conversation,
  { file, placeUnit }: Block,
  place: number,
): EncodedConversation {
  const fail = (reason: string) => new DataError(`${file}, ${placeUnit} ${place}, as ${reason}`);
  try {
    const encoded = format.encode(messages);
    if (encoded.answers.length > 0) return encoded;
  } catch (error) {
    if (!(error instanceof ConversationError)) throw error;
    throw fail(error.reason);
  }
  throw fail("it must have an answer: the chat template marks nothing in it as generated");
}
