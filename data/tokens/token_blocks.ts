import { type Block, BLOCK_BYTES } from "../text/blocks.ts";
import { clean } from "../text/clean.ts";
import { DataError } from "../text/data_error.ts";
import type { Documents } from "../text/documents.ts";
import type { Tokenizer } from "../tokenizer/tokenizer.ts";
import { createBlockTokenizer, type TokenBlock } from "./tokenize_block.ts";
import type { FromWorker, ToWorker } from "./tokenize_worker.ts";

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
  { tokenizer, workers = Math.min(MOST_WORKERS, navigator.hardwareConcurrency), signal }: {
    tokenizer: Tokenizer;
    workers?: number | undefined;
    signal?: AbortSignal | undefined;
  },
): AsyncGenerator<TokenBlock> {
  const { areConversations = false } = documents;
  const size = Math.min(workers, Math.ceil(documents.bytes / WORTH_A_WORKER));
  const all = size > 1
    ? Array.from({ length: size }, () => new TokenizerWorker(tokenizer, areConversations))
    : [await thisThread(tokenizer, areConversations)];
  const most = 2 * BLOCK_BYTES * all.length; // bytes of pending blocks
  const pending: { result: Promise<TokenBlock>; bytes: number }[] = [];
  let blocks = 0, pendingBytes = 0;
  const first = () => {
    const { result, bytes } = pending.shift()!;
    pendingBytes -= bytes;
    return result;
  };
  try {
    for await (const block of documents.read()) {
      signal?.throwIfAborted();
      if (blocks++ < done) {
        const tokens = new Uint16Array(), starts = new Uint32Array(), answers = starts;
        yield { ...clean(block), bytesRead: block.bytesRead, tokens, starts, answers };
        continue;
      }
      const bytes = block.bytes.length;
      while (pending.length > 0 && pendingBytes + bytes > most) yield await first();
      // the least busy one; the first of several, so that few grow if blocks are large
      const result = all.reduce((a, b) => b.waiting < a.waiting ? b : a).tokenize(block);
      result.catch(() => {}); // first() returns it
      pending.push({ result, bytes });
      pendingBytes += bytes;
    }
    while (pending.length > 0) {
      yield await first();
      signal?.throwIfAborted();
    }
  } finally {
    for (const worker of all) worker.close();
  }
}

/** Tokenizes without a worker. */
async function thisThread(tokenizer: Tokenizer, areConversations: boolean) {
  const tokenizeBlock = await createBlockTokenizer(tokenizer, { areConversations });
  return {
    waiting: 0,
    async tokenize(block: Block): Promise<TokenBlock> {
      await new Promise((resolve) => setTimeout(resolve)); // lets signals arrive
      return tokenizeBlock(block);
    },
    close() {},
  };
}

/** A worker with a tokenizer. */
class TokenizerWorker {
  readonly #worker = new Worker(new URL("./tokenize_worker.ts", import.meta.url), {
    type: "module",
    name: "tokenizer",
  });
  readonly #pending: PromiseWithResolvers<TokenBlock>[] = [];
  #failure: unknown;

  constructor(tokenizer: Tokenizer, areConversations: boolean) {
    this.#worker.onmessage = ({ data }: MessageEvent<FromWorker>) => {
      if ("result" in data) this.#pending.shift()!.resolve(data.result);
      else this.#fail("reason" in data ? new DataError(data.reason) : data.error);
    };
    this.#worker.onerror = (event) => {
      event.preventDefault();
      this.#fail(new Error(`Cannot tokenize as a worker failed: ${event.message}`));
    };
    const fields = Object.entries(tokenizer).filter(([, value]) => typeof value !== "function");
    const message: ToWorker = { tokenizer: Object.fromEntries(fields), areConversations };
    this.#worker.postMessage(message);
  }

  /** Blocks that are not tokenized yet. */
  get waiting(): number {
    return this.#pending.length;
  }

  /** Tokenizes a block, whose memory is transferred. */
  tokenize(block: Block): Promise<TokenBlock> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    const pending = Promise.withResolvers<TokenBlock>();
    this.#pending.push(pending);
    const message: ToWorker = { block };
    this.#worker.postMessage(message, [block.bytes.buffer]);
    return pending.promise;
  }

  close(): void {
    this.#worker.terminate();
  }

  /** Makes all pending blocks fail, and those that follow. */
  #fail(error: unknown): void {
    this.#failure = error;
    for (const { reject } of this.#pending.splice(0)) reject(error);
  }
}
