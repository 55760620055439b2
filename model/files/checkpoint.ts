import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { isSystemError } from "../../files/disk.ts";
import { isObject, type JsonObject } from "../../files/json.ts";
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

/** Thrown if a checkpoint is missing or damaged, or cannot be written. */
export class CheckpointError extends UserError {
  /** Identifies this error without `instanceof`. */
  override name = "CheckpointError";
}

/** Thrown for a checkpoint of a later version of this code. */
class NewerFormatError extends CheckpointError {}

/** Version of the checkpoint format that this code writes. */
export const CHECKPOINT_FORMAT = 4;

/** First format whose state file ends with its hash. */
const FIRST_SEALED_FORMAT = 3;

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

/** Size and SHA-256 of a file of a checkpoint. */
export interface FileDigest {
  /** Size in bytes. */
  bytes: number;
  /** SHA-256 in hexadecimal. */
  sha256: string;
}

/** State of a training: everything besides tensors that is needed to resume it. */
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
  /** Applied steps, AdamW's t. */
  optimizerSteps: number;
  /** Skipped steps. */
  skippedSteps: number;
  /** Skipped steps since the last applied one. */
  consecutiveSkips: number;
  /** These five of the ranks from 1 on, if each trains on its own between exchanges; those above are of rank 0. */
  otherRanks?: Pick<
    TrainerState,
    "lossScale" | "growthTracker" | "optimizerSteps" | "skippedSteps" | "consecutiveSkips"
  >[];
  /** Lowest validation loss so far; null before the first evaluation. */
  bestValidationLoss: number | null;
  /** All options of the training, resolved. */
  options: Record<string, unknown>;
  /** Names of the options that the user gave; the others have defaults or derived values. */
  typed: string[];
  /** `Tokenizer.hash` of tokenizer.json. */
  tokenizerHash: string;
  /**
   * Model with which the training began: a name that finds it, and the SHA-256 of its files. Absent if the training
   * began with random parameters.
   */
  source?: { spec: string; sha256: string };
  /** Data of the training: name, and SHA-256 of all documents and of those of a separate validation text. */
  data: { name: string; hash: string; validationHash?: string };
  /**
   * Adapter on which the training ran, null if unknown, and the kernels that were the fastest there. Other kernels
   * may give other last bits.
   */
  tuning: { adapter: string | null; choices: Record<string, string> };
  /** All other files of the checkpoint. */
  files: Record<string, FileDigest>;
}

