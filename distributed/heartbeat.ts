import type { Mpi } from "./libmpi.ts";

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

/** A message between heartbeats: the number of calls or `FAILED`, and those in which the rank waits. */
export type Message = Int32Array<ArrayBuffer>;

/** Bytes of a `Message`. */
export const MESSAGE_BYTES = 8;

/** A message outside V8's heap, where it stays while MPI reads or writes it. */
export function createMessage(): Message {
  return new Int32Array(new ArrayBuffer(MESSAGE_BYTES));
}

/** What a rank sends in place of its number of calls once it, or another one, has failed: all must end. */
export const FAILED = -1;

/** The tag of these messages, which nothing else uses. */
export const TAG = 1;

/** Milliseconds in which `mpirun` forwards what a rank has printed. */
export const FORWARD_MS = 300;

/** The ranks with which a rank exchanges messages: rank 0 with all others, and these with rank 0. */
export function partnersOf({ rank, size }: { rank: number; size: number }): number[] {
  return rank > 0 ? [0] : Array.from({ length: size - 1 }, (_, i) => i + 1);
}

/** Sends a message, which must stay as it is until it is delivered, and does not wait: the link may be down. */
export function sendMessage(mpi: Mpi, message: Message, to: number): void {
  const request = new Uint8Array(new ArrayBuffer(8));
  mpi.MPI_Isend(
    message,
    MESSAGE_BYTES,
    mpi.ompi_mpi_byte,
    to,
    TAG,
    mpi.ompi_mpi_comm_world,
    request,
  );
  mpi.MPI_Request_free(request);
}

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
  /**
   * `ending`: the launcher ends the ranks already. `reachable`: it can be asked to end them. `unreachable`: it may not reach
   * all, as one does not answer, and the link to its host may be down.
   */
  readonly launcherState: "ending" | "reachable" | "unreachable";
}

/** The values of `SHARED` that a rank sends to others. */
export interface Progress {
  readonly calls: number;
  readonly waiting: number;
}

/**
 * Reads the progress that a rank sends. The number of calls stays positive, as it must not become `FAILED`: a training of
 * many ranks makes 2³¹ calls in days, after which the integer is negative.
 */
export function progressOf(shared: Int32Array<SharedArrayBuffer>): Progress {
  return {
    calls: Atomics.load(shared, SHARED.calls) & 0x7fff_ffff,
    waiting: Atomics.load(shared, SHARED.waiting),
  };
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

/**
 * Milliseconds in which a rank must answer after a launcher's SIGCONT, and for how long that holds. `mpirun` and `srun`
 * send it before they end ranks, whether they were asked to, or one has died.
 */
const ENDING_TIMEOUT_MS = 5000, ENDING_MS = 15_000;

/** What a rank knows of those that it watches: rank 0 watches all others, and the others watch rank 0. */
export class Heartbeat {
  readonly #rank: number;
  readonly #timeoutMs: number;
  readonly #others: ReadonlyMap<number, Other>;
  /** MPI calls of this rank. */
  #calls = 0;
  /** Time in which no rank has made progress, while there is a limit. */
  #idleMs = 0;
  /** Time for which the launcher may be ending the ranks. */
  #endingMs = 0;

  constructor({ rank, size, timeoutMs }: Pick<HeartbeatOptions, "rank" | "size" | "timeoutMs">) {
    this.#rank = rank;
    this.#timeoutMs = timeoutMs;
    this.#others = new Map(
      partnersOf({ rank, size }).map((
        other,
      ) => [other, { silentMs: -START_MS, progress: { calls: 0, waiting: 0 } }]),
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
   * Notes a launcher's SIGCONT: it may be ending the ranks, so that those that are silent from now on have died, or this
   * rank was stopped, and what the others have sent meanwhile is still to come.
   */
  expectEnd(): void {
    this.#endingMs = ENDING_MS;
    for (const other of this.#others.values()) other.silentMs = 0;
  }

  /** Whether the launcher may be ending the ranks. */
  get expectsEnd(): boolean {
    return this.#endingMs > 0;
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
    const isEnding = this.expectsEnd && this.#timeoutMs > ENDING_TIMEOUT_MS;
    this.#endingMs -= elapsedMs;
    const timeoutMs = isEnding ? ENDING_TIMEOUT_MS : this.#timeoutMs;
    const most = timeoutMs + Math.min(this.#rank * STAGGER_MS, MOST_STAGGER_MS);
    const silent = this.#named(({ silentMs }) => silentMs > most);
    if (silent.length > 0) {
      const limit = `${seconds(timeoutMs)} ${
        isEnding ? "when the ranks are ended" : "(--timeout)"
      }`;
      return {
        sentence: `Cannot continue as every rank must answer within ${limit}: ` +
          `${namesOf(silent)} silent`,
        launcherState: isEnding ? "ending" : "unreachable",
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
      launcherState: "reachable",
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
