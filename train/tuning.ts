import { readFileSync } from "node:fs";
import { join } from "node:path";
import { replaceText } from "../files/disk.ts";
import { isObject } from "../files/json.ts";
import { UserError } from "../files/user_error.ts";
import type { Device } from "../kernels/device.ts";
import type { Program } from "../kernels/program.ts";
import { Tuner, unavailable, untuned } from "../kernels/tune.ts";
import type { TrainerState } from "../model/files/trainer_state.ts";
import { flopsPerToken } from "./cost.ts";
import { hasAborted, notice, notices, type TrainEvent } from "./events.ts";
import type { Run } from "./run.ts";
import type { TrainStep } from "./step.ts";
import { cacheBeside } from "./training_data.ts";

/** The fastest kernels by `Tunable.key`, as in `Device.choices`. */
export type Choices = ReadonlyMap<string, string>;

/** Version of the kernels; a change that makes old timings meaningless raises it. */
const KERNELS_VERSION = 1;

/** The software on which timings depend; Deno contains the shader compiler. */
const MADE_BY = `kernels ${KERNELS_VERSION}, Deno ${Deno.version.deno}`;

/** The file that stores the choices of each adapter between runs. */
interface TuningFile {
  madeBy: string;
  choices: Record<string, Record<string, string>>;
}

/** The path of that file in a cache directory. */
export function tuningFileIn(cacheDirectory: string): string {
  return join(cacheDirectory, "tuning.json");
}

/** An adapter's name and backend, which together decide the fastest kernels. */
export function adapterOf({ name, backend }: Device): string {
  return `${name}, ${backend}`;
}

/**
 * The choices stored for a device; none if the file is absent or made by another version.
 *
 * @param onWarning is called with a sentence if there is a file that cannot be read.
 */
export function readChoices(
  path: string,
  device: Device,
  onWarning: (sentence: string) => void,
): Choices {
  return new Map(Object.entries(readFile(path, onWarning).choices[adapterOf(device)] ?? {}));
}

/**
 * Stores the choices of a device, together with those for other work and other adapters.
 *
 * @param onWarning is called with a sentence if the file cannot be written: the next run times kernels again.
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
  try {
    replaceText(path, JSON.stringify(file, null, 2) + "\n");
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    onWarning(`the fastest kernels are not stored for other runs: ${error.message}`);
  }
}

function readFile(path: string, onWarning: (sentence: string) => void): TuningFile {
  const none: TuningFile = { madeBy: MADE_BY, choices: {} };
  try {
    const file = JSON.parse(readFileSync(path, "utf8"));
    if (file?.madeBy !== MADE_BY) return none;
    if (isTuningFile(file)) return file;
    onWarning(`${path} is ignored as it is damaged`);
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code !== "ENOENT") onWarning(`${path} is ignored as it cannot be read: ${message}`);
  }
  return none;
}

function isTuningFile(file: { choices: unknown }): file is TuningFile {
  return isObject(file.choices) &&
    Object.values(file.choices).every((choices) =>
      isObject(choices) && Object.values(choices).every((variant) => typeof variant === "string")
    );
}

/** The kernels of a training, as its checkpoint stores them. */
export function tuningOf(device: Device): TrainerState["tuning"] {
  return { adapter: adapterOf(device), choices: sorted(device.choices) };
}

/** The choices of a checkpoint; undefined if it was made on another adapter. */
export function choicesOf(
  { tuning: { adapter, choices } }: Pick<TrainerState, "tuning">,
  device: Device,
): Choices | undefined {
  if (adapter !== null && adapter !== adapterOf(device)) return undefined;
  return new Map(Object.entries(choices));
}

/** Choices in the order of their keys, so that equal choices give equal text. */
function sorted(choices: Choices): Record<string, string> {
  return Object.fromEntries([...choices].sort(([a], [b]) => a < b ? -1 : 1));
}

/** The end of a sentence about kernels that do not exist. */
export const DEFAULTS_INSTEAD = "the default kernels are used instead";

