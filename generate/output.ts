import type { CompletionPiece, GenerateResult, TokenLogprobs } from "./completion.ts";
import type { EngineRequest } from "./request.ts";

/** The part of a completion that its reader has not taken yet. */
export class Output {
  #text = "";
  #ids: number[] = [];
  #logprobs: TokenLogprobs[] | undefined;
  #result: GenerateResult | undefined;
  #failure: { error: unknown } | undefined;
  #changed = Promise.withResolvers<void>();
  /** Whether the reader has stopped iterating. */
  isAbandoned = false;

  constructor({ logprobs }: EngineRequest) {
    if (logprobs !== undefined) this.#logprobs = [];
  }

  /** Whether the last piece was added. */
  get isComplete(): boolean {
    return this.#result !== undefined || this.#failure !== undefined;
  }

  /** Adds what was computed; the reader waits until there is a text. */
  add(text: string, ids: readonly number[], logprobs: readonly TokenLogprobs[] = []): void {
    this.#text += text;
    this.#ids.push(...ids);
    this.#logprobs?.push(...logprobs);
    if (text !== "") this.#changed.resolve();
  }

  /** Ends the pieces with the next one, which has this result. */
  end(result: GenerateResult): void {
    this.#result = result;
    this.#changed.resolve();
  }

  /** Ends the pieces with an error. */
  fail(error: unknown): void {
    this.#failure = { error };
    this.#changed.resolve();
  }

  /** The pieces, each as soon as there is one. */
  pieces(): AsyncGenerator<CompletionPiece, void> {
    const pieces = this.#pieces(), end = pieces.return.bind(pieces);
    return Object.assign(pieces, {
      return: (value: void) => { // a generator that has not begun ends without its `finally`
        this.isAbandoned = true;
        return end(value);
      },
    });
  }

  async *#pieces(): AsyncGenerator<CompletionPiece, void> {
    try {
      for (;;) {
        await this.#changed.promise;
        this.#changed = Promise.withResolvers();
        if (this.#failure) throw this.#failure.error;
        const result = this.#result;
        yield this.#take();
        if (result) return;
      }
    } finally {
      this.isAbandoned = true;
    }
  }

  #take(): CompletionPiece {
    const text = this.#text, ids = this.#ids, logprobs = this.#logprobs, result = this.#result;
    this.#text = "";
    this.#ids = [];
    if (logprobs) this.#logprobs = [];
    return { text, ids, ...(logprobs ? { logprobs } : {}), ...(result ? { result } : {}) };
  }
}
