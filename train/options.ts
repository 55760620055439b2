import { TEXT_FIELD, UNDERSTOOD } from "../data/text/formats.ts";
import type { DataSpec } from "../data/text/dataset.ts";
import { flagOf } from "../files/command_line.ts";
import { printable, quoted } from "../files/printable.ts";
import { UserError, type UserErrorOptions } from "../files/user_error.ts";
import { type PresetName, PRESETS } from "../model/config.ts";
import type { Precision } from "../model/precision.ts";

/** Thrown when an option is out of range, or contradicts another one. */
export class OptionError extends UserError {
  /** Tells this error from others without `instanceof`. */
  override name = "OptionError";
  /** The option and what is wrong with it: `--steps must be …: current value is …`. */
  readonly reason: string;

  /** An error whose sentence is `Cannot train as` and the reason. */
  constructor(reason: string, options?: UserErrorOptions) {
    super(`Cannot train as ${reason}`, options);
    this.reason = reason;
  }
}

/**
 * The options of a training: one table, from which their types, defaults, ranges, flags and help are derived,
 * and what a checkpoint keeps and a resumed run may change. To add an option, add a row.
 *
 * @module
 */

/** The values of an option, by the type in its row. */
export interface OptionTypes {
  /** A whole number within the row's range. */
  integer: number;
  /** A number within the row's range. */
  real: number;
  /** Any text. */
  text: string;
  /** On or off. */
  switch: boolean;
  /** One of the row's choices. */
  choice: string;
  /** A preset, or `auto`. */
  preset: PresetName | "auto";
  /** What names data, or `auto`. */
  data: DataSpec | "auto";
}

/** Everything about one option: a row of the table. */
export interface Option {
  /** Heading under which `--help` lists it. */
  readonly group: string;
  /** What its value is. */
  readonly type: keyof OptionTypes;
  /** The least and the greatest value of a number. */
  readonly range?: readonly [least: number, greatest: number];
  /** The words that it may be. */
  readonly choices?: readonly string[];
  /** The value if nobody sets it. */
  readonly default?: unknown;
  /** How a value is found if nobody sets it. Without default and rule it stays undefined. */
  readonly rule?: Rule;
  /** Its line in `--help`, to which default, rule and choices are added. */
  readonly help: string;
  /** What `--help` calls its value; `<n>` for an integer and `<x>` for another number by default. */
  readonly placeholder?: string;
  /**
   * What a resumed run may do with it; by default, change it. `fixed`: nothing, as it decides what the
   * checkpoint's tensors mean. `renamed`: name the same content anew, see `renamed.ts`. `unsaved`: anything, as
   * it says where and how fast a run computes, and no checkpoint keeps it.
   */
  readonly onResume?: "fixed" | "renamed" | "unsaved";
  /** What it names, if that is something that the run is made from. */
  readonly names?: "data" | "tokenizer" | "model";
  /** Whether it changes only what a run reports and keeps, and nothing that it learns. */
  readonly reportsOnly?: true;
  /** An option that must be given with it. */
  readonly needs?: string;
  /** An option that cannot be given with it, and why. */
  readonly excludes?: readonly [name: string, reason: string];
}

/** How an option is chosen that nobody sets. */
export interface Rule {
  /** What `--help` says of it; nothing if the heading of the group says it. */
  readonly said?: string;
  /** The option that it follows from; without one, the preset or the model decides. */
  readonly from?: "learningRate" | "steps";
  /** The value that follows from the value of that option. */
  readonly value?: (from: number) => number;
  /** Whether it holds for the start of a run alone: a resumed run keeps it even if the other option changes. */
  readonly atStart?: true;
}

const MODEL = "Model and data", FINE_TUNING = "Starting from another model", RUN = "Run";
const OPTIMIZATION = "Optimization";
const REPORTS = "Reports (in steps; 0: never; default: by the length of the run)";

/** The rule of an option that preset or model decides. */
const BY_PRESET: Rule = { said: "the preset's" };