/**
 * Removes the device's choices for a program that name kernels which this version does not have on that device. The
 * program was recorded with the default kernels instead.
 *
 * @param origin the file or checkpoint of the choices, for the sentence.
 * @returns a sentence that names the kernels, if there are any.
 */
export function forgetUnavailable(
  { device, tunables }: Program,
  origin: string,
): string | undefined {
  const replaced = unavailable(device, tunables.values());
  if (replaced.length === 0) return undefined;
  const names = new Set(replaced.map(({ key }) => device.choices.get(key)));
  for (const { key } of replaced) device.choices.delete(key);
  return `${origin} names kernels that this version does not have here: ${[...names].join(", ")}`;
}

/**
 * Operations of a training at which `--tune auto` begins to tune: five minutes of a large GPU. Tuning took 17 s,
 * mostly compilation (mini on an H200, November 2026).
 */
const WORTH_TUNING = 1e16;

/** Operations of one rank in a whole training. */
function operationsOf({ config, options, batches }: Run): number {
  const { steps, batchSize, contextLength, gradientAccumulation } = options;
  const perToken = flopsPerToken(config, { options, batches });
  return perToken * steps * batchSize * contextLength * gradientAccumulation;
}

/** Whether to time kernels for work that has no stored choice. */
function isTuning(run: Run): boolean {
  const { device, directory, options: { tune } } = run;
  if (!directory || tune === "off") return false;
  return tune === "on" || !device.isCpu && operationsOf(run) >= WORTH_TUNING;
}

/**
 * Records the training step. A resumed run uses the kernels of its checkpoint, so that it continues to the bit; any
 * other uses the fastest ones, which are stored or found now.
 *
 * @throws the reason of the run's signal, soon after it aborts.
 */
export async function* recordTuned(
  record: () => TrainStep,
  run: Run,
): AsyncGenerator<TrainEvent, TrainStep> {
  const { device, out, options, resumed, signal } = run;
  const saved = resumed?.state, file = tuningFileIn(cacheBeside(out)), tune = isTuning(run);
  const warnings: string[] = [];
  const warn = (sentence: string) => warnings.push(sentence);
  const kept = saved && choicesOf(saved, device);
  const choices = kept ?? (options.tune === "off" ? new Map() : readChoices(file, device, warn));
  if (saved && !kept) {
    warn(
      `resuming on ${adapterOf(device)} a run that was trained on ${saved.tuning.adapter}: ` +
        `the last bits of the results may differ`,
    );
  }
  yield* notices(...warnings.splice(0));

  device.choices.clear();
  for (const [key, variant] of choices) device.choices.set(key, variant);
  using recorded = new DisposableStack(); // frees the step unless it is returned
  const step = recorded.use(record());
  const { tunables } = step.program;
  // choices for other work would be stored in the checkpoint and used by the evaluation
  for (const key of device.choices.keys()) if (!tunables.has(key)) device.choices.delete(key);
  const unknown = forgetUnavailable(step.program, kept ? "the checkpoint" : file);
  if (unknown !== undefined) {
    const instead = kept || !tune ? DEFAULTS_INSTEAD : "the fastest are found now";
    yield notice(`${unknown}; ${instead}`);
  }
  const open = kept || !tune ? [] : untuned(device, tunables.values());
  if (open.length === 0) {
    recorded.move();
    return step;
  }

  using tuner = new Tuner(device, open);
  const added: (Promise<unknown> | undefined)[] = [];
  for (const [done, tunable] of open.entries()) {
    if (await hasAborted(signal)) throw signal!.reason;
    yield { kind: "tuning", done, of: open.length };
    added.push(tuner.add(tunable));
  }
  for (const compiling of added) {
    if (await hasAborted(signal)) throw signal!.reason;
    await compiling;
  }
  await tuner.choose();
  recorded.dispose();
  writeChoices(file, device, warn);
  yield* notices(...warnings);
  return record();
}
