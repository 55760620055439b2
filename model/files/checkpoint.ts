import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import {
  CONFIG_FILE,
  GENERATION_FILE,
  TOKENIZER_CONFIG_FILE,
  TOKENIZER_FILE,
} from "../../files/names.ts";
import { isSystemError } from "../../files/disk.ts";
import { isObject, type JsonObject } from "../../files/json.ts";
import { printable, quoted } from "../../files/printable.ts";
import { UserError } from "../../files/user_error.ts";
import { ADAPTER_CONFIG, ADAPTER_FILE } from "./lora.ts";
import { hashFiles, MODEL_FILE } from "./tensor_files.ts";

/** Thrown when a checkpoint is missing, damaged, or cannot be written. */
export class CheckpointError extends UserError {
  /** Tells this error from others without `instanceof`. */
  override name = "CheckpointError";
}

/** A checkpoint that is whole, but written by a later version of this code. */
class NewerFormatError extends CheckpointError {}

/** Version of the checkpoint format that this code writes. */
export const CHECKPOINT_FORMAT = 3;

/** The first format whose state file ends with its own hash. */
const FIRST_SEALED_FORMAT = 3;

/** The file that completes a checkpoint: written last, it names and hashes all others, and itself. */
export const STATE_FILE = "trainer_state.json";

/** The file of AdamW's moments. */
export const OPTIMIZER_FILE = "optimizer.safetensors";

/** Files that every checkpoint holds beside its state and its weights. */
const COMMON_FILES = [
  OPTIMIZER_FILE,
  TOKENIZER_FILE,
  TOKENIZER_CONFIG_FILE,
  GENERATION_FILE,
];

/** Files of the weights: those of a whole model, or those of adapters alone. */
const WEIGHT_FILES = [[MODEL_FILE, CONFIG_FILE], [ADAPTER_FILE, ADAPTER_CONFIG]];

/**
 * Makes sure that a checkpoint holds all files that resuming, or loading its model, needs.
 *
 * @param names its files beside `STATE_FILE`.
 * @throws {CheckpointError} whose message begins with `what` and names those that are missing.
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

/** Size and SHA-256, in hexadecimal, of one file of a checkpoint. */
export interface FileDigest {
  /** Size. */
  bytes: number;
  /** SHA-256 in hexadecimal. */
  sha256: string;
}

/** Where a training stands: everything that resuming it needs and that is no tensor. */
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
  /** Names of the options that were typed; the values of the others were chosen, or follow from these. */
  typed: string[];
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
  2: addTyped,
};

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

/**
 * Format 2 did not say which options were typed. An option counts as derived if its value is the one that
 * format 2 derived from the others, and as typed otherwise. The formulas are those of that format and stay.
 */
function addTyped(state: JsonObject): JsonObject {
  const options = isObject(state.options) ? state.options : {};
  const { steps, learningRate } = options as Record<string, number>;
  const tenth = Math.ceil(steps! / 10);
  const derived: JsonObject = {
    minLearningRate: learningRate! / 10,
    warmupSteps: Math.min(200, Math.ceil(steps! / 20)),
    evalEvery: tenth,
    saveEvery: tenth,
    sampleEvery: 2 * tenth,
    logEvery: Math.max(1, Math.round(steps! / 100)),
    ...(options.endsWith === "epochs" ? { steps } : {}),
    endsWith: options.endsWith, // what ends the run is no option
  };
  const typed = Object.keys(options)
    .filter((name) => options[name] !== derived[name] && options[name] !== "auto");
  return { ...state, formatVersion: 3, typed };
}

/** The name of the checkpoint of a step. */
export function checkpointName(step: number): string {
  return String(step).padStart(6, "0");
}

/** The step that a checkpoint's name says, if it is such a name. */
function stepOf(name: string): number | undefined {
  return /^\d{6,}$/.test(name) && checkpointName(Number(name)) === name ? Number(name) : undefined;
}

/** Checkpoints of a run by name, newest first; whether they are whole is another question. */
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
 * The text of a state file: the state, with the SHA-256 of every byte before it as the last field, so that each
 * byte of the file is covered.
 */
export function serializeState(state: TrainerState): string {
  const text = JSON.stringify(state, null, 2).replace(/\n\}$/, "");
  return text + SEAL_START + hashOf(text) + SEAL_END;
}

