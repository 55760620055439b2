import { UserError } from "../../files/user_error.ts";
import type { Block } from "../text/blocks.ts";
import type { DataError } from "../text/data_error.ts";
import { parseTokenizer, type Tokenizer } from "../tokenizer/tokenizer.ts";
import { type BlockTokenizer, createBlockTokenizer, type TokenBlock } from "./tokenize_block.ts";

/**
 * A worker that tokenizes blocks. The first message is the tokenizer, each further one a block; the worker
 * answers blocks in their order.
 *
 * @module
 */

/** Messages to a worker. A tokenizer is sent without its functions, which the worker makes anew. */
export type ToWorker =
  | { tokenizer: Partial<Tokenizer>; areConversations: boolean }
  | { block: Block };

/** Messages from a worker. A `UserError` would lose its class on the way, so that its parts are sent. */
export type FromWorker =
  | { result: TokenBlock }
  | { refusal: Pick<UserError, "sentence" | "hint"> & Partial<Pick<DataError, "reason">> }
  | { error: unknown };

const scope = self as unknown as {
  onmessage: (event: MessageEvent<ToWorker>) => void;
  postMessage(message: FromWorker, transfer?: Transferable[]): void;
};

let tokenize: Promise<BlockTokenizer>;

scope.onmessage = async ({ data }) => {
  try {
    if ("tokenizer" in data) {
      tokenize = createTokenizer(data.tokenizer)
        .then((tokenizer) => createBlockTokenizer(tokenizer, data));
      await tokenize;
      return;
    }
    const result = (await tokenize)(data.block), { text, tokens, starts, answers } = result;
    scope.postMessage({ result }, [text.buffer, tokens.buffer, starts.buffer, answers.buffer]);
  } catch (error) {
    if (!(error instanceof UserError)) return scope.postMessage({ error });
    const { sentence, hint, reason } = error as DataError;
    scope.postMessage({ refusal: { sentence, hint, reason } });
  }
};

async function createTokenizer(sent: Partial<Tokenizer>): Promise<Tokenizer> {
  const { json, vocabularySize, endOfTextToken: endOfText } = sent;
  return { ...await parseTokenizer(json!, undefined, { endOfText, vocabularySize }), ...sent };
}
