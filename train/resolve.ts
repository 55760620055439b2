import { flagOf } from "../files/command_line.ts";
import { printable } from "../files/printable.ts";
import { UserError } from "../files/user_error.ts";
import { MOST_HEAD_SIZE } from "../kernels/attention/attention.ts";
import type { Provider } from "../kernels/provider.ts";
import {
  areHeadsAllowed,
  defaultsOf,
  type GptConfig,
  type PresetName,
  PRESETS,
} from "../model/config.ts";
import type { TrainerState } from "../model/files/trainer_state.ts";
import type { Precision } from "../model/precision.ts";
import {
  isGiven,
  OPTION_NAMES,
  type OptionName,
  optionNamed,
  optionsWhere,
  type ResolvedOptions,
  savedIn,
  TRAIN_OPTIONS,
  type TrainOptions,
} from "./options.ts";
import { DEFAULT_ARCHITECTURE, isGated, partsOf } from "./architecture.ts";
import { CONVERSATION_TOKENS } from "./plan/plan.ts";
import { cooldownStart } from "./schedule.ts";
import { OptionError } from "./validate.ts";

/**
 * How options that are not given get their values: from the preset, from other options, or from the checkpoint
 * that is resumed.
 *
 * @module
 */

/**
 * Default length, batch size, learning rate and dimensions of a training, and the parts of the architecture of a new
 * model.
 */
export type TrainingDefaults =
  & Pick<
    ResolvedOptions,
    | "batchSize"
    | "steps"
    | "learningRate"
    | "contextLength"
    | "layers"
    | "width"
    | "heads"
    | "kvHeads"
    | "headSize"
    | "hidden"
  >
  & Partial<
    Pick<
      ResolvedOptions,
      "arch" | "norm" | "positions" | "mlp" | "biases" | "qkNorm" | "zeroInit"
    >
  >;

/** The dimensions of a model that options give, without context and vocabulary. */
export type Dimensions = Pick<
  TrainingDefaults,
  "layers" | "width" | "heads" | "kvHeads" | "headSize" | "hidden"
>;

/** The dimensions of a model, named as options. */
export function dimensionsOf(
  config: Omit<GptConfig, "vocabularySize" | "contextLength">,
): Dimensions {
  const { layers, width, heads } = config;
  const { keyHeads: kvHeads, headSize, innerWidth: hidden } = { ...defaultsOf(config), ...config };
  return { layers, width, heads, kvHeads, headSize, hidden };
}

/**
 * Defaults by preset.
 *
 * Learning rates fall with width, as usual (Kaplan et al. 2020, https://arxiv.org/abs/2001.08361,
 * appendix D.6). `nano` is sized for two minutes on two CPU cores.
 */
const PRESET_DEFAULTS: Readonly<
  Record<PresetName, Pick<TrainingDefaults, "batchSize" | "steps" | "learningRate">>
> = {
  nano: { batchSize: 16, steps: 1700, learningRate: 5e-3 },
  mini: { batchSize: 32, steps: 2000, learningRate: 1e-3 },
  small: { batchSize: 32, steps: 5000, learningRate: 6e-4 },
  distilgpt2: { batchSize: 8, steps: 20000, learningRate: 4e-4 },
  gpt2: { batchSize: 8, steps: 50000, learningRate: 3e-4 },
};

/** Defaults of a training, by preset. */
export function presetDefaults(preset: PresetName): TrainingDefaults {
  const { contextLength, ...dimensions } = PRESETS[preset];
  return {
    ...PRESET_DEFAULTS[preset],
    contextLength,
    ...dimensionsOf(dimensions),
    ...DEFAULT_ARCHITECTURE,
  };
}

/**
 * Fewest steps for the built-in conversations: the model learns the answers of one kind of question after another, and with
 * the 1,700 steps of `nano` one of three seeds left out a kind (docs/chat.md).
 */
const CONVERSATION_STEPS = 2300;

/** The defaults with longer rows and enough steps if built-in conversations need them, and as many tokens per batch, rounded up. */
export function defaultsForData(
  defaults: TrainingDefaults,
  data: TrainOptions["data"],
): TrainingDefaults {
  const { batchSize, contextLength, steps } = defaults;
  if (data !== "conversations") return defaults;
  const enough = { ...defaults, steps: Math.max(steps, CONVERSATION_STEPS) };
  if (contextLength >= CONVERSATION_TOKENS) return enough;
  return {
    ...enough,
    contextLength: CONVERSATION_TOKENS,
    batchSize: Math.ceil(batchSize * contextLength / CONVERSATION_TOKENS),
  };
}