/** Every option of a training, in the order of `--help`. */
export const TRAIN_OPTIONS = {
  /** Size of the model; `auto` decides by the device. */
  preset: {
    group: MODEL,
    type: "preset",
    help: "size of the model",
    placeholder: "<name>",
    default: "auto",
    onResume: "fixed",
    excludes: ["initFrom", "whose model has its own size"],
  },
  /** What to read, see `openDataset()`; `auto` takes the sample. */
  data: {
    group: MODEL,
    type: "data",
    help: `auto, sample, tinystories, patterns, hf:OWNER/NAME/FILE, or files: ${UNDERSTOOD}`,
    placeholder: "<what...>",
    default: "auto",
    onResume: "renamed",
    names: "data",
  },
  /** Edition of `tinystories`; the second if not given. */
  dataVersion: {
    group: MODEL,
    type: "choice",
    choices: ["v1", "v2"],
    help: "edition of tinystories (default: v2)",
    placeholder: "<version>",
    onResume: "renamed",
    names: "data",
  },
  /** Field or column that holds the text, see `DataOptions`; `text` if not given. */
  textField: {
    group: MODEL,
    type: "text",
    help: `${TEXT_FIELD} (default: text)`,
    placeholder: "<name>",
    onResume: "renamed",
    names: "data",
  },
  /** The tokenizer, see `loadTokenizer()`; GPT-2's if not given. */
  tokenizer: {
    group: MODEL,
    type: "text",
    help: "gpt2 (default), a tokenizer.json, or hf:OWNER/NAME",
    placeholder: "<what>",
    onResume: "renamed",
    names: "tokenizer",
    excludes: ["initFrom", "whose model has its own tokens"],
  },
  /** Workers that tokenize; one per core if not given. */
  workers: {
    group: MODEL,
    type: "integer",
    range: [1, 1024],
    help: "workers that tokenize (default: one per core)",
    onResume: "unsaved",
  },
  /** Which of the tokenizer's tokens the model has. */
  vocabulary: {
    group: MODEL,
    type: "choice",
    choices: ["auto", "full", "compact"],
    help: "GPT-2's tokens: all, or those used",
    placeholder: "<kind>",
    default: "auto",
    onResume: "fixed",
    excludes: ["initFrom", "whose model has its own tokens"],
  },
  /** `packed`: contexts cut from the stream of documents; `padded`: one document per row. */
  sequence: {
    group: MODEL,
    type: "choice",
    choices: ["packed", "padded"],
    help: "how rows are cut",
    placeholder: "<kind>",
    default: "packed",
    onResume: "fixed",
  },
  /** T: tokens per row, and positions of the model. */
  contextLength: {
    group: MODEL,
    type: "integer",
    range: [1, 32768],
    help: "tokens per row",
    rule: BY_PRESET,
    onResume: "fixed",
  },

  /** The model to start from, as `findModel()` takes it, instead of random parameters. */
  initFrom: {
    group: FINE_TUNING,
    type: "text",
    help:
      "distilgpt2, gpt2, gpt2-medium, hf:OWNER/NAME, or a directory with a model, checkpoint or run",
    placeholder: "<model>",
    onResume: "renamed",
    names: "model",
  },
  /** Parts that are not trained, see `parseFreeze()`: `embeddings,0-3`. */
  freeze: {
    group: FINE_TUNING,
    type: "text",
    help: "leave parts as they are: embeddings,0-3,final-norm,head",
    placeholder: "<parts>",
    onResume: "fixed",
    excludes: ["loraRank", "which freezes all but the adapters"],
  },
  /** Rank of adapters; with it, adapters are all that is trained. */
  loraRank: {
    group: FINE_TUNING,
    type: "integer",
    range: [1, 1024],
    help: "train adapters of this rank beside the frozen model",
    onResume: "fixed",
  },
  /** Adapters add alpha / rank times their product; twice the rank if not given. */
  loraAlpha: {
    group: FINE_TUNING,
    type: "real",
    range: [1e-6, 1e6],
    help: "adapters count alpha / rank (default: twice the rank)",
    onResume: "fixed",
    needs: "loraRank",
  },
  /** Linear layers that get adapters, separated by commas: `c_attn,mlp.c_fc`. */
  loraTargets: {
    group: FINE_TUNING,
    type: "text",
    help: "layers with adapters (default: c_attn; GPT-Neo: q_proj,v_proj)",
    placeholder: "<names>",
    onResume: "fixed",
    needs: "loraRank",
  },
  /** The base model of adapters, if it is not where they say; as `findModel()` takes it. */
  base: {
    group: FINE_TUNING,
    type: "text",
    help: "the base model of adapters, if it is not where they say",
    placeholder: "<model>",
    onResume: "unsaved",
  },
  /** Whether to copy the base model of adapters into the run, which then needs no other place. */
  keepBase: {
    group: FINE_TUNING,
    type: "switch",
    help: "copy the base model of adapters into the run",
    onResume: "unsaved",
  },

  /** The run directory. */
  out: {
    group: RUN,
    type: "text",
    help: "run directory; resumed if it holds a checkpoint",
    placeholder: "<directory>",
    default: "runs/default",
    onResume: "unsaved",
  },
  /** Whether to move an old run aside and start over. */
  fresh: {
    group: RUN,
    type: "switch",
    help: "move an old run aside and start over",
    default: false,
    onResume: "unsaved",
  },
  /** Steps in all, resumed ones included. */
  steps: {
    group: RUN,
    type: "integer",
    range: [1, 1e9],
    help: "steps in all, resumed ones included",
    rule: BY_PRESET,
  },
  /** Passes over the data; if `steps` is given too, the first that is reached ends the run. */
  epochs: {
    group: RUN,
    type: "real",
    range: [Number.MIN_VALUE, 1e6],
    help: "passes over the data; --steps or --epochs, the first reached, ends the run",
  },
  /** Seed of parameters, order of the data, and dropout. */
  seed: {
    group: RUN,
    type: "integer",
    range: [0, 2 ** 32 - 1],
    help: "seed of everything random",
    default: 1,
    onResume: "fixed",
  },
  /** `f16` is autocast; `auto` takes it on a GPU that has it. */
  precision: {
    group: RUN,
    type: "choice",
    choices: ["auto", "f16", "f32"],
    help: "f16 is autocast",
    placeholder: "<kind>",
    default: "auto",
    onResume: "fixed",
  },
  /**
   * Whether to time kernels and take the fastest: `auto` on a GPU, if the run is long enough to be worth
   * it. `off` uses no remembered ones either. A resumed run keeps its kernels.
   */
  tune: {
    group: RUN,
    type: "choice",
    choices: ["auto", "on", "off"],
    help: "time kernels and take the fastest; auto: on a GPU, for long runs",
    placeholder: "<when>",
    default: "auto",
  },

  /** B: rows per micro-batch. */
  batchSize: {
    group: OPTIMIZATION,
    type: "integer",
    range: [1, 65536],
    help: "rows per batch",
    rule: BY_PRESET,
    onResume: "fixed",
  },
  /** Micro-batches per step. */
  gradientAccumulation: {
    group: OPTIMIZATION,
    type: "integer",
    range: [1, 4096],
    help: "batches per step",
    default: 1,
    onResume: "fixed",
  },
  /** Highest learning rate, reached at the end of the warm-up. */
  learningRate: {
    group: OPTIMIZATION,
    type: "real",
    range: [0, 10],
    help: "highest learning rate",
    rule: BY_PRESET,
  },
  /** Learning rate of the last step. */
  minLearningRate: {
    group: OPTIMIZATION,
    type: "real",
    range: [0, 10],
    help: "last learning rate",
    rule: {
      said: "a tenth",
      from: "learningRate",
      value: (rate: number): number => Number((rate / 10).toPrecision(12)), // no 0.000029999999999999997
    },
  },
  /** Steps in which the learning rate rises. */
  warmupSteps: {
    group: OPTIMIZATION,
    type: "integer",
    range: [0, 1e9],
    help: "steps of warm-up",
    rule: {
      said: "a twentieth, at most 200",
      from: "steps",
      value: (steps: number): number => Math.min(200, Math.ceil(steps / 20)),
      // most of a warm-up lies behind a resumed run, and a longer one would lower the rate once more
      atStart: true,
    },
  },
  /** AdamW's decoupled decay of matrices and embeddings. */
  weightDecay: {
    group: OPTIMIZATION,
    type: "real",
    range: [0, 10],
    help: "of matrices and embeddings",
    default: 0.1,
  },
  /** Decay of AdamW's first moment. */
  beta1: {
    group: OPTIMIZATION,
    type: "real",
    range: [0, 0.99999],
    help: "decay of AdamW's first moment",
    default: 0.9,
  },
  /** Decay of AdamW's second moment. */
  beta2: {
    group: OPTIMIZATION,
    type: "real",
    range: [0, 0.999999],
    help: "decay of AdamW's second moment",
    default: 0.98,
  },
  /** Largest norm of the gradient; 0 for any. */
  gradientClip: {
    group: OPTIMIZATION,
    type: "real",
    range: [0, 1e9],
    help: "largest gradient norm; 0: any",
    default: 1,
  },
  /** Share of activations dropped. */
  dropout: {
    group: OPTIMIZATION,
    type: "real",
    range: [0, 0.99],
    help: "share of activations dropped",
    placeholder: "<p>",
    default: 0,
  },
  /** Share of the target's probability spread over the vocabulary. */
  labelSmoothing: {
    group: OPTIMIZATION,
    type: "real",
    range: [0, 0.99],
    help: "share of the target's probability spread over the vocabulary",
    placeholder: "<p>",
    default: 0,
  },

  /** Steps between lines of the log; 0 for none. */
  logEvery: {
    group: REPORTS,
    type: "integer",
    range: [0, 1e9],
    help: "between lines of the log",
    rule: { from: "steps", value: (steps: number): number => Math.max(1, Math.round(steps / 100)) },
    reportsOnly: true,
  },
  /** Steps between evaluations on held-out text; 0 for none but the last. */
  evalEvery: {
    group: REPORTS,
    type: "integer",
    range: [0, 1e9],
    help: "between evaluations on held-out text",
    rule: { from: "steps", value: (steps: number): number => Math.ceil(steps / 10) },
  },
  /** Tokens of held-out text, from its beginning, that an evaluation reads; 0 for all. */
  evalTokens: {
    group: REPORTS,
    type: "integer",
    range: [0, 1e12],
    help: "tokens of held-out text to evaluate, from its beginning; 0: all",
    default: 20_000,
  },
  /** Steps between samples; 0 for none. */
  sampleEvery: {
    group: REPORTS,
    type: "integer",
    range: [0, 1e9],
    help: "between samples",
    rule: { from: "steps", value: (steps: number): number => 2 * Math.ceil(steps / 10) },
    reportsOnly: true,
  },
  /** Steps between checkpoints; 0 for none but the last. */
  saveEvery: {
    group: REPORTS,
    type: "integer",
    range: [0, 1e9],
    help: "between checkpoints",
    rule: { from: "steps", value: (steps: number): number => Math.ceil(steps / 10) },
    reportsOnly: true,
  },
  /** Checkpoints to keep beside the best. */
  keep: {
    group: REPORTS,
    type: "integer",
    range: [1, 1e6],
    help: "checkpoints to keep beside the best",
    default: 3,
    reportsOnly: true,
  },
} as const satisfies Record<string, Option>;

