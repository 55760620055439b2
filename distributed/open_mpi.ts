import { environmentVariable } from "../files/environment.ts";
import { printable, quoted } from "../files/printable.ts";
import { UserError } from "../files/user_error.ts";
import { oneRank, type Transport } from "./transport.ts";

/**
 * Open MPI as a transport, through Deno's foreign function interface. It needs no more than the library that `mpirun`
 * brings: versions 4 and 5 have the same file name, the same symbols, and the same values of the few constants that are
 * used here.
 *
 * MPI moves bytes and never adds across ranks: its reductions choose their order by version, size and placement.
 *
 * @module
 */

/** Whether the processes that a launcher started train together, or each for itself. */
export type DistributedChoice = "auto" | "off";

/** All choices. */
export const DISTRIBUTED_CHOICES = ["auto", "off"] as const satisfies readonly DistributedChoice[];

/** Where a launcher has put this process. */
export interface Placement {
  /** Number of this process among all, from 0. */
  readonly rank: number;
  /** Number of processes. */
  readonly size: number;
  /** Number of this process among those of its host, from 0. */
  readonly localRank: number;
}

/**
 * The variables in which launchers tell a process its place. The batch script of Slurm itself has SLURM_PROCID and
 * SLURM_NTASKS, but only what srun starts has SLURM_STEP_NUM_TASKS.
 */
const LAUNCHERS = [
  {
    rank: "OMPI_COMM_WORLD_RANK",
    size: "OMPI_COMM_WORLD_SIZE",
    localRank: "OMPI_COMM_WORLD_LOCAL_RANK",
  },
  { rank: "SLURM_PROCID", size: "SLURM_STEP_NUM_TASKS", localRank: "SLURM_LOCALID" },
] as const;

/** Names of the variables that `placementOf()` reads. */
export const LAUNCHER_VARIABLES: readonly string[] = LAUNCHERS.flatMap((names) =>
  Object.values(names)
);

/**
 * The place that `mpirun` or `srun` has given this process; undefined if neither started it.
 *
 * @throws {UserError} if a variable of the launcher is no number that fits the others.
 */
export function placementOf(
  environment: (name: string) => string | undefined = environmentVariable,
): Placement | undefined {
  for (const names of LAUNCHERS) {
    if (environment(names.rank) === undefined || environment(names.size) === undefined) continue;
    const numberOf = (name: string, least: number, below: number) => {
      const text = environment(name) ?? "", value = Number(text);
      if (/^\d{1,9}$/.test(text) && value >= least && value < below) return value;
      throw new UserError(
        `Cannot use the ranks of the launcher as ${name} must be a whole number from ${least} on` +
          `${below < Infinity ? ` below ${names.size}` : ""}: current value is ${quoted(text)}`,
      );
    };
    const size = numberOf(names.size, 1, Infinity);
    return {
      rank: numberOf(names.rank, 0, size),
      size,
      localRank: numberOf(names.localRank, 0, size),
    };
  }
  return undefined;
}

/**
 * The transport between this process and the others that its launcher started; `oneRank` if it runs alone, or with
 * `off`.
 *
 * @throws {UserError} if Open MPI or the permission to load it is missing.
 */
export function openTransport(choice: DistributedChoice): Transport {
  const placement = choice === "off" ? undefined : placementOf();
  return placement && placement.size > 1 ? openMpi(placement) : oneRank;
}

/** File names of Open MPI's library, the likeliest first. Version 5 kept the number of version 4. */
const LIBRARIES: Partial<Record<typeof Deno.build.os, readonly string[]>> = {
  linux: ["libmpi.so.40", "libmpi.so"],
  darwin: [
    "libmpi.40.dylib",
    "/opt/homebrew/lib/libmpi.40.dylib",
    "/usr/local/lib/libmpi.40.dylib",
    "libmpi.dylib",
  ],
};

