import { Buffer } from "node:buffer";
import type { Block } from "../text/blocks.ts";
import { clean, type CleanBlock } from "../text/clean.ts";
import { type Conversation, parseConversation } from "../text/conversations.ts";
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
export interface TokenBlock extends Omit<CleanBlock, "ends" | "places"> {
  /** The tokens of all documents, end-of-text after each that ends here. */
  readonly tokens: Tokens;
  /** Where documents start in `tokens`; tokens before the first belong to a document of an earlier block. */
  readonly starts: Uint32Array<ArrayBuffer>;
  /** Of conversations: where each answer begins and ends in `tokens`, by turns. */
  readonly answers: Uint32Array<ArrayBuffer>;
  /** Bytes of all files read so far. */
  readonly bytesRead: number;
}

/** Tokenizes a block, in whose memory the clean text is returned. */
export type BlockTokenizer = (block: Block) => TokenBlock;

/** Creates the function that tokenizes blocks of texts, or of conversations. */
export async function createBlockTokenizer(
  tokenizer: Tokenizer,
  { areConversations }: { areConversations: boolean },
): Promise<BlockTokenizer> {
  return areConversations
    ? await createConversationTokenizer(tokenizer)
    : createTextTokenizer(tokenizer);
}

function createTextTokenizer(
  { vocabularySize, beginOfText, endOfText, encodeDocument }: Tokenizer,
): BlockTokenizer {
  const Type = tokensType(vocabularySize);
  return (block) => {
    const { ends, places: _, ...cleaned } = clean(block), { text, ended } = cleaned;
    const ids: number[] = [], starts: number[] = [];
    let start = 0;
    ends.forEach((end, i) => {
      if (i > 0 || !block.continued) {
        starts.push(ids.length);
        if (beginOfText !== undefined) ids.push(beginOfText);
      }
      for (let cut = start; start < end; start = cut) { // in parts, as patterns run out of memory in longer texts
        cut = end - start > LARGEST_PART ? cutPoint(text, start, start + LARGEST_PART) : end;
        for (const id of encodeDocument(textAt(text, start, cut))) ids.push(id);
      }
      if (i < ended) ids.push(endOfText);
      start = end + 1;
    });
    return {
      ...cleaned,
      bytesRead: block.bytesRead,
      tokens: new Type(ids),
      starts: Uint32Array.from(starts),
      answers: new Uint32Array(),
    };
  };
}

/** Conversations are written by the tokenizer's chat template. */
async function createConversationTokenizer(tokenizer: Tokenizer): Promise<BlockTokenizer> {
  const format = await createChatFormat(tokenizer), Type = tokensType(tokenizer.vocabularySize);
  return (block) => {
    const { ends, places, ...cleaned } = clean(block);
    const ids: number[] = [], starts: number[] = [], answers: number[] = [];
    let start = 0;
    ends.forEach((end, i) => {
      const messages = parseConversation(textAt(cleaned.text, start, end));
      const encoded = encode(format, messages, { ...block, place: places[i]! });
      for (const span of encoded.answers) {
        answers.push(ids.length + span.start, ids.length + span.end);
      }
      starts.push(ids.length);
      for (const id of encoded.ids) ids.push(id);
      start = end + 1;
    });
    return {
      ...cleaned,
      bytesRead: block.bytesRead,
      tokens: new Type(ids),
      starts: Uint32Array.from(starts),
      answers: Uint32Array.from(answers),
    };
  };
}

/**
 * The tokens of the conversation in a row.
 *
 * @throws {DataError} if the chat template refuses it, or marks nothing in it.
 */
function encode(
  format: ChatFormat,
  messages: Conversation,
  { file, placeUnit, place }: Pick<Block, "file" | "placeUnit"> & { place: number },
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

function textAt(bytes: Uint8Array, start: number, end: number): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset + start, end - start).toString();
}
