import { join } from "node:path";
import { dirname, fromFileUrl } from "../paths.ts";

/** Why tests that need several ranks are left out; undefined if they run. */
export const noMpi: string | undefined = hasMpirun()
  ? undefined
  : "there is no mpirun, which Debian has in openmpi-bin";

function hasMpirun(): boolean {
  try {
    return new Deno.Command("mpirun", { args: ["--version"], stdout: "null", stderr: "null" })
      .outputSync().success;
  } catch {
    return false;
  }
}

/** Adds the reason to the name of a test that needs several ranks, and leaves it out if there is one. */
export function withRanks(name: string, fn: () => Promise<void>): void {
  Deno.test({
    name: noMpi === undefined ? name : `${name} (left out: ${noMpi})`,
    ignore: noMpi !== undefined,
    fn,
  });
}

/** What ranks have printed: the lines of JSON by rank, the standard error, the status of mpirun. */
export interface Ranks<T> {
  readonly lines: readonly T[];
  readonly stderr: string;
  readonly code: number;
}

/** Runs a program of this directory on several ranks. */
export async function mpirun<T extends { rank: number }>(
  size: number,
  program: string,
  args: readonly string[],
  { permissions = ["--allow-ffi=/usr,/opt", "--allow-env", "--allow-read"], flags = [] }: {
    permissions?: readonly string[];
    /** Of mpirun. */
    flags?: readonly string[];
  } = {},
): Promise<Ranks<T>> {
  const here = dirname(fromFileUrl(import.meta.url));
  const { code, stdout, stderr } = await new Deno.Command("mpirun", {
    // containers run tests as root, on fewer cores than ranks
    env: { OMPI_ALLOW_RUN_AS_ROOT: "1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM: "1", NO_COLOR: "1" },
    args: [
      ...["--oversubscribe", "--timeout", "600", ...flags, "-n", `${size}`],
      ...[Deno.execPath(), "run", "-q", "--no-check"],
      ...["--no-prompt", ...permissions, join(here, program), ...args],
    ],
  }).output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  const lines = text(stdout).split("\n").filter((line) => line.startsWith("{"))
    .map((line) => JSON.parse(line) as T).sort((a, b) => a.rank - b.rank);
  return { lines, stderr: text(stderr), code };
}
