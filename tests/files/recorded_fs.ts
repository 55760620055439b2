import * as real from "node:fs";
export * from "node:fs";
export { default } from "node:fs";

/**
 * What stands in for `node:fs` in a process that imports it by an import map: the same, and it notes what
 * is written, synced, renamed and removed, in this order, and what is open.
 */

/** Each operation and the paths that it names. */
export const operations: [operation: string, ...paths: string[]][] = [];

const paths = new Map<number, string>();

/** Notes an operation, but not the next of several equal ones. */
export function note(operation: string, ...paths: string[]): void {
  const entry = [operation, ...paths] as const;
  if (operations.at(-1)?.join("\0") !== entry.join("\0")) operations.push([...entry]);
}

export const openSync: typeof real.openSync = (path, ...rest) => {
  const file = real.openSync(path, ...rest);
  paths.set(file, String(path));
  return file;
};

export const closeSync: typeof real.closeSync = (file) => {
  paths.delete(file);
  real.closeSync(file);
};

/** Paths of the files that were opened and not closed. */
export function openPaths(): string[] {
  return [...paths.values()];
}

export const writeSync = ((file: number, ...rest: [Uint8Array]) => {
  note("write", paths.get(file)!);
  return real.writeSync(file, ...rest);
}) as typeof real.writeSync;

export const writeFileSync: typeof real.writeFileSync = (file, data, options) => {
  const path = typeof file === "number" ? paths.get(file)! : String(file);
  note("write", path);
  real.writeFileSync(file, data, options);
  if ((options as { flush?: boolean } | undefined)?.flush) note("sync", path);
};

export const fsyncSync: typeof real.fsyncSync = (file) => {
  note("sync", paths.get(file)!);
  real.fsyncSync(file);
};

export const renameSync: typeof real.renameSync = (from, to) => {
  note("rename", String(from), String(to));
  real.renameSync(from, to);
};

export const rmSync: typeof real.rmSync = (path, options) => {
  if (real.existsSync(path)) note("remove", String(path));
  real.rmSync(path, options);
};

const { openSync: openFile } = Deno;
let deno = 0; // keys of Deno's files, which are negative
Deno.openSync = (path, options) => {
  const file = openFile(path, options), write = file.writeSync.bind(file);
  const key = --deno, close = file.close.bind(file);
  paths.set(key, String(path));
  file.close = file[Symbol.dispose] = () => {
    paths.delete(key);
    close();
  };
  file.writeSync = (bytes) => {
    note("write", String(path));
    return write(bytes);
  };
  const sync = file.syncSync.bind(file);
  file.syncSync = () => {
    note("sync", String(path));
    sync();
  };
  return file;
};
