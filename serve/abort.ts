/** Milliseconds of the longest timer, 24 days: beyond it `setTimeout()` does not wait at all. */
const LONGEST_MS = 2 ** 31 - 1;

/**
 * A signal that aborts with the first of others, until it is disposed. Each `AbortSignal.any()` would leak 1.3 kB if one of
 * the others lives as long as the server (Deno 2.9).
 */
export class LinkedAbort implements Disposable {
  readonly #controller = new AbortController();
  readonly #owned = new DisposableStack();

  constructor(...sources: readonly AbortSignal[]) {
    for (const source of sources) {
      if (source.aborted) this.abort(source.reason);
      const abort = () => this.abort(source.reason);
      source.addEventListener("abort", abort);
      this.#owned.defer(() => source.removeEventListener("abort", abort));
    }
  }

  /** Aborts with the first of the others, or when `abort()` is called. */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Aborts. */
  abort(reason: unknown): void {
    this.#controller.abort(reason);
  }

  /** Aborts with a reason after a time, unless it is disposed before. */
  after(milliseconds: number, reason: () => Error): void {
    const timer = setTimeout(() => this.abort(reason()), Math.min(milliseconds, LONGEST_MS));
    this.#owned.defer(() => clearTimeout(timer));
  }

  [Symbol.dispose](): void {
    this.#owned.dispose();
  }
}

/**
 * Waits for a promise. An error of the promise after the signal has aborted is ignored.
 *
 * @throws the reason of the signal if it aborts first, or has aborted already.
 */
export async function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  const aborted = Promise.withResolvers<never>(), abort = () => aborted.reject(signal.reason);
  signal.addEventListener("abort", abort);
  if (signal.aborted) abort();
  try {
    return await Promise.race([aborted.promise, promise]);
  } finally {
    signal.removeEventListener("abort", abort);
  }
}
