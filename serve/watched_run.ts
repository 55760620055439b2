import { type Stats, statSync } from "node:fs";
import { join } from "node:path";
import { isSystemError } from "../files/disk.ts";
import type { Ingredients } from "../train/record/compare.ts";
import { METRICS_FILE } from "../train/record/metrics.ts";
import { tokensPerStepOf } from "../train/options.ts";
import { isLocked } from "../train/directory/run_directory.ts";
import { type Evaluated, type LastSteps, RunIndex, type Warning } from "./run_index.ts";
import { glance, RunReader } from "./run_reader.ts";
import {
  detailsOf,
  ingredientsOf,
  rowOf,
  type RunDetails,
  type RunRow,
  stateIn,
} from "./run_view.ts";
import type { Columns } from "./thinned_curve.ts";

/** Milliseconds of a slice of reading, between which requests are answered. */
const SLICE_MS = 25;

/** Milliseconds for which a request waits for a whole index before it is answered from a sample. */
const PATIENCE_MS = 150;

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
  /** Tokens per step since the last start; null if unknown. */
  readonly tokensPerStep: number | null;
  /** The least possible loss, null if unknown. */
  readonly entropyPerToken: number | null;
  /** The evaluation with the least loss. */
  readonly best: Evaluated | null;
  /** The newest warnings in the record, in ascending order of their steps. */
  readonly warnings: readonly Pick<Warning, "step" | "name">[];
  /** By `curveName()`. */
  readonly curves: Readonly<Record<string, Columns>>;
}

/** A run whose files are looked at again and again. */
export class WatchedRun {
  /** Its path from the folder; `.` if the folder is the run. */
  readonly name: string;
  /** Its directory. */
  readonly path: string;
  /** When its record was written last, in milliseconds since 1970; 0 if it has none. */
  changedMs = 0;
  readonly #record: string;
  /** What the record was at the last look. */
  #signature: string | undefined;
  #glance = new RunIndex();
  #problem: string | undefined;
  #row: RunRow | undefined;
  #reader: RunReader | undefined;
  /** The reader that `#readRest()` makes read. */
  #reading: RunReader | undefined;

  constructor(name: string, path: string) {
    this.name = name;
    this.path = path;
    this.#record = join(path, METRICS_FILE);
  }

  /** Its row as it was at the last look. */
  get row(): RunRow | undefined {
    return this.#row;
  }

  /** Its row now; the record is read if it changed. */
  look(): RunRow {
    let status: Stats | undefined, problem: string | undefined;
    try {
      status = statSync(this.#record, { throwIfNoEntry: false });
    } catch (error) {
      problem = problemOf(error);
    }
    const signature = status ? `${status.ino} ${status.size} ${status.mtimeMs}` : problem ?? "";
    if (signature !== this.#signature) {
      this.#signature = signature;
      this.changedMs = status?.mtimeMs ?? 0;
      this.#glance = new RunIndex();
      this.#problem = problem;
      try {
        if (status) this.#glance = glance(this.#record);
      } catch (error) {
        this.#problem = problemOf(error);
      }
    } else if (this.#row && this.#row.state !== "training" && !isLocked(this.path)) {
      return this.#row;
    }
    return this.#row = rowOf(this, this.#glance, this.#problem);
  }

  /** All that the page shows of it beside its curves. */
  async details(): Promise<RunDetails> {
    return detailsOf(this.look(), this.path, (await this.#read()).best);
  }

  /** What its training was made of. */
  async ingredients(): Promise<Ingredients> {
    return ingredientsOf(this, (await this.#read()).best);
  }

  /**
   * Its curves.
   *
   * @param known the generation of the points that the page has, and their last step by kind of line.
   */
  async curves(known?: { generation: string } & LastSteps): Promise<RunCurves> {
    const reader = await this.#read(), { best: index, isComplete, generation } = reader;
    const isAppended = isComplete && known?.generation === generation;
    return {
      name: this.name,
      generation: isComplete ? generation : "",
      isAppended,
      isComplete,
      share: reader.share,
      tokensPerStep: Number.isNaN(index.tokensPerStep) ? null : index.tokensPerStep,
      entropyPerToken: index.entropyPerToken ?? null,
      best: index.best ?? null,
      warnings: index.warnings.map(({ step, name }) => ({ step, name })),
      curves: index.curves(isAppended ? known : undefined),
    };
  }

  /** Reads all of its record, however long that takes. */
  async readWhole(): Promise<void> {
    const reader = await this.#read();
    while (!reader.isComplete) await pause();
  }

  /** Frees the memory of its index, which is made again when it is needed. */
  forget(): void {
    this.#reader = undefined;
  }

  /** The reader of its record, which has read all of it, or still reads. */
  async #read(): Promise<RunReader> {
    const reader = this.#reader ??= new RunReader(this.#record, this.#tokensPerStep());
    if (this.#reading !== reader) {
      reader.follow(performance.now() + SLICE_MS);
      if (!reader.isComplete) this.#readRest(reader);
    }
    const until = performance.now() + PATIENCE_MS;
    while (!reader.isComplete && performance.now() < until) await pause();
    return reader;
  }

  /** Reads the rest of a record in slices, unless it is forgotten meanwhile. */
  async #readRest(reader: RunReader): Promise<void> {
    this.#reading = reader;
    while (!reader.isComplete && this.#reader === reader) {
      await pause();
      reader.follow(performance.now() + SLICE_MS);
    }
    if (this.#reading === reader) this.#reading = undefined;
  }

  /** Tokens per step by the newest checkpoint, if the record, of an earlier version, does not have them. */
  #tokensPerStep(): number {
    this.look();
    const isKnown = this.#glance.tokensPerStep > 0;
    return isKnown ? NaN : tokensPerStepOf(stateIn(this.path)?.options);
  }
}

/**
 * Why the system refuses to read a record.
 *
 * @throws the error itself if it is a programmer's mistake.
 */
function problemOf(error: unknown): string {
  if (!isSystemError(error)) throw error;
  return error.message;
}

/** Lets other work of this thread proceed. */
function pause(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve));
}
