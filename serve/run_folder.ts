import { readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { isSystemError } from "../files/disk.ts";
import { differences, type Ingredients } from "../train/compare.ts";
import { METRICS_FILE } from "../train/metrics.ts";
import { isLocked } from "../train/run_directory.ts";
import { isRun } from "../train/run_place.ts";
import { type Evaluated, type LastSteps, RunIndex } from "./run_index.ts";
import { glance, RunReader } from "./run_reader.ts";
import { detailsOf, ingredientsOf, rowOf, type RunDetails, type RunRow } from "./run_view.ts";
import type { Columns } from "./thinned_curve.ts";

/**
 * The runs below a folder, at any depth, and what their files say.
 *
 * Indices of records are in memory only: a folder is never written to, and an index is made again from the record in
 * about 3 µs per line.
 *
 * @module
 */

/** Folders below each other that are searched for runs, at most, and directories that are searched. */
const DEEPEST = 6, MOST_DIRECTORIES = 20_000;

/** Records of which an index is kept, at most. */
const MOST_READERS = 64;

/** Milliseconds of a slice of reading, between which requests are answered. */
const SLICE_MS = 25;

/** Milliseconds for which a request waits for a whole index before it is answered from a sample. */
const PATIENCE_MS = 150;

/** Milliseconds between two looks at the files of runs while a page is open, and between two searches for runs. */
const WATCH_MS = 1000, SEARCH_MS = 5000;

/** Share of the time that searches in a large folder may take, at most. */
const SEARCH_SHARE = 0.02;

/** Milliseconds after its last change from which a run is looked at only with a search. */
const QUIET_MS = 10 * 60_000;

/** Curves of a run. */
export interface RunCurves {
  readonly name: string;
  /** Changes when points that were read before are no longer there. */
  readonly generation: string;
  /** Whether the points follow those that the page has. */
  readonly isAppended: boolean;
  /** Whether all lines were read; otherwise the points are those of a sample. */
  readonly isComplete: boolean;
  /** Share of the record that was read. */
  readonly share: number;
  /** Tokens per step, null if unknown. */
  readonly tokensPerStep: number | null;
  /** The least possible loss, null if unknown. */
  readonly entropyPerToken: number | null;
  /** The evaluation with the least loss. */
  readonly best: Evaluated | null;
  /** Warnings in the record. */
  readonly warnings: number;
  /** By `curveName()`. */
  readonly curves: Readonly<Record<string, Columns>>;
}

/** Rows that changed, and names of runs that are gone. */
export interface Changes {
  readonly rows: readonly RunRow[];
  readonly gone: readonly string[];
}

/** A run that was found. */
interface Found {
  readonly name: string;
  readonly path: string;
  /** What its record was when its row was made. */
  signature?: string;
  changedMs: number;
  index?: RunIndex;
  problem?: string | undefined;
  row?: RunRow;
}

/** A folder, and the runs that were found below it. */
export class RunFolder {
  readonly #folder: string;
  #runs = new Map<string, Found>();
  /** The last one used last. */
  readonly #readers = new Map<string, RunReader>();
  readonly #watchers = new Set<(changes: Changes) => void>();
  #timer: ReturnType<typeof setInterval> | undefined;
  /** Rows that those who watch know, as JSON. */
  #told = new Map<string, string>();
  #nextSearchMs = 0;

  constructor(folder: string) {
    this.#folder = folder;
    this.#search();
  }

  /** The directory of a run; undefined for an unknown name, so that no request can name another path. */
  findRun(name: string): string | undefined {
    return this.#run(name)?.path;
  }

  /** All runs, the one that was written to last first. */
  rows(): RunRow[] {
    this.#search();
    const runs = [...this.#runs.values()];
    const rows = runs.map((run) => this.#row(run));
    return rows.sort((a, b) =>
      (b.time ?? "").localeCompare(a.time ?? "") ||
      a.name.localeCompare(b.name, "en", { numeric: true })
    );
  }

  /** All that the page shows of a run beside its curves; undefined for an unknown name. */
  async details(name: string): Promise<RunDetails | undefined> {
    const run = this.#run(name);
    if (!run) return undefined;
    const reader = await this.#reader(run);
    return detailsOf(this.#row(run), run.path, reader.best);
  }

  /**
   * The curves of a run; undefined for an unknown name.
   *
   * @param known the generation of the points that the page has, and their last step by kind of line.
   */
  async curves(
    name: string,
    known?: { generation: string } & LastSteps,
  ): Promise<RunCurves | undefined> {
    const run = this.#run(name);
    if (!run) return undefined;
    const reader = await this.#reader(run), { best: index, isComplete, generation } = reader;
    const isAppended = isComplete && known?.generation === generation;
    return {
      name,
      generation: isComplete ? generation : "",
      isAppended,
      isComplete,
      share: reader.share,
      tokensPerStep: Number.isNaN(index.tokensPerStep) ? null : index.tokensPerStep,
      entropyPerToken: index.entropyPerToken ?? null,
      best: index.best ?? null,
      warnings: index.warnings.length,
      curves: index.curves(isAppended ? known : undefined),
    };
  }

  /** Reads all of a run's record, however long that takes. */
  async readWhole(name: string): Promise<void> {
    const run = this.#run(name);
    const reader = run && await this.#reader(run);
    while (reader && !reader.isComplete) await pause();
  }

  /** The options in which runs differ, with one value per run. */
  async differences(names: readonly string[]): Promise<[flag: string, values: string[]][]> {
    const runs: Ingredients[] = [];
    for (const name of names) {
      const run = this.#run(name);
      if (!run) continue;
      runs.push(ingredientsOf(name, run.path, (await this.#reader(run)).best));
    }
    return differences(runs);
  }

  /** Calls a function with what changes, until the function that it returns is called. */
  watch(onChange: (changes: Changes) => void): () => void {
    if (this.#watchers.size === 0) {
      this.#told = new Map([...this.#runs].map(([name, { row }]) => [name, JSON.stringify(row)]));
      this.#timer = setInterval(() => this.#look(), WATCH_MS);
    }
    this.#watchers.add(onChange);
    return () => {
      this.#watchers.delete(onChange);
      if (this.#watchers.size === 0) clearInterval(this.#timer);
    };
  }

  /** Finds what differs from what those who watch know, and tells them. */
  #look(): void {
    const now = Date.now(), isSearch = now >= this.#nextSearchMs;
    if (isSearch) this.#search();
    const rows: RunRow[] = [];
    for (const run of this.#runs.values()) {
      const isQuiet = run.row && run.row.state !== "training" && now - run.changedMs > QUIET_MS;
      const row = isQuiet && !isSearch ? run.row! : this.#row(run), text = JSON.stringify(row);
      if (text === this.#told.get(run.name)) continue;
      this.#told.set(run.name, text);
      rows.push(row);
    }
    const gone = [...this.#told.keys()].filter((name) => !this.#runs.has(name));
    for (const name of gone) this.#told.delete(name);
    if (rows.length === 0 && gone.length === 0) return;
    for (const onChange of this.#watchers) onChange({ rows, gone });
  }

  /** The run with a name, which may have appeared since the last search. */
  #run(name: string): Found | undefined {
    if (!this.#runs.has(name)) this.#search();
    return this.#runs.get(name);
  }

  /** The row of a run; its record is read if it changed. */
  #row(run: Found): RunRow {
    const file = join(run.path, METRICS_FILE);
    const status = statSync(file, { throwIfNoEntry: false });
    const signature = status ? `${status.ino} ${status.size} ${status.mtimeMs}` : "";
    if (run.signature !== signature || !run.index) {
      run.signature = signature;
      run.changedMs = status?.mtimeMs ?? 0;
      try {
        run.index = status ? glance(file) : new RunIndex();
        run.problem = undefined;
      } catch (error) {
        if (!isSystemError(error)) throw error;
        run.index = new RunIndex();
        run.problem = error.message;
      }
    } else if (run.row && run.row.state !== "training" && !isLocked(run.path)) {
      return run.row;
    }
    const { name, path, index, problem } = run;
    return run.row = rowOf({ name, path, index, problem });
  }

  /** The reader of a run's record, which has read all of it, or goes on reading. */
  async #reader(run: Found): Promise<RunReader> {
    const known = this.#readers.get(run.path);
    const reader = known ?? new RunReader(join(run.path, METRICS_FILE));
    this.#readers.delete(run.path);
    this.#readers.set(run.path, reader);
    if (this.#readers.size > MOST_READERS) {
      this.#readers.delete(this.#readers.keys().next().value!);
    }
    const until = performance.now() + PATIENCE_MS;
    const isIdle = !known || known.isComplete;
    reader.follow(performance.now() + SLICE_MS);
    const rest = isIdle ? this.#readRest(run.path, reader) : Promise.resolve();
    while (!reader.isComplete && performance.now() < until) await pause();
    rest.catch(() => {});
    return reader;
  }

  /** Reads the rest of a record in slices. */
  async #readRest(path: string, reader: RunReader): Promise<void> {
    while (!reader.isComplete && this.#readers.get(path) === reader) {
      await pause();
      reader.follow(performance.now() + SLICE_MS);
    }
  }

  /** Finds the runs below the folder. Links to directories are not followed: they may lead anywhere, or in circles. */
  #search(): void {
    const found: Found[] = [], begin = Date.now();
    let left = MOST_DIRECTORIES;
    const visit = (name: string, depth: number) => {
      const path = join(this.#folder, name);
      if (left-- <= 0) return;
      if (isRun(path)) {
        const shown = name || ".";
        found.push(this.#runs.get(shown) ?? { name: shown, path, changedMs: 0 });
        return;
      }
      if (depth === DEEPEST) return;
      for (const below of directoriesIn(path)) visit(name ? `${name}/${below}` : below, depth + 1);
    };
    visit("", 0);
    this.#runs = new Map(found.map((run) => [run.name, run]));
    const now = Date.now();
    this.#nextSearchMs = now + Math.max(SEARCH_MS, (now - begin) / SEARCH_SHARE);
  }
}

/** Lets other work of this thread proceed. */
function pause(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve));
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
