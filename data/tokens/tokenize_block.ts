import { Buffer } from "node:buffer";
import type { Block } from "../text/blocks.ts";
import { clean, type CleanBlock } from "../text/clean.ts";
import { parseConversation } from "../text/conversations.ts";
import { DataError } from "../text/data_error.ts";
import { cutPoint, LARGEST_PART } from "../text/readers.ts";
import {
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

/** Creates the function that tokenizes blocks of texts, or of conversations, which the chat template writes. */
export async function createBlockTokenizer(
  tokenizer: Tokenizer,
  { areConversations }: { areConversations: boolean },
): Promise<BlockTokenizer> {
  const { vocabularySize, beginOfText, endOfText, encodeDocument } = tokenizer;
  const Type = tokensType(vocabularySize);
  const format = areConversations ? await createChatFormat(tokenizer) : undefined;
  return (block) => {
    const { ends, places, ...cleaned } = clean(block), { text } = cleaned;
    const ids: number[] = [], starts: number[] = [], answers: number[] = [];
    const textAt = (start: number, end: number) =>
      Buffer.from(text.buffer, text.byteOffset + start, end - start).toString();
    const addText = (start: number, end: number) => {
      for (let at = start, cut; at < end; at = cut) { // in parts, as patterns run out of memory in longer texts
        cut = end - at > LARGEST_PART ? cutPoint(text, at, at + LARGEST_PART) : end;
        for (const id of encodeDocument(textAt(at, cut))) ids.push(id);
      }
    };
    const addConversation = (encoded: EncodedConversation) => {
      for (const { start, end } of encoded.answers) {
        answers.push(ids.length + start, ids.length + end);
      }
      for (const id of encoded.ids) ids.push(id);
    };
    let start = 0;
    ends.forEach((end, i) => {
      const isBeginning = i > 0 || !block.continued, isEnding = i < cleaned.ended;
      if (isBeginning) starts.push(ids.length);
      if (format) {
        addConversation(
          withPlace(block, places[i]!, () => format.encode(parseConversation(textAt(start, end)))),
        );
      } else {
        if (isBeginning && beginOfText !== undefined) ids.push(beginOfText);
        addText(start, end);
        if (isEnding) ids.push(endOfText);
      }
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
 * The conversation that an action encodes.
 *
 * @throws {DataError} naming its place, if the chat template refuses it or marks nothing in it.
 */
function withPlace(
  { file, placeUnit }: Block,
  place: number,
  encode: () => EncodedConversation,
): EncodedConversation {
  const fail = (reason: string) => new DataError(`${file}, ${placeUnit} ${place}, as ${reason}`);
  try {
    const encoded = encode();
    if (encoded.answers.length > 0) return encoded;
  } catch (error) {
    if (!(error instanceof ConversationError)) throw error;
    throw fail(error.reason);
  }
  throw fail("it must have an answer: the chat template marks nothing in it as generated");
}
