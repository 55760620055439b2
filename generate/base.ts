import { existsSync, readdirSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { isSystemError, isUsersError } from "../files/disk.ts";
import { printable } from "../files/printable.ts";
import { sentenceOf, UserError } from "../files/user_error.ts";
import {
  listCheckpoints,
  readTrainerState,
  STATE_FILE,
  verifyCheckpoint,
} from "../model/files/checkpoint.ts";
import { CheckpointError } from "../model/files/trainer_state.ts";
import { ggufIn, openGguf } from "../model/files/llama_cpp_reader.ts";
import { ADAPTER_CONFIG } from "../model/files/lora.ts";
import {
  hashFiles,
  MODEL_FILE,
  openModelTensors,
  type TensorFiles,
} from "../model/files/tensor_files.ts";

/**
 * The base of adapters: the model for which they were trained. A checkpoint of adapters records the path of its base
 * and the SHA-256 of the base's weights. Runs may be moved and renamed, so the hash identifies the base.
 *
 * @module
 */

/** The folder of a run for a copy of the base of its adapters, which `--keep-base` makes. */
export const KEPT_BASE = "base";

/** The directory of a model, and the `spec` that finds it again. */
export interface Found {
  readonly spec: string;
  readonly directory: string;
}

/** Adapters, and what is known of their base. */
export interface BaseQuery {
  /** Their directory. */
  readonly adapters: string;
  /** Their base, as a `spec` of `findModel()`. */
  readonly named: string;
  /** SHA-256 of its weights; absent in adapters of other programs. */
  readonly sha256: string | undefined;
  /** Their base, if the user names it. */
  readonly given: string | undefined;
  /** Other directories where it may be. */
  readonly likely: readonly string[];
}

/**
 * Finds the base of adapters.
 *
 * @param find finds a model by its `spec`.
 * @throws {CheckpointError} naming adapters and base if the base is not found, or if another model is given.
 */
export async function findBase(
  { adapters, named, sha256, given, likely }: BaseQuery,
  find: (spec: string) => Promise<Found>,
  { onNotice, signal }: {
    onNotice?: ((sentence: string) => void) | undefined;
    signal?: AbortSignal | undefined;
  },
): Promise<Found> {
  const base = printable(named) + (sha256 === undefined ? "" : ` with SHA-256 ${sha256}`);
  if (given !== undefined) {
    const kept = join(given, KEPT_BASE);
    const found = sha256 && (withHash(given, sha256) ?? withHash(kept, sha256)) ||
      await find(given);
    if (sha256 === undefined && nameOf(found.spec) !== nameOf(named)) {
      onNotice?.(
        `using ${found.spec} as the base of the adapters in ${adapters}, which name ${
          printable(named)
        }`,
      );
    }
    if (existsSync(join(found.directory, ADAPTER_CONFIG))) {
      throw new CheckpointError(
        `Cannot load the adapters in ${adapters} with the base ${found.spec} as a base must be a whole model: ` +
          `it holds adapters itself`,
      );
    }
    const current = sha256 && weightsHash(found.directory);
    if (current === sha256) return found;
    throw new CheckpointError(
      `Cannot load the adapters in ${adapters} with the base ${found.spec} as they belong to ${base}: ` +
        `current SHA-256 is ${current}`,
    );
  }
  const copy = join(runOf(adapters) ?? adapters, KEPT_BASE);
  const kept = sha256 && withHash(copy, sha256);
  if (kept) return { spec: named, directory: kept.directory };

  let reason: string;
  try {
    if (!named.startsWith("hf:") && !existsSync(named)) {
      throw new UserError("there is no such directory");
    }
    const found = await find(named);
    if (sha256 === undefined || weightsHash(found.directory) === sha256) return found;
    reason = "it holds another model now";
  } catch (error) {
    signal?.throwIfAborted();
    if (!isUsersError(error)) throw error;
    reason = sentenceOf(error);
    // the adapters may have named a local folder
    if (named.startsWith("hf:")) {
      reason = `there is no directory ${nameOnHub(named)}, and: ${reason}`;
    }
  }
  if (sha256 !== undefined) {
    for (const place of [...likely, ...placesToLook(resolve(adapters), named)]) {
      const found = withHash(place, sha256);
      if (!found) continue;
      onNotice?.(
        `using ${found.spec} as the base of the adapters in ${adapters}: it was ${named}`,
      );
      return found;
    }
  }
  if (sha256 !== undefined && isThere(copy)) reason += `, and its copy in ${copy} is damaged`;
  throw new CheckpointError(
    `Cannot load the adapters in ${adapters} as their base must be found, which is ${base}: ` +
      `${reason}; name it with --base`,
  );
}

/** The checkpoint of a run, or the model in a directory, whose weights have a given hash. */
export function withHash(path: string, sha256: string): Found | undefined {
  const checkpoints = listCheckpoints(path).map(({ path }) => path);
  const directory = (checkpoints.length > 0 ? checkpoints : [path])
    .find((directory) => hasWeights(directory, sha256));
  return directory === undefined ? undefined : { spec: resolve(directory), directory };
}

/** Whether the weights in a directory have a hash; those of a checkpoint are read only if its state has the hash. */
function hasWeights(directory: string, sha256: string): boolean {
  try {
    if (!existsSync(join(directory, STATE_FILE))) return weightsHash(directory) === sha256;
    if (readTrainerState(directory).files[MODEL_FILE]?.sha256 !== sha256) return false;
    verifyCheckpoint(directory);
    return true;
  } catch (error) {
    if (!isUsersError(error)) throw error;
    return false; // it is damaged, or not a model
  }
}

/** OWNER/NAME of a model of the hub. */
function nameOnHub(spec: string): string {
  return spec.replace(/^hf:|@.*$/g, "");
}

/** The last part of a model's path or name, which a copy in another place has, too. */
function nameOf(spec: string): string {
  return basename(spec.startsWith("hf:") ? nameOnHub(spec) : spec);
}

function weightsHash(directory: string): string {
  return hashFiles(weightFiles(directory));
}

/** Opens the tensors of the model in a directory or a GGUF file. */
export function openTensors(path: string): TensorFiles {
  const gguf = ggufIn(path);
  return gguf === undefined ? openModelTensors(path) : openGguf(gguf);
}

/** The files of a model's weights. */
export function weightFiles(directory: string): readonly string[] {
  const files = openTensors(directory);
  files.close();
  return files.paths;
}

/** The run of the checkpoint at a path; undefined if it is not in a run. */
export function runOf(checkpoint: string): string | undefined {
  const parent = dirname(resolve(checkpoint));
  return basename(parent) === "checkpoints" ? dirname(parent) : undefined;
}

/** Directories where a base may be if its run was moved, alone or together with the run of the adapters. */
function placesToLook(adapters: string, named: string): Set<string> {
  if (named.startsWith("hf:")) return new Set();
  const base = runOf(named) ?? named, folder = dirname(runOf(adapters) ?? adapters);
  const runs = [base, ...directoriesBeside(base), ...directoriesIn(folder)]
    .filter((path) => listCheckpoints(path).length > 0);
  const ends = named.split(/[\\/]/).map((_, i, names) => join(...names.slice(i)));
  const moved = foldersAbove(folder).flatMap((path) => ends.slice(1).map((end) => join(path, end)));
  return new Set([...runs, ...moved.filter(isThere)]);
}

/** Whether a path exists; false without the permission to look. */
function isThere(path: string): boolean {
  try {
    return existsSync(path);
  } catch {
    return false;
  }
}

/** The directories in the parent folder of a path. */
export function directoriesBeside(path: string): string[] {
  return directoriesIn(dirname(path));
}

function directoriesIn(path: string): string[] {
  try {
    return readdirSync(path, { withFileTypes: true })
      .filter((entry) => entry.isDirectory()).map(({ name }) => join(path, name));
  } catch (error) {
    if (!isSystemError(error)) throw error;
    return []; // it does not exist, or cannot be read
  }
}

/** A folder and all folders that contain it. */
function foldersAbove(path: string): string[] {
  return dirname(path) === path ? [path] : [path, ...foldersAbove(dirname(path))];
}
