import { flagOf } from "../files/command_line.ts";
import { printable } from "../files/printable.ts";
import { UserError } from "../files/user_error.ts";
import { type GptConfig, type PresetName, PRESETS } from "../model/config.ts";
import type { Precision } from "../model/precision.ts";
import {
  DEFAULT_OPTIONS,
  isGiven,
  OPTION_NAMES,
  type OptionName,
  optionNamed,
  optionsWhere,
  type ResolvedOptions,
  type TrainOptions,
} from "./options.ts";
import { OptionError } from "./validate.ts";

/**
 * How options that are not given get their values: from the preset, from other options, or from the checkpoint
 * that is resumed.
 *
 * @module
 */

/** Default length, batch size and learning rate of a training. */
export type TrainingDefaults = Pick<
  ResolvedOptions,
  "batchSize" | "steps" | "learningRate" | "contextLength"
>;

/**
 * Defaults by preset.
 *
 * Learning rates fall with width, as usual (Kaplan et al. 2020, https://arxiv.org/abs/2001.08361,
 * appendix D.6). `nano` is sized for two minutes on two CPU cores; after 1,400 steps, whether a model copied
 * names still depended on the seed.
 */
const PRESET_DEFAULTS: Readonly<Record<PresetName, Omit<TrainingDefaults, "contextLength">>> = {
  nano: { batchSize: 16, steps: 2000, learningRate: 5e-3 },
  mini: { batchSize: 32, steps: 2000, learningRate: 1e-3 },
  small: { batchSize: 32, steps: 5000, learningRate: 6e-4 },
  distilgpt2: { batchSize: 8, steps: 20000, learningRate: 4e-4 },
  gpt2: { batchSize: 8, steps: 50000, learningRate: 3e-4 },
};

/** Defaults of a training, by preset. */
export function presetDefaults(preset: PresetName): TrainingDefaults {
  return { ...PRESET_DEFAULTS[preset], contextLength: PRESETS[preset].contextLength };
}

/** Tokens per batch of a fine-tuning. */
const FINE_TUNING_TOKENS = 8192;

/**
 * Defaults for fine-tuning: a tenth of the learning rate of a random model of that width, and the whole context.
 * Adapters start at zero and need ten times that rate.
 */
export function fineTuningDefaults({ width, contextLength, lora }: GptConfig): TrainingDefaults {
  const learningRate = 4e-5 * 768 / width * (lora ? 10 : 1);
  return {
    batchSize: Math.max(1, Math.min(32, Math.floor(FINE_TUNING_TOKENS / contextLength))),
    steps: 1000,
    learningRate: Number(learningRate.toPrecision(2)),
    contextLength,
  };
}

/** Batch size and context length, which are known before the data is. */
export function batchShapeOf(
  options: TrainOptions,
  defaults: TrainingDefaults,
): { batchSize: number; contextLength: number } {
  return {
    batchSize: options.batchSize ?? defaults.batchSize,
    contextLength: options.contextLength ?? defaults.contextLength,
  };
}

/**
 * Chooses the values of all options that are not given: from the preset, the device, and other options.
 *
 * A resumed run keeps a value that was computed from another option, unless that other option has changed.
 *
 * @param stepsPerEpoch steps in one pass over the data, for `epochs`.
 * @param typed names of options that the user typed, now or at an earlier start of the run.
 * @param began the options of the checkpoint, if the run is resumed.
 * @throws {OptionError} if the smallest learning rate is above the highest.
 */
export function resolveOptions(
  options: TrainOptions,
  { preset, precision, defaults, stepsPerEpoch, typed, began }: {
    preset: PresetName | "auto";
    precision: Precision;
    defaults: TrainingDefaults;
    stepsPerEpoch: number;
    typed: readonly string[];
    began?: ResolvedOptions | undefined;
  },
): ResolvedOptions {
  const { epochs } = options;
  const stepsInEpochs = epochs === undefined
    ? Infinity
    : Math.max(1, Math.ceil(epochs * stepsPerEpoch));
  const steps = Math.min(
    options.steps ?? (epochs === undefined ? defaults.steps : Infinity),
    stepsInEpochs,
  );
  const chosen = {
    ...options,
    preset,
    precision,
    steps,
    endsWith: epochs !== undefined && stepsInEpochs <= (options.steps ?? Infinity)
      ? "epochs" as const
      : "steps" as const,
    data: options.data === "auto" ? "sample" as const : options.data,
    ...batchShapeOf(options, defaults),
    learningRate: options.learningRate ?? defaults.learningRate,
  };
  const derived = OPTION_NAMES.flatMap((name) => {
    const { from, value, atStart } = optionNamed(name).rule ?? {};
    if (!from || !value) return [];
    const before = options[name];
    const stays = before !== undefined &&
      (!began || atStart || typed.includes(name) || chosen[from] === began[from]);
    return stays ? [] : [[name, value(chosen[from])]];
  });
  const resolved = { ...chosen, ...Object.fromEntries(derived) } as ResolvedOptions;
  checkRates(resolved, began);
  return resolved;
}

