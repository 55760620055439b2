import {
  closeSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readSync,
  realpathSync,
  renameSync,
  rmSync,
  statfsSync,
  type Stats,
  statSync,
  writeSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import { UserError } from "./user_error.ts";

/**
 * Files that are whole or absent, free space on the disk, and why the system refuses.
 *
 * @module
 */

/** Free bytes at a path; infinite without the permission to ask. */
export function freeBytesAt(path: string): number {
  const asked = { name: "sys", kind: "statfs" } as const;
  if (Deno.permissions.querySync(asked).state !== "granted") return Infinity;
  const { bavail, bsize } = statfsSync(path);
  return bavail * bsize;
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
 * Makes sure that a path can be that of a file to write.
 *
 * @param flag the option that gives the path.
 * @throws {UserError} if it is empty, a directory, or inside a file.
 */
export function checkFilePath(path: string, flag: string): void {
  if (path === "") throw new UserError(`Cannot write as ${flag} must name a file: it is empty`);
  let status: Stats | undefined;
  try {
    status = statSync(path, { throwIfNoEntry: false });
  } catch (error) {
    if (!isSystemError(error)) throw error;
    throw new UserError(`Cannot write ${path} as ${reasonOf(error)}`);
  }
  if (!/[/\\]$/.test(path) && !status?.isDirectory()) return;
  throw new UserError(`Cannot write ${path} as ${flag} must name a file: it is a directory`);
}

/**
 * Writes a file beside its place, synced, then renames it: it is replaced as a whole or not at all. A link
 * stays, and its target is replaced; a device or pipe, such as `/dev/null`, is written to.
 */
export function replaceFile(path: string, content: readonly Uint8Array[]): void {
  const status = statSync(path, { throwIfNoEntry: false });
  if (status && !status.isFile() && !status.isDirectory()) return writeInto(path, content);
  const target = status ? realpathSync(path) : path, temporary = temporaryBeside(target);
  try {
    mkdirSync(dirname(target), { recursive: true });
    writeSynced(temporary, content);
    renameSync(temporary, target);
  } catch (error) {
    rmSync(temporary, { force: true }); // on a full disk even half a file takes needed space
    throw error;
  }
}

/**
 * Writes a text as `replaceFile()` does.
 *
 * @throws {UserError} in one sentence if the system refuses.
 */
export function replaceText(path: string, text: string): void {
  try {
    replaceFile(path, [new TextEncoder().encode(text)]);
  } catch (error) {
    if (!isSystemError(error)) throw error;
    throw new UserError(`Cannot write ${path} as ${reasonOf(error)}`);
  }
}

function writeInto(path: string, content: readonly Uint8Array[]): void {
  const file = openSync(path, "w");
  try {
    for (const chunk of content) writeAll(file, chunk);
  } finally {
    closeSync(file);
  }
}

/** Writes a file and makes it survive a power cut. */
export function writeSynced(path: string, content: Iterable<Uint8Array>): void {
  const file = openSync(path, "wx");
  try {
    for (const chunk of content) writeAll(file, chunk);
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
}

/** Copies a file and makes the copy survive a power cut. */
export function copySynced(from: string, to: string): void {
  const file = openSync(from, "r");
  try {
    writeSynced(to, chunksOf(file));
  } finally {
    closeSync(file);
  }
}

function* chunksOf(file: number): Generator<Uint8Array> {
  const chunk = new Uint8Array(2 ** 24);
  for (let length; (length = readSync(file, chunk)) > 0;) yield chunk.subarray(0, length);
}

/** Fills a buffer from a place in a file as far as the file reaches: a read may give fewer bytes. */
export function readAt(file: number, buffer: Uint8Array, position: number): number {
  let done = 0;
  for (let count = -1; count !== 0 && done < buffer.length; done += count) {
    const most = Math.min(buffer.length - done, 2 ** 30);
    count = readSync(file, buffer, done, most, position + done);
  }
  return done;
}

/** A write may take fewer bytes than it was given, of large chunks and on a full disk. */
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
  const directory = openSync(path, "r");
  try {
    fsyncSync(directory);
  } finally {
    closeSync(directory);
  }
}

/** Whether an error says that the system refused something, such as a file or room on the disk. */
export function isSystemError(error: unknown): error is NodeJS.ErrnoException {
  const { code } = Object(error) as NodeJS.ErrnoException;
  return error instanceof Deno.errors.NotCapable ||
    typeof code === "string" && /^E[A-Z0-9]+$/.test(code); // Node's own complaints begin with ERR_
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
