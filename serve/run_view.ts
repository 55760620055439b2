import { statSync } from "node:fs";
import { hasChatTemplate } from "../data/tokenizer/load.ts";
import { bytesBelow, isSystemError, isUsersError } from "../files/disk.ts";
import { isObject, type JsonObject } from "../files/json.ts";
import { sentenceOf } from "../files/user_error.ts";
import { isWeightsOnly, listCheckpoints, readHint } from "../model/files/checkpoint.ts";
import type { TrainerState } from "../model/files/trainer_state.ts";
import type { Ingredients } from "../train/record/compare.ts";
import { newestState } from "../train/record/compared_run.ts";
import { optionLabel } from "../train/options.ts";
import { UNSAVED } from "../train/resolve.ts";
import { isLocked } from "../train/directory/run_directory.ts";
import type { RunIndex, Sample, Warning } from "./run_index.ts";

/**
 * What the page shows of a run, from the index of its record and from its checkpoints.
 *
 * @module
 */

/** State of a run. `broken`: its record holds nothing that can be read, or its training failed. */
export type RunState = "training" | "finished" | "interrupted" | "broken";

/** A run as the list shows it; what is not known is null. */
export interface RunRow {
  /** Its path from the folder; `.` if the folder is the run. */
  readonly name: string;
  readonly state: RunState;
  /** Why it is broken, or how it ended. */
  readonly reason: string | null;
  /** Steps done. */
  readonly step: number;
  /** Steps that its training is to have. */
  readonly steps: number | null;
  /** Loss of the last step. */
  readonly loss: number | null;
  /** The last evaluation. */
  readonly validation: { readonly step: number; readonly loss: number | null } | null;
  /** Tokens per second of the last step. */
  readonly tokensPerSecond: number | null;
  /** Parameters of the model. */
  readonly parameters: number | null;
  readonly device: string | null;
  /** Bytes of the training on the device. */
  readonly memoryBytes: number | null;
  /** When the record was written last, in ISO 8601. */
  readonly time: string | null;
}

/** A checkpoint of a run. */
export interface ListedCheckpoint {
  readonly step: number;
  readonly bytes: number;
  /** When it was saved, in ISO 8601. */
  readonly time: string;
  readonly isBest: boolean;
  readonly isLatest: boolean;
  /** Whether no training can be resumed from it. */
  readonly isWeightsOnly: boolean;
}

/** All that the page shows of a run beside its curves. */
export interface RunDetails extends RunRow {
  /** Every option as a flag and its value. */
  readonly options: readonly (readonly [flag: string, value: unknown])[];
  readonly samples: readonly Sample[];
  readonly warnings: readonly Warning[];
  /** In ascending order of their steps. */
  readonly checkpoints: readonly ListedCheckpoint[];
  /** Whether its model was trained on conversations, or on one that was. */
  readonly hasChatTemplate: boolean;
  /** Lines of the record that cannot be read. */
  readonly damaged: number;
  /** Sentences about files that cannot be read. */
  readonly problems: readonly string[];
}

/** The row of a run. */
export function rowOf(
  { name, path, changedMs }: { name: string; path: string; changedMs: number },
  index: RunIndex,
  problem: string | undefined,
): RunRow {
  const { start, end } = index;
  const step = index.last("step.loss"), evaluation = index.last("evaluation.loss");
  const isEmpty = !start && !step && !evaluation;
  // records of earlier versions have neither options nor times
  const { steps } = optionsIn(index) ?? stateIn(path)?.options ?? {};
  const written = changedMs > 0 ? new Date(changedMs).toISOString() : null;
  const done = isEmpty
    ? listCheckpoints(path)[0]?.step ?? 0
    : Math.max(step?.step ?? 0, start?.step ?? 0, evaluation?.step ?? 0);
  const row = {
    name,
    step: done,
    steps: typeof steps === "number" ? steps : null,
    loss: step?.value ?? null,
    validation: evaluation ? { step: evaluation.step, loss: evaluation.value } : null,
    tokensPerSecond: index.last("step.tokensPerSecond")?.value ?? null,
    parameters: start?.parameters ?? null,
    device: typeof start?.device === "string" ? shortened(start.device) : null,
    memoryBytes: start?.memoryBytes ?? null,
    time: typeof index.time === "string" ? shortened(index.time) : written,
  };
  const [state, reason] = stateOf();
  return { ...row, state, reason };

  function stateOf(): [RunState, string | null] {
    if (isLocked(path)) return ["training", null];
    if (problem !== undefined) return ["broken", `its record cannot be read: ${problem}`];
    if (isEmpty) return [done > 0 ? "interrupted" : "broken", "its record is empty"];
    if (end?.reason === "error") {
      const { message } = end;
      return ["broken", typeof message === "string" ? shortened(message) : "its training failed"];
    }
    if (evaluation && evaluation.value === null) return ["broken", "its loss is not finite"];
    if (end) {
      if (end.reason === "interrupted") return ["interrupted", null];
      return ["finished", end.reason === "patience" ? "the validation loss did not improve" : null];
    }
    return row.steps !== null && done >= row.steps ? ["finished", null] : ["interrupted", null];
  }
}

