import { printable } from "../files/printable.ts";
import { CommonError, UserError } from "../files/user_error.ts";
import { startHeartbeat } from "./heartbeat_thread.ts";
import { type Mpi, openMpiLibrary } from "./libmpi.ts";
import { type DistributedChoice, type Placement, placementOf } from "./placement.ts";
import { openSharedMemory, type SharedMemory } from "./shared_memory.ts";
import { oneRank, sliceOf, SUM_FLOATS, type Transport } from "./transport.ts";

/**
 * Open MPI as a transport, through Deno's foreign function interface. It needs no more than the library that `mpirun`
 * brings.
 *
 * MPI moves bytes, shares memory, and adds two arrays of one process, never those of several: its reductions across ranks
 * choose their order by version, size and placement.
 *
 * @module
 */

/**
 * The transport between this process and the others that its launcher started; `oneRank` if it runs alone, or with
 * `off`.
 *
 * @throws {UserError} if Open MPI or the permission to load it is missing.
 */
export function openTransport(
  choice: DistributedChoice,
  { timeout = DEFAULT_TIMEOUT }: TransportOptions = {},
): Transport {
  const placement = choice === "off" ? undefined : placementOf();
  if (!placement || placement.size === 1) return oneRank;
  try {
    return openMpi(placement, timeout);
  } catch (error) {
    if (placement.localRank === 0 || !(error instanceof UserError)) throw error;
    throw new CommonError(error.sentence, error); // the first rank of a host says what it lacks
  }
}

/** Options of a transport. */
export interface TransportOptions {
  /** Seconds in which every rank must answer, 60 by default; 0 for no limit. */
  readonly timeout?: number;
}

/** Seconds for `TransportOptions.timeout`. */
export const DEFAULT_TIMEOUT = 60;

/** The calls that wait for other ranks, or compute: they leave the event loop alive. */
type Nonblocking =
  | "MPI_Alltoallv"
  | "MPI_Allgatherv"
  | "MPI_Reduce_local"
  | "addInMemory"
  | "MPI_Bcast"
  | "MPI_Barrier"
  | "MPI_Win_fence";

/**
 * MPI_THREAD_MULTIPLE: any thread may call at any time. Deno runs calls on the threads of a pool, and the heartbeat has its
 * own. Sums of 4 to 30 M floats took as long as with MPI_THREAD_SERIALIZED (Open MPI 4.1.4, November 2026).
 */
const THREAD_MULTIPLE = 3;

/** MPI_MAX_ERROR_STRING and MPI_MAX_PROCESSOR_NAME: bytes of a text. */
const MOST_TEXT = 256;

/** Bytes of one broadcast, at most, as MPI counts in 32 bits. */
const BROADCAST_BYTES = 2 ** 30;

