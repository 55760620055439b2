import fs, {
  closeSync,
  existsSync,
  fsyncSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readlinkSync,
  readSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { byteCounts } from "./units.ts";
import { UserError } from "./user_error.ts";

/**
 * Writing of files that are complete or absent, free space on the disk, and reasons of the system's refusals.
 *
 * @module
 */

/** Free bytes of the disk that holds a path, or will hold it; infinite without the permission to ask. */
function freeBytesAt(path: string): number {
  const asked = { name: "sys", kind: "statfs" } as const;
  if (Deno.permissions.querySync(asked).state !== "granted") return Infinity;
  const { bavail, bsize } = fs.statfsSync(existingPart(path)); // by its object, in which tests can replace it
  return bavail * bsize;
}

/** The longest beginning of a path that exists. */
export function existingPart(path: string): string {
  while (!existsSync(path) && path !== dirname(path)) path = dirname(path);
  return path;
}

/** Bytes that must remain free after a write, so that logs can still be written. */
export const SPARE_BYTES = 16 * 2 ** 20;

/**
 * Compares the free space of a directory with the bytes that are needed there.
 *
 * @returns undefined if there is room; else the reason, for a sentence "Cannot … as …".
 */
export function shortageAt(directory: string, neededBytes: number): string | undefined {
  const free = freeBytesAt(directory);
  if (free >= neededBytes) return undefined;
  const [neededCount, freeCount] = byteCounts(neededBytes, free);
  return `it needs ${neededCount} in ${directory}: ${freeCount} are free`;
}

/** Bytes of a file, or of all files below a directory; what vanishes meanwhile counts nothing. */
export function bytesBelow(path: string): number {
  try {
    const status = lstatSync(path);
    if (!status.isDirectory()) return status.size;
    return readdirSync(path).reduce((sum, name) => sum + bytesBelow(join(path, name)), 0);
  } catch (error) {
    if (!isSystemError(error)) throw error;
    return 0;
  }
}

/** Throws, as the system might, if there is a pipe at a path: opening it would wait for another process. */
export function refusePipe(path: string): void {
  if (!statSync(path, { throwIfNoEntry: false })?.isFIFO()) return;
  throw Object.assign(new Error("it is a pipe"), { code: "EINVAL" });
}

/** Opens a file, which is closed at the end of the scope that declares it with `using`. */
export function openFile(
  path: string,
  flags: "r" | "w" | "wx" | "a" | "a+" | number,
): Disposable & { handle: number } {
  const handle = openSync(path, flags);
  return { handle, [Symbol.dispose]: () => closeSync(handle) };
}

/** A new name beside a file or directory, for its replacement: `.tmp-NAME-UUID`. */
export function temporaryBeside(path: string): string {
  return join(dirname(path), `.tmp-${basename(path)}-${crypto.randomUUID()}`);
}

/** Pattern of a UUID. */
export const UUID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}";

/** Matches names from `temporaryBeside()`, which a killed process leaves behind. */
export const TEMPORARY_NAME = new RegExp(`^\\.tmp-.+-${UUID}$`);

/**
 * Makes sure that a file can have a path.
 *
 * @param flag the option that gives the path.
 * @returns whether the file exists.
 * @throws {UserError} if the path is empty, a directory, or inside a file.
 */
export function checkFilePath(path: string, flag: string): boolean {
  if (path === "") throw new UserError(`Cannot write as ${flag} must name a file: it is empty`);
  const status = reading(
    () => statSync(path, { throwIfNoEntry: false }),
    (reason) => new UserError(`Cannot write ${path} as ${reason}`),
  );
  if (!/[/\\]$/.test(path) && !status?.isDirectory()) return status !== undefined;
  throw new UserError(`Cannot write ${path} as ${flag} must name a file: it is a directory`);
}

/** A kind of file that a command writes, and the file of that kind that it may replace. */
export interface Replaceable {
  /** The option that gives the path. */
  readonly flag: string;
  /** The kind with its article, such as "an SVG file". */
  readonly kind: string;
  /** Whether an existing file is of that kind. */
  readonly isOfKind: (path: string) => boolean;
}

