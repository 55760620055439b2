import type { VocabularyMode } from "../data/tokens/corpus.ts";
import type { DataSpec } from "../data/text/sources.ts";
import { flagOf } from "../files/command_line.ts";
import { printable, quoted } from "../files/printable.ts";
import { type GptConfig, type PresetName, PRESETS } from "../model/config.ts";
import type { Precision } from "../model/precision.ts";

/** Every option of a training. Preset, device and data decide what is undefined. */
export interface TrainOptions {
  /** Size of the model; `auto` decides by the device. */
  preset: PresetName | "auto";
  /** What to read, see `openSources()`; `auto` takes the sample. */
  data: DataSpec | "auto";
  /** Edition of `tinystories`; the second, if not given. */
  dataVersion: "v1" | "v2" | undefined;
  /** Field or column that holds the text, see `SourceOptions`; `text`, if not given. */
  textField: string | undefined;
  /** What tokenizes, see `loadTokenizer()`; GPT-2's tokenizer, if not given. */
  tokenizer: string | undefined;
  /** Workers that tokenize; one for each core, if not given. */
  workers: number | undefined;
  /** Which of GPT-2's tokens the model knows. */
  vocabulary: VocabularyMode;
  /** The model to begin with, as `findModel()` takes it, instead of one drawn at random. */
  initFrom: string | undefined;
  /** Parts that are not trained, see `parseFreeze()`: `embeddings,0-3`. */
  freeze: string | undefined;
  /** Rank of adapters, which then are all that is trained. */
  loraRank: number | undefined;
  /** Adapters add alpha / rank of their product. */
  loraAlpha: number | undefined;
  /** Linear layers to have adapters, with commas between them: `c_attn,mlp.c_fc`. */
  loraTargets: string | undefined;
  /** The model that adapters stand beside, if it is not where they say; as `findModel()` takes it. */
  base: string | undefined;
  /** Copy that model into the run, which then needs no other place. */
  keepBase: boolean | undefined;
  /** `packed`: contexts cut from the stream of documents; `padded`: one document per row. */
  sequence: "packed" | "padded";
  /** The run directory. */
  out: string;
  /** Move an old run aside and start over. */
  fresh: boolean;
  /** `auto` takes f16 on a GPU that has it. */
  precision: Precision | "auto";
  /**
   * Whether to time kernels and take the fastest: `auto` on a GPU, where the run is long enough to
   * be worth it. `off` takes no remembered ones either. A resumed run keeps its kernels.
   */
  tune: "auto" | "on" | "off";
  /** Tokens in a row, and positions of the model. */
  contextLength: number | undefined;
  /** Steps in all, resumed ones counted. */
  steps: number | undefined;
  /** Passes over the data; if `steps` is given too, the first that is reached ends the run. */
  epochs: number | undefined;
  /** Rows in a micro-batch. */
  batchSize: number | undefined;
  /** Micro-batches in a step. */
  gradientAccumulation: number;
  /** Highest learning rate, after the warm-up. */
  learningRate: number | undefined;
  /** Learning rate of the last step. */
  minLearningRate: number | undefined;
  /** Steps in which the learning rate rises. */
  warmupSteps: number | undefined;
  /** AdamW's decoupled decay of matrices and embeddings. */
  weightDecay: number;
  /** Decay of AdamW's first moment. */
  beta1: number;
  /** Decay of AdamW's second moment. */
  beta2: number;
  /** Largest norm of the gradient; 0 clips nothing. */
  gradientClip: number;
  /** Share of activations dropped. */
  dropout: number;
  /** Share of the target's probability spread over the vocabulary. */
  labelSmoothing: number;
  /** Seed of parameters, order of data and dropout. */
  seed: number;
  /** Steps between evaluations on held-out text; 0 for never. */
  evalEvery: number | undefined;
  /** Tokens of held-out text, from its beginning, that an evaluation looks at; 0 for all. */
  evalTokens: number;
  /** Steps between checkpoints; 0 for none but the last. */
  saveEvery: number | undefined;
  /** Steps between sample stories; 0 for none. */
  sampleEvery: number | undefined;
  /** Steps between lines of the log; 0 for none. */
  logEvery: number | undefined;
  /** Checkpoints to keep beside the best. */
  keep: number;
}