/** Characters of a foreign name or value, at most. */
const LONGEST_NAME = 1000;

/** Options that are shown, at most. */
const MOST_OPTIONS = 200;

function shortened(text: string): string {
  return text.length > LONGEST_NAME ? `${text.slice(0, LONGEST_NAME)}…` : text;
}

/** The options in a record. */
function optionsIn({ start }: RunIndex): JsonObject | undefined {
  return isObject(start?.options) ? start.options : undefined;
}

/** The options of a training, as its record or else its newest checkpoint has them; long values as text. */
function optionsOf(index: RunIndex, state: TrainerState | undefined): [string, unknown][] {
  const options = optionsIn(index) ?? state?.options ?? {};
  const typed = Object.entries(options).filter(([name]) => name !== "endsWith"); // no option: --steps or --epochs
  return typed.slice(0, MOST_OPTIONS).map(([name, value]) => {
    const text = typeof value === "string" ? value : JSON.stringify(value);
    const isList = Array.isArray(value) && value.every((item) => typeof item === "string");
    const isKept = text.length <= LONGEST_NAME && (isList || typeof value !== "object");
    return [shortened(name), isKept ? value : shortened(text)];
  });
}

/** All that the page shows of a run beside its curves. */
export function detailsOf(row: RunRow, path: string, index: RunIndex): RunDetails {
  const problems: string[] = [];
  const state = stateIn(path, problems);
  const { samples, warnings, damaged } = index;
  return {
    ...row,
    options: optionsOf(index, state).map(([name, value]) => [optionLabel(name), value] as const),
    samples,
    warnings,
    checkpoints: checkpointsIn(path),
    hasChatTemplate: hasChatTemplateIn(path, problems),
    damaged,
    problems,
  };
}

/** What a training was made of, for a comparison with others. */
export function ingredientsOf(
  { name, path }: { name: string; path: string },
  index: RunIndex,
): Ingredients {
  const state = stateIn(path);
  const options = optionsOf(index, state).filter(([name]) => !UNSAVED.includes(name));
  return {
    options: Object.fromEntries(options),
    adapter: state?.tuning.adapter ?? null,
    // what is not known counts as different
    dataHash: state?.data.hash ?? name,
    tokenizerHash: state?.tokenizerHash ?? name,
  };
}

/** The state in the newest checkpoint that can be read. */
export function stateIn(run: string, problems: string[] = []): TrainerState | undefined {
  try {
    return newestState(run, (sentence) => problems.push(sentence))?.state;
  } catch (error) {
    if (!isUsersError(error)) throw error;
    problems.push(sentenceOf(error));
    return undefined;
  }
}

/** Whether the newest checkpoint has a chat template. */
function hasChatTemplateIn(run: string, problems: string[]): boolean {
  const [newest] = listCheckpoints(run);
  try {
    return newest !== undefined && hasChatTemplate(newest.path);
  } catch (error) {
    if (!isUsersError(error)) throw error;
    problems.push(sentenceOf(error));
    return false;
  }
}

/** The checkpoints of a run, in ascending order of their steps. */
function checkpointsIn(run: string): ListedCheckpoint[] {
  const best = readHint(run, "best"), checkpoints = listCheckpoints(run);
  return checkpoints.flatMap(({ step, path }) => {
    try {
      return [{
        step,
        bytes: bytesBelow(path),
        time: statSync(path).mtime.toISOString(),
        isBest: best !== "" && step === Number(best),
        isLatest: step === checkpoints[0]!.step,
        isWeightsOnly: isWeightsOnly(path),
      }];
    } catch (error) {
      if (!isSystemError(error)) throw error;
      return []; // it was removed meanwhile, or is no directory
    }
  }).reverse();
}
