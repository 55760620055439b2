import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync, statSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import {
  bytesBelow,
  existingPart,
  isSystemError,
  makeWhole,
  readChunks,
  refusePipe,
  shortageAt,
  SPARE_BYTES,
  syncDirectory,
  TEMPORARY_NAME,
  UUID,
  writeDirectory,
} from "../../files/disk.ts";
import { KEPT_BASE } from "../../generate/base.ts";
import {
  checkFileNames,
  checkpointName,
  listCheckpoints,
  OPTIMIZER_FILE,
  readHint,
  STATE_FILE,
} from "../../model/files/checkpoint.ts";
import {
  CheckpointError,
  type FileDigest,
  serializeState,
  type TrainerState,
} from "../../model/files/trainer_state.ts";
import { runThatNeeds } from "./adapter_notes.ts";
import { OptionalFiles } from "./optional_files.ts";
import {
  areSmall,
  bytesOfCheckpoints,
  chooseRetained,
  type KeepRules,
  MOST_WEIGHTS_ONLY,
  type Retained,
} from "./retention.ts";
import { bytesOf, checkFits, type FileContent, refusing } from "./run_files.ts";
import { checkRunPlace } from "./run_place.ts";

/**
 * The directory of a run: its lock and its checkpoints, beside the files that a training may do without.
 *
 * @module
 */

/**
 * Opens a run directory, making it if needed, and takes its lock. Removes leftovers of a process that was killed
 * while it wrote or removed a checkpoint.
 *
 * @throws {CheckpointError} if another process trains there, if the directory cannot be written, or if a run
 * cannot be there, see `checkRunPlace()`.
 */
export function openRunDirectory(path: string): RunDirectory {
  let isNew = false;
  const lock = refusing(`open run ${path}`, () => {
    checkRunPlace(path);
    isNew = !existsSync(path);
    mkdirSync(join(path, "checkpoints"), { recursive: true });
    refusePipe(join(path, "lock"));
    return Deno.openSync(join(path, "lock"), { create: true, write: true });
  });
  for (let tries = 1; !lock.tryLockSync(true); tries++) {
    if (tries < LOCK_TRIES) { // `isLocked()` of another process holds a lock for microseconds
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, LOCK_RETRY_MS);
      continue;
    }
    lock.close();
    throw inUse(path);
  }
  return new RunDirectory({ path, lock, isNew });
}

/**
 * Makes sure that `openRunDirectory()` can open a run directory, as far as that can be seen without writing.
 *
 * @throws {CheckpointError} as that does.
 */
export function checkRunDirectory(path: string): void {
  refusing(`open run ${path}`, () => {
    checkRunPlace(path);
    readdirSync(existingPart(path)); // which must be a directory
  });
  if (isLocked(path)) throw inUse(path);
}

/** Attempts to take the lock of a run, and milliseconds between them. */
const LOCK_TRIES = 25, LOCK_RETRY_MS = 10;

/** Whether another process trains in a run directory. */
export function isLocked(path: string): boolean {
  const file = join(path, "lock");
  try {
    if (!statSync(file).isFile()) return false; // opening a pipe would wait forever
    using lock = Deno.openSync(file);
    return !lock.tryLockSync(false);
  } catch {
    return false; // there is no lock that could be held
  }
}

function inUse(path: string): CheckpointError {
  return new CheckpointError(`Cannot open run ${path} as another process is training there`, {
    hint: "Wait until it ends, or choose another --out",
  });
}

/** A run directory that only this process writes to, from `openRunDirectory()`. */
export class RunDirectory extends OptionalFiles {
  readonly #checkpoints: string;
  readonly #lock: Deno.FsFile;
  /** Whether the directory was made when it was opened. */
  readonly #isNew: boolean;
  /** Name of the best checkpoint; empty if there is none. */
  #best: string;
  /** Checkpoints that adapters need, of which a notice was given. */
  readonly #needed = new Set<string>();

