import { UserError } from "../../files/user_error.ts";
import type { Block } from "../text/blocks.ts";
import { clean } from "../text/clean.ts";
import { DataError } from "../text/data_error.ts";
import type { Documents } from "../text/documents.ts";
import type { Tokenizer } from "../tokenizer/tokenizer.ts";
import { createBlockTokenizer, type TokenBlock } from "./tokenize_block.ts";
import type { FromWorker, ToWorker } from "./worker.ts";

/** Workers that fit into a gigabyte: each holds vocabulary and merges. */
const MOST_WORKERS = 3;

/** Bytes of documents that are worth the start of another worker. */
const WORTH_A_WORKER = 16 * 2 ** 20;

/**
 * The blocks of documents in order, the first `done` of which are only cleaned, the others tokenized by several workers
 * at once; in place of a single worker this thread tokenizes.
 */
export async function* tokenBlocks(
  documents: Documents,
  done: number,
  { tokenizer, workers = Math.min(MOST_WORKERS, navigator.hardwareConcurrency) }: {
    tokenizer: Tokenizer;
    workers?: number | undefined;
  },
): AsyncGenerator<TokenBlock> {
  const { areConversations = false } = documents;
  const size = Math.min(workers, Math.ceil(documents.bytes / WORTH_A_WORKER));
  const all = size > 1
    ? Array.from({ length: size }, () => startWorker(tokenizer, areConversations))
    : [await thisThread(tokenizer, areConversations)];
  const pending: Promise<TokenBlock>[] = [];
  let blocks = 0;
  try {
    for await (const block of documents.read()) {
      if (blocks++ < done) {
        const tokens = new Uint16Array(), starts = new Uint32Array(), answers = starts;
        yield { ...clean(block), tokens, starts, answers };
        continue;
      }
      const result = all[blocks % all.length]!.tokenize(block);
      result.catch(() => {}); // it is awaited in its turn
      pending.push(result);
      if (pending.length === 2 * all.length) yield await pending.shift()!;
    }
    for (const result of pending) yield await result;
  } finally {
    for (const worker of all) worker.close();
  }
}

/** Tokenizes without a worker. */
async function thisThread(tokenizer: Tokenizer, areConversations: boolean) {
  const tokenizeBlock = await createBlockTokenizer(tokenizer, { areConversations });
  return {
    async tokenize(block: Block): Promise<TokenBlock> {
      await new Promise((resolve) => setTimeout(resolve)); // lets signals arrive
      return tokenizeBlock(block);
    },
    close() {},
  };
}

/** Starts a worker, which tokenizes blocks in their order. */
function startWorker(tokenizer: Tokenizer, areConversations: boolean) {
  const worker = new Worker(new URL("./worker.ts", import.meta.url), {
    type: "module",
    name: "tokenizer",
  });
  const post = (message: ToWorker, memory: Transferable[] = []) =>
    worker.postMessage(message, memory);
  const pending: PromiseWithResolvers<TokenBlock>[] = [];
  let failure: { error: unknown } | undefined;
  const fail = (error: unknown) => {
    failure = { error };
    for (const { reject } of pending.splice(0)) reject(error);
  };
  worker.onmessage = ({ data }: MessageEvent<FromWorker>) => {
    if ("result" in data) return pending.shift()?.resolve(data.result); // none is pending after a failure
    if ("error" in data) return fail(data.error);
    const { sentence, hint, reason } = data.refusal;
    fail(
      reason === undefined ? new UserError(sentence, { hint }) : new DataError(reason, { hint }),
    );
  };
  worker.onerror = (event) => {
    event.preventDefault();
    fail(new Error(`Cannot tokenize as a worker failed: ${event.message}`));
  };
  const fields = Object.entries(tokenizer).filter(([, value]) => typeof value !== "function");
  post({ tokenizer: Object.fromEntries(fields), areConversations });
  return {
    /** Tokenizes a block, whose memory is transferred. */
    tokenize(block: Block): Promise<TokenBlock> {
      const result = Promise.withResolvers<TokenBlock>();
      if (failure) result.reject(failure.error);
      else {
        pending.push(result);
        post({ block }, [block.bytes.buffer]);
      }
      return result.promise;
    },
    close: () => worker.terminate(),
  };
}