/** The name of an option. */
export type OptionName = keyof typeof TRAIN_OPTIONS;

/** Values of all options; undefined only for those whose rows are not `Decided`. */
export type OptionValues<Decided> = {
  -readonly [Name in keyof typeof TRAIN_OPTIONS]:
    | ((typeof TRAIN_OPTIONS)[Name] extends { choices: readonly (infer Word)[] } ? Word
      : OptionTypes[(typeof TRAIN_OPTIONS)[Name]["type"]])
    | ((typeof TRAIN_OPTIONS)[Name] extends Decided ? never : undefined);
};

/** Every option of a training. One that is undefined is decided by preset, device and data. */
export interface TrainOptions extends OptionValues<{ default: unknown }> {}

/** Training options with every choice made, as they are printed and kept in the checkpoint. */
export interface ResolvedOptions extends OptionValues<{ default: unknown } | { rule: Rule }> {
  /** The data chosen. */
  data: DataSpec;
  /** The precision chosen. */
  precision: Precision;
  /** What ends the run. */
  endsWith: "steps" | "epochs";
}

/** Names of all options, in the order of the table. */
export const OPTION_NAMES = Object.keys(TRAIN_OPTIONS) as OptionName[];

/** The row of an option. */
export function optionNamed(name: OptionName): Option {
  return TRAIN_OPTIONS[name];
}

