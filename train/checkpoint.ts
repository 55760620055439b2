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
  checkFileNames,
  CheckpointError,
  checkpointName,
  type FileDigest,
  listCheckpoints,
  serializeState,
  STATE_FILE,
  type TrainerState,
} from "../model/checkpoint.ts";

/** Content of a file in chunks. */
export type FileContent = readonly Uint8Array[];

/** Space that must remain free beside a checkpoint, so that logs can still be written. */
const SPARE_BYTES = 16 * 2 ** 20;

/** A run directory that this process alone writes to. */
export interface RunDirectory {
  /** The directory. */
  readonly path: string;
  /**
   * Writes a checkpoint so that after a crash or a power cut it is either whole or not there.
   *
   * Files go to a temporary sibling directory and are synced; the state with their hashes comes last;
   * then the directory is renamed and its parent synced. A checkpoint of the same step is replaced.
   * `latest`, and with `best` also `best`, are rewritten as hints. Older checkpoints beyond `keep` are
   * removed, the best one excepted; later ones, which a resume passed over as damaged, stay.
   *
   * @returns the checkpoint's path.
   * @throws {CheckpointError} if there is no room or the disk refuses; older checkpoints stay.
   */
  save(
    files: ReadonlyMap<string, FileContent>,
    state: Omit<TrainerState, "files">,
    options: { keep: number; best: boolean },
  ): string;
  /**
   * Appends a line, or several, to a file of the run.
   *
   * @throws {CheckpointError} if the disk refuses.
   */
  append(name: string, line: string): void;
  /** Reads a file of the run. */
  read(name: string): string;
  /**
   * Writes a file of the run, replacing it as a whole.
   *
   * @throws {CheckpointError} if the disk refuses.
   */
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
  const lock = attempt(`open run ${path}`, () => {
    mkdirSync(checkpoints, { recursive: true });
    return Deno.openSync(join(path, "lock"), { create: true, write: true });
  });
  if (!lock.tryLockSync(true)) {
    lock.close();
    throw new CheckpointError(`Cannot open run ${path} as another process is training there`);
  }
  attempt(`open run ${path}`, () => clearLeftovers(checkpoints));
  const hint = (name: string, target: string) =>
    replaceFile(join(path, name), [new TextEncoder().encode(`${target}\n`)]);

  return {
    path,
    save(files, state, { keep, best }) {
      const name = checkpointName(state.step);
      const target = join(checkpoints, name);
      checkFileNames(files.keys(), `Cannot save checkpoint ${target}`);
      const temporary = join(checkpoints, `.tmp-${name}`);
      attempt(`save checkpoint ${target}`, () => {
        const digests: Record<string, FileDigest> = {};
        for (const [file, content] of files) digests[file] = digest(content);
        checkRoom(`save checkpoint ${target}`, [...files.values()], freeBytes(checkpoints));
        try {
          mkdirSync(temporary);
          for (const [file, content] of files) writeSynced(join(temporary, file), content);
          const manifest = serializeState({ ...state, files: digests });
          writeSynced(join(temporary, STATE_FILE), [new TextEncoder().encode(manifest)]);
          syncDirectory(temporary);
          // no call swaps two directories: until the new one has the name, the old one can come back
          if (existsSync(target)) renameSync(target, join(checkpoints, `.old-${name}`));
          renameSync(temporary, target);
          syncDirectory(checkpoints);
        } finally {
          clearLeftovers(checkpoints);
        }
      });
      attempt(`finish checkpoint ${target}`, () => {
        hint("latest", name);
        if (best) hint("best", name);
        prune(path, { step: state.step, keep });
      });
      return target;
    },
    append(name, line) {
      attempt(`write ${join(path, name)}`, () => {
        const file = openSync(join(path, name), "a");
        try {
          writeAll(file, new TextEncoder().encode(line + "\n"));
        } finally {
          closeSync(file);
        }
      });
    },
    read: (name) => Deno.readTextFileSync(join(path, name)),
    write(name, text) {
      attempt(
        `write ${join(path, name)}`,
        () => replaceFile(join(path, name), [new TextEncoder().encode(text)]),
      );
    },
    close() {
      lock.close();
    },
  };
}

