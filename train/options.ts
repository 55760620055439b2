import { MOST_HEAD_SIZE } from "../kernels/attention/attention.ts";
import { TEXT_FIELD, UNDERSTOOD } from "../data/text/formats.ts";
import { SEPARATOR } from "../data/text/readers.ts";
import type { DataSpec } from "../data/text/dataset.ts";
import { flagOf } from "../files/command_line.ts";
import { isObject } from "../files/json.ts";
import { DEFAULT_TIMEOUT } from "../distributed/open_mpi.ts";
import { DISTRIBUTED_CHOICES } from "../distributed/placement.ts";
import { WIRE_TYPES } from "../distributed/wire.ts";
import { GPU_CHOICES, type Provider } from "../kernels/provider.ts";
import { RECOMPUTE_MODES } from "../model/activations.ts";
import { LARGEST, type PresetName, PRESETS } from "../model/config.ts";
import type { Precision } from "../model/precision.ts";
import { type OptimizerName, OPTIMIZERS } from "./optimizer.ts";
import { type Schedule, SCHEDULES } from "./schedule.ts";

/**
 * The options of a training: one table, from which everything else is derived: types, defaults, ranges, flags and
 * help, what a checkpoint stores, and what a resumed run may change. To add an option, add a row.
 *
 * @module
 */

/** The values of an option, by the type in its row. */
export interface OptionTypes {
  /** A whole number within the row's range. */
  integer: number;
  /** A whole number within the row's range, or `auto`. */
  autoInteger: number | "auto";
  /** A number within the row's range. */
  real: number;
  /** Any text. */
  text: string;
  /** On or off; if it is on by default, its flag switches it off, see `offFlagOf()`. */
  switch: boolean;
  /** One of the row's choices. */
  choice: string;
  /** A preset, or `auto`. */
  preset: PresetName | "auto";
  /** What names data, or `auto`. */
  data: DataSpec | "auto";
}

/** An option: a row of the table. */
export interface Option {
  /** Heading under which `--help` lists it. */
  readonly group: string;
  /** Type of its value. */
  readonly type: keyof OptionTypes;
  /** Least and greatest value of a number. */
  readonly range?: readonly [least: number, greatest: number];
  /** Allowed words of a choice. */
  readonly choices?: readonly string[];
  /** Its value if it is not given. */
  readonly default?: unknown;
  /** How its value is chosen if it is not given. Without default and rule it stays undefined. */
  readonly rule?: Rule;
  /** Its text in `--help`, to which default, rule and choices are added. */
  readonly help: string;
  /** Name of its value in `--help`; by default `<n>` for an integer, `<x>` for another number, `<kind>` for a choice. */
  readonly placeholder?: string;
  /**
   * Whether a resumed run may change it, which it may by default. `fixed`: it may not, since the meaning of the
   * checkpoint's tensors depends on the value. `renamed`: the value may be another name of the same content, see
   * `renamed.ts`. `unsaved`: it may, and no checkpoint stores the value, which only says where and how fast a run
   * computes, or what it writes beside its checkpoints.
   */
  readonly onResume?: "fixed" | "renamed" | "unsaved";
  /** The input of the run that it names, if it names one. */
  readonly names?: "data" | "tokenizer" | "model";
  /** Present if it affects only what a run reports and saves, not what the model learns. */
  readonly reportsOnly?: true;
  /** Present if no plan holds it although a checkpoint does: it suits a machine, or decides other options of the plan. */
  readonly unplanned?: true;
  /** Another option that must be given if this one is. */
  readonly needs?: string;
  /** The optimizer that reads it, if others do not. */
  readonly optimizer?: OptimizerName;
  /** Other options that must not be given if this one is, with the reasons. */
  readonly excludes?: Readonly<Record<string, string>>;
}

/** How the value of an option is chosen if it is not given. */
export interface Rule {
  /** The default as `--help` describes it; absent if the heading of the group does. */
  readonly help?: string;
  /** The options from whose values it is computed; without them, the preset or the model decides. */
  readonly from?: readonly (keyof RuleInputs)[];
  /** Computes the value from those of these options. */
  readonly value?: (options: RuleInputs) => number;
  /** Present if a resumed run keeps the value even if these options change. */
  readonly atStart?: true;
}

/** The options from which others are computed. */
export type RuleInputs = Pick<Schedule, "schedule" | "learningRate" | "steps">;

