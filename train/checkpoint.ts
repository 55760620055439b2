import { createHash } from "node:crypto";
import {
  closeSync,
  existsSync,
  fstatSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readdirSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
} from "node:fs";
import { basename, dirname, join, normalize, relative } from "node:path";
import {
  explaining,
  freeBytesAt,
  isSystemError,
  makeWhole,
  readChunks,
  reasonOf,
  replaceFile,
  shortageAt,
  SPARE_BYTES,
  syncDirectory,
  TEMPORARY_NAME,
  UUID,
  writeAll,
  writeDirectory,
  writeSynced,
} from "../files/disk.ts";
import { commandLine } from "../files/command_line.ts";
import { printable } from "../files/printable.ts";
import { byteCount } from "../files/units.ts";
import { KEPT_BASE } from "../generate/base.ts";
import {
  checkFileNames,
  CheckpointError,
  checkpointName,
  type FileDigest,
  listCheckpoints,
  serializeState,
  STATE_FILE,
  type TrainerState,
} from "../model/files/checkpoint.ts";
import { runThatNeeds } from "./base.ts";
import { LINE_BREAK, METRICS_FILE } from "./metrics.ts";

/** Content of a file in chunks. */
export type FileContent = readonly Uint8Array[];

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
   * removed, except the best one and those that adapters of other runs need. Later ones, which a resume
   * passed over as damaged, stay. What fails once the checkpoint has its name is a notice.
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
   * Compares the free space with what the checkpoints of a training will need.
   *
   * @param saves checkpoints that will be saved, as far as one may know.
   * @throws {CheckpointError} if not one fits; that not all do is a notice.
   */
  checkRoom(plan: { checkpointBytes: number; keep: number; saves: number }): void;
  /**
   * Makes the hints true for a training that continues after `step`: a hint must not name a later checkpoint.
   *
   * @param best step of the best evaluation up to there, if there was one.
   */
  resumeAfter(step: number, best: number | undefined): void;
  /**
   * Appends a line, or several, to a file of the run, beginning on a new line. If the disk refuses, that
   * is a notice, and the lines are kept and written with the next.
   */
  append(name: string, line: string): void;
  /**
   * Copies files into a folder of the run, replacing it, so that after a crash it is whole or not there.
   *
   * @throws {CheckpointError} if there is no room or the disk refuses.
   */
  copy(folder: string, files: readonly string[]): void;
  /** Writes a file of the run, replacing it as a whole. If the disk refuses, that is a notice. */
  write(name: string, text: string): void;
  /**
   * Sentences about failures that end no training; the reader removes them. A file that keeps failing is
   * named once.
   */
  readonly notices: string[];
  /** Gives the run back; a directory that was made for it, and in which nothing was saved, is removed. */
  close(): void;
}

/**
 * Opens a run directory, making it if needed, and takes its lock.
 *
 * Leftovers of a process that died while it wrote or removed a checkpoint are cleared away.
 *
 * @param freeBytes free space at a path, for tests.
 * @throws {CheckpointError} if another process trains there, the directory cannot be written, or it is
 * none for a run: it belongs to a checkpoint or holds other files.
 */