/** What surrounds the hash at the end of a state file. */
const SEAL_START = ',\n  "sha256": "', SEAL_END = '"\n}\n';

/** Largest state file in bytes; with 10,000 data files it has 2 MB. */
const LARGEST_STATE = 64 * 2 ** 20;

/**
 * Whether a state file ends with its own hash, as formats from `FIRST_SEALED_FORMAT` do.
 *
 * @throws {CheckpointError} if the hash differs.
 */
function checkSeal(bytes: Uint8Array, file: string): boolean {
  const length = SEAL_START.length + 64 + SEAL_END.length;
  const end = new TextDecoder("latin1").decode(bytes.subarray(-length));
  const hash = end.slice(SEAL_START.length, -SEAL_END.length);
  if (!/^[0-9a-f]{64}$/.test(hash) || end !== SEAL_START + hash + SEAL_END) return false;
  if (hashOf(bytes.subarray(0, -length)) === hash) return true;
  throw new CheckpointError(`Cannot load ${file} as it is damaged: its SHA-256 differs`);
}

function hashOf(content: string | Uint8Array): string {
  return createHash("sha256").update(content).digest("hex");
}

/**
 * Reads the state of a checkpoint, upgraded to the current format.
 *
 * @throws {CheckpointError} naming file, field and value if anything is missing or wrong, or if the
 * format is newer than this code.
 */
export function readTrainerState(path: string): TrainerState {
  const file = join(path, STATE_FILE);
  const damaged = (reason: string) => new CheckpointError(`Cannot load ${file} as ${reason}`);
  const bytes = readingFile(path, STATE_FILE, (size) => {
    if (size <= LARGEST_STATE) return readFileSync(file);
    throw damaged(`it must have at most ${LARGEST_STATE} bytes: current size is ${size}`);
  });
  const sealed = checkSeal(bytes, file);
  let text: string, state: unknown;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    state = JSON.parse(text);
  } catch {
    throw new CheckpointError(`Cannot load checkpoint ${path} as ${STATE_FILE} is no JSON`);
  }
  if (keysWritten(text) !== keysOf(state)) throw damaged("it has a field twice");
  const { sha256: _, ...fields } = Object(state) as JsonObject;
  const { formatVersion } = fields;
  if (
    !sealed && Number.isInteger(formatVersion) && formatVersion as number >= FIRST_SEALED_FORMAT
  ) {
    throw damaged(
      `it is damaged: with formatVersion ${formatVersion} it must end with its own SHA-256`,
    );
  }
  const valid = validateState(upgradeState(sealed ? fields : Object(state), file), file);
  const step = stepOf(basename(resolve(path)));
  if (step !== undefined && step !== valid.step) {
    throw damaged(`step must be ${step}, as its directory says: current value is ${valid.step}`);
  }
  return valid;
}

/** Number of field names in a JSON text that `JSON.parse()` has accepted. */
function keysWritten(text: string): number {
  let count = 0;
  for (let at = text.indexOf('"'); at >= 0; at = text.indexOf('"', at)) {
    at++;
    while (text[at] !== '"') at += text[at] === "\\" ? 2 : 1;
    at++;
    while (/\s/.test(text[at] ?? "")) at++;
    if (text[at] === ":") count++;
  }
  return count;
}

/** Number of fields in a JSON value: fewer than in its text if a name was written twice. */
function keysOf(value: unknown): number {
  if (typeof value !== "object" || value === null) return 0;
  const own = Array.isArray(value) ? 0 : Object.keys(value).length;
  return Object.values(value).reduce((sum: number, inner) => sum + keysOf(inner), own);
}