/**
 * Writes a file, or a directory of files, so that after a crash or a power cut it is whole or not there.
 *
 * @throws {CheckpointError} if there is one already, if there is no room, or if the disk refuses.
 */
export function writeNew(
  target: string,
  content: FileContent | ReadonlyMap<string, FileContent>,
): void {
  attempt(`write ${target}`, () => {
    if (existsSync(target)) {
      throw new CheckpointError(
        `Cannot write ${target} as it is there already: choose another --out`,
      );
    }
    const parent = dirname(target);
    const temporary = join(parent, `.tmp-${basename(target)}-${crypto.randomUUID()}`);
    mkdirSync(parent, { recursive: true });
    const files = content instanceof Map ? [...content.values()] : [content as FileContent];
    checkRoom(`write ${target}`, files, freeBytesAt(parent));
    try {
      if (content instanceof Map) {
        mkdirSync(temporary);
        for (const [name, chunks] of content) writeSynced(join(temporary, name), chunks);
        syncDirectory(temporary);
      } else {
        writeSynced(temporary, content as FileContent);
      }
      renameSync(temporary, target);
      syncDirectory(parent);
    } finally {
      rmSync(temporary, { recursive: true, force: true });
    }
  });
}

/** Makes sure that files have room, and logs beside them. */
function checkRoom(what: string, files: readonly FileContent[], free: number): void {
  const needed = files.flat().reduce((sum, { length }) => sum + length, SPARE_BYTES);
  if (free >= needed) return;
  throw new CheckpointError(
    `Cannot ${what} as it needs ${megabytes(needed)}: ${megabytes(free)} are free`,
  );
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
  const name = join(dirname(path), basename(path)); // without the slash that may end a path
  let number = 1;
  while (existsSync(`${name}-${number}`)) number++;
  const aside = `${name}-${number}`;
  attempt(`move ${path} to ${aside}`, () => renameSync(path, aside));
  return aside;
}

/**
 * Clears away what an interrupted save or removal left. A checkpoint that made room for one of the same
 * step, which then did not come, gets its name back.
 */
function clearLeftovers(checkpoints: string): void {
  for (const name of readdirSync(checkpoints)) {
    const leftover = join(checkpoints, name);
    const displaced = name.startsWith(".old-") && join(checkpoints, name.slice(".old-".length));
    if (displaced && !existsSync(displaced)) renameSync(leftover, displaced);
    else if (/^\.(tmp|old|trash)-/.test(name)) rmSync(leftover, { recursive: true });
  }
}

/**
 * Removes the oldest checkpoints up to `step` but `keep`, and never the one that `best` names. A later
 * one is damaged, or the training would have gone on from it: it must not push out a whole one.
 */
function prune(path: string, { step, keep }: { step: number; keep: number }): void {
  let best = "";
  try {
    best = Deno.readTextFileSync(join(path, "best")).trim();
  } catch {
    // no evaluation yet
  }
  const earlier = listCheckpoints(path).filter((checkpoint) => checkpoint.step <= step);
  for (const checkpoint of earlier.slice(keep)) {
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
  try {
    writeSynced(temporary, content);
    renameSync(temporary, path);
  } catch (error) {
    rmSync(temporary, { force: true }); // on a full disk even half a file is in the way
    throw error;
  }
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
    if (written === 0) throw Object.assign(new Error("nothing was written"), { code: "ENOSPC" });
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

/** Runs `action` and makes one sentence of whatever the system has against it. */
function attempt<T>(what: string, action: () => T): T {
  try {
    return action();
  } catch (error) {
    if (error instanceof CheckpointError) throw error;
    throw new CheckpointError(`Cannot ${what} as ${reasonOf(error)}`);
  }
}

function reasonOf(error: unknown): string {
  const { code, message } = error as NodeJS.ErrnoException;
  if (code === "ENOSPC" || code === "EDQUOT") return "the disk is full";
  if (code === "EROFS") return "the disk is read-only";
  if (code === "EACCES" || code === "EPERM" || error instanceof Deno.errors.NotCapable) {
    return "writing there is not permitted";
  }
  if (code === "ENOTDIR" || code === "EEXIST") return "a file is in its place";
  return `the system refuses: ${message}`;
}
