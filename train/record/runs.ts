import { existsSync, readdirSync, statSync } from "node:fs";
import { basename, join } from "node:path";
import { taskCommand } from "../../files/command_line.ts";
import { bytesBelow, isSystemError, reading, reasonOf } from "../../files/disk.ts";
import { CONFIG_FILE } from "../../files/names.ts";
import { fitTable } from "../../files/table.ts";
import { byteCount, inShort } from "../../files/units.ts";
import { UserError } from "../../files/user_error.ts";
import { listCheckpoints } from "../../model/files/checkpoint.ts";
import { costIn, newestState, readEvaluations } from "./compared_run.ts";
import { METRICS_FILE } from "./metrics.ts";
import { tokensPerStepOf } from "../options.ts";
import { isLocked } from "../directory/run_directory.ts";
import { isRun } from "../directory/run_place.ts";

/**
 * The runs of a folder: what there is, how far each has come, how good it is, and how large.
 *
 * @module
 */

/** A run of a folder; what is not known is null. */
export interface RunSummary {
  /** Its directory. */
  readonly run: string;
  /** Whether a process trains there now. */
  readonly isTraining: boolean;
  /** Steps done up to its newest checkpoint, 0 if there is none. */
  readonly step: number;
  /** Steps that its training is to have. */
  readonly steps: number | null;
  /** Parameters of its model. */
  readonly parameters: number | null;
  /** Names of its text. */
  readonly data: string | null;
  /** Its last evaluation, losses in nats per token. */
  readonly last:
    | { readonly step: number; readonly loss: number; readonly bitsPerByte: number }
    | null;
  /** The evaluation with the lowest loss. */
  readonly best: { readonly step: number; readonly loss: number } | null;
  /** Bytes of all its files. */
  readonly bytes: number;
  /** When its newest checkpoint was saved, in milliseconds since 1970. */
  readonly savedMs: number | null;
}

/**
 * Summarizes the runs in a folder, or the folder itself if it is a run; the newest first.
 *
 * @param onWarning is called with a sentence about each file that cannot be read.
 * @throws {UserError} if the folder cannot be read.
 */
export function listRuns(folder: string, onWarning: (sentence: string) => void): RunSummary[] {
  let names: string[];
  try {
    names = readdirSync(folder);
  } catch (error) {
    if (!isSystemError(error)) throw error;
    if (error.code !== "ENOENT") {
      throw new UserError(`Cannot list the runs in ${folder} as ${reasonOf(error)}`);
    }
    throw new UserError(`Cannot list the runs in ${folder} as there is no such directory`, {
      hint: `To make a run: ${taskCommand("train")}`,
    });
  }
  const paths = isRun(folder) ? [folder] : names.map((name) => join(folder, name)).filter(isRun);
  return paths.map((path) => summarize(path, onWarning))
    .sort((a, b) => (b.savedMs ?? Infinity) - (a.savedMs ?? Infinity));
}

function summarize(run: string, onWarning: (sentence: string) => void): RunSummary {
  const attempt = <T>(file: string, read: () => T): T | null => {
    const refuse = (reason: string) => new UserError(`Cannot read ${file}: ${reason}`);
    try {
      return reading(read, refuse);
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      onWarning(error.sentence);
      return null;
    }
  };
  const [newest] = listCheckpoints(run);
  const found = newest ? attempt(newest.path, () => newestState(run, onWarning)) : undefined;
  const { step = 0, options = {}, data } = found?.state ?? {};
  const { steps } = options;
  const metrics = join(run, METRICS_FILE);
  const tokensPerStep = tokensPerStepOf(options);
  // a training that has just begun has none of either
  const record = newest || existsSync(metrics)
    ? attempt(metrics, () => readEvaluations(metrics, tokensPerStep, onWarning))
    : null;
  const { last, best } = record ?? {};
  const parameters = record?.start?.parameters ??
    (found
      ? attempt(join(found.checkpoint, CONFIG_FILE), () => costIn(found.checkpoint).parameters)
      : null);
  return {
    run,
    isTraining: isLocked(run),
    step,
    steps: typeof steps === "number" ? steps : null,
    parameters: parameters ?? null,
    data: data?.name ?? null,
    last: last ? { step: last.step, loss: last.loss, bitsPerByte: last.bitsPerByte } : null,
    best: best ? { step: best.step, loss: best.loss } : null,
    bytes: bytesBelow(run),
    // the training may have removed it since
    savedMs: found ? statSync(found.checkpoint, { throwIfNoEntry: false })?.mtimeMs ?? null : null,
  };
}

/** Columns of the table, and what they say of a run. */
const COLUMNS: Readonly<Record<string, (run: RunSummary) => string>> = {
  run: ({ run }) => run,
  steps: ({ step, steps, isTraining }) =>
    `${step}${steps === null ? "" : `/${steps}`}${isTraining ? " (training)" : ""}`,
  params: ({ parameters }) => parameters === null ? "—" : inShort(parameters),
  "validation loss": ({ last }) => last ? last.loss.toFixed(3) : "—",
  "bits/byte": ({ last }) => last ? last.bitsPerByte.toFixed(3) : "—",
  "best loss": ({ best }) => best ? `${best.loss.toFixed(3)} at step ${best.step}` : "—",
  size: ({ bytes }) => byteCount(bytes),
  saved: ({ savedMs }) => savedMs === null ? "—" : timeOf(savedMs),
  text: ({ data }) => data === null ? "—" : basename(data),
};

/** Columns that a narrow terminal leaves out, the first one first. */
const SPARE = ["text", "saved", "params", "size", "bits/byte", "validation loss", "steps"];

/** Runs as a table, one line each, with as many columns as fit into `width` characters. */
export function runsTable(runs: readonly RunSummary[], width = Infinity): string {
  return fitTable(COLUMNS, runs, { spare: SPARE, width });
}

/** A time in the zone of this machine: 2026-11-29 09:58. */
function timeOf(ms: number): string {
  return new Date(ms).toLocaleString("sv-SE").slice(0, 16); // Sweden writes dates as ISO 8601 does
}
