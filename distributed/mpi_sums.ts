import { integers, type MpiCalls } from "./mpi_calls.ts";
import { openSharedMemory, type SharedMemory } from "./shared_memory.ts";
import { piecesOf, sliceOf, SUM_FLOATS } from "./transport.ts";

/**
 * Sums over ranks, in memory that they share if one host has them all, and otherwise by messages. Each rank adds up a
 * slice of all arrays, in the order of ranks.
 *
 * MPI moves bytes, shares memory, and adds two arrays of one process, never those of several: its reductions across ranks
 * choose their order by version, size and placement.
 *
 * @module
 */

type Floats = Float32Array<ArrayBuffer>;

/** `Transport.sum()`, and what frees its memory when every rank has called this. */
export interface Sums {
  sum(values: Floats): Promise<void>;
  free(): void;
}

/** Opens sums, when every rank has called this. */
export function openSums(calls: MpiCalls): Sums {
  const memory = openSharedMemory(calls.symbols, calls.placement.size, 4 * SUM_FLOATS);
  if (!memory) return { sum: sumByMessages(calls), free() {} };
  return { sum: sumInMemory(calls, memory), free: memory.free };
}

/** Throws on every rank unless all give as many numbers. */
async function checkLength(calls: MpiCalls, own: number): Promise<void> {
  const lengths = await calls.lengths(own);
  const other = lengths.findIndex((length) => length !== own);
  if (other < 0) return;
  throw new RangeError(
    `Cannot sum as all ranks must give as many numbers, ${own}: ` +
      `current number of rank ${other} is ${lengths[other]}`,
  );
}

/**
 * Sums in the memory: each rank writes its own piece, adds up a slice of all in the place of that of rank 0, and reads all
 * sums. It writes while the piece before is added up, and reads while the next one is.
 */
function sumInMemory(
  calls: MpiCalls,
  { turns, window, ...memory }: SharedMemory,
): Sums["sum"] {
  const { symbols, placement: { rank, size } } = calls;
  const { ompi_mpi_float: float, ompi_mpi_op_sum: plus } = symbols;
  let pieces = 0; // so far
  /** By turn: when all ranks have met, after they have written it, and when this rank has read the sums. */
  const met: Promise<unknown>[] = [], read: Promise<unknown>[] = [];
  const addUp = (values: Floats, length: number): Promise<void> => {
    const turn = pieces++ % turns.length, slots = turns[turn]!, [first] = slots as [bigint];
    const metBefore = met.at(turn - 1), readBefore = read[(turn + 1) % turns.length];
    const meeting = Promise.withResolvers<void>();
    met[turn] = meeting.promise;
    const writing = Promise.resolve(metBefore).then(() => memory.write(slots[rank]!, values));
    const adding = calls.inTurn(async () => {
      await Promise.all([writing, readBefore]); // after the meeting all ranks may write where it was read
      await checkLength(calls, length).finally(meeting.resolve);
      await calls.call("MPI_Win_fence", 0, window);
      const [start, end] = sliceOf(rank, { size, length: values.length });
      const offset = BigInt(4 * start);
      for (const slot of slots.slice(1)) {
        await calls.call("addInMemory", slot + offset, first + offset, end - start, float, plus);
      }
      await calls.call("MPI_Win_fence", 0, window);
    });
    const reading = adding.then(() => memory.read(values, first));
    read[turn] = reading.catch(() => {});
    return reading;
  };
  return async (values) => {
    await Promise.all(piecesOf(values).map((piece) => addUp(piece, values.length)));
  };
}

/** Sums by messages: each rank gets a slice of every piece, adds it up, and hands it to the others. */
function sumByMessages(calls: MpiCalls): Sums["sum"] {
  const { symbols, placement: { rank, size } } = calls;
  const { ompi_mpi_float: float, ompi_mpi_op_sum: plus } = symbols;
  const received = new Float32Array(size * Math.ceil(SUM_FLOATS / size));
  const addUp = async (values: Floats) => {
    const lengths = integers(size);
    for (let r = 0; r < size; r++) {
      const [start, end] = sliceOf(r, { size, length: values.length });
      lengths[r] = end - start;
    }
    await calls.alltoall(values, received, lengths);
    const own = lengths[rank]!, sum = received.subarray(0, own);
    for (let r = 1; r < size; r++) { // adding two numbers has one result, in whichever order
      const other = received.subarray(r * own, (r + 1) * own);
      await calls.call("MPI_Reduce_local", other, sum, own, float, plus);
    }
    await calls.allgather(sum, values, lengths);
  };
  return (values) =>
    calls.inTurn(async () => {
      await checkLength(calls, values.length);
      for (const piece of piecesOf(values)) await addUp(piece);
    });
}
