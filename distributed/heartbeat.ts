/**
 * How a rank learns that another one, or the link to it, has failed: rank 0 pings the others, which answer with their
 * progress. The workers of the ranks do that, so that a rank answers while its main thread computes.
 *
 * @module
 */

/** What a rank shares with its worker: 32-bit integers, by these indices. */
export const SHARED = {
  /** MPI calls that the main thread has begun, plus those that have returned: it grows with all progress. */
  calls: 0,
  /** MPI calls that have not returned: above 0 the main thread waits for other ranks. */
  waiting: 1,
  /** Milliseconds in which the present work must make progress; 0 without a limit. */
  limitMs: 2,
} as const;

/** What the main thread gives to its worker. */
export interface HeartbeatOptions {
  readonly rank: number;
  readonly size: number;
  /** Milliseconds in which a rank must answer; `Infinity` for no limit. */
  readonly timeoutMs: number;
  /** Integers shared with the main thread, see `SHARED`. */
  readonly shared: Int32Array<SharedArrayBuffer>;
  /** The process of `mpirun` or its daemon on this host, if it started this one. */
  readonly launcher: number | undefined;
  /** Whether all ranks are on this host. */
  readonly isOneHost: boolean;
}

/** Why the ranks must end. */
export interface Failure {
  /** One sentence, which names the ranks that have failed. */
  readonly sentence: string;
  /** Whether a rank does not answer, so that the link to its host may be down. */
  readonly isSilent: boolean;
}

/** The values of `SHARED` that a rank sends to others. */
export interface Progress {
  readonly calls: number;
  readonly waiting: number;
}

/** What is known of another rank. */
interface Other {
  /** Time since its last sign of life. */
  silentMs: number;
  progress: Progress;
}

/** Milliseconds by which the worker of another rank may start later, on a busy machine. */
const START_MS = 10_000;

/**
 * Milliseconds by which each rank waits longer for rank 0 than the rank below it, and at most: the first that ends takes
 * the others of its host along, and one sentence is enough.
 */
const STAGGER_MS = 100, MOST_STAGGER_MS = 5000;

/** What a rank knows of those that it watches: rank 0 watches all others, and the others watch rank 0. */
export class Heartbeat {
  readonly #rank: number;
  readonly #timeoutMs: number;
  readonly #others: ReadonlyMap<number, Other>;
  /** MPI calls of this rank. */
  #calls = 0;
  /** Time in which no rank has made progress, while there is a limit. */
  #idleMs = 0;

  constructor({ rank, size, timeoutMs }: Pick<HeartbeatOptions, "rank" | "size" | "timeoutMs">) {
    const watched = rank === 0 ? Array.from({ length: size - 1 }, (_, i) => i + 1) : [0];
    this.#rank = rank;
    this.#timeoutMs = timeoutMs;
    this.#others = new Map(
      watched.map((other) => [other, { silentMs: -START_MS, progress: { calls: 0, waiting: 0 } }]),
    );
  }

  /** Notes a sign of life of a rank, and its progress. */
  received(rank: number, progress: Progress): void {
    const other = this.#others.get(rank)!;
    if (other.progress.calls !== progress.calls) this.#idleMs = 0;
    other.progress = progress;
    other.silentMs = 0;
  }

  /**
   * Notes that time has passed.
   *
   * @param elapsedMs since the last call, without any time in which this process itself was stopped.
   * @param own the values of `SHARED` of this rank.
   * @returns why the ranks must end, if they must.
   */
  pass(elapsedMs: number, own: Progress & { readonly limitMs: number }): Failure | undefined {
    const isIdle = own.limitMs > 0 && own.calls === this.#calls;
    this.#idleMs = isIdle ? this.#idleMs + elapsedMs : 0;
    this.#calls = own.calls;
    for (const other of this.#others.values()) other.silentMs += elapsedMs;
    const most = this.#timeoutMs + Math.min(this.#rank * STAGGER_MS, MOST_STAGGER_MS);
    const silent = this.#named(({ silentMs }) => silentMs > most);
    if (silent.length > 0) {
      const limit = seconds(this.#timeoutMs);
      return {
        sentence: `Cannot continue as every rank must answer within ${limit} (--timeout): ` +
          `${namesOf(silent)} silent`,
        isSilent: true,
      };
    }
    if (this.#rank > 0 || !isIdle || this.#idleMs <= own.limitMs) return undefined;
    const working = this.#named(({ progress }) => progress.waiting === 0);
    if (own.waiting === 0) working.unshift(this.#rank);
    const limit = seconds(own.limitMs), part = working.length === 1 ? "its own" : "their own";
    return {
      sentence: `Cannot continue as a step must make progress within ${limit} (--timeout): ` +
        (working.length > 0
          ? `${namesOf(working)} not done with ${part} part`
          : "all ranks wait for each other"),
      isSilent: false,
    };
  }

  #named(wanted: (other: Other) => boolean): number[] {
    return [...this.#others].flatMap(([rank, other]) => wanted(other) ? [rank] : []);
  }
}

function seconds(ms: number): string {
  return `${Math.round(ms / 1000)} s`;
}

/** Most ranks that a sentence names. */
const MOST_NAMES = 8;

/** The subject of a sentence, with its verb. */
function namesOf(ranks: readonly number[]): string {
  if (ranks.length === 1) return `rank ${ranks[0]} is`;
  const more = ranks.length > MOST_NAMES ? ` and ${ranks.length - MOST_NAMES} more` : "";
  return `ranks ${ranks.slice(0, MOST_NAMES).join(", ")}${more} are`;
}