/**
 * Makes sure that the smallest learning rate is not above the highest.
 *
 * @param began the options of the checkpoint, if the run is resumed.
 * @throws {OptionError} naming the flag and both values.
 */
export function checkRates(
  { learningRate, minLearningRate }: Partial<TrainOptions>,
  began?: ResolvedOptions,
): void {
  if (learningRate === undefined || minLearningRate === undefined) return;
  if (minLearningRate <= learningRate) return;
  throw new OptionError(
    `--min-learning-rate must be at most --learning-rate, which is ${learningRate}: ` +
      `current value is ${minLearningRate}` +
      (began?.minLearningRate === minLearningRate ? ", which the run began with" : ""),
  );
}

/** Options that no checkpoint stores. */
const UNSAVED: readonly string[] = optionsWhere(({ onResume }) => onResume === "unsaved");

/** Names of the options that the user typed and a checkpoint stores, in the order of the table. */
export function typedNames(given: Partial<TrainOptions>): string[] {
  return OPTION_NAMES.filter((name) => isGiven(given[name]) && !UNSAVED.includes(name));
}

/** The options that a checkpoint stores. */
export function savedOptions(options: ResolvedOptions): Record<string, unknown> {
  return Object.fromEntries(Object.entries(options).filter(([name]) => !UNSAVED.includes(name)));
}

/** The hint if a resumed run does not find its data. */
export const NAME_THE_TEXT =
  "Give the present path of the run's text with --data, or start over with --fresh";

/** The error for an option that a resumed run cannot change. */
export function mustStay(name: string, value: unknown, saved: unknown, path: string): UserError {
  const text = (value: unknown) => printable(String(value ?? "absent"));
  return new UserError(
    `Cannot resume ${path} as ${flagOf(name)} must stay ${text(saved)}: ` +
      `current value is ${text(value)}`,
    {
      hint: name === "data"
        ? NAME_THE_TEXT
        : "Start over with --fresh, which keeps the old run, or choose another --out",
    },
  );
}

/**
 * The options of a resumed run: those of its checkpoint, changed by those that are given now. Also returns the
 * names of those that the user typed.
 *
 * @param renamed new names of the run's inputs.
 * @throws {UserError} if a given option contradicts the checkpoint, naming both values.
 */
export function resumeOptions(
  given: Partial<TrainOptions>,
  { options: saved, typed }: { options: Record<string, unknown>; typed: readonly string[] },
  path: string,
  renamed: Partial<TrainOptions> = {},
): { options: TrainOptions; typed: string[] } {
  const changed: [name: string, value: unknown][] = Object.entries(renamed);
  for (const name of OPTION_NAMES) {
    const value = given[name], { onResume } = optionNamed(name);
    if (!isGiven(value) || onResume === "renamed") continue;
    if (onResume !== "fixed") changed.push([name, value]);
    else if (value !== saved[name]) throw mustStay(name, value, saved[name], path);
  }
  const options = { ...DEFAULT_OPTIONS, ...saved, ...Object.fromEntries(changed) } as TrainOptions;
  const names = new Set([...typed, ...changed.map(([name]) => name)]);
  // new steps replace the epochs of the checkpoint, and new epochs its steps
  for (const [name, other] of [["steps", "epochs"], ["epochs", "steps"]] as const) {
    if (given[name] !== undefined || given[other] === undefined) continue;
    options[name] = undefined;
    names.delete(name);
  }
  const isKept = (name: OptionName) => names.has(name) && !UNSAVED.includes(name);
  return { options, typed: OPTION_NAMES.filter(isKept) };
}
