/**
 * The transport between the ranks of a training: processes, each with a device, that compute one step together.
 *
 * @module
 */

/**
 * Floats that a transport adds up at once, 4 MiB; callers that copy while it adds pass arrays of this length. Two ranks on two
 * cores added up 30 M floats by messages in 45 ms with 2¹⁸ to 2²⁰ at once, which is as fast as MPI_Allreduce, and in 300 to
 * 500 ms with 2²² or more, which leave the caches; the larger, the fewer calls (Open MPI 4.1.4, November 2026).
 */
export const SUM_FLOATS = 2 ** 20;

/** An array in pieces of at most `SUM_FLOATS`, which are added up one after another: one piece if it is empty. */
export function piecesOf(values: Float32Array<ArrayBuffer>): Float32Array<ArrayBuffer>[] {
  return Array.from(
    { length: Math.ceil(values.length / SUM_FLOATS) || 1 },
    (_, i) => values.subarray(i * SUM_FLOATS, (i + 1) * SUM_FLOATS),
  );
}

/** The slice of a piece that a rank adds up. */
export function sliceOf(
  rank: number,
  { size, length }: { size: number; length: number },
): [start: number, end: number] {
  return [Math.floor(length * rank / size), Math.floor(length * (rank + 1) / size)];
}

/**
 * What ranks exchange. All verbs but `watch()` and `leave()` are collective: every rank calls the same ones in the
 * same order. Calls of one rank run one after another.
 */
export interface Transport {
  /** Number of this process among all, from 0. */
  readonly rank: number;
  /** Number of ranks. */
  readonly size: number;
  /** Number of this process among those of its host, from 0. */
  readonly localRank: number;
  /** Name of the host. */
  readonly host: string;
  /**
   * Adds up an array over all ranks, in place: each element becomes ((x₀ + x₁) + x₂) + …, where xᵣ is that of rank r.
   * Its bits depend neither on the transport nor on where the ranks run, and are the same on every rank.
   *
   * @throws {RangeError} if the arrays of the ranks differ in length.
   */
  sum(values: Float32Array<ArrayBuffer>): Promise<void>;
  /** The bytes of every rank, by rank, on every rank. */
  gather(bytes: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>[]>;
  /** Part r goes to rank r: returns what each rank sends to this one. All parts for a rank have the same length. */
  alltoall(parts: readonly Uint8Array<ArrayBuffer>[]): Promise<Uint8Array<ArrayBuffer>[]>;
  /** The bytes of rank 0; what other ranks give is ignored. */
  broadcast(bytes?: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>>;
  /** Resolves when every rank has called it. */
  barrier(): Promise<void>;
  /**
   * Runs work in which the ranks must make progress. On rank 0 all ranks are ended, with a sentence that names the one for
   * which the others wait, if none begins or completes a call for `limitMs`.
   *
   * @returns what the work returns.
   */
  watch<T>(limitMs: number, work: () => Promise<T>): Promise<T>;
  /**
   * Says that this rank has failed, and ends all others. If this process still lives three seconds later, it is ended, too,
   * with the reason.
   */
  leave(reason: string): void;
  /** Leaves the others; resolves when every rank has called it. */
  close(): Promise<void>;
}

/** The transport of a training on one rank, which exchanges nothing. */
export const oneRank: Transport = {
  rank: 0,
  size: 1,
  localRank: 0,
  host: "localhost",
  sum: () => Promise.resolve(),
  gather: (bytes) => Promise.resolve([bytes.slice()]),
  alltoall: (parts) => Promise.resolve(parts.map((part) => part.slice())),
  broadcast: (bytes = new Uint8Array()) => Promise.resolve(bytes.slice()),
  barrier: () => Promise.resolve(),
  watch: (_limitMs, work) => work(),
  leave() {},
  close: () => Promise.resolve(),
};

/** A transport to ranks that do nothing, for a dry run of one of them. */
export function dryTransport(size: number): Transport {
  return { ...oneRank, size };
}
