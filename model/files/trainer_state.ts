import { createHash } from "node:crypto";
import { checkFields, type FieldKind, isObject, type JsonObject } from "../../files/json.ts";
import { printable, quoted } from "../../files/printable.ts";
import { UserError } from "../../files/user_error.ts";

/**
 * The state of a training, as a checkpoint's file holds it: JSON that ends with its own hash.
 *
 * @module
 */

/** Thrown if a checkpoint is missing or damaged, or cannot be written. */
export class CheckpointError extends UserError {
  /** Identifies this error without `instanceof`. */
  override name = "CheckpointError";
}

/** Thrown for a checkpoint of a later version of this code. */
export class NewerFormatError extends CheckpointError {}

/** The error of a state file that cannot be used. */
function unusable(file: string, reason: string): CheckpointError {
  return new CheckpointError(`Cannot load ${file} as ${reason}`);
}

/** Version of the checkpoint format that this code writes. */
export const CHECKPOINT_FORMAT = 4;

/** First format whose state file ends with its hash. */
const FIRST_SEALED = 3;

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
  // every step was applied
  0: (state) => ({
    ...state,
    formatVersion: 1,
    optimizerSteps: state.step,
    skippedSteps: 0,
    consecutiveSkips: 0,
  }),
  // the preferred kernels were used
  1: (state) => ({ ...state, formatVersion: 2, tuning: { adapter: null, choices: {} } }),
  2: addTyped,
  // the schedule of the learning rate was there twice: the options have it, too
  3: ({ schedule: _, ...state }) => ({ ...state, formatVersion: 4 }),
};

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

/**
 * Whether a state file ends with its hash, as in all formats from `FIRST_SEALED`.
 *
 * @throws {CheckpointError} if the hash differs.
 */
function checkSeal(bytes: Uint8Array, file: string): boolean {
  const length = SEAL_START.length + 64 + SEAL_END.length;
  const end = new TextDecoder("latin1").decode(bytes.subarray(-length));
  const hash = end.slice(SEAL_START.length, -SEAL_END.length);
  if (!/^[0-9a-f]{64}$/.test(hash) || end !== SEAL_START + hash + SEAL_END) return false;
  if (hashOf(bytes.subarray(0, -length)) === hash) return true;
  throw unusable(file, "it is damaged: its SHA-256 differs");
}

function hashOf(content: string | Uint8Array): string {
  return createHash("sha256").update(content).digest("hex");
}

/**
 * Parses a state file, and upgrades it to the current format.
 *
 * @throws {CheckpointError} if a field is missing or wrong, with file, field and value, or if the format is newer
 * than this code.
 */
export function parseState(bytes: Uint8Array, file: string): TrainerState {
  const isSealed = checkSeal(bytes, file);
  let text: string, state: unknown;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    state = JSON.parse(text);
  } catch {
    throw unusable(file, "it is no JSON");
  }
  if (keysWritten(text) !== keysOf(state)) throw unusable(file, "it has a field twice");
  const { sha256: _, ...fields } = Object(state) as JsonObject, { formatVersion } = fields;
  if (!isSealed && Number.isInteger(formatVersion) && Number(formatVersion) >= FIRST_SEALED) {
    throw unusable(
      file,
      `it is damaged: with formatVersion ${formatVersion} it must end with its own SHA-256`,
    );
  }
  return validateState(upgradeState(isSealed ? fields : Object(state), file), file);
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
    throw unusable(file, `formatVersion must be an integer: current value is ${quoted(version)}`);
  }
  if (version > CHECKPOINT_FORMAT) {
    throw new NewerFormatError(
      `Cannot load ${file} as formatVersion must be at most ${CHECKPOINT_FORMAT}, which this ` +
        `version of toy-transformer knows: current value is ${version}`,
    );
  }
  for (let from = version; from < CHECKPOINT_FORMAT; from++) {
    const upgrade = upgrades[from];
    if (!upgrade) throw unusable(file, `format ${from} is too old`);
    const upgraded = upgrade(state);
    // a flipped bit can turn a newer format into an older one, whose state then has the fields of the upgrade
    const known = Object.keys(upgraded).find((name) =>
      name !== "formatVersion" && Object.hasOwn(state, name) && state[name] !== upgraded[name]
    );
    if (known !== undefined) {
      throw unusable(file, `it is damaged: a state of format ${from} has no ${known}`);
    }
    state = upgraded;
  }
  return state;
}