/** Loads Open MPI, and waits until all ranks have done so. */
function openMpi(placement: Placement, timeout: number): Transport {
  const { rank, size, localRank } = placement;
  const symbols = openMpiLibrary();
  const { ompi_mpi_comm_world: world, ompi_mpi_float: float, ompi_mpi_byte: byte } = symbols;
  const provided = integers(1);
  checkCode("MPI_Init_thread", symbols.MPI_Init_thread(null, null, THREAD_MULTIPLE, provided));
  checkCode(
    "MPI_Comm_set_errhandler",
    symbols.MPI_Comm_set_errhandler(world, symbols.ompi_mpi_errors_return),
  );
  const found = integers(2);
  checkCode("MPI_Comm_rank", symbols.MPI_Comm_rank(world, found.subarray(0, 1)));
  checkCode("MPI_Comm_size", symbols.MPI_Comm_size(world, found.subarray(1, 2)));
  if (found[0] !== rank || found[1] !== size) { // as under srun without PMIx, where each process is alone
    throw new UserError(
      `Cannot join the other ranks as MPI must number them as the launcher does, ${rank} of ${size}: ` +
        `current number is ${found[0]} of ${found[1]}`,
      { hint: "Start them with mpirun, or under Slurm with srun --mpi=pmix" },
    );
  }
  if (provided[0]! < THREAD_MULTIPLE) {
    throw new UserError(
      "Cannot use this Open MPI as it must allow calls from several threads at once, MPI_THREAD_MULTIPLE: " +
        `current level is ${provided[0]}`,
    );
  }

  const host = textOf(symbols.MPI_Get_processor_name);
  const heartbeat = startHeartbeat(symbols, placement, timeout);
  const inFlight = new Set<readonly unknown[]>(); // what the library reads or writes now
  let last: Promise<unknown> = Promise.resolve(); // of the calls that were made
  /** Makes calls after all earlier ones. */
  const inTurn = <T>(calls: () => Promise<T>): Promise<T> => {
    const result = last.then(calls);
    last = result.catch(() => {});
    return result;
  };

  /** The numbers that ranks give, which are lengths of what they exchange next. */
  const gathered = async (length: number) => {
    const own = new Float64Array(new ArrayBuffer(8)).fill(length);
    const all = new Float64Array(new ArrayBuffer(8 * size)), eights = integers(size).fill(8);
    await checked("MPI_Allgatherv", own, 8, byte, all, eights, startsOf(eights), byte, world);
    return all;
  };

  /** Throws on every rank unless all give the same length. */
  const checkLength = async (own: number) => {
    for (const [other, length] of (await gathered(own)).entries()) {
      if (length === own) continue;
      throw new RangeError(
        `Cannot sum as all ranks must give as many numbers, ${own}: ` +
          `current number of rank ${other} is ${length}`,
      );
    }
  };
  const memory = openSharedMemory(symbols, size, 4 * SUM_FLOATS);
  let pieces = 0; // that were added up in the memory
  /** By turn: when all ranks have met, after they have written it, and when this rank has read the sums. */
  const met: Promise<unknown>[] = [], read: Promise<unknown>[] = [];
  /**
   * Adds up arrays of at most `SUM_FLOATS` in the memory: each rank writes its own, adds up a slice of all in the place of
   * that of rank 0, and reads all sums. It writes while the piece before is added up, and reads while the next one is.
   */
  const addUpInMemory = (
    { turns, window, ...memory }: SharedMemory,
    values: Float32Array<ArrayBuffer>,
    length: number,
  ): Promise<void> => {
    const turn = pieces++ % turns.length, slots = turns[turn]!, [first] = slots as [bigint];
    const metBefore = met.at(turn - 1), readBefore = read[(turn + 1) % turns.length];
    const meeting = Promise.withResolvers<void>();
    met[turn] = meeting.promise;
    const writing = Promise.resolve(metBefore).then(() => memory.write(slots[rank]!, values));
    const adding = inTurn(async () => {
      await Promise.all([writing, readBefore]); // after the meeting all ranks may write where it was read
      await checkLength(length).finally(meeting.resolve);
      await checked("MPI_Win_fence", 0, window);
      const [start, end] = sliceOf(rank, { size, length: values.length }),
        offset = BigInt(4 * start);
      for (const slot of slots.slice(1)) {
        const [other, sum] = [slot + offset, first + offset];
        await checked("addInMemory", other, sum, end - start, float, symbols.ompi_mpi_op_sum);
      }
      await checked("MPI_Win_fence", 0, window);
    });
    const reading = adding.then(() => memory.read(values, first));
    read[turn] = reading.catch(() => {});
    return reading;
  };

  const received = new Float32Array(memory ? 0 : size * Math.ceil(SUM_FLOATS / size));
  /** The same by messages: each rank gets a slice of every array, adds it up, and hands it to the others. */
  const addUpByMessages = async (values: Float32Array<ArrayBuffer>) => {
    const slices = Array.from(
      { length: size },
      (_, r) => sliceOf(r, { size, length: values.length }),
    );
    const lengths = integers(size), starts = integers(size);
    lengths.set(slices.map(([start, end]) => end - start));
    starts.set(slices.map(([start]) => start));
    const own = lengths[rank]!, owns = integers(size).fill(own), ownStarts = startsOf(owns);
    await checked(
      "MPI_Alltoallv",
      ...[values, lengths, starts, float] as const,
      ...[received, owns, ownStarts, float] as const,
      world,
    );
    for (let r = 1; r < size; r++) { // adding two numbers has one result, in whichever order
      const other = received.subarray(r * own, (r + 1) * own);
      await checked("MPI_Reduce_local", other, received, own, float, symbols.ompi_mpi_op_sum);
    }
    await checked("MPI_Allgatherv", received, own, float, values, lengths, starts, float, world);
  };

  return {
    rank,
    size,
    localRank,
    host,
    async sum(values) {
      const all = outside(values), { length } = values, parts: typeof values[] = [];
      for (let start = 0; start < length || start === 0; start += SUM_FLOATS) {
        parts.push(all.subarray(start, start + SUM_FLOATS));
      }
      if (memory) {
        await Promise.all(parts.map((part) => addUpInMemory(memory, part, length)));
        return;
      }
      await inTurn(async () => {
        await checkLength(length);
        for (const part of parts) await addUpByMessages(part);
      });
    },
    gather: (bytes) =>
      inTurn(async () => {
        const lengths = Int32Array.from(await gathered(bytes.length)), starts = startsOf(lengths);
        const all = new Uint8Array(new ArrayBuffer(starts.at(-1)! + lengths.at(-1)!));
        await checked(
          "MPI_Allgatherv",
          ...[outside(bytes), bytes.length, byte] as const,
          ...[all, outside(lengths), starts, byte] as const,
          world,
        );
        return Array.from(lengths, (length, r) => all.slice(starts[r], starts[r]! + length));
      }),
    alltoall: (parts) =>
      inTurn(async () => {
        const lengths = integers(size);
        lengths.set(parts.map(({ length }) => length));
        const starts = startsOf(lengths);
        const own = lengths[rank]!, owns = integers(size).fill(own), ownStarts = startsOf(owns);
        const sent = new Uint8Array(new ArrayBuffer(starts.at(-1)! + lengths.at(-1)!));
        for (const [r, part] of parts.entries()) sent.set(part, starts[r]);
        const received = new Uint8Array(new ArrayBuffer(size * own));
        await checked(
          "MPI_Alltoallv",
          ...[sent, lengths, starts, byte] as const,
          ...[received, owns, ownStarts, byte] as const,
          world,
        );
        return parts.map((_, r) => received.slice(r * own, (r + 1) * own));
      }),
    broadcast: (bytes = new Uint8Array()) =>
      inTurn(async () => {
        const length = new Float64Array(new ArrayBuffer(8)).fill(bytes.length);
        await checked("MPI_Bcast", length, 8, byte, 0, world);
        const all = new Uint8Array(new ArrayBuffer(length[0]!));
        if (rank === 0) all.set(bytes);
        for (let start = 0; start < all.length; start += BROADCAST_BYTES) {
          const part = all.subarray(start, start + BROADCAST_BYTES);
          await checked("MPI_Bcast", part, part.length, byte, 0, world);
        }
        return all;
      }),
    barrier: () => inTurn(() => checked("MPI_Barrier", world)),
    watch: heartbeat.watch,
    leave: heartbeat.leave,
    close: () =>
      inTurn(async () => {
        await checked("MPI_Barrier", world);
        await heartbeat.stop();
        memory?.free();
        checkCode("MPI_Finalize", symbols.MPI_Finalize());
      }),
  };

  /** Makes a call on another thread, until whose end none of its buffers may be collected. */
  async function checked<Name extends Nonblocking>(
    name: Name,
    ...values: Parameters<Mpi[Name]>
  ): Promise<void> {
    inFlight.add(values);
    const call = symbols[name] as (...values: unknown[]) => Promise<number>;
    heartbeat.note(1);
    const code = await call(...values);
    heartbeat.note(-1);
    inFlight.delete(values);
    checkCode(name, code);
  }

  function checkCode(name: string, code: number): void {
    if (code === 0) return; // MPI_SUCCESS
    const reason = textOf((...text) => symbols.MPI_Error_string(code, ...text));
    throw new UserError(`Cannot exchange data with the other ranks as ${name} failed: ${reason}`);
  }
}

/** The text that a call of MPI writes, and its length. */
function textOf(
  write: (text: Uint8Array<ArrayBuffer>, length: Int32Array<ArrayBuffer>) => void,
): string {
  const text = new Uint8Array(new ArrayBuffer(MOST_TEXT)), length = integers(1);
  write(text, length);
  return printable(new TextDecoder().decode(text.subarray(0, length[0])));
}

/** Where parts of these lengths begin if they follow each other. */
function startsOf(lengths: Int32Array): Int32Array<ArrayBuffer> {
  const starts = integers(lengths.length);
  for (let r = 1; r < lengths.length; r++) starts[r] = starts[r - 1]! + lengths[r - 1]!;
  return starts;
}

/**
 * The same array with its elements outside V8's heap, where those of up to 64 bytes begin, and where they may move while a
 * call on another thread reads or writes them. A view of an array needs its buffer, which moves them out.
 */
function outside<
  T extends Float32Array<ArrayBuffer> | Uint8Array<ArrayBuffer> | Int32Array<ArrayBuffer>,
>(array: T): T {
  return array.subarray(0) as T;
}

/** Zeros outside V8's heap. */
function integers(length: number): Int32Array<ArrayBuffer> {
  return new Int32Array(new ArrayBuffer(4 * length));
}
