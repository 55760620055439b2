import { existsSync } from "node:fs";
import { join } from "node:path";
import { environmentVariable } from "../files/environment.ts";
import { UserError } from "../files/user_error.ts";

/**
 * The library of Open MPI, as it is loaded. Versions 4 and 5 have the same file name, the same symbols, and the same
 * values of the few constants that are used here.
 *
 * @module
 */

/** Libraries by their file names, the likeliest first. */
type Names = Partial<Record<typeof Deno.build.os, readonly string[]>>;

/** Those of Open MPI: version 5 kept the number of version 4. */
const OPEN_MPI: Names = {
  linux: ["libmpi.so.40", "libmpi.so"],
  darwin: ["libmpi.40.dylib", "libmpi.dylib"],
};

/** Those of the system. */
const SYSTEM: Names = { linux: ["libc.so.6"], darwin: ["libSystem.B.dylib"] };

/** Directories in which packages install them, beside those of LD_LIBRARY_PATH. */
const DIRECTORIES: Partial<Record<typeof Deno.build.os, readonly string[]>> = {
  linux: [
    `/usr/lib/${Deno.build.arch}-linux-gnu`, // Debian, Ubuntu
    "/usr/lib64/openmpi/lib", // Fedora
    "/usr/lib64/mpi/gcc/openmpi5/lib64", // openSUSE
    "/usr/lib64/mpi/gcc/openmpi4/lib64",
    "/usr/lib64",
    "/usr/lib", // Arch
    "/usr/local/lib",
  ],
  darwin: ["/opt/homebrew/lib", "/usr/local/lib", "/opt/local/lib", "/usr/lib"],
};

/** What is used of the library. Handles such as MPI_COMM_WORLD are addresses of its variables. */
const MPI_SYMBOLS = {
  MPI_Init_thread: { parameters: ["pointer", "pointer", "i32", "buffer"], result: "i32" },
  MPI_Comm_rank: { parameters: ["pointer", "buffer"], result: "i32" },
  MPI_Comm_size: { parameters: ["pointer", "buffer"], result: "i32" },
  MPI_Comm_set_errhandler: { parameters: ["pointer", "pointer"], result: "i32" },
  MPI_Get_processor_name: { parameters: ["buffer", "buffer"], result: "i32" },
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
  addInMemory: {
    name: "MPI_Reduce_local",
    parameters: ["usize", "usize", "i32", "pointer", "pointer"],
    result: "i32",
    nonblocking: true,
  },
  MPI_Bcast: {
    parameters: ["buffer", "i32", "pointer", "i32", "pointer"],
    result: "i32",
    nonblocking: true,
  },
  // what is added up, where the sum goes, how much, its type, operation, communicator
  MPI_Allreduce: {
    parameters: ["buffer", "buffer", "i32", "pointer", "pointer", "pointer"],
    result: "i32",
  },
  MPI_Barrier: { parameters: ["pointer"], result: "i32", nonblocking: true },
  // bytes, bytes of a unit, hints, communicator; where this rank's bytes begin, window
  MPI_Win_allocate_shared: {
    parameters: ["isize", "i32", "pointer", "pointer", "buffer", "buffer"],
    result: "i32",
  },
  MPI_Win_set_errhandler: { parameters: ["usize", "pointer"], result: "i32" },
  // window, rank; its bytes, bytes of a unit, where they begin
  MPI_Win_shared_query: {
    parameters: ["usize", "i32", "buffer", "buffer", "buffer"],
    result: "i32",
  },
  MPI_Win_fence: { parameters: ["i32", "usize"], result: "i32", nonblocking: true },
  MPI_Win_free: { parameters: ["buffer"], result: "i32" },
  MPI_Finalize: { parameters: [], result: "i32" }, // on the thread of MPI_Init_thread, as the standard wants
  ompi_mpi_comm_world: { type: "pointer" },
  ompi_mpi_float: { type: "pointer" },
  ompi_mpi_byte: { type: "pointer" },
  ompi_mpi_op_sum: { type: "pointer" },
  ompi_mpi_errors_return: { type: "pointer" },
  ompi_mpi_info_null: { type: "pointer" },
} as const satisfies Deno.ForeignLibraryInterface;