/** What is used of the library. Handles such as MPI_COMM_WORLD are addresses of its variables. */
const SYMBOLS = {
  MPI_Init_thread: { parameters: ["pointer", "pointer", "i32", "buffer"], result: "i32" },
  MPI_Comm_rank: { parameters: ["pointer", "buffer"], result: "i32" },
  MPI_Comm_size: { parameters: ["pointer", "buffer"], result: "i32" },
  MPI_Comm_set_errhandler: { parameters: ["pointer", "pointer"], result: "i32" },
  MPI_Error_string: { parameters: ["i32", "buffer", "buffer"], result: "i32" },
  MPI_Abort: { parameters: ["pointer", "i32"], result: "i32" },
  MPI_Alltoallv: {
    // what is sent, how much to each rank, from where, its type; the same of what is received
    parameters: [
      ...["buffer", "buffer", "buffer", "pointer"] as const,
      ...["buffer", "buffer", "buffer", "pointer"] as const,
      "pointer",
    ],
    result: "i32",
    nonblocking: true,
  },
  MPI_Allgatherv: {
    parameters: [
      ...["buffer", "i32", "pointer"] as const,
      ...["buffer", "buffer", "buffer", "pointer"] as const,
      "pointer",
    ],
    result: "i32",
    nonblocking: true,
  },
  MPI_Reduce_local: {
    parameters: ["buffer", "buffer", "i32", "pointer", "pointer"],
    result: "i32",
    nonblocking: true,
  },
  MPI_Bcast: {
    parameters: ["buffer", "i32", "pointer", "i32", "pointer"],
    result: "i32",
    nonblocking: true,
  },
  MPI_Barrier: { parameters: ["pointer"], result: "i32", nonblocking: true },
  MPI_Finalize: { parameters: [], result: "i32" }, // on the thread of MPI_Init_thread, as the standard wants
  ompi_mpi_comm_world: { type: "pointer" },
  ompi_mpi_float: { type: "pointer" },
  ompi_mpi_byte: { type: "pointer" },
  ompi_mpi_op_sum: { type: "pointer" },
  ompi_mpi_errors_return: { type: "pointer" },
} as const satisfies Deno.ForeignLibraryInterface;

type Library = Deno.DynamicLibrary<typeof SYMBOLS>;

/** The calls that wait for other ranks, or compute: they leave the event loop alive. */
type Nonblocking =
  | "MPI_Alltoallv"
  | "MPI_Allgatherv"
  | "MPI_Reduce_local"
  | "MPI_Bcast"
  | "MPI_Barrier";

/** MPI_THREAD_SERIALIZED: any thread may call, one at a time. Deno runs calls on the threads of a pool. */
const THREAD_SERIALIZED = 2;

/** MPI_MAX_ERROR_STRING. */
const MAX_ERROR_STRING = 256;

/**
 * Floats that are added up at once, 1 MiB. Two ranks on two cores added up 30 M floats in 45 ms with 2¹⁸ or 2²⁰ at once,
 * which is as fast as MPI_Allreduce, and in 300 to 500 ms with 2²² or more, which leave the caches (November 2026).
 */
const SUM_FLOATS = 2 ** 18;

/** Bytes of one broadcast, at most, as MPI counts in 32 bits. */
const BROADCAST_BYTES = 2 ** 30;

/** Loads Open MPI, and waits until all ranks have done so. */
function openMpi({ rank, size, localRank }: Placement): Transport {
  const { symbols } = openLibrary();
  const { ompi_mpi_comm_world: world, ompi_mpi_float: float, ompi_mpi_byte: byte } = symbols;
  const provided = integers(1);
  checkCode("MPI_Init_thread", symbols.MPI_Init_thread(null, null, THREAD_SERIALIZED, provided));
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
  if (provided[0]! < THREAD_SERIALIZED) {
    throw new UserError(
      "Cannot use this Open MPI as it must allow calls from several threads, MPI_THREAD_SERIALIZED: " +
        `current level is ${provided[0]}`,
    );
  }

  const inFlight = new Set<readonly unknown[]>(); // what the library reads or writes now
  let last: Promise<unknown> = Promise.resolve(); // of the calls that were made
  /** Makes calls after all earlier ones. */
  const inTurn = <T>(calls: () => Promise<T>): Promise<T> => {
    const result = last.then(calls);
    last = result.catch(() => {});
    return result;
  };

  /** `gather()` among the calls of another verb. */
  const gathered = async (bytes: Uint8Array<ArrayBuffer>) => {
    const lengths = integers(size), ones = integers(size).fill(4);
    const own = integers(1).fill(bytes.length);
    await checked("MPI_Allgatherv", own, 4, byte, lengths, ones, startsOf(ones), byte, world);
    const starts = startsOf(lengths);
    const all = new Uint8Array(new ArrayBuffer(starts.at(-1)! + lengths.at(-1)!));
    await checked("MPI_Allgatherv", bytes, bytes.length, byte, all, lengths, starts, byte, world);
    return Array.from(lengths, (length, r) => all.slice(starts[r], starts[r]! + length));
  };

  /** Adds up arrays of at most `SUM_FLOATS`: each rank adds a slice of all arrays, and hands it to the others. */
  const addUp = async (values: Float32Array<ArrayBuffer>, received: Float32Array<ArrayBuffer>) => {
    const ends = Array.from({ length: size }, (_, r) => Math.floor(values.length * (r + 1) / size));
    const lengths = integers(size), starts = integers(size);
    lengths.set(ends.map((end, r) => end - (ends[r - 1] ?? 0)));
    starts.set(startsOf(lengths));
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
    sum: (values) =>
      inTurn(async () => {
        const own = new Float64Array(new ArrayBuffer(8)).fill(values.length);
        const lengths = await gathered(new Uint8Array(own.buffer));
        for (const [other, bytes] of lengths.entries()) {
          const [length] = new Float64Array(bytes.buffer);
          if (length === values.length) continue;
          throw new RangeError(
            `Cannot sum as all ranks must give as many numbers, ${values.length}: ` +
              `current number of rank ${other} is ${length}`,
          );
        }
        const all = outside(values), most = Math.min(values.length, SUM_FLOATS);
        const received = new Float32Array(new ArrayBuffer(4 * size * Math.ceil(most / size)));
        for (let start = 0; start < values.length; start += SUM_FLOATS) {
          await addUp(all.subarray(start, start + SUM_FLOATS), received);
        }
      }),
    gather: (bytes) => inTurn(() => gathered(outside(bytes))),
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
    abort(reason) {
      console.error(`rank ${rank}: ${reason}`);
      symbols.MPI_Abort(world, 1); // it does not return
      Deno.exit(1);
    },
    close: () =>
      inTurn(async () => {
        await checked("MPI_Barrier", world);
        checkCode("MPI_Finalize", symbols.MPI_Finalize());
      }),
  };

  /** Makes a call on another thread, until whose end none of its buffers may be collected. */
  async function checked<Name extends Nonblocking>(
    name: Name,
    ...values: Parameters<Library["symbols"][Name]>
  ): Promise<void> {
    inFlight.add(values);
    const call = symbols[name] as (...values: unknown[]) => Promise<number>;
    const code = await call(...values);
    inFlight.delete(values);
    checkCode(name, code);
  }

  function checkCode(name: string, code: number): void {
    if (code === 0) return; // MPI_SUCCESS
    const text = new Uint8Array(new ArrayBuffer(MAX_ERROR_STRING)), length = integers(1);
    symbols.MPI_Error_string(code, text, length);
    const reason = printable(new TextDecoder().decode(text.subarray(0, length[0])));
    throw new UserError(`Cannot exchange data with the other ranks as ${name} failed: ${reason}`);
  }
}

