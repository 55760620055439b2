import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { taskCommand } from "../../files/command_line.ts";
import { isSystemError } from "../../files/disk.ts";
import {
  CONFIG_FILE,
  GENERATION_FILE,
  TOKENIZER_CONFIG_FILE,
  TOKENIZER_FILE,
} from "../../files/names.ts";
import { printable, quoted } from "../../files/printable.ts";
import { UserError } from "../../files/user_error.ts";
import { ADAPTER_CONFIG, ADAPTER_FILE } from "./lora.ts";
import { hashFiles, MODEL_FILE } from "./tensor_files.ts";
import {
  CheckpointError,
  type FileDigest,
  NewerFormatError,
  parseState,
  type TrainerState,
} from "./trainer_state.ts";

/** Name of the state file: written last, it completes a checkpoint and holds the hash of every file and of itself. */
export const STATE_FILE = "trainer_state.json";

/** Name of the file of AdamW's moments, which a checkpoint may lack: see `isWeightsOnly()`. */
export const OPTIMIZER_FILE = "optimizer.safetensors";

/** Files of every checkpoint besides state and weights. */
const COMMON_FILES = [
  OPTIMIZER_FILE,
  TOKENIZER_FILE,
  TOKENIZER_CONFIG_FILE,
  GENERATION_FILE,
];

/** Files of the weights: of a whole model, or of adapters. */
const WEIGHT_FILES = [[MODEL_FILE, CONFIG_FILE], [ADAPTER_FILE, ADAPTER_CONFIG]];

/**
 * Checks that a checkpoint holds all files that are needed to resume it or to load its model.
 *
 * @param names its files besides `STATE_FILE`.
 * @throws {CheckpointError} that names the missing files; its message begins with `what`.
 */
export function checkFileNames(names: Iterable<string>, what: string): void {
  const given = new Set(names);
  const missing = COMMON_FILES.filter((name) => !given.has(name));
  const whole = WEIGHT_FILES.filter((pair) => pair.every((name) => given.has(name)));
  if (whole.length !== 1) {
    missing.push(WEIGHT_FILES.map((pair) => pair.join(" with ")).join(", or "));
  }
  if (missing.length === 0) return;
  throw new CheckpointError(
    `${what} as its files must include ${missing.join(", ")}: ` +
      `current files are ${
        [...given].slice(0, 20).map((name) => printable(name)).join(", ") || "none"
      }`,
  );
}

/** The name of the checkpoint of a step. */
export function checkpointName(step: number): string {
  return String(step).padStart(6, "0");
}

/** The step in the name of a checkpoint; undefined for another name. */
function stepOf(name: string): number | undefined {
  return /^\d{6,}$/.test(name) && checkpointName(Number(name)) === name ? Number(name) : undefined;
}

/** Checkpoints of a run, newest first: whole, weights-only or damaged. */
export function listCheckpoints(runDirectory: string): { step: number; path: string }[] {
  const directory = join(runDirectory, "checkpoints");
  let names: string[];
  try {
    names = readdirSync(directory);
  } catch (error) {
    if (!isSystemError(error)) throw error;
    return [];
  }
  return names
    .filter((name) => stepOf(name) !== undefined)
    .map((name) => ({ step: Number(name), path: join(directory, name) }))
    .sort((a, b) => b.step - a.step);
}

/**
 * Whether a checkpoint holds only weights: any model is loaded from it, and no training resumes from it. Its state
 * still lists the file of the optimizer, so that removing that one file is all that makes a checkpoint weights-only.
 */
export function isWeightsOnly(checkpoint: string): boolean {
  return !existsSync(join(checkpoint, OPTIMIZER_FILE));
}

/** Most bytes of a file that names a checkpoint. */
const LARGEST_HINT = 64;

/** The name of the checkpoint that a run's file `latest` or `best` holds; empty if it holds none. */
export function readHint(run: string, name: "latest" | "best"): string {
  const path = join(run, name);
  try {
    const status = statSync(path);
    if (!status.isFile() || status.size > LARGEST_HINT) return ""; // a pipe or a device may have no end
    const checkpoint = readFileSync(path, "utf8").trim();
    return stepOf(checkpoint) === undefined ? "" : checkpoint;
  } catch {
    return "";
  }
}

/** Whether a name is that of a checkpoint in a run: `best` or a number of steps. Others are directories. */
export function isNameInRun(name: string): boolean {
  return name === "best" || /^\d+$/.test(name);
}

/**
 * A checkpoint of a run that is named by its steps or as `best`, the one with the lowest validation loss.
 *
 * @throws {CheckpointError} if the run has no such checkpoint.
 */
