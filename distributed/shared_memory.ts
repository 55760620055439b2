import { type Mpi, openSystemLibrary } from "./libmpi.ts";

/**
 * Memory that all ranks share if one host has them all: a rank reads what another one has written, without a message.
 *
 * It is reached by addresses, which are plain integers: Deno makes pointers or views of foreign memory only with a
 * permission for all libraries.
 *
 * @module
 */

/** A window of MPI on shared memory. */
export interface SharedMemory {
  /** By turn, addresses of a slot for each rank: one turn is written while another is added up and a third is read. */
  readonly turns: readonly (readonly bigint[])[];
  /** The window, for `MPI_Win_fence`, after which all ranks see what each has written before. */
  readonly window: bigint;
  /** Copies an array to an address, on another thread. */
  write(to: bigint, from: Float32Array<ArrayBuffer>): Promise<void>;
  /** Fills an array from an address, on another thread. */
  read(to: Float32Array<ArrayBuffer>, from: bigint): Promise<void>;
  /** Frees it, when every rank has called this. */
  free(): void;
}

/** Turns of the memory. */
const TURNS = 3;

/** Where Open MPI has it on Linux, and bytes per rank that its messages take there beside it. */
const DIRECTORY = "/dev/shm", MESSAGE_BYTES = 8 * 2 ** 20;

/**
 * Allocates shared memory, when every rank has called this.
 *
 * @param slotBytes that one rank writes and all ranks read.
 * @returns undefined if the ranks are on several hosts, or the host has too little memory of this kind, as a container
 * may have.
 */
export function openSharedMemory(
  symbols: Mpi,
  size: number,
  slotBytes: number,
): SharedMemory | undefined {
  const { ompi_mpi_comm_world: world, ompi_mpi_float: float, ompi_mpi_info_null: noHints } =
    symbols;
  /** Whether something holds for every rank. */
  const holdsForAll = (holds: boolean) => {
    const own = new Float32Array(new ArrayBuffer(4)).fill(Number(holds));
    const sum = new Float32Array(new ArrayBuffer(4));
    symbols.MPI_Allreduce(own, sum, 1, float, symbols.ompi_mpi_op_sum, world);
    return sum[0] === size;
  };
  // Open MPI 4.1 does not return if there is too little
  if (!holdsForAll(freeBytes() >= size * (TURNS * slotBytes + MESSAGE_BYTES))) return undefined;
  const window = integer(), start = integer(), bytes = BigInt(TURNS * slotBytes);
  const code = symbols.MPI_Win_allocate_shared(bytes, 1, noHints, world, start, window);
  if (!holdsForAll(code === 0)) return undefined;
  symbols.MPI_Win_set_errhandler(window[0]!, symbols.ompi_mpi_errors_return);
  const starts = Array.from({ length: size }, (_, rank) => {
    symbols.MPI_Win_shared_query(window[0]!, rank, integer(), integer(), start);
    return start[0]!;
  });
  const turns = Array.from(
    { length: TURNS },
    (_, turn) => starts.map((start) => start + BigInt(turn * slotBytes)),
  );
  const system = openSystemLibrary({
    write: {
      name: "memcpy",
      parameters: ["usize", "buffer", "usize"],
      result: "void",
      nonblocking: true,
    },
    read: {
      name: "memcpy",
      parameters: ["buffer", "usize", "usize"],
      result: "void",
      nonblocking: true,
    },
  });
  const inFlight = new Set<unknown>(); // arrays that are copied now, and may not be collected
  const copy = async (array: unknown, copied: Promise<void>) => {
    inFlight.add(array);
    await copied;
    inFlight.delete(array);
  };
  const { write, read } = system.symbols;
  return {
    turns,
    window: window[0]!,
    write: (to, from) => copy(from, write(to, from, BigInt(from.byteLength))),
    read: (to, from) => copy(to, read(to, from, BigInt(to.byteLength))),
    free() {
      symbols.MPI_Win_free(window);
      system.close();
    },
  };
}

/**
 * Free bytes for memory of this kind; infinite on other systems than Linux. It asks the system's library, as Deno lets
 * programs see this directory only with all permissions.
 */
function freeBytes(): number {
  if (Deno.build.os !== "linux") return Infinity;
  const system = openSystemLibrary({
    statvfs: { parameters: ["buffer", "buffer"], result: "i32" },
  });
  const status = new BigUint64Array(new ArrayBuffer(256));
  const code = system.symbols.statvfs(new TextEncoder().encode(`${DIRECTORY}\0`), status);
  system.close();
  const [, blockBytes = 0n, , , blocks = 0n] = status; // f_frsize and f_bavail
  return code === 0 ? Number(blockBytes * blocks) : 0;
}

/** Where the library puts an integer, outside V8's heap. */
function integer(): BigUint64Array<ArrayBuffer> {
  return new BigUint64Array(new ArrayBuffer(8));
}