/** Opens the library under the first name that there is. */
function openLibrary(): Library {
  const names = LIBRARIES[Deno.build.os] ?? [];
  let missing: string | undefined; // a symbol
  for (const name of names) {
    try {
      const library = Deno.dlopen(name, SYMBOLS);
      keepLoaded(name);
      return library;
    } catch (error) {
      if (error instanceof Deno.errors.NotCapable) {
        throw new UserError("Cannot load Open MPI as the permission --allow-ffi is missing", {
          hint: "Start the ranks with ./toy, as in: mpirun -n 2 ./toy train",
          cause: error,
        });
      }
      missing ??= /symbol/i.test((error as Error).message) ? name : undefined;
    }
  }
  if (missing) {
    throw new UserError(
      `Cannot use ${missing} as it must be that of Open MPI, version 4 or 5: it lacks its symbols`,
      { hint: INSTALL },
    );
  }
  throw new UserError(
    `Cannot reach the other ranks as the library of Open MPI must be installed: ` +
      (names.length > 0 ? `there is no ${names[0]}` : `there is none for ${Deno.build.os}`),
    { hint: INSTALL },
  );
}

/** The system's library that has `dlopen()`. */
const SYSTEM_LIBRARIES: Partial<Record<typeof Deno.build.os, string>> = {
  linux: "libc.so.6",
  darwin: "/usr/lib/libSystem.B.dylib",
};

/** RTLD_NOW. */
const RESOLVE_NOW = 2;

/**
 * Opens a library once more, and never closes it: Deno closes those that it has opened before it ends the threads of its
 * pool, which would then call destructors that the library has set for them. With messages over TCP every rank ended
 * with a segmentation fault (Open MPI 4.1.4, Deno 2.9.6).
 */
function keepLoaded(name: string): void {
  const system = Deno.dlopen(SYSTEM_LIBRARIES[Deno.build.os]!, {
    dlopen: { parameters: ["buffer", "i32"], result: "pointer" },
  });
  system.symbols.dlopen(new TextEncoder().encode(`${name}\0`), RESOLVE_NOW);
  system.close();
}

const INSTALL =
  "Install it on every host: on Debian and Ubuntu `apt-get install openmpi-bin`, on Fedora `dnf install openmpi`, " +
  "on macOS `brew install open-mpi`; or train on one rank with --distributed off";

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
function outside<T extends Float32Array<ArrayBuffer> | Uint8Array<ArrayBuffer>>(array: T): T {
  return array.subarray(0) as T;
}

/** Zeros outside V8's heap. */
function integers(length: number): Int32Array<ArrayBuffer> {
  return new Int32Array(new ArrayBuffer(4 * length));
}
