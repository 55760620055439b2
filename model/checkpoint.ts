import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

/** Thrown when a checkpoint is missing, damaged, or cannot be written. */
export class CheckpointError extends Error {
  /** Tells this error from others without `instanceof`. */
  override name = "CheckpointError";
}

/** A checkpoint that is whole, but written by a later version of this code. */
class NewerFormatError extends CheckpointError {}

/** Version of the checkpoint format that this code writes. */
export const CHECKPOINT_FORMAT = 2;

/** The file that completes a checkpoint: written last, it names and hashes all others. */
export const STATE_FILE = "trainer_state.json";

/** Size and SHA-256, in hexadecimal, of one file of a checkpoint. */
export interface FileDigest {
  /** Size. */
  bytes: number;
  /** SHA-256 in hexadecimal. */
  sha256: string;
}

/** Where a training stands: everything needed to go on that is no tensor. */
export interface TrainerState {
  /** Version of the format, `CHECKPOINT_FORMAT`. */
  formatVersion: number;
  /** Steps done. */
  step: number;
  /** Passes over the data begun, from 0. */
  epoch: number;
  /** Number of the next micro-batch since the beginning of the training. */
  batchIndex: number;
  /** Seed of parameters, order of data, and dropout. */
  seed: number;
  /** The loss scale of the next step. */
  lossScale: number;
  /** Good steps since the loss scale changed. */
  growthTracker: number;
  /** Steps that were applied: AdamW's t. */
  optimizerSteps: number;
  /** Steps skipped in all. */
  skippedSteps: number;
  /** Steps skipped in a row up to now. */
  consecutiveSkips: number;
  /** Lowest validation loss so far, null before the first evaluation. */
  bestValidationLoss: number | null;
  /** The learning rate over the steps, as it was when saved. */
  schedule: {
    learningRate: number;
    minLearningRate: number;
    warmupSteps: number;
    steps: number;
  };
  /** All options of the training, resolved. */
  options: Record<string, unknown>;
  /** `Tokenizer.hash` of tokenizer.json. */
  tokenizerHash: string;
  /**
   * The model that the training began with: what finds it again, and the SHA-256 of its files. Absent where it
   * began at random.
   */
  source?: { spec: string; sha256: string };
  /** What the model is trained on, and the SHA-256 of its documents. */
  data: { name: string; hash: string };
  /**
   * The adapter of the training, null where nobody noted it, and the kernels that were chosen there by
   * their speed: others may differ in the last bits.
   */
  tuning: { adapter: string | null; choices: Record<string, string> };
  /** Every other file of the checkpoint. */
  files: Record<string, FileDigest>;
}

/** Brings the state of an older format up to the next, by the version it comes from. */
export const UPGRADES: Readonly<Record<number, (state: JsonObject) => JsonObject>> = {
  0: addSkipCounters,
  1: addTuning,
};

/** A JSON object whose fields nobody has checked yet. */
export type JsonObject = Record<string, unknown>;

/** Format 0 did not count skipped steps: every step was applied. */
function addSkipCounters(state: JsonObject): JsonObject {
  return {
    ...state,
    formatVersion: 1,
    optimizerSteps: state.step,
    skippedSteps: 0,
    consecutiveSkips: 0,
  };
}

/** Format 1 knew no choice between kernels: the preferred ones were taken. */
function addTuning(state: JsonObject): JsonObject {
  return { ...state, formatVersion: 2, tuning: { adapter: null, choices: {} } };
}

/** Checkpoints of a run by name, newest first; whether they are whole is another question. */
export function listCheckpoints(runDirectory: string): { step: number; path: string }[] {
  const directory = join(runDirectory, "checkpoints");
  let names: string[];
  try {
    names = readdirSync(directory);
  } catch {
    return [];
  }
  return names
    .filter((name) => /^\d{6,}$/.test(name))
    .map((name) => ({ step: Number(name), path: join(directory, name) }))
    .sort((a, b) => b.step - a.step);
}

/**
 * Reads the state of a checkpoint, upgraded to the current format.
 *
 * @throws {CheckpointError} naming file, field and value if anything is missing or wrong, or if the
 * format is newer than this code.
 */
export function readTrainerState(path: string): TrainerState {
  const file = join(path, STATE_FILE);
  let state: JsonObject;
  try {
    state = JSON.parse(readFileSync(file, "utf8"));
  } catch (error) {
    const reason = error instanceof SyntaxError ? "is no JSON" : reasonOf(error);
    throw new CheckpointError(`Cannot load checkpoint ${path} as ${STATE_FILE} ${reason}`);
  }
  return validateState(upgradeState(state, file), file);
}

/** Applies the upgrades from a state's format to the current one. */
export function upgradeState(state: JsonObject, file: string, upgrades = UPGRADES): JsonObject {
  const version = state?.formatVersion;
  if (typeof version !== "number" || !Number.isInteger(version)) {
    throw new CheckpointError(
      `Cannot load ${file} as formatVersion must be an integer: ` +
        `current value is ${JSON.stringify(version)}`,
    );
  }
  if (version > CHECKPOINT_FORMAT) {
    throw new NewerFormatError(
      `Cannot load ${file} as formatVersion must be at most ${CHECKPOINT_FORMAT}, which this ` +
        `version of toy-transformer knows: current value is ${version}`,
    );
  }
  for (let from = version; from < CHECKPOINT_FORMAT; from++) {
    const upgrade = upgrades[from];
    if (!upgrade) throw new CheckpointError(`Cannot load ${file} as format ${from} is too old`);
    state = upgrade(state);
  }
  return state;
}

