import { DataError } from "../text/data_error.ts";
import {
  createUnitTokenizer,
  type TokenizedUnit,
  type Unit,
  type UnitTokenizerOptions,
} from "./tokenize_unit.ts";
import type { ToWorker } from "./tokenize_worker.ts";

/** Several workers that tokenize units, or this thread alone. */
export interface TokenizerPool {
  /** Units that can be worked on at a time. */
  readonly size: number;
  /** Tokenizes a unit, whose bytes it takes away. */
  run(unit: Unit, options: { textOnly: boolean }): Promise<TokenizedUnit>;
  /** Ends the workers. */
  close(): void;
}

/** Starts so many workers; none if there is work for one only. */
export async function openPool(
  workers: number,
  options: UnitTokenizerOptions,
): Promise<TokenizerPool> {
  if (workers <= 1) {
    const tokenize = await createUnitTokenizer(options);
    return {
      size: 1,
      run: async (unit, what) => {
        await new Promise((resolve) => setTimeout(resolve)); // signals are heard meanwhile
        return tokenize(unit, what);
      },
      close() {},
    };
  }
  const all = Array.from({ length: workers }, () => new TokenizerWorker(options));
  const idle = [...all];
  const waiting: ((worker: TokenizerWorker) => void)[] = [];
  return {
    size: workers,
    async run(unit, what) {
      const worker = idle.pop() ??
        await new Promise<TokenizerWorker>((resolve) => waiting.push(resolve));
      try {
        return await worker.run(unit, what);
      } finally {
        const next = waiting.shift();
        if (next) next(worker);
        else idle.push(worker);
      }
    },
    close() {
      for (const worker of all) worker.close();
    },
  };
}

class TokenizerWorker {
  readonly #worker: Worker;
  #settle: { resolve(result: TokenizedUnit): void; reject(error: Error): void } | undefined;
  #failure: Error | undefined;

  constructor(options: UnitTokenizerOptions) {
    this.#worker = new Worker(new URL("./tokenize_worker.ts", import.meta.url), {
      type: "module",
      name: "tokenizer",
    });
    this.#worker.onmessage = ({ data }) => {
      if ("result" in data) this.#settle?.resolve(data.result);
      else this.#fail("wrong" in data ? new DataError(data.wrong) : data.error);
    };
    this.#worker.onerror = (event) => {
      event.preventDefault();
      this.#fail(new Error(`Cannot tokenize as a worker failed: ${event.message}`));
    };
    this.#post({ options });
  }

  run(unit: Unit, { textOnly }: { textOnly: boolean }): Promise<TokenizedUnit> {
    return new Promise((resolve, reject) => {
      if (this.#failure) return reject(this.#failure);
      this.#settle = { resolve, reject };
      this.#post({ unit, textOnly }, [unit.bytes.buffer]);
    });
  }

  close(): void {
    this.#worker.terminate();
  }

  #post(message: ToWorker, transfer: Transferable[] = []): void {
    this.#worker.postMessage(message, transfer);
  }

  #fail(error: Error): void {
    this.#failure = error;
    this.#settle?.reject(error);
  }
}