  constructor(
    { path, lock, isNew }: { path: string; lock: Deno.FsFile; isNew: boolean },
  ) {
    super(path);
    this.#checkpoints = join(path, "checkpoints");
    this.#lock = lock;
    this.#isNew = isNew;
    this.#best = readHint(path, "best");
    this.#removeLeftovers();
  }

  /** Path of the checkpoint with the best validation loss, if there is one. */
  get best(): string | undefined {
    const path = join(this.#checkpoints, this.#best);
    return this.#best !== "" && existsSync(path) ? path : undefined;
  }

  /** Gives the lock back. A directory that is new, and in which nothing was saved, is removed. */
  close(): void {
    this.appendUnwritten();
    // while it is locked; Windows removes no open file, and the directory stays
    if (this.#isNew) this.tryTo(`remove ${this.path}`, () => removeUnused(this.path));
    this.#lock.close();
  }

  /**
   * Writes a checkpoint so that after a crash or a power cut it is whole or absent.
   *
   * Its files are written to a temporary directory and synced, last the state with their hashes; then the directory
   * is renamed and its parent synced. A checkpoint of the same step is replaced, and the hints `latest` and
   * perhaps `best` are rewritten.
   *
   * Then older checkpoints beyond `keep` are removed or lose the state of the optimizer, except the best one and that
   * of step `beforeCooldown`, from which the run can be extended; those that adapters of other runs need keep their
   * weights. That comes first if there is no room without it. Later checkpoints stay: they are damaged, or the training
   * would have resumed from them. A failure after the rename is a notice.
   *
   * @returns the checkpoint's path.
   * @throws {CheckpointError} if there is no room or the system refuses; older checkpoints stay.
   */
  save(
    files: ReadonlyMap<string, FileContent>,
    state: Omit<TrainerState, "files">,
    { best, ...rules }: KeepRules & { best: boolean },
  ): string {
    const name = checkpointName(state.step), target = join(this.#checkpoints, name);
    const what = `save checkpoint ${target}`;
    checkFileNames(files.keys(), `Cannot ${what}`);
    try {
      refusing(what, () => {
        const digests: Record<string, FileDigest> = {};
        for (const [file, content] of files) digests[file] = digest(content);
        const bytes = bytesOf(files.values());
        this.#makeRoom(bytes, state.step, rules);
        checkFits(what, this.#checkpoints, bytes);
        const manifest = new TextEncoder().encode(serializeState({ ...state, files: digests }));
        makeWhole(
          target,
          (temporary) => writeDirectory(temporary, [...files, [STATE_FILE, [manifest]]]),
          () => {
            if (!existsSync(target)) return;
            // no call swaps two directories: until the new one has the name, the old one can get it back
            renameSync(target, join(this.#checkpoints, `.old-${name}-${crypto.randomUUID()}`));
          },
        );
        syncDirectory(this.#checkpoints);
      });
    } finally {
      this.#clearCheckpoints();
    }
    this.#hint("latest", name);
    if (best) this.#hint("best", this.#best = name);
    this.tryTo(
      `remove checkpoints beyond --keep from ${this.#checkpoints}`,
      () => this.#prune(state.step, rules),
    );
    return target;
  }

  /**
   * Moves later checkpoints out of the way of a training that continues after `step`, into a directory beside the
   * others, so that the next training does not resume from them.
   *
   * @throws {CheckpointError} if the system refuses.
   */
  moveLaterAside(step: number): void {
    const later = listCheckpoints(this.path).filter((checkpoint) => checkpoint.step > step);
    if (later.length === 0) return;
    const aside = firstFree(join(this.path, `checkpoints-after-${checkpointName(step)}`));
    refusing(`move the checkpoints after step ${step} to ${aside}`, () => {
      mkdirSync(aside);
      for (const { path } of later) renameSync(path, join(aside, basename(path)));
      syncDirectory(this.path);
    });
    this.notices.push(`the checkpoints after step ${step} are in ${aside} now`);
  }

  /**
   * Corrects the hints for a training that continues after `step`: they must not name a later checkpoint.
   *
   * @param bestStep step of the best evaluation up to there, if there was one.
   */
  resumeAfter(step: number, bestStep: number | undefined): void {
    const exists = (name: string) => name !== "" && existsSync(join(this.#checkpoints, name));
    const latest = checkpointName(step);
    this.#hint("latest", exists(latest) ? latest : "");
    if (!(Number(this.#best) > step)) return;
    this.#best = bestStep === undefined ? "" : checkpointName(bestStep);
    this.#hint("best", exists(this.#best) ? this.#best : "");
  }

  /**
   * Copies files into a folder of the run, replacing it, so that after a crash it is whole or absent.
   *
   * @throws {CheckpointError} if there is no room or the system refuses.
   */
  copy(folder: string, files: readonly string[]): void {
    const target = join(this.path, folder), what = `copy files to ${target}`;
    refusing(what, () => {
      const bytes = files.reduce((sum, file) => sum + statSync(file).size, 0);
      checkFits(what, this.path, bytes);
      const copies = files.map((file) => [basename(file), readChunks(file)] as const);
      makeWhole(
        target,
        (temporary) => writeDirectory(temporary, copies),
        () => rmSync(target, { recursive: true, force: true }),
      );
      syncDirectory(this.path);
    });
  }

  /** Removes the temporary files of a process that was killed. */
  #removeLeftovers(): void {
    this.#clearCheckpoints();
    this.tryTo(`clear ${this.path}`, () => {
      for (const { name, isFile } of Deno.readDirSync(this.path)) {
        const isOurs = isFile || name.startsWith(`.tmp-${KEPT_BASE}-`);
        if (isOurs && TEMPORARY_NAME.test(name)) rmSync(join(this.path, name), { recursive: true });
      }
    });
  }

  #clearCheckpoints(): void {
    this.tryTo(`clear ${this.#checkpoints}`, () => clearLeftovers(this.#checkpoints));
  }

  /** Makes `latest` or `best` name a checkpoint, or removes it if the name is empty. */
  #hint(name: "latest" | "best", checkpoint: string): void {
    if (readHint(this.path, name) === checkpoint) return;
    if (checkpoint !== "") return this.write(name, `${checkpoint}\n`);
    this.remove(name);
  }

  /** Removes what `keep` does not retain of the checkpoints up to `step`. */
  #prune(step: number, rules: KeepRules): void {
    const steps = this.#stepsUpTo(step), best = this.#bestStep;
    const isSmall = rules.keep === "auto" &&
      areSmall(bytesOfCheckpoints(this.path), this.#checkpoints);
    const retained = chooseRetained(steps, { ...rules, best, isSmall });
    for (const { path } of this.#removable(steps, retained)) remove(path);
  }

  /**
   * Removes before a save what `#prune()` would remove after it, if that makes enough room. `auto` then retains the
   * weights of only as many checkpoints as leave that room. The newest checkpoint stays, as the save may fail.
   */
  #makeRoom(bytes: number, step: number, rules: KeepRules): void {
    const isEnough = (freedBytes: number) =>
      shortageAt(this.#checkpoints, bytes + SPARE_BYTES - freedBytes) === undefined;
    if (isEnough(0)) return;
    const [newest, ...older] = this.#stepsUpTo(step - 1), best = this.#bestStep;
    if (newest === undefined) return;
    for (let mostWeightsOnly = MOST_WEIGHTS_ONLY; mostWeightsOnly >= 0; mostWeightsOnly--) {
      const how = { ...rules, best, isSmall: false, mostWeightsOnly };
      const removable = this.#removable(older, chooseRetained([step, newest, ...older], how));
      if (!isEnough(removable.reduce((sum, { bytes }) => sum + bytes, 0))) continue;
      for (const { path } of removable) remove(path);
      return;
    }
  }

  /** Checkpoints, and optimizer states of checkpoints, that are not retained, nor needed by adapters. */
  #removable(
    steps: readonly number[],
    { whole, weightsOnly }: Retained,
  ): { path: string; bytes: number }[] {
    return steps.filter((step) => !whole.has(step)).map((step) => {
      const checkpoint = join(this.#checkpoints, checkpointName(step));
      return weightsOnly.has(step) ? join(checkpoint, OPTIMIZER_FILE) : checkpoint;
    }).filter((path) => existsSync(path) && !this.#isNeeded(path)) // adapters need no state of an optimizer
      .map((path) => ({ path, bytes: bytesBelow(path) }));
  }

  /** Steps of the checkpoints up to a step, newest first. */
  #stepsUpTo(last: number): number[] {
    return listCheckpoints(this.path).map(({ step }) => step).filter((step) => step <= last);
  }

  get #bestStep(): number | undefined {
    return this.#best === "" ? undefined : Number(this.#best);
  }

  #isNeeded(checkpoint: string): boolean {
    const run = runThatNeeds(checkpoint);
    if (run === undefined) return false;
    if (!this.#needed.has(checkpoint)) {
      this.notices.push(`keeping ${checkpoint}: the adapters in ${run} need it`);
    }
    this.#needed.add(checkpoint);
    return true;
  }
}

/**
 * Renames a run directory to the first free `NAME-1`, `NAME-2`, … so that a new one can take its place.
 *
 * @returns the new name, or undefined if there was no such run.
 * @throws {CheckpointError} if another process trains there or the directory cannot be renamed.
 */
export function moveAside(path: string): string | undefined {
  refusing(`open run ${path}`, () => checkRunPlace(path));
  if (!existsSync(path)) return undefined;
  openRunDirectory(path).close(); // nobody trains there
  if (/^\.{1,2}$/.test(basename(path))) {
    throw new CheckpointError(
      `Cannot move run ${path} aside as it is the working directory: ` +
        `type the command elsewhere, with the path of the run`,
    );
  }
  const aside = firstFree(join(dirname(path), basename(path))); // without the slash that may end a path
  refusing(`move ${path} to ${aside}`, () => renameSync(path, aside));
  return aside;
}

/**
 * Gives a run its name back that `moveAside()` took, unless another run has that name now. If the system refuses, the
 * run stays under its new name.
 */
export function moveBack(aside: string, path: string): void {
  if (existsSync(path)) return;
  try {
    renameSync(aside, path);
  } catch (error) {
    if (!isSystemError(error)) throw error;
  }
}

/** The first of `NAME-1`, `NAME-2`, … that does not exist. */
function firstFree(name: string): string {
  let number = 1;
  while (existsSync(`${name}-${number}`)) number++;
  return `${name}-${number}`;
}

/** Removes a run that holds nothing but what `openRunDirectory()` makes. */
function removeUnused(path: string): void {
  const names = readdirSync(path).filter((name) => name !== "lock" && name !== "checkpoints");
  if (names.length > 0 || readdirSync(join(path, "checkpoints")).length > 0) return;
  rmSync(path, { recursive: true });
}

/**
 * Removes the leftovers of an interrupted save or removal. A checkpoint that was to be replaced by one of the same
 * step gets its name back if the new one was not completed. Anything else belongs to others.
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

/** Temporary names of checkpoints; the first two kinds had no UUID in earlier versions. */
const LEFTOVER = new RegExp(`^\\.(?:(tmp|old)-(\\d{6,})(?:-${UUID})?|trash-\\d{6,}-${UUID})$`);

/** Removes a checkpoint, or the state of the optimizer of one. A checkpoint is renamed first: it is never half removed. */
function remove(path: string): void {
  if (basename(path) === OPTIMIZER_FILE) {
    rmSync(path);
    return syncDirectory(dirname(path));
  }
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
