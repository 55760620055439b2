import { Buffer } from "node:buffer";
import type { Block } from "../text/blocks.ts";
import { clean, type CleanBlock } from "../text/clean.ts";
import { cutPoint, LARGEST_PART } from "../text/readers.ts";
import { Encoder, type EncoderTables } from "../tokenizer/encode.ts";
import { parseTokenizer, type Tokenizer } from "../tokenizer/tokenizer.ts";
import { type Tokens, tokensType } from "./token_dataset.ts";

/** A tokenized block. */
export interface TokenBlock extends Omit<CleanBlock, "ends"> {
  /** The tokens of all documents, end-of-text after each that ends here. */
  readonly tokens: Tokens;
  /** Where documents start in `tokens`; tokens before the first belong to a document of an earlier block. */
  readonly starts: Uint32Array<ArrayBuffer>;
}

/** A tokenizer in a form that can be sent to a worker. */
export interface BlockTokenizerOptions {
  /** The `tokenizer.json`. */
  readonly json: string;
  /** Shared tables, which are faster, if the tokenizer has them. */
  readonly tables?: EncoderTables;
  readonly vocabularySize: number;
  /** Id of the token that ends a document. */
  readonly endOfText: number;
  /** How that token is written. */
  readonly endOfTextToken: string;
}

/** Tokenizes a block, in whose memory the clean text is returned. */
export type BlockTokenizer = (block: Block) => TokenBlock;

/** Creates the function that tokenizes blocks. */
export async function createBlockTokenizer(
  { json, tables, vocabularySize, endOfText, endOfTextToken }: BlockTokenizerOptions,
): Promise<BlockTokenizer> {
  const encoder = tables ? new Encoder(tables) : new DocumentEncoder(
    await parseTokenizer(json, "tokenizer.json", { endOfText: endOfTextToken, vocabularySize }),
  );
  const Tokens = tokensType(vocabularySize);
  return (block) => {
    const { text, ends, ended, blank } = clean(block);
    const starts: number[] = [];
    encoder.reset();
    let start = 0;
    ends.forEach((end, i) => {
      if (i > 0 || !block.continued) starts.push(encoder.length);
      encodeInParts(encoder, text, start, end);
      if (i < ended) encoder.push(endOfText);
      start = end + 1;
    });
    const tokens = new Tokens(encoder.ids.subarray(0, encoder.length));
    return { ...{ text, ended, blank, tokens }, starts: Uint32Array.from(starts) };
  };
}

/** Encodes a text, a long one in parts, since memory is reserved for the worst case. */
function encodeInParts(
  encoder: Pick<Encoder, "encode">,
  bytes: Uint8Array,
  start: number,
  end: number,
): void {
  for (let at = start; at < end;) {
    const next = end - at > LARGEST_PART ? cutPoint(bytes, at, at + LARGEST_PART) : end;
    encoder.encode(bytes, at, next);
    at = next;
  }
}

/** A tokenizer of any kind as an `Encoder`. */
class DocumentEncoder implements Pick<Encoder, "ids" | "length" | "reset" | "push" | "encode"> {
  ids: Uint32Array<ArrayBuffer> = new Uint32Array(0);
  length = 0;
  readonly #tokenizer: Tokenizer;

  constructor(tokenizer: Tokenizer) {
    this.#tokenizer = tokenizer;
  }

  reset(): void {
    this.ids = new Uint32Array(2 ** 16);
    this.length = 0;
  }

  push(id: number): void {
    this.#append([id]);
  }

  encode(bytes: Uint8Array, start: number, end: number): void {
    this.#append(
      this.#tokenizer.encodeDocument(Buffer.from(bytes.subarray(start, end)).toString()),
    );
  }

  #append(ids: readonly number[]): void {
    if (this.length + ids.length > this.ids.length) {
      const larger = new Uint32Array(Math.max(2 * this.ids.length, this.length + ids.length));
      larger.set(this.ids.subarray(0, this.length));
      this.ids = larger;
    }
    this.ids.set(ids, this.length);
    this.length += ids.length;
  }
}
