import type { Block } from "../text/blocks.ts";
import { DataError } from "../text/data_error.ts";
import {
  type BlockTokenizer,
  type BlockTokenizerOptions,
  createBlockTokenizer,
} from "./tokenize_block.ts";
import type { TokenBlock } from "./tokenize_block.ts";

/**
 * A worker that tokenizes blocks: the first message has the options, each further one a block, and each
 * block is answered in turn.
 *
 * @module
 */

/** Messages to a worker. */
export type ToWorker = { options: BlockTokenizerOptions } | { block: Block };

/** Messages from a worker; of a `DataError`, which would lose its class on the way, its reason. */
export type FromWorker = { result: TokenBlock } | { wrong: string } | { error: unknown };

const scope = self as unknown as {
  onmessage: (event: MessageEvent<ToWorker>) => void;
  postMessage(message: FromWorker, transfer?: Transferable[]): void;
};

let tokenizer: Promise<BlockTokenizer> | undefined;

scope.onmessage = async ({ data }) => {
  try {
    if ("options" in data) {
      tokenizer = createBlockTokenizer(data.options);
      await tokenizer;
      return;
    }
    const result = (await tokenizer!)(data.block);
    const { text, tokens, starts } = result;
    scope.postMessage({ result }, [text.buffer, tokens.buffer, starts.buffer]);
  } catch (error) {
    scope.postMessage(error instanceof DataError ? { wrong: error.reason } : { error });
  }
};
