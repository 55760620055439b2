import { unlessAborted } from "./abort.ts";

/**
 * A queue of actions of which one runs at a time, in the order of the calls.
 */
export class Turns {
  #last: Promise<void> = Promise.resolve();

  /**
   * Waits for the turns before; the turn ends when it is disposed.
   *
   * @param signal ends the wait when it aborts: its reason is thrown.
   */
  async take(signal: AbortSignal): Promise<Disposable> {
    signal.throwIfAborted();
    const turn = Promise.withResolvers<void>(), before = this.#last;
    this.#last = before.then(() => turn.promise);
    try {
      await unlessAborted(before, signal);
    } catch (error) {
      turn.resolve();
      throw error;
    }
    return { [Symbol.dispose]: turn.resolve };
  }

  /** Waits for all turns that were asked for. */
  async end(): Promise<void> {
    await this.#last;
  }
}
