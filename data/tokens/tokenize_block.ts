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
import { Encoder, type EncoderTables } from "../tokenizer/encode.ts";
import { parseTokenizer, type Tokenizer } from "../tokenizer/tokenizer.ts";
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

/** A tokenizer in a form that can be sent to a worker. */
export interface SentTokenizer extends
  Pick<
    Tokenizer,
    | "json"
    | "vocabularySize"
    | "beginOfText"
    | "endOfText"
    | "endOfTextToken"
    | "bosToken"
    | "chatTemplate"
  > {
  /** Shared tables, which are faster, if the tokenizer has them and the documents are texts. */
  readonly tables: EncoderTables | undefined;
  /** Whether the documents are conversations. */
  readonly areConversations: boolean;
}

/** Tokenizes a block, in whose memory the clean text is returned. */
export type BlockTokenizer = (block: Block) => TokenBlock;

/** Creates the function that tokenizes blocks. */
export async function createBlockTokenizer(sent: SentTokenizer): Promise<BlockTokenizer> {
  return sent.areConversations
    ? await createConversationTokenizer(sent)
    : await createTextTokenizer(sent);
}

async function createTextTokenizer(sent: SentTokenizer): Promise<BlockTokenizer> {
  const { tables, vocabularySize, beginOfText, endOfText } = sent;
  const encoder = tables ? new Encoder(tables) : new DocumentEncoder(await parseSent(sent));
  const Type = tokensType(vocabularySize);
  return (block) => {
    const { ends, places: _, ...cleaned } = clean(block), { text, ended } = cleaned;
    const starts: number[] = [];
    encoder.reset();
    let start = 0;
    ends.forEach((end, i) => {
      if (i > 0 || !block.continued) {
        starts.push(encoder.length);
        if (beginOfText !== undefined) encoder.push(beginOfText);
      }
      while (end - start > LARGEST_PART) { // in parts, because memory is reserved for the worst case
        const cut = cutPoint(text, start, start + LARGEST_PART);
        encoder.encode(text, start, cut);
        start = cut;
      }
      encoder.encode(text, start, end);
      if (i < ended) encoder.push(endOfText);
      start = end + 1;
    });
    const tokens = new Type(encoder.ids.slice(0, encoder.length));
    const { bytesRead } = block, answers = new Uint32Array();
    return { ...cleaned, tokens, bytesRead, starts: Uint32Array.from(starts), answers };
  };
}

/** Conversations are written by the tokenizer's chat template. */
async function createConversationTokenizer(sent: SentTokenizer): Promise<BlockTokenizer> {
  const { bosToken, chatTemplate } = sent;
  const format = await createChatFormat({
    ...await parseSent(sent),
    ...(bosToken === undefined ? {} : { bosToken }),
    ...(chatTemplate === undefined ? {} : { chatTemplate }),
  });
  const Type = tokensType(sent.vocabularySize);
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

async function parseSent(
  { json, endOfTextToken, vocabularySize }: SentTokenizer,
): Promise<Tokenizer> {
  return await parseTokenizer(json, "tokenizer.json", {
    endOfText: endOfTextToken,
    vocabularySize,
  });
}

function textAt(bytes: Uint8Array, start: number, end: number): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset + start, end - start).toString();
}

/** A tokenizer of any kind as an `Encoder`. */
class DocumentEncoder implements Pick<Encoder, "length" | "reset" | "push" | "encode"> {
  ids: number[] = [];
  readonly #tokenizer: Tokenizer;

  constructor(tokenizer: Tokenizer) {
    this.#tokenizer = tokenizer;
  }

  get length(): number {
    return this.ids.length;
  }

  reset(): void {
    this.ids = [];
  }

  push(id: number): void {
    this.ids.push(id);
  }

  encode(bytes: Uint8Array, start: number, end: number): void {
    for (const id of this.#tokenizer.encodeDocument(textAt(bytes, start, end))) this.ids.push(id);
  }
}