function validateState(state: JsonObject, file: string): TrainerState {
  const check = (object: JsonObject, name: string, requirement: string, ok: boolean) => {
    if (ok) return;
    throw new CheckpointError(
      `Cannot load ${file} as ${name} must be ${requirement}: ` +
        `current value is ${JSON.stringify(object[name.slice(name.indexOf(".") + 1)])}`,
    );
  };
  const isText = (value: unknown) => typeof value === "string";
  const isObject = (value: unknown) =>
    typeof value === "object" && value !== null && !Array.isArray(value);
  const counts = [
    "step",
    "epoch",
    "batchIndex",
    "seed",
    "growthTracker",
    "optimizerSteps",
    "skippedSteps",
    "consecutiveSkips",
  ];
  for (const name of counts) {
    const value = state[name];
    check(
      state,
      name,
      "a non-negative integer",
      Number.isSafeInteger(value) && value as number >= 0,
    );
  }
  const { lossScale } = state;
  const isScale = Number.isFinite(lossScale) && lossScale as number > 0;
  check(state, "lossScale", "a positive number", isScale);
  const best = state.bestValidationLoss;
  check(state, "bestValidationLoss", "a number or null", best === null || Number.isFinite(best));
  check(state, "tokenizerHash", "text", typeof state.tokenizerHash === "string");
  for (const name of ["schedule", "options", "data", "tuning", "files"]) {
    check(state, name, "an object", isObject(state[name]));
  }
  const schedule = state.schedule as JsonObject;
  for (const name of ["learningRate", "minLearningRate", "warmupSteps", "steps"]) {
    check(schedule, `schedule.${name}`, "a number", Number.isFinite(schedule[name]));
  }
  const data = state.data as JsonObject;
  for (const name of ["name", "hash"]) {
    check(data, `data.${name}`, "text", typeof data[name] === "string");
  }
  const { source } = state;
  const isSource = source === undefined ||
    isObject(source) && ["spec", "sha256"].every((name) => isText((source as JsonObject)[name]));
  check(state, "source", "a model's name and hash", isSource);
  const tuning = state.tuning as JsonObject;
  const { adapter, choices } = tuning;
  check(tuning, "tuning.adapter", "text or null", adapter === null || isText(adapter));
  const areNames = isObject(choices) && Object.values(choices as JsonObject).every(isText);
  check(tuning, "tuning.choices", "names of kernels", areNames);
  for (const [name, digest] of Object.entries(state.files as JsonObject)) {
    const { bytes, sha256 } = (digest ?? {}) as Partial<FileDigest>;
    // a name is never a path
    const ok = /^\w[\w.-]*$/.test(name) && Number.isSafeInteger(bytes) &&
      typeof sha256 === "string";
    check(state.files as JsonObject, `files.${name}`, "the size and hash of a file", ok);
  }
  return state as unknown as TrainerState;
}

/**
 * Makes sure that a checkpoint is whole: every file that its state names is there, with its size and
 * hash.
 *
 * @throws {CheckpointError} naming the file and what is wrong with it.
 */
export function verifyCheckpoint(path: string): TrainerState {
  const state = readTrainerState(path);
  for (const [name, { bytes, sha256 }] of Object.entries(state.files)) {
    let content: Uint8Array;
    try {
      content = readFileSync(join(path, name));
    } catch (error) {
      throw new CheckpointError(`Cannot load checkpoint ${path} as ${name} ${reasonOf(error)}`);
    }
    if (content.length !== bytes) {
      throw new CheckpointError(
        `Cannot load checkpoint ${path} as ${name} must have ${bytes} bytes: ` +
          `current size is ${content.length}`,
      );
    }
    if (createHash("sha256").update(content).digest("hex") !== sha256) {
      throw new CheckpointError(
        `Cannot load checkpoint ${path} as ${name} is damaged: its SHA-256 differs`,
      );
    }
  }
  return state;
}

/** Completes the sentence "Cannot load … as FILE …" for a file that cannot be read. */
function reasonOf(error: unknown): string {
  const { code, message } = error as NodeJS.ErrnoException;
  return code === "ENOENT" ? "is missing" : `cannot be read: ${message}`;
}

/**
 * The newest checkpoint of a run that is whole, or undefined if the run has none.
 *
 * @param onWarning hears, in a sentence each, of newer ones that were passed over.
 * @throws {CheckpointError} if there are checkpoints and all are damaged, or if the newest has a newer
 * format: going on from an older one would throw work away.
 */
export function newestCheckpoint(
  runDirectory: string,
  onWarning: (sentence: string) => void,
): string | undefined {
  const checkpoints = listCheckpoints(runDirectory);
  const damaged: string[] = [];
  for (const { path } of checkpoints) {
    try {
      verifyCheckpoint(path);
    } catch (error) {
      if (error instanceof NewerFormatError) throw error;
      damaged.push((error as Error).message);
      continue;
    }
    for (const message of damaged) onWarning(`${message}; taking ${path} instead`);
    return path;
  }
  if (damaged.length > 0) throw new CheckpointError(damaged[0]!);
  return undefined;
}