export function openRunDirectory(
  path: string,
  { freeBytes = freeBytesAt }: { freeBytes?: (path: string) => number } = {},
): RunDirectory {
  const checkpoints = join(path, "checkpoints");
  let isNew = false;
  const lock = refusing(`open run ${path}`, () => {
    checkPlace(path);
    isNew = !existsSync(path);
    mkdirSync(checkpoints, { recursive: true });
    return Deno.openSync(join(path, "lock"), { create: true, write: true });
  });
  if (!lock.tryLockSync(true)) {
    lock.close();
    throw new CheckpointError(`Cannot open run ${path} as another process is training there`);
  }
  let best = readHint(path, "best");
  const notices: string[] = [], failing = new Set<string>();
  /** Does what no training depends on. */
  const tryTo = (what: string, action: () => void): boolean => {
    try {
      action();
      failing.delete(what);
      return true;
    } catch (error) {
      if (!isSystemError(error)) throw error;
      const notice = `Cannot ${what} as ${reasonOf(error)}: training continues without it`;
      if (!failing.has(what)) notices.push(notice);
      failing.add(what);
      return false;
    }
  };
  const clear = () => tryTo(`clear ${checkpoints}`, () => clearLeftovers(checkpoints));
  clear();
  tryTo(`clear ${path}`, () => {
    for (const { name, isFile } of Deno.readDirSync(path)) {
      const isOurs = isFile || name.startsWith(`.tmp-${KEPT_BASE}-`);
      if (isOurs && TEMPORARY_NAME.test(name)) rmSync(join(path, name), { recursive: true });
    }
  });
  const write = (name: string, text: string) =>
    tryTo(
      `write ${join(path, name)}`,
      () => replaceFile(join(path, name), [new TextEncoder().encode(text)]),
    );
  const hint = (name: string, checkpoint: string) => {
    if (readHint(path, name) !== checkpoint) write(name, `${checkpoint}\n`);
  };
  const removeHint = (name: string) => {
    if (readHint(path, name) === "") return;
    tryTo(`remove ${join(path, name)}`, () => rmSync(join(path, name)));
  };
  const waiting = new Map<string, string>();
  const noted = new Set<string>();
  const isNeeded = (checkpoint: string) => {
    const run = runThatNeeds(checkpoint);
    if (run !== undefined && !noted.has(checkpoint)) {
      notices.push(`keeping ${checkpoint}: the adapters in ${run} need it`);
      noted.add(checkpoint);
    }
    return run !== undefined;
  };

  return {
    path,
    notices,
    save(files, state, { keep, best: isBest }) {
      const name = checkpointName(state.step);
      const target = join(checkpoints, name);
      checkFileNames(files.keys(), `Cannot save checkpoint ${target}`);
      const what = `save checkpoint ${target}`;
      try {
        refusing(what, () => {
          const digests: Record<string, FileDigest> = {};
          for (const [file, content] of files) digests[file] = digest(content);
          checkFits(what, checkpoints, bytesOf(files.values()), freeBytes);
          const manifest = new TextEncoder().encode(serializeState({ ...state, files: digests }));
          makeWhole(
            target,
            (temporary) => writeDirectory(temporary, [...files, [STATE_FILE, [manifest]]]),
            () => {
              if (!existsSync(target)) return;
              // no call swaps two directories: until the new one has the name, the old one can come back
              renameSync(target, join(checkpoints, `.old-${name}-${crypto.randomUUID()}`));
            },
          );
          syncDirectory(checkpoints);
        });
      } finally {
        clear();
      }
      hint("latest", name);
      if (isBest) hint("best", best = name);
      tryTo(
        `remove checkpoints beyond --keep from ${checkpoints}`,
        () => prune(path, { step: state.step, keep, best, isNeeded }),
      );
      return target;
    },
    checkRoom({ checkpointBytes, keep, saves }) {
      if (saves === 0) return;
      // with the best one and the one that is being written
      const missing = Math.max(1, keep + 2 - listCheckpoints(path).length);
      const count = Math.min(missing, saves);
      checkFits(`save a checkpoint`, checkpoints, checkpointBytes, freeBytes);
      const shortage = shortageAt(checkpoints, count * checkpointBytes + SPARE_BYTES, freeBytes);
      if (shortage === undefined) return;
      notices.push(
        `Cannot save ${count} checkpoints of ${byteCount(checkpointBytes)} each as ${shortage}; ` +
          `make room, or lower --keep: current value is ${keep}`,
      );
    },
    resumeAfter(step, bestStep) {
      const latest = checkpointName(step);
      if (existsSync(join(checkpoints, latest))) hint("latest", latest);
      else removeHint("latest");
      if (!(Number(best) > step)) return;
      best = bestStep === undefined ? "" : checkpointName(bestStep);
      if (best && existsSync(join(checkpoints, best))) hint("best", best);
      else removeHint("best");
    },
    append(name, line) {
      const file = join(path, name), text = `${waiting.get(name) ?? ""}${line}\n`;
      if (tryTo(`write ${file}`, () => appendWhole(file, text))) {
        waiting.delete(name);
      } else if (text.length <= MOST_WAITING) {
        waiting.set(name, text);
      } else {
        notices.push(`${file} lacks ${text.length} characters that could not be written`);
        waiting.delete(name);
      }
    },
    copy(folder, files) {
      const target = join(path, folder), what = `copy files to ${target}`;
      refusing(what, () => {
        const bytes = files.reduce((sum, file) => sum + statSync(file).size, 0);
        checkFits(what, path, bytes, freeBytes);
        const copies = files.map((file) => [basename(file), readChunks(file)] as const);
        makeWhole(
          target,
          (temporary) => writeDirectory(temporary, copies),
          () => rmSync(target, { recursive: true, force: true }),
        );
        syncDirectory(path);
      });
    },
    write,
    close() {
      for (const [name, text] of waiting) {
        const file = join(path, name);
        tryTo(`write ${file}`, () => appendWhole(file, text));
      }
      // while it is locked; Windows removes no open file, and the directory stays
      if (isNew) tryTo(`remove ${path}`, () => removeUnused(path));
      lock.close();
    },
  };
}