/** Names of the options whose rows meet a condition. */
export function optionsWhere(condition: (option: Option) => boolean | undefined): OptionName[] {
  return OPTION_NAMES.filter((name) => condition(TRAIN_OPTIONS[name]));
}

/** What options are if nobody sets them; undefined if `resolveOptions()` decides. */
export const DEFAULT_OPTIONS = Object.fromEntries(
  OPTION_NAMES.map((name) => [name, optionNamed(name).default]),
) as TrainOptions;

/** Whether an option is given: `auto` leaves the choice open. */
export function isGiven(value: unknown): boolean {
  return value !== undefined && value !== "auto";
}

/** The words that an option may be, if these are all that it may be. */
export function choicesOf({ type, choices }: Option): readonly string[] | undefined {
  return type === "preset" ? ["auto", ...Object.keys(PRESETS)] : choices;
}

/** What the value of an option must be, as an error says it. */
function requirementOf(option: Option): string {
  const { type, range: [least, greatest] = [] } = option;
  const from = least === Number.MIN_VALUE ? "above 0" : `from ${least}`;
  const requirements: Record<Option["type"], string> = {
    integer: `an integer ${from} to ${greatest}`,
    real: `a number ${from} to ${greatest}`,
    text: "text",
    switch: "true or false",
    choice: `one of ${choicesOf(option)?.join(", ")}`,
    preset: `one of ${choicesOf(option)?.join(", ")}`,
    data: "auto, sample, tinystories or a list of files",
  };
  return requirements[type];
}