/** What an option is when nobody sets it; undefined: see `resolveOptions()`. */
export const DEFAULT_OPTIONS: TrainOptions = {
  preset: "auto",
  data: "auto",
  dataVersion: undefined,
  textField: undefined,
  tokenizer: undefined,
  workers: undefined,
  vocabulary: "auto",
  initFrom: undefined,
  freeze: undefined,
  loraRank: undefined,
  loraAlpha: undefined,
  loraTargets: undefined,
  base: undefined,
  keepBase: undefined,
  sequence: "packed",
  out: "runs/default",
  fresh: false,
  precision: "auto",
  tune: "auto",
  contextLength: undefined,
  steps: undefined,
  epochs: undefined,
  batchSize: undefined,
  gradientAccumulation: 1,
  learningRate: undefined,
  minLearningRate: undefined,
  warmupSteps: undefined,
  weightDecay: 0.1,
  beta1: 0.9,
  beta2: 0.98,
  gradientClip: 1,
  dropout: 0,
  labelSmoothing: 0,
  seed: 1,
  evalEvery: undefined,
  evalTokens: 20_000,
  saveEvery: undefined,
  sampleEvery: undefined,
  logEvery: undefined,
  keep: 3,
};

/** How long and how fast a model is trained when nobody says otherwise. */
export interface TrainingDefaults {
  /** Rows in a micro-batch. */
  batchSize: number;
  /** Steps in all. */
  steps: number;
  /** Highest learning rate. */
  learningRate: number;
  /** Tokens in a row. */
  contextLength: number;
}

/**
 * Defaults by preset.
 *
 * Learning rates fall with width, as usual (Kaplan et al. 2020, https://arxiv.org/abs/2001.08361,
 * appendix D.6). `nano` is sized for two CPU cores and two minutes; after 1,400 steps it
 * still hung on the seed whether names were copied.
 */
const PRESET_DEFAULTS: Readonly<Record<PresetName, Omit<TrainingDefaults, "contextLength">>> = {
  nano: { batchSize: 16, steps: 2000, learningRate: 5e-3 },
  mini: { batchSize: 32, steps: 2000, learningRate: 1e-3 },
  small: { batchSize: 32, steps: 5000, learningRate: 6e-4 },
  distilgpt2: { batchSize: 8, steps: 20000, learningRate: 4e-4 },
  gpt2: { batchSize: 8, steps: 50000, learningRate: 3e-4 },
};

/** Defaults of a training, per preset. */
export function presetDefaults(preset: PresetName): TrainingDefaults {
  return { ...PRESET_DEFAULTS[preset], contextLength: PRESETS[preset].contextLength };
}

/** Tokens in a batch when a model is trained further. */
const FINE_TUNING_TOKENS = 8192;

/**
 * Defaults for training a trained model further: a tenth of the learning rate that a random model of its
 * width begins with, and whole contexts. Adapters begin at zero and take ten times that rate.
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

/** Training options with every choice made, as they are shown and kept in the checkpoint. */
export interface ResolvedOptions extends TrainOptions {
  /** The data chosen. */
  data: DataSpec;
  /** The precision chosen. */
  precision: Precision;
  /** T. */
  contextLength: number;
  /** Steps in all. */
  steps: number;
  /** B. */
  batchSize: number;
  /** What ends the run. */
  endsWith: "steps" | "epochs";
  /** Highest learning rate. */
  learningRate: number;
  /** Last learning rate. */
  minLearningRate: number;
  /** Steps of warm-up. */
  warmupSteps: number;
  /** Steps between evaluations. */
  evalEvery: number;
  /** Steps between checkpoints. */
  saveEvery: number;
  /** Steps between samples. */
  sampleEvery: number;
  /** Steps between lines of the log. */
  logEvery: number;
}