/** Removes a run in which there is nothing but what `openRunDirectory()` makes. */
function removeUnused(path: string): void {
  const names = readdirSync(path).filter((name) => name !== "lock" && name !== "checkpoints");
  if (names.length > 0 || readdirSync(join(path, "checkpoints")).length > 0) return;
  rmSync(path, { recursive: true });
}

/** Most characters that wait to be appended to a file that cannot be written now. */
const MOST_WAITING = 2 ** 24;

/** The checkpoint that `latest` or `best` names; nothing if that cannot be read. */
function readHint(run: string, name: string): string {
  try {
    return Deno.readTextFileSync(join(run, name)).trim();
  } catch {
    return "";
  }
}

/** Appends lines as a whole or not at all, on a new line even if the last one was torn. */
function appendWhole(path: string, text: string): void {
  const file = openSync(path, "a+");
  try {
    const { size } = fstatSync(file), last = new Uint8Array([LINE_BREAK]);
    if (size > 0) readSync(file, last, 0, 1, size - 1);
    try {
      writeAll(file, new TextEncoder().encode(last[0] === LINE_BREAK ? text : `\n${text}`));
    } catch (error) {
      ftruncateSync(file, size);
      throw error;
    }
  } finally {
    closeSync(file);
  }
}

/** Makes sure that a run may lie at a path. */
function checkPlace(path: string): void {
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
      `it lies in ${
        checkpoint ?? join(run, "checkpoints")
      }: to resume that run use ${resuming}, ${other}`,
    );
  }
  if (!existsSync(path)) return;
  const names = readdirSync(path);
  if (names.some((name) => RUN_FILES.includes(name)) || listCheckpoints(path).length > 0) return;
  const others = names.filter((name) => !/^\.|^lost\+found$|^checkpoints$/.test(name));
  if (others.length === 0) return;
  const some = others.slice(0, 3).map((name) => printable(name)).join(", ");
  throw refuse(
    `it must be a run or an empty directory: it holds ${some}${others.length > 3 ? ", …" : ""}; ` +
      `choose another, such as ${commandLine(["--out", join(path, "my-run")])}`,
  );
}

/** Files that every run has, from its beginning or soon. */
const RUN_FILES = ["lock", METRICS_FILE];

