import { Buffer } from "node:buffer";
import { CommonError, UserError } from "../files/user_error.ts";
import { startHeartbeat } from "./heartbeat_thread.ts";
import { type Mpi, openMpiLibrary } from "./libmpi.ts";
import { checkCode, integers, MpiCalls, textOf } from "./mpi_calls.ts";
import { openSums } from "./mpi_sums.ts";
import { type DistributedChoice, type Placement, placementOf } from "./placement.ts";
import { oneRank, type Transport } from "./transport.ts";

/**
 * Open MPI as a transport, through Deno's foreign function interface. It needs no more than the library that `mpirun`
 * brings.
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

/**
 * MPI_THREAD_MULTIPLE: any thread may call at any time. Deno runs calls on the threads of a pool, and the heartbeat has its
 * own. Sums of 4 to 30 M floats took as long as with MPI_THREAD_SERIALIZED (Open MPI 4.1.4, November 2026).
 */
const THREAD_MULTIPLE = 3;

/** Bytes of one broadcast, at most, as MPI counts in 32 bits. */
const BROADCAST_BYTES = 2 ** 30;

/** Loads Open MPI, and waits until all ranks have done so. */
function openMpi(placement: Placement, timeout: number): Transport {
  const { rank, size, localRank } = placement;
  const symbols = openMpiLibrary();
  join(symbols, placement);
  const host = textOf(symbols.MPI_Get_processor_name);
  const heartbeat = startHeartbeat(symbols, placement, timeout);
  const calls = new MpiCalls(symbols, placement, heartbeat);
  const sums = openSums(calls);
  const meet = () => calls.call("MPI_Barrier", symbols.ompi_mpi_comm_world);
  return {
    rank,
    size,
    localRank,
    host,
    sum: sums.sum,
    gather: (bytes) =>
      calls.inTurn(async () => {
        const lengths = Int32Array.from(await calls.lengths(bytes.length));
        const all = new Uint8Array(lengths.reduce((sum, length) => sum + length));
        await calls.allgather(bytes, all, lengths);
        return partsOf(all, lengths);
      }),
    alltoall: (parts) =>
      calls.inTurn(async () => {
        const lengths = integers(size), own = parts[rank]!.length;
        lengths.set(parts.map(({ length }) => length));
        const received = new Uint8Array(size * own);
        await calls.alltoall(Buffer.concat(parts), received, lengths);
        return partsOf(received, lengths.fill(own));
      }),
    broadcast: (bytes = new Uint8Array()) =>
      calls.inTurn(async () => {
        const length = Float64Array.of(bytes.length);
        await calls.broadcast(new Uint8Array(length.buffer));
        const all = new Uint8Array(length[0]!);
        if (rank === 0) all.set(bytes);
        for (let start = 0; start < all.length; start += BROADCAST_BYTES) {
          await calls.broadcast(all.subarray(start, start + BROADCAST_BYTES));
        }
        return all;
      }),
    barrier: () => calls.inTurn(meet),
    watch: heartbeat.watch,
    leave: heartbeat.leave,
    close: () =>
      calls.inTurn(async () => {
        await meet();
        await heartbeat.stop();
        sums.free();
        checkCode(symbols, "MPI_Finalize", symbols.MPI_Finalize());
      }),
  };
}

/** Copies of the parts of an array, of these lengths. */
function partsOf(all: Uint8Array<ArrayBuffer>, lengths: Int32Array): Uint8Array<ArrayBuffer>[] {
  let end = 0;
  return Array.from(lengths, (length) => all.slice(end, end += length));
}

/** Joins the ranks that the launcher started. */
function join(symbols: Mpi, { rank, size }: Placement): void {
  const { ompi_mpi_comm_world: world } = symbols;
  const provided = integers(1);
  checkCode(
    symbols,
    "MPI_Init_thread",
    symbols.MPI_Init_thread(null, null, THREAD_MULTIPLE, provided),
  );
  checkCode(
    symbols,
    "MPI_Comm_set_errhandler",
    symbols.MPI_Comm_set_errhandler(world, symbols.ompi_mpi_errors_return),
  );
  const found = integers(2);
  checkCode(symbols, "MPI_Comm_rank", symbols.MPI_Comm_rank(world, found.subarray(0, 1)));
  checkCode(symbols, "MPI_Comm_size", symbols.MPI_Comm_size(world, found.subarray(1, 2)));
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
}
