import type { Block } from "../text/blocks.ts";
import { DataError } from "../text/data_error.ts";
import type { Tokenizer } from "../tokenizer/tokenizer.ts";
import { createBlockTokenizer, type TokenBlock } from "./tokenize_block.ts";
import type { FromWorker, SentTokenizer, ToWorker } from "./tokenize_worker.ts";

/** Several workers that tokenize blocks, or this thread alone. */
export interface TokenizerPool {
  /** Blocks that can be tokenized at a time. */
  readonly size: number;
  /** Tokenizes a block, whose memory is transferred. */
  run(block: Block): Promise<TokenBlock>;
  /** Ends the workers. */
  close(): void;
}

/** Workers that fit into a gigabyte: each holds vocabulary and merges. */
const MOST_WORKERS = 3;

/** Bytes of documents that are worth the start of another worker. */
const WORTH_A_WORKER = 16 * 2 ** 20;

/**
 * Starts workers for documents of so many bytes, at most `workers`; in place of a single one this thread
 * tokenizes.
 */
export async function openPool(
  tokenizer: Tokenizer,
  {
    bytes,
    areConversations = false,
    workers = Math.min(MOST_WORKERS, navigator.hardwareConcurrency),
  }: {
    bytes: number;
    areConversations?: boolean | undefined;
    workers: number | undefined;
  },
): Promise<TokenizerPool> {
  const size = Math.min(workers, Math.ceil(bytes / WORTH_A_WORKER));
  if (size <= 1) {
    const tokenize = await createBlockTokenizer(tokenizer, { areConversations });
    return {
      size: 1,
      async run(block) {
        await new Promise((resolve) => setTimeout(resolve)); // lets signals arrive
        return tokenize(block);
      },
      close() {},
    };
  }
  const fields = Object.entries(tokenizer).filter(([, value]) => typeof value !== "function");
  const message = { tokenizer: Object.fromEntries(fields) as SentTokenizer, areConversations };
  const all = Array.from({ length: size }, () => new TokenizerWorker(message));
  return {
    size,
    // the least busy one; the first of several, so that few grow if blocks are large
    run: (block) => all.reduce((a, b) => b.waiting < a.waiting ? b : a).run(block),
    close: () => all.forEach((worker) => worker.close()),
  };
}

class TokenizerWorker {
  readonly #worker = new Worker(new URL("./tokenize_worker.ts", import.meta.url), {
    type: "module",
    name: "tokenizer",
  });
  readonly #pending: PromiseWithResolvers<TokenBlock>[] = [];
  #failure: unknown;

  constructor(first: ToWorker) {
    this.#worker.onmessage = ({ data }: MessageEvent<FromWorker>) => {
      if ("result" in data) this.#pending.shift()!.resolve(data.result);
      else this.#fail("reason" in data ? new DataError(data.reason) : data.error);
    };
    this.#worker.onerror = (event) => {
      event.preventDefault();
      this.#fail(new Error(`Cannot tokenize as a worker failed: ${event.message}`));
    };
    this.#post(first);
  }

  /** Blocks that are not tokenized yet. */
  get waiting(): number {
    return this.#pending.length;
  }

  run(block: Block): Promise<TokenBlock> {
    const pending = Promise.withResolvers<TokenBlock>();
    if (this.#failure !== undefined) {
      pending.reject(this.#failure);
    } else {
      this.#pending.push(pending);
      this.#post({ block }, [block.bytes.buffer]);
    }
    return pending.promise;
  }

  close(): void {
    this.#worker.terminate();
  }

  #post(message: ToWorker, transfer: Transferable[] = []): void {
    this.#worker.postMessage(message, transfer);
  }

  /** Makes all pending blocks fail, and those that follow. */
  #fail(error: unknown): void {
    this.#failure = error;
    for (const { reject } of this.#pending.splice(0)) reject(error);
  }
}