/** The opened library. */
export type Mpi = Deno.DynamicLibrary<typeof MPI_SYMBOLS>["symbols"];

/**
 * Opens the library under the first name that there is.
 *
 * @throws {UserError} if it is missing, or the permission to load it.
 */
export function openMpiLibrary(): Mpi {
  const names = OPEN_MPI[Deno.build.os] ?? [];
  let refused: string | undefined, unfit: string | undefined;
  for (const path of pathsOf(names)) {
    try {
      const { symbols } = Deno.dlopen(path, MPI_SYMBOLS);
      keepLoaded(path);
      return symbols;
    } catch (error) {
      const { message } = error as Error;
      if (!(error instanceof Deno.errors.NotCapable)) {
        unfit ??= /symbol/i.test(message) ? path : undefined;
      } else if (!mayRead(path) || existsSync(path)) refused ??= path;
    }
  }
  if (unfit) {
    throw new UserError(
      `Cannot use ${unfit} as it must be that of Open MPI, version 4 or 5: it lacks its symbols`,
      { hint: INSTALL },
    );
  }
  if (refused) {
    throw new UserError(`Cannot load ${refused} as the permission --allow-ffi is missing`, {
      hint: "Start the ranks with ./toy, as in: mpirun -n 2 ./toy train",
    });
  }
  throw new UserError(
    `Cannot reach the other ranks as the library of Open MPI must be installed: ` +
      (names.length > 0 ? `there is no ${names[0]}` : `there is none for ${Deno.build.os}`),
    { hint: INSTALL },
  );
}

function mayRead(path: string): boolean {
  return Deno.permissions.querySync({ name: "read", path }).state === "granted";
}

/** Opens the library of the system, which is always there. */
export function openSystemLibrary<Symbols extends Deno.ForeignLibraryInterface>(
  symbols: Symbols,
): Deno.DynamicLibrary<Symbols> {
  let last: unknown;
  for (const path of pathsOf(SYSTEM[Deno.build.os] ?? [])) {
    try {
      return Deno.dlopen(path, symbols);
    } catch (error) {
      last = error;
    }
  }
  throw last;
}

/**
 * Where libraries may be. With a permission for some directories Deno loads by absolute paths only; with one for all the
 * system looks for a name by itself.
 */
function pathsOf(names: readonly string[]): string[] {
  const isUnlimited = Deno.permissions.querySync({ name: "ffi" }).state === "granted";
  const given = (environmentVariable("LD_LIBRARY_PATH") ?? "").split(":").filter((path) => path);
  const directories = [...given, ...DIRECTORIES[Deno.build.os] ?? []];
  return [
    ...isUnlimited ? names : [],
    ...directories.flatMap((directory) => names.map((name) => join(directory, name))),
  ];
}

/** RTLD_NOW. */
const RESOLVE_NOW = 2;

/**
 * Opens a library once more, and never closes it: Deno closes those that it has opened before it ends the threads of its
 * pool, which would then call destructors that the library has set for them. With messages over TCP every rank ended
 * with a segmentation fault (Open MPI 4.1.4, Deno 2.9.6).
 */
function keepLoaded(path: string): void {
  const system = openSystemLibrary({
    dlopen: { parameters: ["buffer", "i32"], result: "pointer" },
  });
  system.symbols.dlopen(new TextEncoder().encode(`${path}\0`), RESOLVE_NOW);
  system.close();
}

const INSTALL =
  "Install it on every host: on Debian and Ubuntu `apt-get install openmpi-bin`, on Fedora `dnf install openmpi`, " +
  "on macOS `brew install open-mpi`; or train on one rank with --distributed off";
