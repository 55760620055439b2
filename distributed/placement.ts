import { environmentVariable } from "../files/environment.ts";
import { quoted } from "../files/printable.ts";
import { UserError } from "../files/user_error.ts";

/**
 * Where `mpirun` or `srun` has put this process among the ranks, as it says in variables of the environment.
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
  /** Number of processes of its host, which only `mpirun` says. */
  readonly localSize?: number;
}

/**
 * The variables in which launchers number a process. The batch script of Slurm itself has SLURM_PROCID and
 * SLURM_NTASKS, but only what srun starts has SLURM_STEP_NUM_TASKS.
 */
const LAUNCHERS = [
  {
    rank: "OMPI_COMM_WORLD_RANK",
    size: "OMPI_COMM_WORLD_SIZE",
    localRank: "OMPI_COMM_WORLD_LOCAL_RANK",
    localSize: "OMPI_COMM_WORLD_LOCAL_SIZE",
  },
  { rank: "SLURM_PROCID", size: "SLURM_STEP_NUM_TASKS", localRank: "SLURM_LOCALID" },
] as const;

/** Names of the variables that are read. */
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
    const hasLocalSize = "localSize" in names && environment(names.localSize) !== undefined;
    return {
      rank: numberOf(names.rank, 0, size),
      size,
      localRank: numberOf(names.localRank, 0, size),
      ...(hasLocalSize ? { localSize: numberOf(names.localSize, 1, Infinity) } : {}),
    };
  }
  return undefined;
}