/** Kinds of a state's fields. */
const FIELDS = {
  step: "count",
  epoch: "count",
  batchIndex: "count",
  seed: "count",
  otherRanks: "objects?",
  options: "object",
  typed: "texts",
  tokenizerHash: "text",
  source: "object?",
  data: "object",
  tuning: "object",
  files: "object",
} as const;

/** Those that each rank has of its own. */
const FIELDS_OF_RANK = {
  growthTracker: "count",
  optimizerSteps: "count",
  skippedSteps: "count",
  consecutiveSkips: "count",
} as const;

/** Checks every field of a state in the current format. */
function validateState(state: JsonObject, file: string): TrainerState {
  const refused = (requirement: string, value: unknown) =>
    unusable(file, `${printable(requirement)}: current value is ${quoted(value)}`);
  const check = (name: string, requirement: string, value: unknown, isMet: boolean) => {
    if (!isMet) throw refused(`${name} must be ${requirement}`, value);
  };
  /** Checks the fields of an object inside. */
  const checkInner = (where: string, inner: object, kinds: Record<string, FieldKind>) =>
    checkFields({ ...inner }, kinds, (text, value) => refused(`${where}${text}`, value));
  const isText = (value: unknown) => typeof value === "string";
  const isNumber = (value: unknown) => Number.isFinite(value);

  checkFields(state, FIELDS, refused);
  const valid = state as unknown as TrainerState; // as far as it is checked
  for (const [i, own] of [valid, ...valid.otherRanks ?? []].entries()) {
    const where = i === 0 ? "" : `otherRanks[${i - 1}].`;
    checkInner(where, own, FIELDS_OF_RANK);
    const { lossScale, optimizerSteps, skippedSteps, consecutiveSkips } = own;
    const sum = optimizerSteps + skippedSteps, most = `at most the ${skippedSteps} steps skipped`;
    check("step", `the ${sum} steps that were applied or skipped`, valid.step, valid.step === sum);
    check(`${where}consecutiveSkips`, most, consecutiveSkips, consecutiveSkips <= skippedSteps);
    const isScale = isNumber(lossScale) && lossScale > 0;
    check(`${where}lossScale`, "a positive number", lossScale, isScale);
  }
  const best = valid.bestValidationLoss, isLoss = best === null || isNumber(best) && best >= 0;
  check("bestValidationLoss", "a non-negative number or null", best, isLoss);
  for (const [name, value] of Object.entries(valid.options)) {
    const isValue = value === null || ["string", "number", "boolean"].includes(typeof value) ||
      Array.isArray(value) && value.every(isText);
    check(`options.${name}`, "a text, a number, true, false or a list of texts", value, isValue);
  }
  checkInner("data.", valid.data, { name: "text", hash: "text", validationHash: "text?" });
  if (valid.source) checkInner("source.", valid.source, { spec: "text", sha256: "text" });
  const { adapter, choices } = valid.tuning;
  check("tuning.adapter", "text or null", adapter, adapter === null || isText(adapter));
  const areNames = isObject(choices) && Object.values(choices).every(isText);
  check("tuning.choices", "names of kernels", choices, areNames);
  for (const [name, digest] of Object.entries(valid.files)) {
    const { bytes, sha256 } = (digest ?? {}) as Partial<FileDigest>;
    const isDigest = /^\w[\w.-]*$/.test(name) && // never a path
      Number.isSafeInteger(bytes) && bytes! >= 0 && /^[0-9a-f]{64}$/.test(String(sha256));
    check(`files.${name}`, "the size and hash of a file", digest, isDigest);
  }
  return valid;
}