/** Whether an option can have a value. */
function accepts(option: Option, value: unknown): boolean {
  const { type, range: [least, greatest] = [-Infinity, Infinity] } = option;
  const isText = (word: unknown) => typeof word === "string";
  switch (type) {
    case "integer":
    case "real":
      return typeof value === "number" && value >= least && value <= greatest &&
        (type === "real" || Number.isInteger(value));
    case "text":
      return isText(value);
    case "switch":
      return typeof value === "boolean";
    case "choice":
    case "preset":
      return choicesOf(option)!.includes(value as string);
    case "data":
      return Array.isArray(value)
        ? value.length > 0 && value.every(isText)
        : isText(value) && /^(auto|sample|tinystories(@.+)?)$/.test(value as string);
  }
}

/**
 * Checks every option that is given.
 *
 * @throws {OptionError} naming the flag, what it takes and its value.
 */
export function validateOptions(options: Partial<TrainOptions>): void {
  for (const name of OPTION_NAMES) {
    const value: unknown = options[name], option = optionNamed(name);
    if (value === undefined || accepts(option, value)) continue;
    const current = choicesOf(option) && typeof value === "string"
      ? printable(value)
      : quoted(value);
    throw new OptionError(
      `${flagOf(name)} must be ${requirementOf(option)}: current value is ${current}`,
    );
  }
  for (const name of OPTION_NAMES) {
    const { needs, excludes: [other, reason] = [] } = optionNamed(name);
    const [value, needed, excluded] = [name, needs, other].map((name) =>
      options[name as OptionName]
    );
    if (isGiven(value) && excluded !== undefined) {
      throw new OptionError(
        `${flagOf(name)} cannot go with ${flagOf(other!)}, ${reason}: ` +
          `current values are ${value} and ${excluded}`,
      );
    }
    if (needs && value !== undefined && needed === undefined) {
      throw new OptionError(
        `${flagOf(name)} needs ${flagOf(needs)}: current value is ${value}`,
      );
    }
  }
}
