import { existsSync, readFileSync, statSync } from "node:fs";
import { basename, join, relative, resolve } from "node:path";
import {
  isSystemError,
  isUsersError,
  openFile,
  reasonOf,
  refusePipe,
  writeAll,
} from "../../files/disk.ts";
import { isObject } from "../../files/json.ts";
import { directoriesBeside, KEPT_BASE, runOf } from "../../generate/base.ts";
import { listCheckpoints, readTrainerState } from "../../model/files/checkpoint.ts";
import { ADAPTER_FILE } from "../../model/files/lora.ts";
import { MODEL_FILE } from "../../model/files/tensor_files.ts";

/**
 * The run of the base of adapters has a note of each run whose adapters need one of its checkpoints, and does not
 * remove such a checkpoint.
 *
 * @module
 */

/** File of a run that names the runs whose adapters need its checkpoints: a JSON object per line. */
const NOTES = "adapters.jsonl";

/** A note that the adapters of a run need a checkpoint of another run. */
interface Note {
  /** Name of the checkpoint. */
  checkpoint: string;
  /** The run with the adapters. */
  run: string;
  /** Its path relative to the run with the checkpoint, in case both are moved. */
  from: string;
}

/**
 * Notes in the run of a base that the adapters of another run need that base.
 *
 * @param adapters the run with the adapters.
 * @param base the directory of the base.
 * @returns a sentence if the system refuses to write the note.
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
    refusePipe(path);
    const text = existsSync(path) ? readFileSync(path, "utf8") : "";
    if (text.split("\n").includes(line)) return undefined;
    const begin = text === "" || text.endsWith("\n") ? "" : "\n";
    using file = openFile(path, "a"); // others may append at the same time
    writeAll(file.handle, new TextEncoder().encode(`${begin}${line}\n`));
    return undefined;
  } catch (error) {
    if (!isSystemError(error)) throw error;
    return `Cannot note in ${path} that the adapters in ${adapters} need ${note.checkpoint} as ` +
      `${reasonOf(error)}: training ${run} further may remove it; --keep-base copies it`;
  }
}

/** A run, if there is one, whose adapters need a checkpoint of another run. */
export function runThatNeeds(checkpoint: string): string | undefined {
  const run = runOf(checkpoint);
  if (run === undefined) return undefined;
  for (const note of readNotes(run)) {
    if (note.checkpoint !== basename(checkpoint)) continue;
    for (const place of new Set([note.run, resolve(run, note.from)])) {
      if (needsBase(place)) return place;
      const renamed = directoriesBeside(place).find((other) => hasAdaptersFor(other, checkpoint));
      if (renamed !== undefined) return renamed;
    }
  }
  return undefined;
}

/** Whether there is a run without a copy of its base at a path; one that cannot be read counts. */
function needsBase(run: string): boolean {
  try {
    return existsSync(run) && !existsSync(join(run, KEPT_BASE));
  } catch (error) {
    if (!isSystemError(error)) throw error;
    return true;
  }
}

function readNotes(run: string): Note[] {
  const path = join(run, NOTES);
  if (!statSync(path, { throwIfNoEntry: false })?.isFile()) return [];
  return readFileSync(path, "utf8").split("\n").flatMap((line) => {
    try {
      const note: unknown = JSON.parse(line);
      const isNote = isObject(note) &&
        ["checkpoint", "run", "from"].every((name) => typeof note[name] === "string");
      return isNote ? [note as unknown as Note] : [];
    } catch (error) {
      if (!(error instanceof SyntaxError)) throw error;
      return []; // a process was killed while it wrote the last line
    }
  });
}

/** Whether the newest checkpoint of a run holds adapters that need a given checkpoint of another run. */
function hasAdaptersFor(run: string, checkpoint: string): boolean {
  const newest = listCheckpoints(run)[0]?.path;
  if (newest === undefined || !needsBase(run)) return false;
  try {
    const { files, source } = readTrainerState(newest);
    const base = readTrainerState(checkpoint).files[MODEL_FILE];
    return Object.hasOwn(files, ADAPTER_FILE) && source?.sha256 === base?.sha256;
  } catch (error) {
    if (!isUsersError(error)) throw error;
    return false; // one of them is damaged
  }
}
