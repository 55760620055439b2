import { closeSync, existsSync, openSync } from "node:fs";
import { basename, join, relative, resolve } from "node:path";
import { reasonOf, writeAll } from "../files/disk.ts";
import { isObject, readText } from "../files/json.ts";
import { directoriesBeside, KEPT_BASE, runOf } from "../generate/base.ts";
import { listCheckpoints, readTrainerState } from "../model/files/checkpoint.ts";
import { ADAPTER_FILE } from "../model/files/lora.ts";
import { MODEL_FILE } from "../model/files/tensor_files.ts";

/**
 * Keeping the base of adapters: either a note in the base's run, so that this run does not remove it, or a
 * copy in the run of the adapters.
 *
 * @module
 */

/** File of a run that names the runs with adapters beside its checkpoints: a JSON object per line. */
const NOTES = "adapters.jsonl";

/** A note that a run has adapters beside a checkpoint of another run. */
interface Note {
  /** Name of the checkpoint. */
  checkpoint: string;
  /** The run with the adapters. */
  run: string;
  /** The same from the run with the checkpoint, in case both are moved. */
  from: string;
}

/**
 * Notes in a base's run that another run has adapters beside that base.
 *
 * @param adapters the run with the adapters.
 * @param base the directory of the base.
 * @returns a sentence if it cannot be noted.
 */
export function noteAdapters(adapters: string, base: string): string | undefined {
  const run = runOf(base);
  if (run === undefined) return undefined; // only runs remove checkpoints
  const note: Note = {
    checkpoint: basename(base),
    run: resolve(adapters),
    from: relative(run, resolve(adapters)),
  };
  const line = JSON.stringify(note), path = join(run, NOTES);
  try {
    const text = existsSync(path) ? readText(path) : "";
    if (text.split("\n").includes(line)) return undefined;
    const file = openSync(path, "a"); // others may append at the same time
    try {
      writeAll(
        file,
        new TextEncoder().encode(`${text === "" || text.endsWith("\n") ? "" : "\n"}${line}\n`),
      );
    } finally {
      closeSync(file);
    }
    return undefined;
  } catch (error) {
    return `Cannot note in ${path} that the adapters in ${adapters} stand beside ${note.checkpoint} as ` +
      `${reasonOf(error)}: training ${run} further may remove it; --keep-base copies it`;
  }
}

/** The run, if there is one, whose adapters stand beside a checkpoint of another run. */
export function runBeside(checkpoint: string): string | undefined {
  const run = runOf(checkpoint);
  if (run === undefined) return undefined;
  for (const note of readNotes(run)) {
    if (note.checkpoint !== basename(checkpoint)) continue;
    for (const place of new Set([note.run, resolve(run, note.from)])) {
      if (needsBase(place)) return place;
      const renamed = directoriesBeside(place).find((other) =>
        hasAdaptersBeside(other, checkpoint)
      );
      if (renamed !== undefined) return renamed;
    }
  }
  return undefined;
}

/** Whether there is a run at a path without a copy of its base; one that may not be read counts. */
function needsBase(run: string): boolean {
  try {
    return existsSync(run) && !existsSync(join(run, KEPT_BASE));
  } catch {
    return true;
  }
}

function readNotes(run: string): Note[] {
  const path = join(run, NOTES);
  if (!existsSync(path)) return [];
  return readText(path).split("\n").flatMap((line) => {
    try {
      const note: unknown = JSON.parse(line);
      const isNote = isObject(note) &&
        ["checkpoint", "run", "from"].every((name) => typeof note[name] === "string");
      return isNote ? [note as unknown as Note] : [];
    } catch {
      return []; // the last line of a process that was killed
    }
  });
}

/** Whether the newest checkpoint of a run holds adapters that need a checkpoint of another run. */
function hasAdaptersBeside(run: string, checkpoint: string): boolean {
  const newest = listCheckpoints(run)[0]?.path;
  if (newest === undefined || !needsBase(run)) return false;
  try {
    const { files, source } = readTrainerState(newest);
    const base = readTrainerState(checkpoint).files[MODEL_FILE];
    return Object.hasOwn(files, ADAPTER_FILE) && source?.sha256 === base?.sha256;
  } catch {
    return false; // it is damaged
  }
}
