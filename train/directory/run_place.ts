import { existsSync, readdirSync } from "node:fs";
import { basename, dirname, join, normalize, relative } from "node:path";
import { commandLine } from "../../files/command_line.ts";
import { printable } from "../../files/printable.ts";
import { listCheckpoints, STATE_FILE } from "../../model/files/checkpoint.ts";
import { CheckpointError } from "../../model/files/trainer_state.ts";
import { METRICS_FILE } from "../record/metrics.ts";

/**
 * Where a run or an exported model may be written: neither inside a checkpoint nor over other files.
 *
 * @module
 */

/**
 * Makes sure that a run can be at a path.
 *
 * @throws {CheckpointError} if it is inside a run's checkpoints, or a directory of other files.
 */
export function checkRunPlace(path: string): void {
  const refuse = (reason: string) => new CheckpointError(`Cannot open run ${path} as ${reason}`);
  if (path === "") {
    throw new CheckpointError(
      "Cannot open a run as --out must name a directory: it is empty",
    );
  }
  const place = placeInRun(path);
  if (place) {
    const { run, checkpoint } = place;
    const resuming = commandLine(["--out", run]);
    const other = checkpoint
      ? `to start from its model ${commandLine(["--init-from", checkpoint])} and another --out`
      : "for another run choose another --out";
    throw refuse(
      `it is in ${
        checkpoint ?? join(run, "checkpoints")
      }: to resume that run use ${resuming}, ${other}`,
    );
  }
  if (!existsSync(path)) return;
  const names = readdirSync(path);
  if (isRun(path)) return;
  const others = names.filter((name) => !/^\.|^(lost\+found|checkpoints|lock)$/.test(name));
  if (others.length === 0) return;
  const some = others.slice(0, 3).map((name) => printable(name)).join(", ");
  throw refuse(
    `it must be a run or an empty directory: it holds ${some}${others.length > 3 ? ", …" : ""}; ` +
      `choose another, such as ${commandLine(["--out", join(path, "my-run")])}`,
  );
}

/** Whether a path is the directory of a run. */
export function isRun(path: string): boolean {
  const has = (name: string) => existsSync(join(path, name));
  // tokens of a text have a lock, too, but no checkpoints
  return has(METRICS_FILE) || has("lock") && has("checkpoints") || listCheckpoints(path).length > 0;
}

/** Files by which a run is recognized. */
const RUN_FILES = ["lock", METRICS_FILE];

/** The run in whose `checkpoints` a path is, and the checkpoint if the path is in one. */
export function placeInRun(path: string): { run: string; checkpoint?: string } | undefined {
  const real = realPath(path);
  for (let at = real; at !== dirname(at); at = dirname(at)) {
    const parent = dirname(at);
    if (
      basename(at) === "checkpoints" && RUN_FILES.some((name) => existsSync(join(parent, name)))
    ) {
      return { run: asTyped(parent) };
    }
    const isCheckpoint = /^\d{6,}$/.test(basename(at)) && basename(parent) === "checkpoints";
    if (isCheckpoint && existsSync(join(at, STATE_FILE))) {
      return { run: asTyped(dirname(parent)), checkpoint: asTyped(at) };
    }
  }
  return undefined;
}

/** A path with its links followed, as far as it exists and may be read. */
function realPath(path: string): string {
  for (let at = normalize(path), rest = "";;) {
    if (mayRead(".") && mayRead(at) && existsSync(at)) return join(Deno.realPathSync(at), rest);
    if (at === dirname(at)) return normalize(path);
    [at, rest] = [dirname(at), join(basename(at), rest)];
  }
}

/** A path as a user would type it: relative if it is in the working directory. */
export function asTyped(path: string): string {
  if (!mayRead(".")) return path;
  const from = relative(Deno.realPathSync("."), path);
  return from.startsWith("..") ? path : from || ".";
}

function mayRead(path: string): boolean {
  return Deno.permissions.querySync({ name: "read", path }).state === "granted";
}

/**
 * Makes sure that a new file or directory can be at a path.
 *
 * @throws {CheckpointError} if the path exists, or is among the checkpoints of a run, which removes old ones.
 */
export function checkFree(path: string): void {
  if (path === "") {
    throw new CheckpointError("Cannot write as --out must be a name: it is empty");
  }
  const place = placeInRun(path);
  const reason = existsSync(path)
    ? "it exists"
    : place && `it is among the checkpoints of run ${place.run}, which removes old ones`;
  if (!reason) return;
  throw new CheckpointError(`Cannot write ${path} as ${reason}: choose another --out`);
}
