import { UserError } from "../files/user_error.ts";

/**
 * The library of Open MPI, as it is loaded. Versions 4 and 5 have the same file name, the same symbols, and the same
 * values of the few constants that are used here.
 *
 * @module
 */

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
const MPI_SYMBOLS = {
  MPI_Init_thread: { parameters: ["pointer", "pointer", "i32", "buffer"], result: "i32" },
  MPI_Comm_rank: { parameters: ["pointer", "buffer"], result: "i32" },
  MPI_Comm_size: { parameters: ["pointer", "buffer"], result: "i32" },
  MPI_Comm_set_errhandler: { parameters: ["pointer", "pointer"], result: "i32" },
  MPI_Error_string: { parameters: ["i32", "buffer", "buffer"], result: "i32" },
  MPI_Abort: { parameters: ["pointer", "i32"], result: "i32", nonblocking: true },
  // where, how much, its type, to or from whom, tag, communicator; request, status
  MPI_Isend: {
    parameters: ["buffer", "i32", "pointer", "i32", "i32", "pointer", "buffer"],
    result: "i32",
  },
  MPI_Request_free: { parameters: ["buffer"], result: "i32" },
  MPI_Recv: {
    parameters: ["buffer", "i32", "pointer", "i32", "i32", "pointer", "buffer"],
    result: "i32",
  },
  // from whom, tag, communicator; whether there is a message, status
  MPI_Iprobe: { parameters: ["i32", "i32", "pointer", "buffer", "buffer"], result: "i32" },
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

/** The opened library. */
export type Mpi = Deno.DynamicLibrary<typeof MPI_SYMBOLS>["symbols"];

/**
 * Opens the library under the first name that there is.
 *
 * @throws {UserError} if it is missing, or the permission to load it.
 */
export function openMpiLibrary(): Mpi {
  const names = LIBRARIES[Deno.build.os] ?? [];
  let missing: string | undefined; // a symbol
  for (const name of names) {
    try {
      const { symbols } = Deno.dlopen(name, MPI_SYMBOLS);
      keepLoaded(name);
      return symbols;
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

/** The system's library, which has `dlopen()`. */
export const SYSTEM_LIBRARIES: Partial<Record<typeof Deno.build.os, string>> = {
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