/** The run, and the checkpoint if it is in one, in whose `checkpoints` a path lies. */
function placeInRun(path: string): { run: string; checkpoint?: string } | undefined {
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

/** Where a path leads, links followed, as far as it exists and may be known. */
function realPath(path: string): string {
  for (let at = normalize(path), rest = "";;) {
    if (mayRead(".") && mayRead(at) && existsSync(at)) return join(Deno.realPathSync(at), rest);
    if (at === dirname(at)) return normalize(path);
    [at, rest] = [dirname(at), join(basename(at), rest)];
  }
}

/** A path as it would be typed: from the working directory if it lies there. */
function asTyped(path: string): string {
  if (!mayRead(".")) return path;
  const from = relative(Deno.realPathSync("."), path);
  return from.startsWith("..") ? path : from || ".";
}

function mayRead(path: string): boolean {
  return Deno.permissions.querySync({ name: "read", path }).state === "granted";
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
 * Makes sure that a file or directory can be made at a path.
 *
 * @throws {CheckpointError} if something is there, or if what is there would be removed later.
 */
export function checkFree(path: string): void {
  if (path === "") {
    throw new CheckpointError("Cannot write as --out must be a name: it is empty");
  }
  const place = placeInRun(path);
  const reason = existsSync(path)
    ? "it is there already"
    : place && `it lies among the checkpoints of run ${place.run}, which are removed in their turn`;
  if (!reason) return;
  throw new CheckpointError(`Cannot write ${path} as ${reason}: choose another --out`);
}

/** Makes sure that a directory has room for files, and for logs beside them. */
function checkFits(
  what: string,
  directory: string,
  bytes: number,
  freeBytes: (path: string) => number = freeBytesAt,
): void {
  const shortage = shortageAt(directory, bytes + SPARE_BYTES, freeBytes);
  if (shortage === undefined) return;
  throw new CheckpointError(
    `Cannot ${what} as ${shortage}; make room, or choose another --out`,
  );
}

function bytesOf(files: Iterable<FileContent>): number {
  let bytes = 0;
  for (const chunks of files) for (const { length } of chunks) bytes += length;
  return bytes;
}

/**
 * Renames a run directory to the first free `NAME-1`, `NAME-2`, … so that a new one can take its place.
 *
 * @returns the new name, or undefined if there was no such run.
 * @throws {CheckpointError} if another process trains there or the directory cannot be renamed.
 */
export function moveAside(path: string): string | undefined {
  refusing(`open run ${path}`, () => checkPlace(path));
  if (!existsSync(path)) return undefined;
  openRunDirectory(path).close(); // nobody trains there
  if (/^\.{1,2}$/.test(basename(path))) {
    throw new CheckpointError(
      `Cannot move run ${path} aside as the working directory lies there: ` +
        `run this elsewhere, with the name of the run`,
    );
  }
  const name = join(dirname(path), basename(path)); // without the slash that may end a path
  let number = 1;
  while (existsSync(`${name}-${number}`)) number++;
  const aside = `${name}-${number}`;
  refusing(`move ${path} to ${aside}`, () => renameSync(path, aside));
  return aside;
}

/**
 * Clears away what an interrupted save or removal left. A checkpoint that made room for one of the same
 * step, which then did not come, gets its name back. What has other names, or is no directory, is of
 * somebody else.
 */
function clearLeftovers(checkpoints: string): void {
  for (const { name, isDirectory } of Deno.readDirSync(checkpoints)) {
    const match = LEFTOVER.exec(name);
    if (!isDirectory || !match) continue;
    const [, kind, step = ""] = match;
    const leftover = join(checkpoints, name), displaced = join(checkpoints, step);
    if (kind === "old" && !existsSync(displaced)) renameSync(leftover, displaced);
    else rmSync(leftover, { recursive: true });
  }
}

/** Names that a save gives; the first two once had no UUID. */
const LEFTOVER = new RegExp(`^\\.(?:(tmp|old)-(\\d{6,})(?:-${UUID})?|trash-\\d{6,}-${UUID})$`);

/**
 * Removes the oldest checkpoints up to `step` but `keep`, and never the best nor one that is needed. A later
 * one is damaged, or the training would have resumed from it: it must not displace a whole one.
 */
function prune(
  path: string,
  { step, keep, best, isNeeded }: {
    step: number;
    keep: number;
    best: string;
    isNeeded: (checkpoint: string) => boolean;
  },
): void {
  const earlier = listCheckpoints(path).filter((checkpoint) => checkpoint.step <= step);
  for (const checkpoint of earlier.slice(keep)) {
    if (basename(checkpoint.path) === best || isNeeded(checkpoint.path)) continue;
    discard(checkpoint.path);
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

/** Runs an action on the files of a run, and throws a `CheckpointError` if the system refuses. */
function refusing<T>(what: string, action: () => T): T {
  return explaining(what, action, CheckpointError);
}
