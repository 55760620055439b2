import type { Block } from "../text/blocks.ts";
import { DataError } from "../text/data_error.ts";
import {
  type BlockTokenizerOptions,
  createBlockTokenizer,
  type TokenBlock,
} from "./tokenize_block.ts";
import type { FromWorker, ToWorker } from "./tokenize_worker.ts";

/** Several workers that tokenize blocks, or this thread alone. */
export interface TokenizerPool {
  /** Blocks that can be tokenized at a time. */
  readonly size: number;
  /** Tokenizes a block, whose memory it takes. */
  run(block: Block): Promise<TokenBlock>;
  /** Ends the workers. */
  close(): void;
}

/** Starts workers; a single one would be no gain. */
export async function openPool(
  workers: number,
  options: BlockTokenizerOptions,
): Promise<TokenizerPool> {
  if (workers <= 1) {
    const tokenize = await createBlockTokenizer(options);
    return {
      size: 1,
      async run(block) {
        await new Promise((resolve) => setTimeout(resolve)); // lets signals in
        return tokenize(block);
      },
      close() {},
    };
  }
  const all = Array.from({ length: workers }, () => new TokenizerWorker(options));
  return {
    size: workers,
    // the least busy one; of several the first, so that few grow when blocks are large
    run: (block) => all.reduce((a, b) => b.waiting < a.waiting ? b : a).run(block),
    close() {
      for (const worker of all) worker.close();
    },
  };
}

class TokenizerWorker {
  readonly #worker: Worker;
  readonly #pending: PromiseWithResolvers<TokenBlock>[] = [];
  #failure: Error | undefined;

  constructor(options: BlockTokenizerOptions) {
    this.#worker = new Worker(new URL("./tokenize_worker.ts", import.meta.url), {
      type: "module",
      name: "tokenizer",
    });
    this.#worker.onmessage = ({ data }: MessageEvent<FromWorker>) => {
      if ("result" in data) this.#pending.shift()!.resolve(data.result);
      else this.#fail("wrong" in data ? new DataError(data.wrong) : data.error as Error);
    };
    this.#worker.onerror = (event) => {
      event.preventDefault();
      this.#fail(new Error(`Cannot tokenize as a worker failed: ${event.message}`));
    };
    this.#post({ options });
  }

  /** Blocks that are not tokenized yet. */
  get waiting(): number {
    return this.#pending.length;
  }

  run(block: Block): Promise<TokenBlock> {
    if (this.#failure) return Promise.reject(this.#failure);
    const pending = Promise.withResolvers<TokenBlock>();
    this.#pending.push(pending);
    this.#post({ block }, [block.bytes.buffer]);
    return pending.promise;
  }

  close(): void {
    this.#worker.terminate();
  }

  #post(message: ToWorker, transfer: Transferable[] = []): void {
    this.#worker.postMessage(message, transfer);
  }

  /** The block that is being tokenized fails, as do all further ones. */
  #fail(error: Error): void {
    this.#failure = error;
    for (const { reject } of this.#pending.splice(0)) reject(error);
  }
}