export function checkpointNamed(run: string, name: string): string {
  const checkpoints = listCheckpoints(run);
  const wanted = name === "best" ? readHint(run, "best") : name;
  const found = wanted !== "" && checkpoints.find(({ step }) => step === Number(wanted));
  if (found) return found.path;
  const steps = checkpoints.map(({ step }) => step).reverse();
  const requirement = name !== "best"
    ? "one that was kept"
    : wanted === ""
    ? "evaluated and saved"
    : `the one of step ${Number(wanted)}`;
  throw new CheckpointError(
    `Cannot find checkpoint ${quoted(name)} of ${run} as it must be ${requirement}: ` +
      `its checkpoints are ${steps.join(", ") || "none"}`,
  );
}

/** Most bytes of a state file; with 10,000 data files it has 2 MB. */
const LARGEST_STATE = 64 * 2 ** 20;

/**
 * Reads the state of a checkpoint and upgrades it to the current format.
 *
 * @throws {CheckpointError} if it cannot be read, or is not the state of this checkpoint.
 */
export function readTrainerState(path: string): TrainerState {
  const file = join(path, STATE_FILE);
  const bytes = readingFile(path, STATE_FILE, (size) => {
    if (size <= LARGEST_STATE) return readFileSync(file);
    throw new CheckpointError(
      `Cannot load ${file} as it must have at most ${LARGEST_STATE} bytes: current size is ${size}`,
    );
  });
  const state = parseState(bytes, file);
  checkFileNames(Object.keys(state.files), `Cannot load ${file}`);
  const step = stepOf(basename(resolve(path)));
  if (step === undefined || step === state.step) return state;
  throw new CheckpointError(
    `Cannot load ${file} as step must be ${step}, as its directory says: current value is ${state.step}`,
  );
}

/**
 * Checks that a checkpoint is whole or weights-only: it has every file of its state, the optimizer's perhaps
 * excepted, with the right size and hash, and no other weights.
 *
 * @throws {CheckpointError} with the file and its fault.
 */
export function verifyCheckpoint(path: string): TrainerState {
  const state = readTrainerState(path);
  for (const [name, digest] of Object.entries(state.files)) {
    try {
      verifyFile(path, name, digest);
    } catch (error) {
      // another process may remove it in the meantime
      if (name !== OPTIMIZER_FILE || !isWeightsOnly(path)) throw error;
    }
  }
  for (const name of WEIGHT_FILES.flat()) {
    if (Object.hasOwn(state.files, name) || !existsSync(join(path, name))) continue;
    throw new CheckpointError(
      `Cannot load checkpoint ${path} as ${name} must be listed in ${STATE_FILE} if it is there`,
    );
  }
  return state;
}

/** Checks the size and hash of a file of a checkpoint. */
function verifyFile(path: string, name: string, { bytes, sha256 }: FileDigest): void {
  const hash = readingFile(path, name, (size) => {
    if (size === bytes) return hashFiles([join(path, name)]);
    throw new CheckpointError(
      `Cannot load checkpoint ${path} as ${name} must have ${bytes} bytes: ` +
        `current size is ${size}`,
    );
  });
  if (hash === sha256) return;
  throw new CheckpointError(
    `Cannot load checkpoint ${path} as ${name} is damaged: its SHA-256 differs`,
  );
}

/** Calls an action that reads a file of a checkpoint with the size of the file in bytes. */
function readingFile<T>(checkpoint: string, name: string, action: (size: number) => T): T {
  const refused = (reason: string) =>
    new CheckpointError(`Cannot load checkpoint ${checkpoint} as ${name} ${reason}`);
  try {
    const status = statSync(join(checkpoint, name));
    if (status.isFile()) return action(status.size);
    throw refused("cannot be read: it is no file"); // reading a pipe would wait forever
  } catch (error) {
    if (!isSystemError(error)) throw error;
    throw refused(error.code === "ENOENT" ? "is missing" : `cannot be read: ${error.message}`);
  }
}

/**
 * Finds the newest checkpoint of a run that `verifyCheckpoint()` accepts; undefined if the run has no checkpoints.
 *
 * @param onWarning is called with a sentence about each damaged checkpoint that is newer.
 * @param check throws a `UserError` if the caller cannot use a state; its checkpoint then counts as damaged.
 * @throws {CheckpointError} if all checkpoints are damaged, or if the newest one has a newer format, since to resume
 * an older one would lose steps.
 */
export function newestCheckpoint(
  runDirectory: string,
  onWarning: (sentence: string) => void,
  check: (state: TrainerState, path: string) => void = () => {},
): string | undefined {
  const checkpoints = listCheckpoints(runDirectory);
  const damaged: string[] = [];
  for (const { path } of checkpoints) {
    try {
      check(verifyCheckpoint(path), path);
    } catch (error) {
      if (error instanceof NewerFormatError || !(error instanceof UserError)) throw error;
      damaged.push(error.sentence);
      continue;
    }
    for (const message of damaged) onWarning(`${message}; taking ${path} instead`);
    return path;
  }
  if (damaged.length === 0) return undefined;
  const anew = taskCommand("train", "--out", runDirectory, "--fresh");
  throw new CheckpointError(damaged[0]!, {
    hint: `No checkpoint of this run can be used; to train anew, which keeps the old run: ${anew}`,
  });
}