/** Upgrades of a state from each older format to the next one. */
const UPGRADES: Readonly<Record<number, (state: JsonObject) => JsonObject>> = {
  0: addSkipCounters,
  1: addTuning,
  2: addTyped,
  3: dropSchedule,
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

/** Format 1 had no choice of kernels: the preferred ones were used. */
function addTuning(state: JsonObject): JsonObject {
  return { ...state, formatVersion: 2, tuning: { adapter: null, choices: {} } };
}

/**
 * Format 2 did not store which options the user gave. An option counts as derived if its value is the one that
 * format 2 derived from the others, and as given otherwise. These formulas belong to format 2 and must not change.
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
    endsWith: options.endsWith, // the end of the run is not an option
  };
  const typed = Object.keys(options)
    .filter((name) => options[name] !== derived[name] && options[name] !== "auto");
  return { ...state, formatVersion: 3, typed };
}

/** Format 3 had the schedule of the learning rate twice: the options have it, too. */
function dropSchedule({ schedule: _, ...state }: JsonObject): JsonObject {
  return { ...state, formatVersion: 4 };
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

/**
 * The text of a state file. Its last field is the SHA-256 of all bytes before that field, so that the hash covers
 * every byte of the file.
 */
export function serializeState(state: TrainerState): string {
  const text = JSON.stringify(state, null, 2).replace(/\n\}$/, "");
  return text + SEAL_START + hashOf(text) + SEAL_END;
}

/** Text before and after the hash at the end of a state file. */
const SEAL_START = ',\n  "sha256": "', SEAL_END = '"\n}\n';

/** Most bytes of a state file; with 10,000 data files it has 2 MB. */
const LARGEST_STATE = 64 * 2 ** 20;

/**
 * Whether a state file ends with its hash, as in all formats from `FIRST_SEALED_FORMAT`.
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
 * Reads the state of a checkpoint and upgrades it to the current format.
 *
 * @throws {CheckpointError} if a field is missing or wrong, with file, field and value, or if the format is newer
 * than this code.
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

/** Number of field names in a valid JSON text. */
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

/** Number of fields in a JSON value, of any depth; its text has more if it repeats a name. */
function keysOf(value: unknown): number {
  let count = 0;
  for (const left = [value]; left.length > 0;) {
    const next = left.pop();
    if (typeof next !== "object" || next === null) continue;
    if (!Array.isArray(next)) count += Object.keys(next).length;
    for (const inner of Object.values(next)) left.push(inner);
  }
  return count;
}

/** Upgrades a state to the current format. */
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
    // a flipped bit can turn a newer format into an older one, whose state then has the fields of the upgrade
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
      `Cannot load ${file} as ${printable(name)} must be ${requirement}: ` +
        `current value is ${quoted(object[name.slice(name.indexOf(".") + 1)])}`,
    );
  };
  const isText = (value: unknown) => typeof value === "string";
  const checkCount = (object: JsonObject, name: string, where = "") => {
    const value = object[name], ok = Number.isSafeInteger(value) && value as number >= 0;
    check(object, `${where}${name}`, "a non-negative integer", ok);
  };
  for (const name of ["step", "epoch", "batchIndex", "seed"]) checkCount(state, name);
  const { step, otherRanks = [], typed } = state;
  const areObjects = Array.isArray(otherRanks) && otherRanks.every(isObject);
  check(state, "otherRanks", "a list of objects", areObjects);
  for (const [i, own] of [state, ...otherRanks as JsonObject[]].entries()) {
    const where = i === 0 ? "" : `otherRanks[${i - 1}].`;
    for (const name of ["growthTracker", "optimizerSteps", "skippedSteps", "consecutiveSkips"]) {
      checkCount(own, name, where);
    }
    const { optimizerSteps, skippedSteps, consecutiveSkips } = own as Record<string, number>;
    const sum = optimizerSteps! + skippedSteps!;
    check(state, "step", `the ${sum} steps that were applied or skipped`, step === sum);
    const most = `at most the ${skippedSteps} steps skipped`;
    check(own, `${where}consecutiveSkips`, most, consecutiveSkips! <= skippedSteps!);
    const isScale = Number.isFinite(own.lossScale) && own.lossScale as number > 0;
    check(own, `${where}lossScale`, "a positive number", isScale);
  }
  const best = state.bestValidationLoss;
  const isLoss = Number.isFinite(best) && best as number >= 0;
  check(state, "bestValidationLoss", "a non-negative number or null", best === null || isLoss);
  check(state, "tokenizerHash", "text", typeof state.tokenizerHash === "string");
  for (const name of ["options", "data", "tuning", "files"]) {
    check(state, name, "an object", isObject(state[name]));
  }
  const options = state.options as JsonObject;
  for (const [name, value] of Object.entries(options)) {
    const isValue = value === null || ["string", "number", "boolean"].includes(typeof value) ||
      Array.isArray(value) && value.every(isText);
    check(options, `options.${name}`, "a text, a number, true, false or a list of texts", isValue);
  }
  const areTexts = Array.isArray(typed) && typed.every(isText);
  check(state, "typed", "names of options", areTexts);
  const data = state.data as JsonObject;
  for (const name of ["name", "hash"]) {
    check(data, `data.${name}`, "text", isText(data[name]));
  }
  const { validationHash = "" } = data;
  check(data, "data.validationHash", "text", isText(validationHash));
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
  if (damaged.length > 0) throw new CheckpointError(damaged[0]!);
  return undefined;
}
