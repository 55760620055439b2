import type { Block } from "../text/blocks.ts";
import { DataError } from "../text/data_error.ts";
import { encoderTables } from "../tokenizer/encode.ts";
import type { Tokenizer } from "../tokenizer/tokenizer.ts";
import { createBlockTokenizer, type SentTokenizer, type TokenBlock } from "./tokenize_block.ts";
import type { FromWorker, ToWorker } from "./tokenize_worker.ts";

/** Several workers that tokenize blocks, or this thread alone. */
export interface TokenizerPool {
  /** Blocks that can be tokenized at a time. */
  readonly size: number;
  /** Tokenizes a block, whose memory is transferred. */
  run(block: Block): Promise<TokenBlock>;
  /** Ends the workers. */
  close(): void;
}

/** Workers that one thread keeps busy with reading, writing and hashing; a gigabyte is enough for them. */
const MOST_WORKERS = 16;

/** Bytes of documents that are worth the start of another worker. */
const WORTH_A_WORKER = 16 * 2 ** 20;

/** Workers that fit into a gigabyte if each must hold vocabulary and merges itself, without shared tables. */
const WORKERS_WITHOUT_TABLES = 4;

/**
 * Starts workers for documents of so many bytes, at most `workers`; in place of a single one this thread
 * tokenizes.
 */
export async function openPool(
  given: Tokenizer,
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
  const { json, vocabularySize, beginOfText, endOfText, endOfTextToken, bosToken, chatTemplate } =
    given;
  const tables = areConversations ? undefined : encoderTables(json);
  const tokenizer = {
    json,
    vocabularySize,
    endOfText,
    endOfTextToken,
    tables,
    areConversations,
    ...(beginOfText === undefined ? {} : { beginOfText }),
    ...(bosToken === undefined ? {} : { bosToken }),
    ...(chatTemplate === undefined ? {} : { chatTemplate }),
  };
  const size = Math.min(
    workers,
    Math.ceil(bytes / WORTH_A_WORKER),
    tables ? Infinity : WORKERS_WITHOUT_TABLES,
  );
  if (size <= 1) {
    const tokenize = await createBlockTokenizer(tokenizer);
    return {
      size: 1,
      async run(block) {
        await new Promise((resolve) => setTimeout(resolve)); // lets signals arrive
        return tokenize(block);
      },
      close() {},
    };
  }
  const all = Array.from({ length: size }, () => new TokenizerWorker(tokenizer));
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

  constructor(tokenizer: SentTokenizer) {
    this.#worker.onmessage = ({ data }: MessageEvent<FromWorker>) => {
      if ("result" in data) this.#pending.shift()!.resolve(data.result);
      else this.#fail("reason" in data ? new DataError(data.reason) : data.error);
    };
    this.#worker.onerror = (event) => {
      event.preventDefault();
      this.#fail(new Error(`Cannot tokenize as a worker failed: ${event.message}`));
    };
    this.#post({ tokenizer });
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