/** Tokens per batch of a fine-tuning. */
const FINE_TUNING_TOKENS = 8192;

/**
 * Defaults for fine-tuning: a tenth of the learning rate of a random model of that width, and the whole context.
 * Adapters start at zero and need ten times that rate.
 */
export function fineTuningDefaults(config: GptConfig): TrainingDefaults {
  const { width, contextLength, lora } = config;
  const learningRate = 4e-5 * 768 / width * (lora ? 10 : 1);
  return {
    batchSize: Math.max(1, Math.min(32, Math.floor(FINE_TUNING_TOKENS / contextLength))),
    steps: 1000,
    learningRate: Number(learningRate.toPrecision(2)),
    contextLength,
    ...dimensionsOf(config),
  };
}

/** The sizes of model and batches, which are known before the data is. */
export type Sizes = Omit<TrainingDefaults, "steps" | "learningRate">;

/** The sizes that are given, and the defaults of the others. */
export function sizesOf(options: TrainOptions, defaults: TrainingDefaults): Sizes {
  const { width = defaults.width, heads = defaults.heads, layers = defaults.layers } = options;
  const arch = options.arch ?? defaults.arch;
  const parts = partsOf(options, defaults), gatedMlp = isGated(parts);
  const isWidth = width === defaults.width, isHeads = heads === defaults.heads;
  const own = defaultsOf({ layers, width, heads, gatedMlp });
  return {
    batchSize: options.batchSize ?? defaults.batchSize,
    contextLength: options.contextLength ?? defaults.contextLength,
    layers,
    width,
    heads,
    kvHeads: options.kvHeads ?? (isHeads ? defaults.kvHeads : own.keyHeads),
    headSize: options.headSize ?? (isWidth && isHeads ? defaults.headSize : own.headSize),
    hidden: options.hidden ??
      (isWidth && gatedMlp === isGated(defaults) ? defaults.hidden : own.innerWidth),
    ...(arch === undefined ? {} : { arch }),
    ...parts,
  };
}

/**
 * Muon's default learning rate, for random parameters and for those of a trained model. It does not depend on the width,
 * since the update of a matrix is scaled by its shape.
 */
const MUON_LEARNING_RATE = { random: 0.01, trained: 0.001 } as const;

/** The default learning rate, which falls with the width. */
function learningRateOf(width: number, defaults: TrainingDefaults): number {
  if (width === defaults.width) return defaults.learningRate;
  return Number((defaults.learningRate * defaults.width / width).toPrecision(2));
}

/**
 * Makes sure that a new model can have these dimensions.
 *
 * @throws {OptionError} naming the flags and their values.
 */
export function checkDimensions(
  dimensions: Dimensions,
  options: TrainOptions,
  preset: PresetName | "auto",
): void {
  const current = (first: keyof Dimensions, second: keyof Dimensions) => {
    const values = [first, second].map((name) =>
      `${flagOf(name)} ${dimensions[name]}` +
      (options[name] === undefined ? ` of preset ${preset}` : "")
    );
    return `current values are ${values.join(" and ")}`;
  };
  const { heads, kvHeads } = dimensions;
  if (heads % kvHeads !== 0) {
    throw new OptionError(
      `--heads must be a multiple of --kv-heads: ${current("heads", "kvHeads")}`,
    );
  }
  if (areHeadsAllowed(dimensions)) return;
  throw new OptionError(
    options.headSize === undefined
      ? `--width must be a multiple of 4 · --heads and at most ${MOST_HEAD_SIZE} · --heads: ` +
        current("width", "heads")
      : `--width and --head-size must be multiples of 4: ${current("width", "headSize")}`,
  );
}

/** Largest window; a larger one is taken for a typing error. */
const LARGEST_WINDOW = 1e6;

/**
 * Makes sure that the options of an architecture do not contradict each other.
 *
 * @throws {OptionError} naming the flag and its value.
 */
export function checkArchitecture(
  { windows, rotaryBase }: TrainOptions,
  { layers, positions }: Sizes,
): void {
  if (rotaryBase !== undefined && positions !== "rotary") {
    throw new OptionError(
      `--rotary-base needs --positions rotary: current value of --positions is ${positions}`,
    );
  }
  const list = windows?.split(",") ?? [];
  const fits = list.every((window) => /^\d{1,7}$/.test(window) && Number(window) <= LARGEST_WINDOW);
  if (fits && list.length <= layers) return;
  throw new OptionError(
    `--windows must be whole numbers up to ${LARGEST_WINDOW}, separated by commas, at most one per layer ` +
      `of ${layers}: current value is ${printable(windows!)}`,
  );
}

