/**
 * What the main thread and signal_worker.ts have to agree on, and the exit statuses. Nothing is imported here, as the
 * worker must be ready soon.
 *
 * @module
 */

/** The message with which the main thread starts the worker. */
export interface Listening {
  /** What to write at the first signal. */
  readonly notice: string;
  /** Whether `mpirun` or `srun` has started this process. */
  readonly isRank: boolean;
}

/**
 * Milliseconds within which several signals count as one. `deno task` forwards a signal that the process group
 * receives too, and `timeout` sends one to the process and one to its group.
 */
export const REPEATED_MS = 100;

/** Exit status by signal: 128 plus the signal's number. */
export const EXIT_CODES: Partial<Record<Deno.Signal, number>> = {
  SIGHUP: 129,
  SIGINT: 130,
  SIGUSR2: Deno.build.os === "darwin" ? 159 : 140,
  SIGTERM: 143,
};
