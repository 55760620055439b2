import { readdirSync } from "node:fs";
import { join } from "node:path";
import { isSystemError } from "../files/disk.ts";
import { isRun } from "../train/run_place.ts";

/**
 * The runs below a folder, at any depth.
 *
 * @module
 */

/** Folders below each other that are searched for runs, at most. */
const DEEPEST = 6;

/** Directories that are searched, at most. */
const MOST_DIRECTORIES = 20_000;

/** A run as a list shows it. */
export interface ListedRun {
  /** Its path from the folder; `.` if the folder is the run. */
  readonly name: string;
}

/** A folder, and the runs that were found below it. */
export class RunFolder {
  readonly #folder: string;
  /** Directories of runs by name. */
  #paths = new Map<string, string>();

  constructor(folder: string) {
    this.#folder = folder;
    this.search();
  }

  /** The directory of a run; undefined for an unknown name, so that no request can name another path. */
  path(name: string): string | undefined {
    return this.#paths.get(name);
  }

  /** The runs in the order of their names. */
  list(): ListedRun[] {
    this.search();
    return [...this.#paths.keys()].map((name) => ({ name }));
  }

  /** Finds the runs below the folder. Links to directories are not followed: they may lead anywhere, or in circles. */
  search(): void {
    const found: string[] = [];
    let left = MOST_DIRECTORIES;
    const visit = (name: string, depth: number) => {
      const path = join(this.#folder, name);
      if (left-- <= 0) return;
      if (isRun(path)) found.push(name || ".");
      if (isRun(path) || depth === DEEPEST) return;
      for (const below of directoriesIn(path)) visit(name ? `${name}/${below}` : below, depth + 1);
    };
    visit("", 0);
    this.#paths = new Map(found.sort().map((name) => [name, join(this.#folder, name)]));
  }
}

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