/** The least and the greatest value of each number, and whether it must be whole. */
export const RANGES: Partial<
  Record<keyof TrainOptions, [least: number, greatest: number, whole: boolean]>
> = {
  contextLength: [1, 32768, true],
  steps: [1, 1e9, true],
  epochs: [Number.MIN_VALUE, 1e6, false],
  batchSize: [1, 65536, true],
  gradientAccumulation: [1, 4096, true],
  learningRate: [0, 10, false],
  minLearningRate: [0, 10, false],
  warmupSteps: [0, 1e9, true],
  weightDecay: [0, 10, false],
  beta1: [0, 0.99999, false],
  beta2: [0, 0.999999, false],
  gradientClip: [0, 1e9, false],
  dropout: [0, 0.99, false],
  labelSmoothing: [0, 0.99, false],
  seed: [0, 2 ** 32 - 1, true],
  evalEvery: [0, 1e9, true],
  evalTokens: [0, 1e12, true],
  workers: [1, 1024, true],
  saveEvery: [0, 1e9, true],
  sampleEvery: [0, 1e9, true],
  logEvery: [0, 1e9, true],
  keep: [1, 1e6, true],
  loraRank: [1, 1024, true],
  loraAlpha: [1e-6, 1e6, false],
};

/**
 * Checks every option that is given.
 *
 * @throws {RangeError} naming the flag, what it takes and its value.
 */
export function validateOptions(options: Partial<TrainOptions>): void {
  for (const [name, range] of Object.entries(RANGES)) {
    const value = options[name as keyof TrainOptions];
    if (value === undefined) continue;
    const [least, greatest, whole] = range;
    const ok = typeof value === "number" && value >= least && value <= greatest;
    if (!ok || (whole && !Number.isInteger(value))) {
      const kind = whole ? "an integer" : "a number";
      const from = least === Number.MIN_VALUE ? "above 0" : `from ${least}`;
      throw new RangeError(
        `Cannot train as ${flagOf(name)} must be ${kind} ${from} to ${greatest}: ` +
          `current value is ${quoted(value)}`,
      );
    }
  }
  const words = {
    preset: ["auto", ...Object.keys(PRESETS)],
    vocabulary: ["auto", "full", "compact"],
    sequence: ["packed", "padded"],
    precision: ["auto", "f16", "f32"],
    tune: ["auto", "on", "off"],
    dataVersion: ["v1", "v2"],
  };
  for (const [name, allowed] of Object.entries(words)) {
    const value = options[name as keyof TrainOptions];
    if (value !== undefined && !allowed.includes(value as string)) {
      throw new RangeError(
        `Cannot train as ${flagOf(name)} must be one of ${allowed.join(", ")}: ` +
          `current value is ${typeof value === "string" ? printable(value) : quoted(value)}`,
      );
    }
  }
  const isText = (value: unknown) => typeof value === "string";
  const { data } = options;
  const isData = Array.isArray(data)
    ? data.length > 0 && data.every(isText)
    : data === undefined || /^(auto|sample|tinystories(@.+)?)$/.test(String(data));
  if (!isData) {
    throw new RangeError(
      `Cannot train as --data must be auto, sample, tinystories or a list of files: ` +
        `current value is ${quoted(data)}`,
    );
  }
  for (const name of TEXTS) {
    if (options[name] === undefined || isText(options[name])) continue;
    throw new RangeError(
      `Cannot train as ${flagOf(name)} must be text: current value is ${quoted(options[name])}`,
    );
  }
  for (const [name, other, reason] of CONTRADICTIONS) {
    const [value, otherValue] = [options[name], options[other]];
    if (!isGiven(value) || otherValue === undefined) continue;
    throw new RangeError(
      `Cannot train as ${flagOf(name)} cannot go with ${flagOf(other)}, ${reason}: ` +
        `current values are ${value} and ${otherValue}`,
    );
  }
  for (const name of ["loraAlpha", "loraTargets"] as const) {
    if (options[name] === undefined || options.loraRank !== undefined) continue;
    throw new RangeError(
      `Cannot train as ${flagOf(name)} needs --lora-rank: current value is ${options[name]}`,
    );
  }
}

