import { mkdirSync } from "node:fs";
import { dirname } from "node:path";
import {
  explaining,
  makeWhole,
  shortageAt,
  SPARE_BYTES,
  syncDirectory,
  writeDirectory,
  writeSynced,
} from "../../files/disk.ts";
import { CheckpointError } from "../../model/files/trainer_state.ts";
import { checkFree } from "./run_place.ts";

/**
 * Writing the files of checkpoints and exported models: whole or not at all, and only if there is room.
 *
 * @module
 */

/** Content of a file in chunks. */
export type FileContent = readonly Uint8Array[];

/**
 * Writes a new file, or a directory of files, so that after a crash or a power cut it is whole or absent.
 *
 * @throws {CheckpointError} if the path exists, if there is no room, or if the system refuses.
 */
export function writeNew(
  target: string,
  content: FileContent | ReadonlyMap<string, FileContent>,
): void {
  const what = `write ${target}`, parent = dirname(target);
  refusing(what, () => {
    checkFree(target);
    mkdirSync(parent, { recursive: true });
    const files = content instanceof Map ? content.values() : [content as FileContent];
    checkFits(what, parent, bytesOf(files));
    makeWhole(target, (temporary) => {
      if (content instanceof Map) writeDirectory(temporary, content);
      else writeSynced(temporary, content as FileContent);
    });
    syncDirectory(parent);
  });
}

/**
 * Makes sure that a directory has room for files, and also for logs.
 *
 * @param what the work that needs them, for the sentence `Cannot WHAT as …`.
 * @throws {CheckpointError} if there is no room.
 */
export function checkFits(what: string, directory: string, bytes: number): void {
  const shortage = shortageAt(directory, bytes + SPARE_BYTES);
  if (shortage === undefined) return;
  throw new CheckpointError(
    `Cannot ${what} as ${shortage}; make room, or choose another --out`,
  );
}

/** Bytes of several files. */
export function bytesOf(files: Iterable<FileContent>): number {
  let bytes = 0;
  for (const chunks of files) for (const { length } of chunks) bytes += length;
  return bytes;
}

/** Runs an action, and throws `CheckpointError` with the sentence `Cannot WHAT as …` if the system refuses. */
export function refusing<T>(what: string, action: () => T): T {
  return explaining(what, action, CheckpointError);
}