/**
 * Makes sure that a file can be written, and that nothing but an earlier file of its kind, or an empty one, is lost.
 * A device such as `/dev/null` may be written to.
 *
 * @throws {UserError} if `checkFilePath()` does, or if the path is that of a file of another kind.
 */
export function checkReplaceable(path: string, { flag, kind, isOfKind }: Replaceable): void {
  if (!checkFilePath(path, flag)) return;
  const status = statSync(path),
    refuse = (reason: string) =>
      new UserError(`Cannot write ${path} as ${flag} must name ${kind}: ${reason}`);
  if (!status.isFile() || status.size === 0 || reading(() => isOfKind(path), refuse)) return;
  throw new UserError(
    `Cannot write ${path} as ${flag} replaces only ${kind}: the file is something else; choose another ${flag}`,
  );
}

/** The text with which a file begins, of so many bytes. */
export function beginningOf(path: string, bytes: number): string {
  using file = openFile(path, "r");
  const beginning = new Uint8Array(bytes), length = readAt(file.handle, beginning, 0);
  return new TextDecoder().decode(beginning.subarray(0, length));
}

/**
 * Makes a file or directory under a temporary name beside its place, then renames it, so that after a crash
 * it is complete or absent. `syncDirectory()` then makes the new name survive a power cut.
 *
 * @param make writes and syncs the path that it is called with.
 * @param clear removes what has the name; by default a file is replaced, and a directory is refused.
 */
export function makeWhole(
  target: string,
  make: (temporary: string) => void,
  clear: () => void = () => {},
): void {
  const temporary = temporaryBeside(target);
  try {
    make(temporary);
    clear();
    renameSync(temporary, target);
  } catch (error) {
    rmSync(temporary, { recursive: true, force: true }); // half a file would take space that a full disk needs
    throw error;
  }
}

/**
 * Replaces a file as a whole or not at all. A link stays, and its target is replaced; a device or pipe, such
 * as `/dev/null`, is written to.
 */
export function replaceFile(path: string, content: Iterable<Uint8Array>): void {
  const status = statSync(path, { throwIfNoEntry: false });
  if (status && !status.isFile() && !status.isDirectory()) return writeInto(path, content);
  const target = status ? realpathSync(path) : targetOf(path);
  mkdirSync(dirname(target), { recursive: true });
  makeWhole(target, (temporary) => writeSynced(temporary, content));
}

/** The path of a file that does not exist yet: that to which a link points, or the path itself. */
function targetOf(path: string): string {
  const isLink = lstatSync(path, { throwIfNoEntry: false })?.isSymbolicLink();
  return isLink ? resolve(dirname(path), readlinkSync(path)) : path;
}

/**
 * Writes a text as `replaceFile()` does.
 *
 * @throws {UserError} in one sentence if the system refuses.
 */
export function replaceText(path: string, text: string): void {
  explaining(`write ${path}`, () => replaceFile(path, [new TextEncoder().encode(text)]));
}

function writeInto(path: string, content: Iterable<Uint8Array>): void {
  using file = openFile(path, "w");
  for (const chunk of content) writeAll(file.handle, chunk);
}

/** Writes a file and makes it survive a power cut. */
export function writeSynced(path: string, content: Iterable<Uint8Array>): void {
  using file = openFile(path, "wx");
  for (const chunk of content) writeAll(file.handle, chunk);
  fsyncSync(file.handle);
}

/** Makes a directory of files whose content survives a power cut; its name needs `syncDirectory()`. */
export function writeDirectory(
  path: string,
  files: Iterable<readonly [name: string, content: Iterable<Uint8Array>]>,
): void {
  mkdirSync(path);
  for (const [name, content] of files) writeSynced(join(path, name), content);
  syncDirectory(path);
}

