import { constants, fstatSync, ftruncateSync, rmSync } from "node:fs";
import { join } from "node:path";
import {
  isSystemError,
  openFile,
  readAt,
  reasonOf,
  refusePipe,
  replaceFile,
  writeAll,
} from "../../files/disk.ts";
import { LINE_BREAK } from "../record/metrics.ts";

/** Characters that wait to be appended to a file that cannot be written now, at most. */
const MOST_UNWRITTEN = 2 ** 24;

/** The files of a directory that a training may do without: it continues if one cannot be written, with a notice. */
export class OptionalFiles {
  /** The path of the directory. */
  readonly path: string;
  /** Sentences about failures that do not end a training, once per file; who reads them removes them. */
  readonly notices: string[] = [];
  /** By file, lines that could not be appended yet. */
  readonly #unwritten = new Map<string, string>();
  /** What failed the last time. */
  readonly #failing = new Set<string>();

  constructor(path: string) {
    this.path = path;
  }

  /**
   * Appends one or several lines to a file of the run. If the system refuses, that is a notice, and the lines are
   * written together with the next ones.
   */
  append(name: string, lines: string): void {
    const text = `${this.#unwritten.get(name) ?? ""}${lines}\n`;
    if (this.#append(name, text)) {
      this.#unwritten.delete(name);
    } else if (text.length <= MOST_UNWRITTEN) {
      this.#unwritten.set(name, text);
    } else {
      const file = join(this.path, name);
      this.notices.push(`${file} lacks ${text.length} characters that could not be written`);
      this.#unwritten.delete(name);
    }
  }

  /**
   * Writes bytes to a file of the run after its first `lengthBytes` bytes, in place of what follows these; all or
   * none. If the system refuses, that is a notice.
   *
   * @returns whether they were written.
   */
  extend(name: string, lengthBytes: number, bytes: Uint8Array): boolean {
    const path = join(this.path, name);
    return this.tryTo(`write ${path}`, () => extendFile(path, lengthBytes, bytes));
  }

  /** Removes a file of the run. If the system refuses, that is a notice. */
  remove(name: string): void {
    const file = join(this.path, name);
    this.tryTo(`remove ${file}`, () => rmSync(file));
  }

  /** Writes a file of the run, replacing it as a whole. If the system refuses, that is a notice. */
  write(name: string, text: string): void {
    const file = join(this.path, name);
    this.tryTo(`write ${file}`, () => {
      refusePipe(file);
      replaceFile(file, [new TextEncoder().encode(text)]);
    });
  }

  /** Tries once more to append the lines that could not be appended. */
  protected appendUnwritten(): void {
    for (const [name, text] of this.#unwritten) this.#append(name, text);
  }

  /** Does something without which a training can continue; returns whether it was possible. */
  protected tryTo(what: string, action: () => void): boolean {
    try {
      action();
      this.#failing.delete(what);
      return true;
    } catch (error) {
      if (!isSystemError(error)) throw error;
      const notice = `Cannot ${what} as ${reasonOf(error)}: training continues without it`;
      if (!this.#failing.has(what)) this.notices.push(notice);
      this.#failing.add(what);
      return false;
    }
  }

  #append(name: string, text: string): boolean {
    const file = join(this.path, name);
    return this.tryTo(`write ${file}`, () => appendWhole(file, text));
  }
}

/** Appends lines, all or none, on a new line even if a killed process left half a line. */
function appendWhole(path: string, text: string): void {
  refusePipe(path);
  using file = openFile(path, "a+");
  const { size } = fstatSync(file.handle), last = new Uint8Array([LINE_BREAK]);
  if (size > 0) readAt(file.handle, last.subarray(0, 1), size - 1);
  const bytes = new TextEncoder().encode(last[0] === LINE_BREAK ? text : `\n${text}`);
  writeAllOrNone(file.handle, size, () => writeAll(file.handle, bytes));
}

/** Writes bytes after the first bytes of a file, and nothing if that fails. */
function extendFile(path: string, lengthBytes: number, bytes: Uint8Array): void {
  using file = openFile(path, constants.O_RDWR | constants.O_CREAT);
  const { size } = fstatSync(file.handle);
  if (size < lengthBytes) {
    throw Object.assign(new Error("the file became shorter"), { code: "EIO" });
  }
  if (size > lengthBytes) ftruncateSync(file.handle, lengthBytes);
  writeAllOrNone(file.handle, lengthBytes, () => writeAll(file.handle, bytes, lengthBytes));
}

/** Writes at the end of a file, and gives it its length back if that fails. */
function writeAllOrNone(file: number, lengthBytes: number, write: () => void): void {
  try {
    write();
  } catch (error) {
    ftruncateSync(file, lengthBytes);
    throw error;
  }
}