/** Options that are any text. */
const TEXTS = [
  "textField",
  "tokenizer",
  "initFrom",
  "freeze",
  "loraTargets",
  "base",
  "out",
] as const;

/** Options that say different things about the same, and why. */
const CONTRADICTIONS: readonly [keyof TrainOptions, keyof TrainOptions, reason: string][] = [
  ["preset", "initFrom", "whose model has its own size"],
  ["vocabulary", "initFrom", "whose model has its own tokens"],
  ["tokenizer", "initFrom", "whose model has its own tokens"],
  ["freeze", "loraRank", "which freezes all but the adapters"],
];

/**
 * Makes every choice that is still open: from the preset, the device, and the other options.
 *
 * @param stepsPerEpoch steps in one pass over the data, for `epochs`.
 * @param typed names of options that were typed, now or before.
 * @param began the options up to now, if the run is resumed.
 * @throws {RangeError} if the smallest learning rate comes out above the highest.
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
    contextLength: options.contextLength ?? defaults.contextLength,
    batchSize: options.batchSize ?? defaults.batchSize,
    learningRate: options.learningRate ?? defaults.learningRate,
  };
  const derived = Object.entries(DERIVED).map(([name, { from, atStart, value }]) => {
    const before = options[name as keyof typeof DERIVED];
    const stays = before !== undefined &&
      (!began || atStart || typed.includes(name) || chosen[from] === began[from]);
    return [name, stays ? before : value(chosen)];
  });
  const resolved = { ...chosen, ...Object.fromEntries(derived) } as ResolvedOptions;
  checkRates(resolved, began);
  return resolved;
}

/**
 * Options that follow from another one if nobody types them: from which, and how. A resumed run keeps their
 * values unless that other option has changed. What holds at the start of a run alone stays even then: most
 * of a warm-up lies behind, and a longer one would lower the rate once more.
 */
const DERIVED: Readonly<
  Record<
    "minLearningRate" | "warmupSteps" | "evalEvery" | "saveEvery" | "sampleEvery" | "logEvery",
    {
      from: "learningRate" | "steps";
      atStart?: true;
      value: (options: { learningRate: number; steps: number }) => number;
    }
  >
> = {
  minLearningRate: {
    from: "learningRate",
    value: ({ learningRate }) => Number((learningRate / 10).toPrecision(12)), // no 0.000029999999999999997
  },
  warmupSteps: {
    from: "steps",
    atStart: true,
    value: ({ steps }) => Math.min(200, Math.ceil(steps / 20)),
  },
  evalEvery: { from: "steps", value: ({ steps }) => Math.ceil(steps / 10) },
  saveEvery: { from: "steps", value: ({ steps }) => Math.ceil(steps / 10) },
  sampleEvery: { from: "steps", value: ({ steps }) => 2 * Math.ceil(steps / 10) },
  logEvery: { from: "steps", value: ({ steps }) => Math.max(1, Math.round(steps / 100)) },
};

/**
 * Makes sure that the learning rate does not rise towards its minimum.
 *
 * @param began the options up to now, if the run is resumed.
 * @throws {RangeError} naming the flag and both values.
 */
export function checkRates(
  { learningRate, minLearningRate }: Partial<TrainOptions>,
  began?: ResolvedOptions,
): void {
  if (learningRate === undefined || minLearningRate === undefined) return;
  if (minLearningRate <= learningRate) return;
  throw new RangeError(
    `Cannot train as --min-learning-rate must be at most --learning-rate, which is ${learningRate}: ` +
      `current value is ${minLearningRate}` +
      (began?.minLearningRate === minLearningRate ? ", as the run began" : ""),
  );
}

