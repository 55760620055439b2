import { existsSync, readdirSync, statSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { commandLine } from "../files/command_line.ts";
import { isSystemError } from "../files/disk.ts";
import { CONFIG_FILE } from "../files/names.ts";
import { UserError } from "../files/user_error.ts";
import { listCheckpoints, STATE_FILE } from "../model/files/checkpoint.ts";
import { ggufIn } from "../model/files/llama_cpp_reader.ts";
import { ADAPTER_CONFIG } from "../model/files/lora.ts";

/**
 * What is at a path, for an error about a path that does not hold what its option needs.
 *
 * @module
 */

/** What each option must name. */
const NEEDS = { "--run": "a run", "--checkpoint": "a checkpoint" } as const;

/** The reason of a path that does not exist. */
const ABSENT = "there is no such directory";

/** What a path holds. */
export interface Place {
  /** The end of a sentence: `it is a checkpoint`. */
  readonly reason: string;
  /** The option and the path that load a model from there, if one does. */
  readonly load?: readonly [flag: keyof typeof NEEDS | "--model", path: string];
}

/** Describes what is at a path; undefined for a directory of other files, or if it cannot be read. */
export function placeAt(path: string): Place | undefined {
  try {
    return describe(path);
  } catch (error) {
    if (isSystemError(error)) return undefined; // who reads the files reports it
    throw error;
  }
}

function describe(path: string): Place | undefined {
  const status = statSync(path, { throwIfNoEntry: false });
  if (!status) return { reason: ABSENT };
  if (!status.isDirectory()) {
    if (ggufIn(path) !== undefined) return { reason: "it is a file", load: ["--model", path] };
    const load = describe(dirname(path))?.load;
    return { reason: "it is a file", ...(load && load[1] === dirname(path) ? { load } : {}) };
  }
  if (existsSync(join(path, STATE_FILE))) {
    return { reason: "it is a checkpoint", load: ["--checkpoint", path] };
  }
  if (listCheckpoints(path).length > 0) return { reason: "it is a run", load: ["--run", path] };
  const parent = join(path, "..");
  if (basename(join(path, ".")) === "checkpoints" && listCheckpoints(parent).length > 0) {
    return { reason: "it holds the checkpoints of a run", load: ["--run", parent] };
  }
  const holdsModel = ggufIn(path) !== undefined ||
    [CONFIG_FILE, ADAPTER_CONFIG].some((name) => existsSync(join(path, name)));
  if (holdsModel) return { reason: "it is a model", load: ["--model", path] };
  const run = readdirSync(path).sort().map((name) => join(path, name))
    .find((child) => listCheckpoints(child).length > 0);
  return run === undefined ? undefined : { reason: "it holds runs", load: ["--run", run] };
}

/**
 * Makes sure that a path holds what its option needs, if it is known what the path holds.
 *
 * @param flag the option that was given.
 * @throws {UserError} with the right option for the path as its hint, if there is one.
 */
export function checkPlace(flag: keyof typeof NEEDS, path: string): void {
  const place = placeAt(path);
  if (!place || place.reason === ABSENT && flag === "--run") return; // without a run there is no model yet
  const { reason, load } = place;
  if (load?.[0] === flag && load[1] === path) return;
  throw new UserError(
    `Cannot load a model from ${path} as ${flag} must be ${NEEDS[flag]}: ${reason}`,
    load ? { hint: `To load it: ${commandLine(load)}` } : {},
  );
}
