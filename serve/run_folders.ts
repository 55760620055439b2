import { readdirSync } from "node:fs";
import { basename, join, normalize, resolve } from "node:path";
import { isSystemError } from "../files/disk.ts";
import { isRun } from "../train/directory/run_place.ts";
import type { RunRow } from "./run_view.ts";
import { WatchedRun } from "./watched_run.ts";

/**
 * The runs below folders, at any depth, and what changes there.
 *
 * Indices of records are in memory only: no folder is ever written to, and an index is made again from the record in
 * about 3 µs per line.
 *
 * @module
 */

/** Folders below each other that are searched for runs, at most, and directories that are searched. */
const DEEPEST = 6, MOST_DIRECTORIES = 20_000;

/** Runs whose index is kept, at most. */
const MOST_INDICES = 64;

/** Milliseconds between two looks at the files of runs while a page is open, and between two searches for runs. */
const WATCH_MS = 1000, SEARCH_MS = 5000;

/** Share of the time that searches in a large folder may take, at most. */
const SEARCH_SHARE = 0.02;

/** Milliseconds after its last change from which a run is looked at only with a search. */
const QUIET_MS = 10 * 60_000;

/** Rows that changed, and names of runs that are gone. */
export interface Changes {
  readonly rows: readonly RunRow[];
  readonly gone: readonly string[];
}

/** Folders, and the runs that were found below them. */
export class RunFolders {
  readonly #folders: readonly string[];
  #runs = new Map<string, WatchedRun>();
  #nextSearchMs = 0;
  /** Runs that have an index, the one that was asked for last at the end. */
  readonly #indexed = new Set<WatchedRun>();
  readonly #watchers = new Set<(changes: Changes) => void>();
  #timer: ReturnType<typeof setInterval> | undefined;
  /** Rows that were sent to the watchers, as JSON. */
  #sent = new Map<string, string>();

  /** @param folders that hold runs, or runs; they need not exist yet. */
  constructor(folders: readonly string[]) {
    this.#folders = folders;
  }

  /**
   * A run by its name: its path from the folder, of several folders its whole path, and of a run alone the last part
   * of its path. It may have appeared since the last search. Undefined for any other name, so that no request can name another path.
   */
  run(name: string): WatchedRun | undefined {
    if (!this.#runs.has(name)) this.#search();
    const run = this.#runs.get(name);
    if (!run) return undefined;
    this.#indexed.delete(run);
    this.#indexed.add(run);
    if (this.#indexed.size > MOST_INDICES) {
      const [oldest] = this.#indexed;
      oldest!.forget();
      this.#indexed.delete(oldest!);
    }
    return run;
  }

  /** All runs, the one that was written to last first. */
  rows(): RunRow[] {
    this.#search();
    const { compare } = new Intl.Collator("en", { numeric: true }); // 10 before 9 would be odd
    return [...this.#runs.values()].map((run) => run.look()).sort((a, b) => {
      const [first, second] = [a.time ?? "", b.time ?? ""];
      return first === second ? compare(a.name, b.name) : first < second ? 1 : -1;
    });
  }

  /** Calls a function with what changes, until the function that it returns is called. */
  watch(onChange: (changes: Changes) => void): () => void {
    if (this.#watchers.size === 0) {
      this.#sent = new Map([...this.#runs].map(([name, { row }]) => [name, JSON.stringify(row)]));
      this.#timer = setInterval(() => this.#look(), WATCH_MS);
    }
    this.#watchers.add(onChange);
    return () => {
      this.#watchers.delete(onChange);
      if (this.#watchers.size === 0) clearInterval(this.#timer);
    };
  }

  /** Finds what differs from what was sent to the watchers, and sends it. */
  #look(): void {
    const now = Date.now(), isSearch = now >= this.#nextSearchMs;
    if (isSearch) this.#search();
    const rows: RunRow[] = [];
    for (const run of this.#runs.values()) {
      const isQuiet = run.row && run.row.state !== "training" && now - run.changedMs > QUIET_MS;
      const row = isQuiet && !isSearch ? run.row! : run.look(), text = JSON.stringify(row);
      if (text === this.#sent.get(run.name)) continue;
      this.#sent.set(run.name, text);
      rows.push(row);
    }
    const gone = [...this.#sent.keys()].filter((name) => !this.#runs.has(name));
    for (const name of gone) this.#sent.delete(name);
    if (rows.length === 0 && gone.length === 0) return;
    for (const onChange of this.#watchers) onChange({ rows, gone });
  }

  /** Finds the runs below the folders. Links to directories are not followed: they may lead anywhere, or in circles. */
  #search(): void {
    const found: WatchedRun[] = [], begin = Date.now();
    let left = MOST_DIRECTORIES;
    const visit = (path: string, name: string, depth: number) => {
      if (left-- <= 0) return;
      if (isRun(path)) {
        const shown = name || basename(resolve(path));
        found.push(this.#runs.get(shown) ?? new WatchedRun(shown, path));
        return;
      }
      if (depth === DEEPEST) return;
      for (const below of directoriesIn(path)) {
        visit(join(path, below), name ? `${name}/${below}` : below, depth + 1);
      }
    };
    const isSingle = this.#folders.length === 1;
    for (const folder of this.#folders) visit(folder, isSingle ? "" : nameOf(folder), 0);
    this.#runs = new Map(found.map((run) => [run.name, run]));
    const now = Date.now();
    this.#nextSearchMs = now + Math.max(SEARCH_MS, (now - begin) / SEARCH_SHARE);
  }
}

/** A path as the name of a run, which has no slash at its end. */
function nameOf(folder: string): string {
  return normalize(folder).replaceAll("\\", "/").replace(/(?<=.)\/$/, "");
}

/** Names of the directories in a folder, without hidden ones and links. */
function directoriesIn(path: string): string[] {
  try {
    return readdirSync(path, { withFileTypes: true })
      .filter((entry) => entry.isDirectory() && !entry.name.startsWith("."))
      .map(({ name }) => name);
  } catch (error) {
    if (!isSystemError(error)) throw error;
    return [];
  }
}
