import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import type { Device } from "../kernels/device.ts";
import type { TrainerState } from "../model/checkpoint.ts";

/** Kernels that were found to be the fastest, by `Tunable.key`: what `Device.choices` holds. */
export type Choices = ReadonlyMap<string, string>;

/** To be raised when kernels change so much that old times mean nothing. */
const KERNELS_VERSION = 1;

/** What the times depend on beside the adapter: Deno brings the compiler. */
const MADE_BY = `kernels ${KERNELS_VERSION}, Deno ${Deno.version.deno}`;

/** The file that remembers choices from run to run: those of each adapter, if this code made them. */
interface TuningFile {
  madeBy: string;
  choices: Record<string, Record<string, string>>;
}

/** Where runs with this cache directory remember what was found. */
export function tuningFileIn(cacheDirectory: string): string {
  return join(cacheDirectory, "tuning.json");
}

/** An adapter's name and what drives it: where both are the same, so are the fastest kernels. */
export function adapterOf({ name, backend }: Device): string {
  return `${name}, ${backend}`;
}

/**
 * The choices remembered for a device; none if the file is absent or made by another version.
 *
 * @param onWarning hears in a sentence why a file that is there cannot be read.
 */
export function readChoices(
  path: string,
  device: Device,
  onWarning: (sentence: string) => void,
): Choices {
  return new Map(Object.entries(readFile(path, onWarning).choices[adapterOf(device)] ?? {}));
}

/**
 * Remembers the choices of a device, beside those for other work and other adapters.
 *
 * @param onWarning hears in a sentence why the file cannot be written: the next run finds them anew.
 */
export function writeChoices(
  path: string,
  device: Device,
  onWarning: (sentence: string) => void,
): void {
  const { choices } = readFile(path, () => {});
  const adapter = adapterOf(device);
  const file: TuningFile = {
    madeBy: MADE_BY,
    choices: { ...choices, [adapter]: { ...choices[adapter], ...sorted(device.choices) } },
  };
  const temporary = `${path}.tmp-${crypto.randomUUID()}`;
  try {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(temporary, JSON.stringify(file, null, 2) + "\n");
    renameSync(temporary, path);
  } catch (error) {
    onWarning(`the fastest kernels cannot be remembered in ${path}: ${(error as Error).message}`);
    try {
      rmSync(temporary, { force: true });
    } catch {
      // nothing may be written there, so nothing is
    }
  }
}

function readFile(path: string, onWarning: (sentence: string) => void): TuningFile {
  const none: TuningFile = { madeBy: MADE_BY, choices: {} };
  try {
    const file = JSON.parse(readFileSync(path, "utf8"));
    if (file?.madeBy !== MADE_BY) return none;
    if (isTuningFile(file)) return file;
    onWarning(`${path} is passed over as it is damaged`);
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code !== "ENOENT") onWarning(`${path} is passed over as it cannot be read: ${message}`);
  }
  return none;
}

function isTuningFile(file: { choices: unknown }): file is TuningFile {
  const isObject = (value: unknown) => typeof value === "object" && value !== null;
  return isObject(file.choices) &&
    Object.values(file.choices!).every((choices) =>
      isObject(choices) && Object.values(choices).every((variant) => typeof variant === "string")
    );
}

/** What a checkpoint keeps of the kernels that it was trained with. */
export function tuningOf(device: Device): TrainerState["tuning"] {
  return { adapter: adapterOf(device), choices: sorted(device.choices) };
}

/** The choices of a checkpoint, unless it was made on another adapter than this. */
export function choicesOf(
  { tuning: { adapter, choices } }: Pick<TrainerState, "tuning">,
  device: Device,
): Choices | undefined {
  if (adapter !== null && adapter !== adapterOf(device)) return undefined;
  return new Map(Object.entries(choices));
}

/** In the order of the keys: the same choices are the same text, whatever was found first. */
function sorted(choices: Choices): Record<string, string> {
  return Object.fromEntries([...choices].sort(([a], [b]) => a < b ? -1 : 1));
}