/** Batch size and context length before the data is known, for counting the steps of an epoch. */
export function batchShapeOf(
  options: TrainOptions,
  defaults: TrainingDefaults,
): { batchSize: number; contextLength: number } {
  return {
    batchSize: options.batchSize ?? defaults.batchSize,
    contextLength: options.contextLength ?? defaults.contextLength,
  };
}

/** Options that name what a run is made from, which a resumed run may name anew: see `renamed.ts`. */
const NAMING = ["data", "dataVersion", "textField", "tokenizer", "initFrom"] as const;

/** Options that decide what the checkpoint's tensors mean, and so cannot change on resume. */
const FIXED = [
  "preset",
  "vocabulary",
  "freeze",
  "loraRank",
  "loraAlpha",
  "loraTargets",
  "sequence",
  "precision",
  "contextLength",
  "batchSize",
  "gradientAccumulation",
  "seed",
] as const;

/** Options that say where and how fast a run computes: its checkpoints do not keep them. */
const OUTSIDE: readonly string[] = ["out", "fresh", "workers", "base", "keepBase"];

/** Whether an option is given: `auto` leaves the choice open. */
export function isGiven(value: unknown): boolean {
  return value !== undefined && value !== "auto";
}

/** The refusal of an option that a resumed run cannot change. */
export function mustStay(name: string, value: unknown, saved: unknown, path: string): RangeError {
  const text = (value: unknown) => printable(String(value ?? "absent"));
  return new RangeError(
    `Cannot resume ${path} as ${flagOf(name)} must stay ${text(saved)}: ` +
      `current value is ${text(value)}`,
  );
}

/** Names of the options that are typed, in the order of `TrainOptions`. */
export function typedNames(given: Partial<TrainOptions>): string[] {
  return Object.keys(DEFAULT_OPTIONS).filter((name) =>
    isGiven(given[name as keyof TrainOptions]) && !OUTSIDE.includes(name)
  );
}

/** What a checkpoint keeps of the options. */
export function keptOptions(options: ResolvedOptions): Record<string, unknown> {
  return Object.fromEntries(Object.entries(options).filter(([name]) => !OUTSIDE.includes(name)));
}

/**
 * The options of a resumed run, and which of them were typed: those it was started with, changed by what is
 * given now.
 *
 * @param renamed new names for what the run is made from.
 * @throws {RangeError} if a given option contradicts the checkpoint, naming both values.
 */
export function resumeOptions(
  given: Partial<TrainOptions>,
  { options: saved, typed }: { options: Record<string, unknown>; typed: readonly string[] },
  path: string,
  renamed: Partial<TrainOptions> = {},
): { options: TrainOptions; typed: string[] } {
  for (const name of FIXED) {
    const value = given[name];
    if (isGiven(value) && value !== saved[name]) throw mustStay(name, value, saved[name], path);
  }
  const changed = Object.entries(given).filter(([name, value]) =>
    isGiven(value) && ![...FIXED, ...NAMING].includes(name as typeof FIXED[number])
  ).concat(Object.entries(renamed));
  const options = { ...DEFAULT_OPTIONS, ...saved, ...Object.fromEntries(changed) } as TrainOptions;
  const names = new Set([...typed, ...changed.map(([name]) => name)]);
  // with another number of steps or passes the old total no longer holds
  const replaced = (["steps", "epochs"] as const).filter((name, i, both) =>
    given[name] === undefined && given[both[1 - i]!] !== undefined
  );
  for (const name of replaced) {
    options[name] = undefined;
    names.delete(name);
  }
  return {
    options,
    typed: Object.keys(DEFAULT_OPTIONS).filter((name) =>
      names.has(name) && !OUTSIDE.includes(name)
    ),
  };
}
