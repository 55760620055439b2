import { resolve } from "node:path";
import { taskCommand } from "../files/command_line.ts";
import { UserError } from "../files/user_error.ts";
import { placeAt } from "../generate/place.ts";
import {
  checkpointNamed,
  isNameInRun,
  listCheckpoints,
  newestCheckpoint,
  verifyCheckpoint,
} from "../model/files/checkpoint.ts";
import { notices, reporting, type TrainEvent } from "./events.ts";
import type { TrainOptions } from "./options.ts";
import type { Resumed, Workplace } from "./run.ts";
import { checkResumable, readCheckpoint } from "./state.ts";

/**
 * Reads the checkpoint from which the training resumes: the one that is named, or else the newest that is whole, if
 * the run has one.
 */
export async function* findCheckpoint(
  { out: run, hub, signal }: Pick<Workplace, "out" | "hub" | "signal">,
  { base, initFrom, resumeFrom }: Partial<TrainOptions>,
): AsyncGenerator<TrainEvent, Resumed | undefined> {
  const warnings: string[] = [];
  const path = resumeFrom === undefined || resumeFrom === "latest"
    ? newestCheckpoint(run, (sentence) => warnings.push(sentence), checkResumable)
    : namedCheckpoint(run, resumeFrom);
  yield* notices(...warnings);
  if (path === undefined) return undefined;
  const likely = initFrom === undefined ? [] : [initFrom];
  return yield* reporting(
    (callbacks) => readCheckpoint(path, { ...hub, ...callbacks, base }, likely),
    signal,
  );
}

/** The checkpoint that `resumeFrom` names: of this run, or the start of a new one. */
function namedCheckpoint(run: string, name: string): string {
  if (isNameInRun(name) && listCheckpoints(run).length === 0) {
    throw new UserError(
      `Cannot resume from checkpoint ${name} of ${run} as that run must have checkpoints: it has none`,
      { hint: "To continue another run there: --resume-from runs/NAME/checkpoints/000500" },
    );
  }
  const isName = isNameInRun(name), path = isName ? checkpointNamed(run, name) : name;
  const place = placeAt(path);
  if (!isName && place?.load?.join() !== `--checkpoint,${path}`) {
    throw new UserError(
      `Cannot resume from ${path} as --resume-from must be best, latest, a number of steps, or the directory ` +
        `of a checkpoint: ${place?.reason ?? "there is none"}`,
    );
  }
  const checkpoints = listCheckpoints(run);
  if (!isInRun(path, run) && checkpoints.length > 0) {
    throw new UserError(
      `Cannot resume from ${path} in ${run} as that run must have no other checkpoints: ` +
        `it has ${checkpoints.length}`,
      {
        hint: `To resume that run: ${taskCommand("train", "--out", run)}\n` +
          "For a run that continues from the checkpoint choose another --out",
      },
    );
  }
  checkResumable(verifyCheckpoint(path), path);
  return path;
}

/** Whether a checkpoint is one of a run. */
export function isInRun(checkpoint: string, run: string): boolean {
  return listCheckpoints(run).some(({ path }) => resolve(path) === resolve(checkpoint));
}