/**
 * Makes sure that the options do not contradict the dimensions of the model from which a training starts.
 *
 * @throws {OptionError} naming the flag and both values.
 */
export function checkInitial(options: TrainOptions, config: GptConfig): void {
  for (const [name, value] of Object.entries(dimensionsOf(config))) {
    const given = options[name as keyof Dimensions];
    if (given === undefined || given === value) continue;
    throw new OptionError(
      `${flagOf(name)} must be ${value}, as in the model of --init-from: current value is ${given}`,
    );
  }
}

/**
 * Chooses the values of all options that are not given: from the preset, the device, and other options.
 *
 * A resumed run keeps a value that was computed from another option, unless that other option has changed.
 *
 * @param stepsIn steps in some passes over the data, a fraction if they end within a step.
 * @param ranks that train together.
 * @param typed names of options that the user typed, now or at an earlier start of the run.
 * @param began the options of the checkpoint, if the run is resumed.
 * @throws {OptionError} if the smallest learning rate is above the highest, or a cool-down cannot be.
 */
export function resolveOptions(
  options: TrainOptions,
  { gpu, preset, precision, defaults, stepsIn, ranks, typed, began }: {
    gpu: Provider;
    preset: PresetName | "auto";
    precision: Precision;
    defaults: TrainingDefaults;
    stepsIn: (epochs: number) => number;
    ranks: number;
    typed: readonly string[];
    began?: ResolvedOptions | undefined;
  },
): ResolvedOptions {
  const { epochs } = options, sizes = sizesOf(options, defaults);
  const stepsInEpochs = epochs === undefined ? Infinity : Math.max(1, Math.ceil(stepsIn(epochs)));
  const steps = Math.min(
    options.steps ?? (epochs === undefined ? defaults.steps : Infinity),
    stepsInEpochs,
  );
  const chosen = {
    ...options,
    gpu,
    preset,
    precision,
    steps,
    endsWith: epochs !== undefined && stepsInEpochs <= (options.steps ?? Infinity)
      ? "epochs" as const
      : "steps" as const,
    ranks,
    data: options.data === "auto" ? "sample" as const : options.data,
    validationData: options.validationData === "auto" ? undefined : options.validationData,
    ...sizes,
    learningRate: options.learningRate ?? learningRateOf(sizes.width, defaults),
    muonLearningRate: options.muonLearningRate ??
      MUON_LEARNING_RATE[options.initFrom === undefined ? "random" : "trained"],
  };
  const derived = OPTION_NAMES.flatMap((name) => {
    const { from, value, atStart } = optionNamed(name).rule ?? {};
    if (!from || !value) return [];
    const before = options[name];
    const stays = before !== undefined &&
      (!began || atStart || typed.includes(name) || from.every((n) => chosen[n] === began[n]));
    return stays ? [] : [[name, value(chosen)]];
  });
  const resolved = { ...chosen, ...Object.fromEntries(derived) } as ResolvedOptions;
  checkRates(resolved, began);
  checkCooldown(resolved, options, began);
  return resolved;
}

/**
 * Makes sure that the smallest learning rate is not above the highest, nor given to a constant one.
 *
 * @param began the options of the checkpoint, if the run is resumed.
 * @throws {OptionError} naming the flag and both values.
 */
export function checkRates(
  { learningRate, minLearningRate, schedule }: Partial<TrainOptions>,
  began?: ResolvedOptions,
): void {
  if (
    schedule === "constant" && minLearningRate !== undefined && minLearningRate !== learningRate
  ) {
    throw new OptionError(
      `--min-learning-rate must be given without --schedule constant: current value is ${minLearningRate}`,
    );
  }
  if (learningRate === undefined || minLearningRate === undefined) return;
  if (minLearningRate <= learningRate) return;
  throw new OptionError(
    `--min-learning-rate must be at most --learning-rate, which is ${learningRate}: ` +
      `current value is ${minLearningRate}` +
      (began?.minLearningRate === minLearningRate ? ", which the run began with" : ""),
  );
}