/** Applies the upgrades from a state's format to the current one. */
export function upgradeState(state: JsonObject, file: string, upgrades = UPGRADES): JsonObject {
  const version = state?.formatVersion;
  if (typeof version !== "number" || !Number.isInteger(version)) {
    throw new CheckpointError(
      `Cannot load ${file} as formatVersion must be an integer: ` +
        `current value is ${quoted(version)}`,
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
    const upgraded = upgrade(state);
    // a flipped bit makes an older format of a newer one: what the upgrade adds is then there already
    const known = Object.keys(upgraded).find((name) =>
      name !== "formatVersion" && Object.hasOwn(state, name) && state[name] !== upgraded[name]
    );
    if (known !== undefined) {
      throw new CheckpointError(
        `Cannot load ${file} as it is damaged: a state of format ${from} has no ${known}`,
      );
    }
    state = upgraded;
  }
  return state;
}

function validateState(state: JsonObject, file: string): TrainerState {
  const check = (object: JsonObject, name: string, requirement: string, ok: boolean) => {
    if (ok) return;
    throw new CheckpointError(
      `Cannot load ${file} as ${name} must be ${requirement}: ` +
        `current value is ${quoted(object[name.slice(name.indexOf(".") + 1)])}`,
    );
  };
  const isText = (value: unknown) => typeof value === "string";
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
  const { step, optimizerSteps, skippedSteps, consecutiveSkips } = state as Record<string, number>;
  const sum = optimizerSteps! + skippedSteps!;
  check(state, "step", `the ${sum} steps that were applied or skipped`, step === sum);
  check(
    state,
    "consecutiveSkips",
    `at most the ${skippedSteps} steps skipped`,
    consecutiveSkips! <= skippedSteps!,
  );
  const { lossScale, typed } = state;
  const isScale = Number.isFinite(lossScale) && lossScale as number > 0;
  check(state, "lossScale", "a positive number", isScale);
  const best = state.bestValidationLoss;
  const isLoss = Number.isFinite(best) && best as number >= 0;
  check(state, "bestValidationLoss", "a non-negative number or null", best === null || isLoss);
  check(state, "tokenizerHash", "text", typeof state.tokenizerHash === "string");
  for (const name of ["schedule", "options", "data", "tuning", "files"]) {
    check(state, name, "an object", isObject(state[name]));
  }
  const areTexts = Array.isArray(typed) && typed.every(isText);
  check(state, "typed", "names of options", areTexts);
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
    isObject(source) && ["spec", "sha256"].every((name) => isText(source[name]));
  check(state, "source", "a model's name and hash", isSource);
  const tuning = state.tuning as JsonObject;
  const { adapter, choices } = tuning;
  check(tuning, "tuning.adapter", "text or null", adapter === null || isText(adapter));
  const areNames = isObject(choices) && Object.values(choices).every(isText);
  check(tuning, "tuning.choices", "names of kernels", areNames);
  for (const [name, digest] of Object.entries(state.files as JsonObject)) {
    const { bytes, sha256 } = (digest ?? {}) as Partial<FileDigest>;
    // a name is never a path
    const ok = /^\w[\w.-]*$/.test(name) && Number.isSafeInteger(bytes) && bytes! >= 0 &&
      /^[0-9a-f]{64}$/.test(String(sha256));
    check(state.files as JsonObject, `files.${printable(name)}`, "the size and hash of a file", ok);
  }
  checkFileNames(Object.keys(state.files as JsonObject), `Cannot load ${file}`);
  return state as unknown as TrainerState;
}

/**
 * Makes sure that a checkpoint is whole: every file that its state names is there, with its size and
 * hash, and no other weights are.
 *
 * @throws {CheckpointError} naming the file and what is wrong with it.
 */
export function verifyCheckpoint(path: string): TrainerState {
  const state = readTrainerState(path);
  for (const [name, { bytes, sha256 }] of Object.entries(state.files)) {
    const file = join(path, name);
    const hash = readingFile(path, name, (size) => {
      if (size === bytes) return hashFiles([file]);
      throw new CheckpointError(
        `Cannot load checkpoint ${path} as ${name} must have ${bytes} bytes: ` +
          `current size is ${size}`,
      );
    });
    if (hash !== sha256) {
      throw new CheckpointError(
        `Cannot load checkpoint ${path} as ${name} is damaged: its SHA-256 differs`,
      );
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

/** Runs an action that reads a file of a checkpoint and is called with its size in bytes. */
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
 * The newest checkpoint of a run that is whole, or undefined if the run has none.
 *
 * @param onWarning is called with a sentence about each newer one that was passed over.
 * @param check throws a `UserError` if the caller cannot use a state: its checkpoint then counts as damaged.
 * @throws {CheckpointError} if there are checkpoints and all are damaged, or if the newest has a newer
 * format: resuming an older one would throw work away.
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
      damaged.push(error.message);
      continue;
    }
    for (const message of damaged) onWarning(`${message}; taking ${path} instead`);
    return path;
  }
  if (damaged.length > 0) throw new CheckpointError(damaged[0]!);
  return undefined;
}