const MODEL = "Model and data", ARCHITECTURE = "Architecture of a new model";
const FINE_TUNING = "Starting from another model", RUN = "Run";
/** Options that matter only if several processes train one model. */
export const RANKS = "Several ranks, started by mpirun or srun";
const OPTIMIZATION = "Optimization";
const REPORTS = "Reports (0: never; default: by the length of the run)";

/** The rule of an option that the preset or the model decides. */
const BY_PRESET: Rule = { help: "the preset's" };

/** Why two options that decide the size of the model exclude each other. */
export const SIZE_TWICE = "as both say how large the model is";

/** A dimension of the model, which the preset has if it is not given. */
const DIMENSION = { group: MODEL, type: "integer", rule: BY_PRESET, onResume: "fixed" } as const;

/** A part of a new model's architecture. */
const PART = {
  group: ARCHITECTURE,
  type: "choice",
  onResume: "fixed",
  excludes: { initFrom: "whose model has its own architecture" },
} as const;

/** Settings of DiLoCo's outer optimizer that are not given: the best of the paper, see `OuterStep`. */
export const OUTER_DEFAULTS = { outerLearningRate: 0.7, outerMomentum: 0.9 };

/** Every option of a training, in the order of `--help`. */
export const TRAIN_OPTIONS = {
  /** Size of the model; `auto` depends on the device. */
  preset: {
    group: MODEL,
    type: "preset",
    help: "size of the model",
    placeholder: "<name>",
    default: "auto",
    onResume: "fixed",
    unplanned: true,
    excludes: { initFrom: "whose model has its own size" },
  },
  /** One dial from which the sizes of model and batch, the steps and the rates follow, see `sizesAtDepth()`. */
  depth: {
    group: MODEL,
    type: "integer",
    range: [1, 64],
    help: "one dial in place of a preset: layers, width, heads, context, batch, steps, rates",
    onResume: "fixed",
    unplanned: true,
    excludes: { preset: SIZE_TWICE, initFrom: SIZE_TWICE, plan: SIZE_TWICE },
  },
  /** Number of transformer blocks. */
  layers: { ...DIMENSION, range: [1, LARGEST.layers], help: "transformer blocks" },
  /** C: width of the residual stream, a multiple of 4 · `heads`. */
  width: {
    ...DIMENSION,
    range: [1, LARGEST.width],
    help: "width of the residual stream, a multiple of 4 · heads",
  },
  /** Attention heads per block. */
  heads: { ...DIMENSION, range: [1, LARGEST.heads], help: "attention heads per block" },
  /** Heads of keys and values, which divide `heads`; as many as these if not given. */
  kvHeads: {
    ...DIMENSION,
    range: [1, LARGEST.heads],
    help: "heads of keys and values per block, which divide --heads",
    rule: { help: "as many as --heads" },
  },
  /** Components of a head; `width` / `heads` if not given. */
  headSize: {
    ...DIMENSION,
    range: [4, MOST_HEAD_SIZE],
    help: "components of a head, a multiple of 4",
    rule: { help: "width / heads" },
  },
  /** Width of an MLP between its matrices; if not given, four times `width`, or 8/3 of it with `swiglu`. */
  hidden: {
    ...DIMENSION,
    range: [1, LARGEST.innerWidth],
    help: "width of an MLP between its matrices",
    rule: { help: "4 times the width; 8/3 of it with swiglu" },
  },
  /**
   * The text to train on, see `openDataset()`; `auto` is `sample`, the built-in stories, and `conversations` are about
   * these.
   */
  data: {
    group: MODEL,
    type: "data",
    help:
      `auto, sample, conversations, tinystories, hf:OWNER/NAME/FILE, or files and patterns of files: ` +
      `${UNDERSTOOD}; ` +
      `${SEPARATOR} separates the documents of a text`,
    placeholder: "<what...>",
    default: "auto",
    onResume: "renamed",
    names: "data",
  },
  /**
   * The text to validate with, all of it, named as `data`; if not given, that of the data set, or else documents of
   * `data` that are held out.
   */
  validationData: {
    group: MODEL,
    type: "data",
    help: "text to validate with, named as that of --data (default: every 20th document of that)",
    placeholder: "<what...>",
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
    excludes: { initFrom: "whose model has its own tokens" },
  },
  /** Workers that tokenize; by default one per core, at most three. */
  workers: {
    group: MODEL,
    type: "integer",
    range: [1, 1024],
    help: "number of workers that tokenize (default: one per core, at most 3)",
    onResume: "unsaved",
  },
  /** Which of the tokenizer's tokens the model has. */
  vocabulary: {
    group: MODEL,
    type: "choice",
    choices: ["auto", "full", "compact"],
    help: "GPT-2's tokens: all of them, or those that the text uses",
    default: "auto",
    onResume: "fixed",
    excludes: { initFrom: "whose model has its own tokens" },
  },
  /** `packed`: contexts cut from the stream of documents; `padded`: one document per row. */
  sequence: {
    group: MODEL,
    type: "choice",
    choices: ["packed", "padded"],
    help: "how rows are cut",
    default: "packed",
    onResume: "fixed",
  },
  /** `joined`: a document sees those before it in its row; `apart`: only itself, and its positions begin at 0. */
  documents: {
    group: MODEL,
    type: "choice",
    choices: ["joined", "apart"],
    help: "whether a document sees those before it in its row, or only itself",
    default: "apart",
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

  /** The architecture of a new model: the defaults of the options after it; `DEFAULT_ARCHITECTURE` if not given. */
  arch: {
    ...PART,
    choices: ["gpt2", "neox", "llama", "modern"],
    help: "architecture: the defaults of the options below",
    placeholder: "<name>",
  },
  /** How the residual stream is normalised before each branch. */
  norm: { ...PART, choices: ["layernorm", "rmsnorm"], help: "norms of the residual stream" },
  /** How the model knows the positions of tokens. */
  positions: {
    ...PART,
    choices: ["learned", "rotary"],
    help: "how the model knows the positions of tokens",
  },
  /** The kind of MLP; `relu2` is max(x, 0)². */
  mlp: { ...PART, choices: ["gelu", "swiglu", "relu2"], help: "kind of MLP" },
  /** Whether linear layers have biases. */
  biases: {
    ...PART,
    placeholder: "<on|off>",
    choices: ["on", "off"],
    help: "whether linear layers have biases",
  },
  /** Whether the heads of queries and keys are normalised. */
  qkNorm: {
    ...PART,
    placeholder: "<on|off>",
    choices: ["on", "off"],
    help: "whether the heads of queries and keys are normalised",
  },
  /** Whether the projections onto the residual stream start at zero. */
  zeroInit: {
    ...PART,
    placeholder: "<on|off>",
    choices: ["on", "off"],
    help: "whether projections onto the residual stream start at zero",
  },
  /** Windows of attention of the layers, repeated over them, separated by commas: `0,256`; 0 is none. */
  windows: {
    ...PART,
    type: "text",
    help: "windows of attention of the layers, in turn; 0: all tokens (default: 0)",
    placeholder: "<n,...>",
  },
  /** Base of the wavelengths of rotary positions; 10000 if not given. */
  rotaryBase: {
    ...PART,
    type: "real",
    range: [2, 1e12],
    help: "base of the wavelengths of rotary positions (default: 10000)",
  },

  /** The model to start from instead of random parameters, as a `spec` of `findModel()`. */
  initFrom: {
    group: FINE_TUNING,
    type: "text",
    help:
      "distilgpt2, gpt2, gpt2-medium, hf:OWNER/NAME, a .gguf file, or a directory with a model, checkpoint or run",
    placeholder: "<model>",
    onResume: "renamed",
    names: "model",
  },
  /** Parts that are not trained, see `parseFreeze()`: `embeddings,0-3`. */
  freeze: {
    group: FINE_TUNING,
    type: "text",
    help: "parts that are not trained: embeddings,0-3,final-norm,head",
    placeholder: "<parts>",
    onResume: "fixed",
    excludes: { loraRank: "which freezes all but the adapters" },
  },
  /** Rank of low-rank adapters; if it is given, only adapters are trained. */
  loraRank: {
    group: FINE_TUNING,
    type: "integer",
    range: [1, 1024],
    help: "train only low-rank adapters of this rank for the frozen model",
    onResume: "fixed",
  },
  /** Adapters are scaled by alpha / rank; twice the rank if not given. */
  loraAlpha: {
    group: FINE_TUNING,
    type: "real",
    range: [1e-6, 1e6],
    help: "adapters are scaled by alpha / rank (default: twice the rank)",
    onResume: "fixed",
    needs: "loraRank",
  },
  /** Linear layers that get adapters, separated by commas: `c_attn,mlp.c_fc`. */
  loraTargets: {
    group: FINE_TUNING,
    type: "text",
    help:
      "layers with adapters (default: c_attn of GPT-2, query_key_value of GPT-NeoX, q_proj,v_proj of others)",
    placeholder: "<names>",
    onResume: "fixed",
    needs: "loraRank",
  },
  /** The base model of adapters, if it is not at the place that they name; a `spec` of `findModel()`. */
  base: {
    group: FINE_TUNING,
    type: "text",
    help: "the base model of adapters, if it is not at the place that they name",
    placeholder: "<model>",
    onResume: "unsaved",
  },
  /** Whether to copy the base model of adapters into the run, which then needs no other directory. */
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
  /** Checkpoint to resume from; the newest by default. */
  resumeFrom: {
    group: RUN,
    type: "text",
    placeholder: "<which>",
    help:
      "checkpoint to resume from: best, latest, a number of steps, or a directory (default: latest)",
    onResume: "unsaved",
  },
  /** Whether to move an old run aside and start over. */
  fresh: {
    group: RUN,
    type: "switch",
    help: "move an old run aside and start over",
    default: false,
    onResume: "unsaved",
    excludes: { resumeFrom: "whose checkpoint it may move aside" },
  },
  /** Whether to report what the training would need, to train nothing, and to change nothing on the disk. */
  dryRun: {
    group: RUN,
    type: "switch",
    help: "print what the training would need and how long it would take, and change nothing",
    onResume: "unsaved",
  },
  /** Total number of steps, those before a resume included. */
  steps: {
    group: RUN,
    type: "integer",
    range: [1, 1e9],
    help: "total number of steps, those before a resume included",
    rule: BY_PRESET,
  },
  /** Time in which the training ends; if nothing else says how large the model is, it decides the depth, too. */
  minutes: {
    group: RUN,
    type: "real",
    range: [Number.MIN_VALUE, 1e6],
    help:
      "time in which the run ends, that before a resume included: measures the speed, and chooses " +
      "depth and steps",
    unplanned: true,
  },
  /** The plan of another run: its directory, or the path of a `plan.json`. */
  plan: {
    group: RUN,
    type: "text",
    help: "train again by the plan of a run: its directory, or a plan.json",
    placeholder: "<path>",
    onResume: "unsaved",
    excludes: { preset: SIZE_TWICE },
  },
  /** Passes over the data; if `steps` is given too, the run ends at whichever comes first. */
  epochs: {
    group: RUN,
    type: "real",
    range: [Number.MIN_VALUE, 1e6],
    help: "passes over the data; the run ends at --steps or --epochs, whichever comes first",
    unplanned: true,
  },
  /** Evaluations in a row without a better validation loss after which the training ends; 0 for no such end. */
  patience: {
    group: RUN,
    type: "integer",
    range: [0, 1e6],
    help: "end after this many evaluations in a row without a better validation loss; 0: never",
    default: 0,
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
  /** The implementation of WebGPU; a resumed run keeps it. */
  gpu: {
    group: RUN,
    type: "choice",
    choices: GPU_CHOICES,
    help:
      "WebGPU of Deno (native) or of Dawn; auto: Dawn if it is installed and offers tensor cores",
    placeholder: "<provider>",
    default: "native",
    unplanned: true,
  },
  /** Whether the processes that `mpirun` or `srun` starts train one model together. */
  distributed: {
    group: RANKS,
    type: "choice",
    choices: DISTRIBUTED_CHOICES,
    help:
      "auto: the processes that mpirun or srun starts train one model together; off: they do not",
    placeholder: "<when>",
    default: "auto",
    onResume: "unsaved",
    unplanned: true,
  },
  /**
   * Steps between two exchanges of the ranks. With 1 they add up the gradients of every step; with more each trains on
   * its own in between, see `OuterStep`.
   */
  syncEvery: {
    group: RANKS,
    type: "integer",
    range: [1, 1e6],
    help: "steps after which ranks average their weights, by DiLoCo; 1: gradients, in every step",
    default: 1,
  },
  /** Learning rate of the outer optimizer, see `OuterStep` and `OUTER_DEFAULTS`. */
  outerLearningRate: {
    group: RANKS,
    type: "real",
    range: [0, 10],
    help:
      `learning rate of DiLoCo's outer optimizer (default: ${OUTER_DEFAULTS.outerLearningRate})`,
    needs: "syncEvery",
  },
  /** Nesterov momentum of the outer optimizer, likewise. */
  outerMomentum: {
    group: RANKS,
    type: "real",
    range: [0, 0.9999],
    help:
      `Nesterov momentum of DiLoCo's outer optimizer (default: ${OUTER_DEFAULTS.outerMomentum})`,
    needs: "syncEvery",
  },
  /**
   * Seconds in which a rank must answer, and, if it is longer than 20 median steps, in which a step must make progress; 0
   * for no limit.
   */
  timeout: {
    group: RANKS,
    type: "integer",
    range: [0, 1e6],
    help: "seconds without a sign of life from a rank after which all ranks end; 0: no limit",
    placeholder: "<seconds>",
    default: DEFAULT_TIMEOUT,
    onResume: "unsaved",
    unplanned: true,
  },
  /** Type in which ranks exchange gradients, or with `syncEvery` differences of weights. */
  wire: {
    group: RANKS,
    type: "choice",
    choices: WIRE_TYPES,
    help: "type of the numbers that ranks exchange; f16 has half the bytes, and error feedback",
    placeholder: "<type>",
    default: "f32",
    unplanned: true,
  },
  /** `f16` is autocast; `auto` is f16 on a GPU that supports it, and f32 otherwise. */
  precision: {
    group: RUN,
    type: "choice",
    choices: ["auto", "f16", "f32"],
    help: "f16 is autocast; auto: f16 on a GPU that supports it",
    default: "auto",
    onResume: "fixed",
    unplanned: true,
  },
  /**
   * Whether to time kernels and choose the fastest: `auto` does so on a GPU if the run is long. `off` also ignores
   * choices that earlier runs stored. A resumed run keeps its kernels.
   */
  tune: {
    group: RUN,
    type: "choice",
    choices: ["auto", "on", "off"],
    help: "time kernels and choose the fastest; auto: on a GPU, for long runs",
    placeholder: "<when>",
    default: "auto",
    unplanned: true,
  },

  /**
   * What the backward pass computes again instead of keeping it, see `RECOMPUTE_MODES`; `auto` is the first of these
   * with which the training fits the memory, of which only that of a CPU adapter is known.
   */
  recompute: {
    group: RUN,
    type: "choice",
    choices: ["auto", ...RECOMPUTE_MODES],
    help:
      "what the backward pass computes again instead of keeping it: the inner part of each MLP, " +
      "or each block; auto: as much as it must to fit the memory",
    placeholder: "<what>",
    default: "auto",
    unplanned: true,
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
    rule: { help: "the preset's; less for a greater --width" },
  },
  /** Learning rate at the end: that of the last step, or, with `wsd`, to which the cool-down falls. */
  minLearningRate: {
    group: OPTIMIZATION,
    type: "real",
    range: [0, 10],
    help: "learning rate at the end",
    rule: {
      help: "a hundredth of the highest; wsd: 0",
      from: ["learningRate", "schedule"],
      value: ({ learningRate, schedule }: RuleInputs): number =>
        schedule === "cosine" // a rate of 0 would waste its last step
          ? Number((learningRate / 100).toPrecision(12)) // no 0.000029999999999999997
          : schedule === "wsd"
          ? 0
          : learningRate,
    },
  },
  /** How the learning rate falls after the warm-up, see `Schedule`. */
  schedule: {
    group: OPTIMIZATION,
    type: "choice",
    choices: SCHEDULES,
    help: "learning rate after the warm-up: cosine; wsd (constant, then a cool-down); constant",
    default: "cosine",
  },
  /** Steps in which the learning rate rises. */
  warmupSteps: {
    group: OPTIMIZATION,
    type: "integer",
    range: [0, 1e9],
    help: "steps of warm-up",
    rule: {
      help: "a twentieth of all steps, at most 200",
      from: ["steps"],
      value: ({ steps }: RuleInputs): number => Math.min(200, Math.ceil(steps / 20)),
      // a resumed run has most of its warm-up behind it; a longer one would lower the rate again
      atStart: true,
    },
  },
  /**
   * Steps of the cool-down of `wsd`: the last of `steps`. A resumed run to which it is given without `steps` and
   * `epochs` begins the cool-down at once, and ends with it.
   */
  cooldown: {
    group: OPTIMIZATION,
    type: "integer",
    range: [0, 1e9],
    help: "steps of the cool-down of wsd, the last of --steps; " +
      "if a run is resumed without --steps, it cools down at once and ends",
    rule: {
      help: "a fifth of all steps",
      from: ["steps", "schedule"],
      value: ({ steps, schedule }: RuleInputs): number =>
        schedule === "wsd" ? Math.ceil(steps / 5) : 0,
    },
  },
  /** What updates the parameters. `muon` updates the matrices of the blocks, and AdamW all others. */
  optimizer: {
    group: OPTIMIZATION,
    type: "choice",
    choices: Object.keys(OPTIMIZERS) as OptimizerName[],
    help:
      "what updates the parameters; muon updates the matrices of the blocks, and AdamW all others",
    placeholder: "<name>",
    rule: { help: "muon; with --init-from adamw" },
    onResume: "fixed",
  },
  /** Muon's highest learning rate; `learningRate` is AdamW's, and both have the same schedule. */
  muonLearningRate: {
    group: OPTIMIZATION,
    type: "real",
    range: [0, 10],
    help: "Muon's highest learning rate, with the schedule of --learning-rate, which is AdamW's",
    rule: { help: "0.01; with --init-from 0.001" },
    optimizer: "muon",
  },
  /** Decay of Muon's momentum. */
  muonMomentum: {
    group: OPTIMIZATION,
    type: "real",
    range: [0, 0.99999],
    help: "decay of Muon's momentum",
    default: 0.95,
    optimizer: "muon",
  },
  /** Muon's decoupled decay. */
  muonWeightDecay: {
    group: OPTIMIZATION,
    type: "real",
    range: [0, 10],
    help: "weight decay of Muon's matrices",
    default: 0.01,
    optimizer: "muon",
  },
  /** AdamW's decoupled decay of matrices and embeddings. */
  weightDecay: {
    group: OPTIMIZATION,
    type: "real",
    range: [0, 10],
    help: "AdamW's weight decay of matrices and embeddings",
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
  /** Norm to which a larger gradient is clipped; 0 for no clipping. */
  gradientClip: {
    group: OPTIMIZATION,
    type: "real",
    range: [0, 1e9],
    help: "norm to which a larger gradient is clipped; 0: no clipping",
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
    help: "steps between lines of the log; 0: none",
    rule: {
      from: ["steps"],
      value: ({ steps }: RuleInputs): number => Math.max(1, Math.round(steps / 100)),
    },
    reportsOnly: true,
  },
  /** Steps between evaluations on held-out text; 0 for none but the last. */
  evalEvery: {
    group: REPORTS,
    type: "integer",
    range: [0, 1e9],
    help: "steps between evaluations on held-out text",
    rule: { from: ["steps"], value: ({ steps }: RuleInputs): number => Math.ceil(steps / 10) },
  },
  /** Tokens of held-out text, from its beginning, that an evaluation reads; 0 for all. */
  evalTokens: {
    group: REPORTS,
    type: "integer",
    range: [0, 1e12],
    help:
      "tokens of held-out text to evaluate, from its beginning, rounded up to whole batches; 0: all",
    default: 20_000,
  },
  /** Steps between samples; 0 for none. */
  sampleEvery: {
    group: REPORTS,
    type: "integer",
    range: [0, 1e9],
    help: "steps between samples",
    rule: { from: ["steps"], value: ({ steps }: RuleInputs): number => 2 * Math.ceil(steps / 10) },
    reportsOnly: true,
  },
  /**
   * Prompt of the samples, or the user's message if the data are conversations; by default the first words of held-out
   * documents, in turn.
   */
  samplePrompt: {
    group: REPORTS,
    type: "text",
    help: "prompt or message of samples (default: the first words of held-out documents, in turn)",
    placeholder: "<text>",
    reportsOnly: true,
  },
  /** Steps between histograms of all weights and gradients; 0 for none. */
  histogramEvery: {
    group: REPORTS,
    type: "integer",
    range: [0, 1e9],
    help: "steps between histograms of all weights and gradients",
    default: 0,
    reportsOnly: true,
  },
  /** Whether to write an event file for TensorBoard. */
  tensorboard: {
    group: REPORTS,
    type: "switch",
    help: "write no event file for TensorBoard",
    default: true,
    onResume: "unsaved",
    reportsOnly: true,
  },
  /** Steps between checkpoints; 0 for none but the last. */
  saveEvery: {
    group: REPORTS,
    type: "integer",
    range: [0, 1e9],
    help: "steps between checkpoints",
    rule: { from: ["steps"], value: ({ steps }: RuleInputs): number => Math.ceil(steps / 10) },
    reportsOnly: true,
  },
  /**
   * Checkpoints to keep in addition to the best; `auto` keeps all while they are small, and otherwise the newest three
   * whole and ten as weights only.
   */
  keep: {
    group: REPORTS,
    type: "autoInteger",
    range: [1, 1e6],
    placeholder: "<n>",
    help:
      "checkpoints to keep in addition to the best; auto: all while they take less than 500 MB and " +
      "1 % of the free disk, else the newest three, and only the weights of ten spread over the steps",
    default: "auto",
    reportsOnly: true,
  },
} as const satisfies Record<string, Option>;

/** The name of an option. */
export type OptionName = keyof typeof TRAIN_OPTIONS;

/** Values of all options; only those whose rows do not extend `Decided` may be undefined. */
export type OptionValues<Decided> = {
  -readonly [Name in keyof typeof TRAIN_OPTIONS]:
    | ((typeof TRAIN_OPTIONS)[Name] extends { choices: readonly (infer Word)[] } ? Word
      : OptionTypes[(typeof TRAIN_OPTIONS)[Name]["type"]])
    | ((typeof TRAIN_OPTIONS)[Name] extends Decided ? never : undefined);
};

/** Every option of a training. The preset, the device and the data decide those that are undefined. */
export interface TrainOptions extends OptionValues<{ default: unknown }> {}

/** Training options with every choice made, as a run prints them and a checkpoint stores them. */
export interface ResolvedOptions extends OptionValues<{ default: unknown } | { rule: Rule }> {
  /** The data chosen. */
  data: DataSpec;
  /** The text to validate with, if it is named. */
  validationData: DataSpec | undefined;
  /** The provider chosen. */
  gpu: Provider;
  /** The precision chosen. */
  precision: Precision;
  /** What ends the run. */
  endsWith: "steps" | "epochs";
  /** Ranks that train together, each with `gradientAccumulation` micro-batches of a step; earlier versions had one. */
  ranks: number;
}

/** Tokens of a step, those of all ranks, by the options of a training; NaN if they do not say. */
export function tokensPerStepOf(options: unknown): number {
  const { batchSize, contextLength, gradientAccumulation = 1, ranks = 1 } = isObject(options)
    ? options
    : {};
  return [batchSize, contextLength, gradientAccumulation, ranks]
    .reduce<number>((product, value) => typeof value === "number" ? product * value : NaN, 1);
}

/** Names of all options, in the order of the table. */
export const OPTION_NAMES = Object.keys(TRAIN_OPTIONS) as OptionName[];

/** How a value among the options of a run is named to people: as its flag, if it has one. */
export function optionLabel(name: string): string {
  return Object.hasOwn(TRAIN_OPTIONS, name) ? flagOf(name) : name;
}

/** The row of an option. */
export function optionNamed(name: OptionName): Option {
  return TRAIN_OPTIONS[name];
}

/** Names of the options whose rows meet a condition. */
export function optionsWhere(condition: (option: Option) => boolean | undefined): OptionName[] {
  return OPTION_NAMES.filter((name) => condition(TRAIN_OPTIONS[name]));
}

/** The defaults of all options; undefined if `resolveOptions()` chooses the value. */
export const DEFAULT_OPTIONS = Object.fromEntries(
  OPTION_NAMES.map((name) => [name, optionNamed(name).default]),
) as TrainOptions;

/** The defaults of earlier versions: those of `createTrainStep()`, and of options that a checkpoint does not name. */
export const EARLIER_DEFAULTS = {
  ...DEFAULT_OPTIONS,
  documents: "joined",
  optimizer: "adamw",
} as const;

/** The options that a checkpoint has saved, with the defaults of earlier versions for those that it lacks. */
export function savedIn({ options }: { readonly options: object }): ResolvedOptions {
  const { ranks = 1 } = options as Partial<ResolvedOptions>;
  return { ...EARLIER_DEFAULTS, ...options, ranks } as ResolvedOptions;
}

/** Whether an option is given: `auto` leaves the choice open. */
export function isGiven(value: unknown): boolean {
  return value !== undefined && value !== "auto";
}

/** All values that are allowed for an option, if they are a list of words. */
export function allowedValues({ type, choices }: Option): readonly string[] | undefined {
  return type === "preset" ? ["auto", ...Object.keys(PRESETS)] : choices;
}