/**
 * Makes sure that a cool-down is given to a schedule that has one, and that it is known when it begins.
 *
 * @param given the options before they were resolved.
 * @throws {OptionError} naming the flag and its value.
 */
function checkCooldown(
  { cooldown, schedule, steps }: ResolvedOptions,
  given: TrainOptions,
  began: ResolvedOptions | undefined,
): void {
  if (given.cooldown === undefined || cooldown === 0) return;
  const refuse = (reason: string, hint?: string) => {
    throw new OptionError(reason, { hint });
  };
  if (schedule !== "wsd") {
    refuse(
      `--cooldown needs --schedule wsd: current value is ${schedule}`,
      began && "With --schedule wsd the learning rate rises to --learning-rate, and then falls",
    );
  }
  // the same command must resume the run, and without steps it would then begin the cool-down
  if (!began && given.steps === undefined && given.epochs === undefined) {
    refuse(`--cooldown of a new run needs --steps: current value is ${cooldown}`);
  }
  if (cooldown <= steps) return;
  refuse(
    `--cooldown must be at most --steps, which is ${steps}: current value is ${cooldown}` +
      (began?.cooldown === cooldown ? ", which the run began with" : ""),
  );
}

/**
 * Makes sure that options which one optimizer reads are given with it.
 *
 * @param given the options that are given now, also to a run that is resumed.
 * @throws {OptionError} naming the flag and the optimizer.
 */
export function checkOptimizer(
  given: Partial<TrainOptions>,
  { optimizer }: Pick<ResolvedOptions, "optimizer">,
): void {
  const name = OPTION_NAMES.find((name) =>
    given[name] !== undefined && (optionNamed(name).optimizer ?? optimizer) !== optimizer
  );
  if (name === undefined) return;
  throw new OptionError(
    `${flagOf(name)} needs --optimizer ${optionNamed(name).optimizer}: ` +
      `current optimizer is ${optimizer}`,
  );
}

/** Options that no checkpoint stores. */
export const UNSAVED: readonly string[] = optionsWhere(({ onResume }) => onResume === "unsaved");

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
  "For another model choose --out runs/NAME, or start over with --fresh; if the text has moved, give its path " +
  "with --data, and that of a separate validation text with --validation-data";

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
  { options: saved, typed, step }: Pick<TrainerState, "options" | "typed" | "step">,
  path: string,
  renamed: Partial<TrainOptions> = {},
): { options: TrainOptions; typed: string[] } {
  const changed: [name: string, value: unknown][] = Object.entries(renamed);
  const before = savedIn({ options: saved });
  for (const name of OPTION_NAMES) {
    const value = given[name], { onResume } = optionNamed(name);
    if (value === undefined || onResume === "renamed") continue;
    if (onResume !== "fixed") changed.push([name, value]);
    else if (isGiven(value) && value !== before[name]) {
      throw mustStay(name, value, before[name], path);
    }
  }
  const options = { ...before, ...Object.fromEntries(changed) } as TrainOptions;
  const names = new Set([...typed, ...changed.map(([name]) => name)]);
  const forget = (name: "steps" | "epochs" | "cooldown" | "minLearningRate") => {
    options[name] = undefined;
    names.delete(name);
  };
  // new steps replace the epochs of the checkpoint, and new epochs its steps
  for (const [name, other] of [["steps", "epochs"], ["epochs", "steps"]] as const) {
    if (given[name] === undefined && given[other] !== undefined) forget(name);
  }
  const { cooldown } = given;
  if (cooldown && given.schedule === undefined && options.schedule === "constant") {
    options.schedule = "wsd";
    names.add("schedule");
  }
  const isCooling = before.cooldown === cooldown && step > cooldownStart(before);
  if (cooldown && given.steps === undefined && given.epochs === undefined && !isCooling) {
    const [, most] = TRAIN_OPTIONS.steps.range;
    if (step + cooldown > most) {
      throw new OptionError(
        `--cooldown must be at most ${
          most - step
        } after step ${step}: current value is ${cooldown}`,
      );
    }
    options.steps = step + cooldown;
    names.add("steps");
    forget("epochs");
  }
  // what the checkpoint has for another schedule
  if (cooldown === undefined && options.schedule !== "wsd") forget("cooldown");
  if (given.minLearningRate === undefined && options.schedule === "constant") {
    forget("minLearningRate");
  }
  const isKept = (name: OptionName) => names.has(name) && !UNSAVED.includes(name);
  return { options, typed: OPTION_NAMES.filter(isKept) };
}
