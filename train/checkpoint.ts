import { createHash } from "node:crypto";
import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  renameSync,
  rmSync,
  statfsSync,
  writeSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import {
  CheckpointError,
  type FileDigest,
  listCheckpoints,
  STATE_FILE,
  type TrainerState,
} from "../model/checkpoint.ts";

/** Content of a file in chunks. */
export type FileContent = readonly Uint8Array[];

/** Space that must remain free beside a checkpoint, so that logs can still be written. */
const SPARE_BYTES = 16 * 2 ** 20;

/** A run directory that this process alone writes to. */
export interface RunDirectory {
  readonly path: string;
  /**
   * Writes a checkpoint so that after a crash or a power cut it is either whole or not there.
   *
   * Files go to a temporary sibling directory and are synced; the state with their hashes comes last;
   * then the directory is renamed and its parent synced. `latest`, and with `best` also `best`, are
   * rewritten as hints. Older checkpoints beyond `keep` are removed, the best one excepted.
   *
   * @returns the checkpoint's path.
   * @throws {CheckpointError} if there is no room or the disk refuses; older checkpoints stay.
   */
  save(
    files: ReadonlyMap<string, FileContent>,
    state: Omit<TrainerState, "files">,
    options: { keep: number; best: boolean },
  ): string;
  /** Appends a line to a file of the run. */
  append(name: string, line: string): void;
  /** Reads a file of the run. */
  read(name: string): string;
  /** Writes a file of the run, replacing it as a whole. */
  write(name: string, text: string): void;
  /** Gives the run back. */
  close(): void;
}

/**
 * Opens a run directory, making it if needed, and takes its lock.
 *
 * Leftovers of a process that died while it wrote or removed a checkpoint are cleared away.
 *
 * @param freeBytes free space at a path, for tests.
 * @throws {CheckpointError} if another process trains there or the directory cannot be written.
 */
export function openRunDirectory(
  path: string,
  { freeBytes = freeBytesAt }: { freeBytes?: (path: string) => number } = {},
): RunDirectory {
  const checkpoints = join(path, "checkpoints");
  let lock: Deno.FsFile;
  try {
    mkdirSync(checkpoints, { recursive: true });
    lock = Deno.openSync(join(path, "lock"), { create: true, write: true });
  } catch (error) {
    throw new CheckpointError(`Cannot open run ${path}: ${reasonOf(error)}`);
  }
  if (!lock.tryLockSync(true)) {
    lock.close();
    throw new CheckpointError(`Cannot open run ${path} as another process is training there`);
  }
  for (const name of readdirSync(checkpoints)) {
    if (/^\.(tmp|trash)-/.test(name)) rmSync(join(checkpoints, name), { recursive: true });
  }
  const hint = (name: string, target: string) =>
    replaceFile(join(path, name), [new TextEncoder().encode(`${target}\n`)]);

  return {
    path,
    save(files, state, { keep, best }) {
      const name = String(state.step).padStart(6, "0");
      const target = join(checkpoints, name);
      const temporary = join(checkpoints, `.tmp-${name}`);
      try {
        const digests: Record<string, FileDigest> = {};
        for (const [file, content] of files) digests[file] = digest(content);
        const needed = Object.values(digests).reduce((sum, { bytes }) => sum + bytes, SPARE_BYTES);
        const free = freeBytes(checkpoints);
        if (free < needed) {
          throw new CheckpointError(
            `Cannot save checkpoint ${target} as it needs ${megabytes(needed)}: ` +
              `${megabytes(free)} are free`,
          );
        }
        rmSync(temporary, { recursive: true, force: true });
        mkdirSync(temporary);
        for (const [file, content] of files) writeSynced(join(temporary, file), content);
        const manifest = JSON.stringify({ ...state, files: digests }, null, 2) + "\n";
        writeSynced(join(temporary, STATE_FILE), [new TextEncoder().encode(manifest)]);
        syncDirectory(temporary);
        // a checkpoint of the same step, if one is there, makes room without ever being half gone
        if (existsSync(target)) discard(target);
        renameSync(temporary, target);
        syncDirectory(checkpoints);
      } catch (error) {
        rmSync(temporary, { recursive: true, force: true });
        if (error instanceof CheckpointError) throw error;
        throw new CheckpointError(`Cannot save checkpoint ${target}: ${reasonOf(error)}`);
      }
      hint("latest", name);
      if (best) hint("best", name);
      prune(path, keep);
      return target;
    },
    append(name, line) {
      const file = openSync(join(path, name), "a");
      try {
        writeAll(file, new TextEncoder().encode(line + "\n"));
      } finally {
        closeSync(file);
      }
    },
    read: (name) => Deno.readTextFileSync(join(path, name)),
    write(name, text) {
      replaceFile(join(path, name), [new TextEncoder().encode(text)]);
    },
    close() {
      lock.close();
    },
  };
}