/** The content of a file in chunks, each valid until the next is read. */
export function* readChunks(path: string): Generator<Uint8Array> {
  using file = openFile(path, "r");
  const chunk = new Uint8Array(2 ** 24);
  for (let length; (length = readSync(file.handle, chunk)) > 0;) yield chunk.subarray(0, length);
}

/** Fills a buffer from a place in a file and returns the bytes read: fewer only at the end of the file. */
export function readAt(file: number, buffer: Uint8Array, position: number): number {
  let done = 0;
  for (let count = -1; count !== 0 && done < buffer.length; done += count) {
    const most = Math.min(buffer.length - done, 2 ** 30);
    count = readSync(file, buffer, done, most, position + done);
  }
  return done;
}

/** Writes a whole chunk: a single write may write less of it if it is large or the disk is full. */
export function writeAll(file: number, chunk: Uint8Array, at?: number): void {
  for (let done = 0; done < chunk.length;) {
    const length = Math.min(chunk.length - done, 2 ** 30);
    const written = writeSync(file, chunk, done, length, at === undefined ? null : at + done);
    if (written === 0) throw Object.assign(new Error("nothing was written"), { code: "ENOSPC" });
    done += written;
  }
}

/** Makes a directory's entries survive a power cut; Windows has no such call and needs none. */
export function syncDirectory(path: string): void {
  if (Deno.build.os === "windows") return;
  using directory = openFile(path, "r");
  fsyncSync(directory.handle);
}

/** Whether an error is a refusal of the system, such as of access to a file or of space on the disk. */
export function isSystemError(error: unknown): error is NodeJS.ErrnoException {
  const { code } = Object(error) as NodeJS.ErrnoException;
  return error instanceof Deno.errors.NotCapable ||
    typeof code === "string" && /^E[A-Z0-9]+$/.test(code); // codes of Node's own errors begin with ERR_
}

/** Whether an error is a user's mistake: a `UserError`, or a refusal of the system. */
export function isUsersError(error: unknown): error is Error {
  return error instanceof UserError || isSystemError(error);
}

/**
 * Runs an action that reads a file or directory, or looks one up; `explaining()` is for writing.
 *
 * @param refuse makes the error from the system's reason, such as "there is no such file".
 */
export function reading<T>(action: () => T, refuse: (reason: string) => Error): T {
  try {
    return action();
  } catch (error) {
    // commands say which task has a missing permission
    if (!isSystemError(error) || error instanceof Deno.errors.NotCapable) throw error;
    if (error.code === "ENOENT") throw refuse("there is no such file");
    if (error.code === "ENOTDIR") throw refuse("a file is in its place");
    if (error.code === "EACCES" || error.code === "EPERM") {
      throw refuse("reading it is not permitted");
    }
    throw refuse(error.message);
  }
}

/** Completes the sentence "Cannot write … as …" with the system's reason. */
export function reasonOf(error: unknown): string {
  const { code, message } = error as NodeJS.ErrnoException;
  if (code === "ENOSPC" || code === "EDQUOT") return "the disk is full";
  if (code === "EROFS") return "the disk is read-only";
  if (code === "EACCES" || code === "EPERM" || error instanceof Deno.errors.NotCapable) {
    return "writing there is not permitted";
  }
  if (code === "ENOTDIR" || code === "EEXIST") return "a file is in its place";
  if (code === "EISDIR" || code === "ENOTEMPTY") return "a directory is in its place";
  return `the system refuses: ${message}`;
}

/**
 * Runs an action that writes files; `reading()` is for reading.
 *
 * @param what verb and object of the sentence `Cannot WHAT as REASON`.
 * @throws {UserError} with that sentence if the system refuses; of class `Refusal` if one is given.
 */
export function explaining<T>(
  what: string,
  action: () => T,
  Refusal: new (sentence: string) => UserError = UserError,
): T {
  try {
    return action();
  } catch (error) {
    if (!isSystemError(error)) throw error;
    throw new Refusal(`Cannot ${what} as ${reasonOf(error)}`);
  }
}
