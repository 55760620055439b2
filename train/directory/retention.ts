import { join } from "node:path";
import { bytesBelow, shortageAt, SPARE_BYTES } from "../../files/disk.ts";
import { byteCount } from "../../files/units.ts";
import { listCheckpoints } from "../../model/files/checkpoint.ts";
import { checkFits } from "./run_files.ts";

/**
 * Which checkpoints of a run stay on the disk, by `--keep`, and the room that they need.
 *
 * @module
 */

/** A number of checkpoints to keep in addition to the best, or `auto`. */
export type Keep = number | "auto";

/** What a run asks for. */
export interface KeepRules {
  readonly keep: Keep;
  /** Step at whose end a cool-down begins: its checkpoint stays whole, as the run can be extended from it. */
  readonly beforeCooldown?: number | undefined;
}

/** Bytes of all checkpoints of a run, and their share of the free disk, below which `auto` keeps all of them. */
const SMALL = { bytes: 500e6, share: 0.01 };

/** Checkpoints of a larger run that `auto` keeps whole in addition to the best. */
const MOST_WHOLE = 3;

/** Checkpoints of such a run of which `auto` keeps only weights. */
export const MOST_WEIGHTS_ONLY = 10;

/** Whether `auto` keeps all checkpoints of a run. If the free space is unknown, only their bytes count. */
export function areSmall(bytes: number, directory: string): boolean {
  return bytes < SMALL.bytes && shortageAt(directory, bytes / SMALL.share) === undefined;
}

/** Steps of the checkpoints that stay; the others are removed. */
export interface Retained {
  /** Steps of those that stay as they are. */
  readonly whole: ReadonlySet<number>;
  /** Steps of those that lose the state of the optimizer. */
  readonly weightsOnly: ReadonlySet<number>;
}

/**
 * Chooses the checkpoints that stay.
 *
 * @param steps those of all checkpoints, newest first.
 * @param how.best step of the best checkpoint, if there is one.
 * @param how.isSmall whether `auto` keeps all of them, see `areSmall()`.
 * @param how.mostWeightsOnly checkpoints that may stay as weights only; fewer than the default make room.
 */
export function chooseRetained(
  steps: readonly number[],
  { keep, best, beforeCooldown, isSmall, mostWeightsOnly = MOST_WEIGHTS_ONLY }: KeepRules & {
    best: number | undefined;
    isSmall: boolean;
    mostWeightsOnly?: number;
  },
): Retained {
  if (keep === "auto" && isSmall) return { whole: new Set(steps), weightsOnly: new Set() };
  const newest = steps.slice(0, keep === "auto" ? MOST_WHOLE : keep);
  const others = steps.filter((step) => step === best || step === beforeCooldown);
  const whole = new Set([...newest, ...others]);
  if (keep !== "auto") return { whole, weightsOnly: new Set() };
  const older = steps.filter((step) => !whole.has(step)).reverse();
  return { whole, weightsOnly: new Set(spread(older, newest.at(-1) ?? 0, mostWeightsOnly)) };
}

/**
 * The `most` of some steps that are spread evenly from 0 to `end`.
 *
 * Again and again the step is dropped whose two neighbours are the closest together, of several the first; 0 is the
 * neighbour before the first step, and `end` that after the last. Two neighbours of one of eleven steps are at most
 * 2/11 of `end` apart, so no gap exceeds twice the mean of the eleven gaps between ten steps. That also holds from save
 * to save, when only the ten of the last time and a new one are left, and `end` has grown.
 *
 * @param steps in ascending order.
 */
function spread(steps: readonly number[], end: number, most: number): number[] {
  const left = [...steps];
  while (left.length > most) {
    const spans = left.map((_, i) => (left[i + 1] ?? end) - (left[i - 1] ?? 0));
    left.splice(spans.indexOf(Math.min(...spans)), 1);
  }
  return left;
}

/** Bytes of all checkpoints of a run. */
export function bytesOfCheckpoints(run: string): number {
  return listCheckpoints(run).reduce((sum, { path }) => sum + bytesBelow(path), 0);
}

/** Checkpoints that a training will save. */
export interface PlannedSaves {
  /** Bytes of one, at most. */
  readonly checkpointBytes: number;
  /** Bytes of one that holds only weights, at most. */
  readonly weightsOnlyBytes: number;
  readonly keep: Keep;
  /** Checkpoints that stay beside those of `keep`, at most: the best, and that before a cool-down. */
  readonly others: number;
  /** How many will be saved, as far as is known. */
  readonly saves: number;
  /** Whether the run starts over, so that those that it has now are moved aside. */
  readonly startsOver: boolean;
}

/** Checkpoints that a run will have at the end, at most: whole, and weights-only. */
export function checkpointsAtEnd(
  run: string,
  { checkpointBytes, keep, others, saves, startsOver }: PlannedSaves,
): { whole: number; weightsOnly: number } {
  const present = startsOver ? 0 : listCheckpoints(run).length;
  const bytes = (startsOver ? 0 : bytesOfCheckpoints(run)) + saves * checkpointBytes;
  const isSmall = keep === "auto" && areSmall(bytes, join(run, "checkpoints"));
  const all = present + saves;
  if (keep === "auto" && isSmall) return { whole: all, weightsOnly: 0 };
  const whole = Math.min((keep === "auto" ? MOST_WHOLE : keep) + others, all);
  return { whole, weightsOnly: keep === "auto" ? Math.min(MOST_WEIGHTS_ONLY, all - whole) : 0 };
}

/**
 * Compares the free space with what the checkpoints of a training will need.
 *
 * @param run path of the run directory, which need not exist.
 * @returns a sentence if not all of them fit.
 * @throws {CheckpointError} if not even one fits.
 */
export function checkRoom(run: string, planned: PlannedSaves): string | undefined {
  const { checkpointBytes, weightsOnlyBytes, keep, saves, startsOver } = planned;
  if (saves === 0) return undefined;
  const directory = join(run, "checkpoints");
  const present = startsOver ? 0 : listCheckpoints(run).length;
  const { whole, weightsOnly } = checkpointsAtEnd(run, planned);
  // the one that is being written comes on top
  const count = Math.min(Math.max(1, whole + 1 - present), saves);
  const more = Math.max(0, Math.min(weightsOnly, whole + weightsOnly - present));
  checkFits("save a checkpoint", directory, checkpointBytes);
  const neededBytes = count * checkpointBytes + more * weightsOnlyBytes + SPARE_BYTES;
  const shortage = shortageAt(directory, neededBytes);
  if (shortage === undefined) return undefined;
  const weights = more === 0
    ? ""
    : ` and ${more} of ${byteCount(weightsOnlyBytes)} with only weights`;
  return `Cannot save ${count} checkpoints of ${
    byteCount(checkpointBytes)
  } each${weights} as ${shortage}; ` +
    `make room, or ${
      keep === "auto" ? "give --keep a number" : "lower --keep"
    }: current value is ${keep}`;
}
