import { unlessAborted } from "./abort.ts";

/** A lock that one holder has at a time, in the order in which they asked for it. */
export class Mutex {
  #last: Promise<void> = Promise.resolve(); // resolves once all who asked have released it

  /**
   * Waits for the lock, which is released when the result is disposed.
   *
   * @param signal ends the wait when it aborts: its reason is thrown.
   */
  async acquire(signal: AbortSignal): Promise<Disposable> {
    signal.throwIfAborted();
    const released = Promise.withResolvers<void>(), before = this.#last;
    this.#last = before.then(() => released.promise);
    try {
      await unlessAborted(before, signal);
    } catch (error) {
      released.resolve();
      throw error;
    }
    return { [Symbol.dispose]: released.resolve };
  }

  /** Waits until all who have asked for the lock so far have released it. */
  async idle(): Promise<void> {
    await this.#last;
  }
}
