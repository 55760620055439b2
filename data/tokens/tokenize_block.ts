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
  /** Bytes of all files read so far. */
  readonly bytesRead: number;
}

/** A tokenizer in a form that can be sent to a worker. */
export interface SentTokenizer
  extends
    Pick<Tokenizer, "json" | "vocabularySize" | "beginOfText" | "endOfText" | "endOfTextToken"> {
  /** Shared tables, which are faster, if the tokenizer has them. */
  readonly tables: EncoderTables | undefined;
}

/** Tokenizes a block, in whose memory the clean text is returned. */
export type BlockTokenizer = (block: Block) => TokenBlock;

/** Creates the function that tokenizes blocks. */
export async function createBlockTokenizer(
  { json, tables, vocabularySize, beginOfText, endOfText, endOfTextToken }: SentTokenizer,
): Promise<BlockTokenizer> {
  const encoder = tables ? new Encoder(tables) : new DocumentEncoder(
    await parseTokenizer(json, "tokenizer.json", { endOfText: endOfTextToken, vocabularySize }),
  );
  const Type = tokensType(vocabularySize);
  return (block) => {
    const { text, ends, ended, blank } = clean(block);
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
    const { bytesRead } = block;
    return { text, ended, blank, tokens, bytesRead, starts: Uint32Array.from(starts) };
  };
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
    const text = Buffer.from(bytes.subarray(start, end)).toString();
    for (const id of this.#tokenizer.encodeDocument(text)) this.ids.push(id);
  }
}