/**
 * Renames a run directory to the first free `NAME-1`, `NAME-2`, … so that a new one can take its place.
 *
 * @returns the new name, or undefined if there was no such run.
 * @throws {CheckpointError} if another process trains there or the directory cannot be renamed.
 */
export function moveAside(path: string): string | undefined {
  if (!existsSync(path)) return undefined;
  openRunDirectory(path).close(); // nobody trains there
  let number = 1;
  while (existsSync(`${path}-${number}`)) number++;
  const aside = `${path}-${number}`;
  try {
    renameSync(path, aside);
  } catch (error) {
    throw new CheckpointError(`Cannot move ${path} to ${aside}: ${reasonOf(error)}`);
  }
  return aside;
}

/** Removes the oldest checkpoints but `keep`, and never the one that `best` names. */
function prune(path: string, keep: number): void {
  let best = "";
  try {
    best = Deno.readTextFileSync(join(path, "best")).trim();
  } catch {
    // no evaluation yet
  }
  for (const checkpoint of listCheckpoints(path).slice(keep)) {
    if (basename(checkpoint.path) !== best) discard(checkpoint.path);
  }
}

/** Removes a directory by renaming it first: a name that counts never holds half a checkpoint. */
function discard(path: string): void {
  const trash = join(dirname(path), `.trash-${basename(path)}-${crypto.randomUUID()}`);
  renameSync(path, trash);
  rmSync(trash, { recursive: true });
}

function digest(content: FileContent): FileDigest {
  const hash = createHash("sha256");
  let bytes = 0;
  for (const chunk of content) {
    hash.update(chunk);
    bytes += chunk.length;
  }
  return { bytes, sha256: hash.digest("hex") };
}

function replaceFile(path: string, content: FileContent): void {
  const temporary = `${path}.tmp`;
  writeSynced(temporary, content);
  renameSync(temporary, path);
}

function writeSynced(path: string, content: FileContent): void {
  const file = openSync(path, "w");
  try {
    for (const chunk of content) writeAll(file, chunk);
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
}

/** A write may take fewer bytes than it was given, of large chunks and on a full disk. */
function writeAll(file: number, chunk: Uint8Array): void {
  for (let done = 0; done < chunk.length;) {
    const written = writeSync(file, chunk, done, Math.min(chunk.length - done, 2 ** 30));
    if (written === 0) throw new Error("the disk is full");
    done += written;
  }
}

/** Makes a directory's entries survive a power cut; Windows has no such call and needs none. */
function syncDirectory(path: string): void {
  if (Deno.build.os === "windows") return;
  const directory = openSync(path, "r");
  try {
    fsyncSync(directory);
  } finally {
    closeSync(directory);
  }
}

function freeBytesAt(path: string): number {
  const { bavail, bsize } = statfsSync(path);
  return bavail * bsize;
}

function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}

function reasonOf(error: unknown): string {
  const { code, message } = error as NodeJS.ErrnoException;
  if (code === "ENOSPC") return "the disk is full";
  if (code === "EACCES" || code === "EPERM" || error instanceof Deno.errors.NotCapable) {
    return "writing there is not permitted";
  }
  if (code === "ENOTDIR" || code === "EEXIST") return "a file is in its place";
  return message;
}
