import { quoted } from "../files/printable.ts";
import { UserError } from "../files/user_error.ts";
import { LEAST_SCALE, MOST_HEAD_SIZE, MOST_SCALE } from "../kernels/attention/attention.ts";
import { EPSILON } from "../kernels/layernorm/layernorm.ts";
import { ACTIVATION_FUNCTIONS, type ActivationFunction } from "../kernels/activation.ts";
import type { RotaryScaling } from "../kernels/rope/rotation.ts";

/**
 * Families of architectures, named as in Hugging Face's `model_type`. A family decides the defaults of the other fields
 * and the names of tensors and linear layers in files. Mistral and Qwen3 are configurations of `llama`.
 */
export type Family = "gpt2" | "gpt_neo" | "gpt_neox" | "llama";

/** Low-rank adapters (Hu et al. 2021, https://arxiv.org/abs/2106.09685) beside frozen matrices. */
export interface LoraConfig {
  /** r: y = x · W + alpha / r · (x · Aᵀ) · Bᵀ, with A [r,inputs] and B [outputs,r]. */
  readonly rank: number;
  /** alpha: the factor alpha / rank makes the adapters' part hardly depend on the rank. */
  readonly alpha: number;
  /** Ends of names of linear layers, as in PEFT: `c_proj` is both `attn.c_proj` and `mlp.c_proj`. */
  readonly targets: readonly string[];
}

/** Architecture of a decoder-only transformer: its dimensions and its differences from the defaults of its family. */
export interface GptConfig {
  /** V: number of tokens that the model knows. */
  readonly vocabularySize: number;
  /** maxT: most tokens that the model can attend to, the number of positions. */
  readonly contextLength: number;
  /** C: width of the residual stream. */
  readonly width: number;
  /** Number of transformer blocks. */
  readonly layers: number;
  /** NH: query heads in each block. */
  readonly heads: number;
  /** Family of architectures, `gpt2` by default. */
  readonly family?: Family;
  /** KH: heads of keys and values; NH by default. Query head h reads key head ⌊h / (NH / KH)⌋. */
  readonly keyHeads?: number;
  /** HS: components of each head; C / NH by default. */
  readonly headSize?: number;
  /** F: width of an MLP between its matrices; by default 4 · C, if it is gated 8/3 · C rounded up to a multiple of 32. */
  readonly innerWidth?: number;
  /** Activation function of an MLP; by default `gelu_new`, in a llama `silu`. */
  readonly activation?: ActivationFunction;
  /** Whether activated = activation(gate) · up (Shazeer 2020, https://arxiv.org/abs/2002.05202), as in a llama. */
  readonly gatedMlp?: boolean;
  /** Normalisation before each branch and the head; by default `layernorm`, in a llama `rmsnorm` (without bias). */
  readonly norm?: "layernorm" | "rmsnorm";
  /** What norms add to the variance or to the mean square; 1e-5 by default. */
  readonly normEpsilon?: number;
  /**
   * How the model knows the positions of tokens: by default from a learned embedding, in a gpt_neox and a llama by the
   * rotation of queries and keys (Su et al. 2021, https://arxiv.org/abs/2104.09864), component i paired with i + HS/2.
   */
  readonly positions?: "learned" | "rotary";
  /** Base of the wavelengths of rotary positions; 10000 by default. */
  readonly rotaryBase?: number;
  /** How the frequencies of rotary positions are scaled; by default they are not. */
  readonly rotaryScaling?: RotaryScaling;
  /** Whether q, k and v have biases; in a gpt2 and a gpt_neox by default. */
  readonly qkvBias?: boolean;
  /** Whether the projection of attention's output has a bias; by default, but not in a llama. */
  readonly projectionBias?: boolean;
  /** Whether the linear layers of an MLP have biases; by default, but not in a llama. */
  readonly mlpBias?: boolean;
  /**
   * Whether every head of q and of k is normalised by its root mean square, with learned weights, before the rotation,
   * as in Qwen3 (Henry et al. 2020, https://arxiv.org/abs/2010.04245).
   */
  readonly qkNorm?: boolean;
  /** Whether the head has a separate matrix; by default it shares that of the token embedding. */
  readonly ownHead?: boolean;
  /** Factor of attention scores; 1 / √HS by default. */
  readonly attentionScale?: number;
  /** Whether layer i also divides its attention scores by i + 1. */
  readonly attentionScaleByLayer?: boolean;
  /**
   * Window of each layer: a token attends to itself and the tokens before it, that many in all; 0, the
   * default in every layer, means all.
   */
  readonly attentionWindows?: readonly number[];
  /** Low-rank adapters; if there are any, all other parameters are frozen. */
  readonly lora?: LoraConfig;
}

/** The fields without a default value: the dimensions, and what a model has only if it is described. */
type Described =
  | "vocabularySize"
  | "contextLength"
  | "width"
  | "layers"
  | "heads"
  | "rotaryScaling"
  | "lora";

/** A configuration whose fields all have values. */
export type CompleteConfig =
  & Pick<GptConfig, Described>
  & Required<Omit<GptConfig, Described>>;

/** Values of the fields that a family decides, if a configuration leaves them out. */
const FAMILY_DEFAULTS: Readonly<Record<Family, FamilyDefaults>> = {
  gpt2: {
    norm: "layernorm",
    positions: "learned",
    activation: "gelu_new",
    gatedMlp: false,
    qkvBias: true,
    projectionBias: true,
    mlpBias: true,
  },
  gpt_neo: {
    norm: "layernorm",
    positions: "learned",
    activation: "gelu_new",
    gatedMlp: false,
    qkvBias: false,
    projectionBias: true,
    mlpBias: true,
  },
  gpt_neox: {
    norm: "layernorm",
    positions: "rotary",
    activation: "gelu_new",
    gatedMlp: false,
    qkvBias: true,
    projectionBias: true,
    mlpBias: true,
  },
  llama: {
    norm: "rmsnorm",
    positions: "rotary",
    activation: "silu",
    gatedMlp: true,
    qkvBias: false,
    projectionBias: false,
    mlpBias: false,
  },
};

/** The fields that a family decides. */
type FamilyDefaults = Pick<
  CompleteConfig,
  "norm" | "positions" | "activation" | "gatedMlp" | "qkvBias" | "projectionBias" | "mlpBias"
>;

/** The values of the fields that a configuration may leave out; some depend on its other fields. */
export function defaultsOf(config: Omit<GptConfig, "vocabularySize" | "contextLength">): Omit<
  CompleteConfig,
  Described
> {
  const { width, heads, layers, family = "gpt2" } = config, defaults = FAMILY_DEFAULTS[family];
  const { gatedMlp = defaults.gatedMlp, headSize = width / heads } = config;
  return {
    ...defaults,
    family: "gpt2",
    keyHeads: heads,
    headSize: width / heads,
    innerWidth: gatedMlp ? 32 * Math.ceil(width / 12) : 4 * width,
    normEpsilon: EPSILON,
    rotaryBase: 10_000,
    qkNorm: false,
    ownHead: false,
    attentionScale: 1 / Math.sqrt(headSize),
    attentionScaleByLayer: false,
    attentionWindows: new Array<number>(layers).fill(0),
  };
}

/** A configuration with the values of all fields. */
export function withDefaults(config: GptConfig): CompleteConfig {
  return { ...defaultsOf(config), ...config };
}

/** Removes the fields that have their default from a configuration. */
export function withoutDefaults(config: GptConfig): GptConfig {
  const defaults: Record<string, unknown> = defaultsOf(config);
  const fields = Object.entries(config).filter(([name, value]) =>
    !Object.hasOwn(defaults, name) || JSON.stringify(value) !== JSON.stringify(defaults[name])
  );
  return Object.fromEntries(fields) as unknown as GptConfig;
}

/** Dimensions of a model without the vocabulary, which comes from the tokenizer. */
export type PresetDimensions = Pick<GptConfig, "contextLength" | "width" | "layers" | "heads">;

/** Names of the presets. */
export type PresetName = "nano" | "mini" | "small" | "distilgpt2" | "gpt2";

/** Presets, from a model that a laptop's CPU trains in minutes to GPT-2 itself. */
export const PRESETS: Readonly<Record<PresetName, PresetDimensions>> = {
  nano: { width: 64, layers: 2, heads: 2, contextLength: 64 },
  mini: { width: 256, layers: 4, heads: 8, contextLength: 128 },
  small: { width: 512, layers: 8, heads: 8, contextLength: 256 },
  distilgpt2: { width: 768, layers: 6, heads: 12, contextLength: 1024 },
  gpt2: { width: 768, layers: 12, heads: 12, contextLength: 1024 },
};

/** Largest value of each dimension; a larger one is taken for a typing error. */
export const LARGEST = {
  vocabularySize: 1_000_000,
  contextLength: 262_144,
  width: 16_384,
  layers: 512,
  heads: 512,
  innerWidth: 65_536,
} as const;

/** F: width of an MLP between its matrices. */
export function innerWidthOf(config: Omit<GptConfig, "vocabularySize" | "contextLength">): number {
  return config.innerWidth ?? defaultsOf(config).innerWidth;
}

/** NH, KH and HS: numbers of heads and their size; qkv is [M, (NH + 2 · KH) · HS]. */
export function headsOf(
  { width, heads, keyHeads = heads, headSize = width / heads }: HeadDimensions,
): { heads: number; keyHeads: number; headSize: number } {
  return { heads, keyHeads, headSize };
}

/** The fields that decide numbers and size of heads. */
export type HeadDimensions = Pick<GptConfig, "width" | "heads" | "keyHeads" | "headSize">;

/** Options of `attentionForward()` by which a layer's attention differs from GPT-2's. */
export function attentionOf(
  config: GptConfig,
  layer: number,
): { scale?: number; window?: number } {
  const { attentionScaleByLayer, attentionWindows } = config;
  const { attentionScale } = withDefaults(config);
  const scale = attentionScaleByLayer ? attentionScale / (layer + 1) : config.attentionScale;
  const window = attentionWindows?.[layer];
  return {
    ...(scale === undefined ? {} : { scale }),
    ...(window === undefined || window === 0 ? {} : { window }),
  };
}

/** Allowed words of the fields that are words. */
const WORDS: Readonly<Record<"family" | "norm" | "positions" | "activation", readonly string[]>> = {
  family: Object.keys(FAMILY_DEFAULTS),
  norm: ["layernorm", "rmsnorm"],
  positions: ["learned", "rotary"],
  activation: ACTIVATION_FUNCTIONS,
};

/**
 * Checks every field of a configuration, and that no field contradicts another.
 *
 * @throws {UserError} naming the first dimension that is no positive integer or too large, or the first field whose
 * value is impossible: heads that the attention kernels cannot compute, among others.
 * @param action verb and object of the error message, such as `load config.json`.
 */
export function validateConfig(config: GptConfig, action = "build a model"): void {
  const check = (holds: boolean, requirement: string, value: unknown) => {
    if (holds) return;
    throw new UserError(`Cannot ${action} as ${requirement}: current value is ${value}`);
  };
  for (const [name, words] of Object.entries(WORDS)) {
    const word = config[name as keyof typeof WORDS] ?? words[0]!;
    check(words.includes(word), `${name} must be ${words.join(" or ")}`, quoted(word));
  }
  const largest = { ...LARGEST, keyHeads: LARGEST.heads };
  for (const [name, most] of Object.entries(largest) as [keyof typeof largest, number][]) {
    // defaults exist once the dimensions before them are checked
    const isOptional = name === "innerWidth" || name === "keyHeads";
    const value = isOptional ? withDefaults(config)[name] : config[name];
    check(
      Number.isInteger(value) && value >= 1 && value <= most,
      `${name} must be an integer from 1 to ${most}`,
      value,
    );
  }
  const complete = withDefaults(config);
  const { width, heads, keyHeads, layers, normEpsilon, attentionScale } = complete;
  const { attentionWindows: windows } = complete;
  check(
    normEpsilon > 0 && normEpsilon <= 1,
    "normEpsilon must be a number above 0 and at most 1",
    normEpsilon,
  );
  const divisor = complete.attentionScaleByLayer ? layers : 1; // of the last layer
  check(
    attentionScale / divisor >= LEAST_SCALE && attentionScale <= MOST_SCALE,
    `attentionScale must be a number from ${divisor * LEAST_SCALE} to ${MOST_SCALE}`,
    attentionScale,
  );
  check(
    windows.length === layers && windows.every((n) => Number.isInteger(n) && n >= 0),
    `attentionWindows must be a whole number for each of ${layers} layers`,
    `[${windows}]`,
  );
  check(heads % keyHeads === 0, `keyHeads must divide heads, ${heads}`, keyHeads);
  checkRotary(complete, check);
  if (areHeadsAllowed(config)) return;
  throw new UserError(
    config.headSize === undefined
      ? `Cannot ${action} as width must be a multiple of 4 · heads, and at most ${MOST_HEAD_SIZE} · ` +
        `heads: current values are width ${width}, heads ${heads}`
      : `Cannot ${action} as width and headSize must be multiples of 4, and headSize at most ` +
        `${MOST_HEAD_SIZE}: current values are width ${width}, headSize ${config.headSize}`,
  );
}

/** Checks the fields of rotary positions. */
function checkRotary(
  { positions, rotaryBase, rotaryScaling: scaling }: CompleteConfig,
  check: (holds: boolean, requirement: string, value: unknown) => void,
): void {
  check(
    rotaryBase > 1 && Number.isFinite(rotaryBase),
    "rotaryBase must be a number above 1",
    rotaryBase,
  );
  if (!scaling) return;
  const { type, factor } = scaling;
  check(positions === "rotary", "rotaryScaling needs rotary positions", quoted(scaling));
  check(
    type === "linear" || type === "llama3",
    "the type of rotaryScaling must be linear or llama3",
    quoted(type),
  );
  check(
    factor >= 1 && Number.isFinite(factor),
    "the factor of rotaryScaling must be a number of at least 1",
    quoted(factor),
  );
  if (type !== "llama3") return;
  const { lowFrequencyFactor: low, highFrequencyFactor: high, originalContextLength } = scaling;
  check(
    low > 0 && high > low && Number.isFinite(high),
    "highFrequencyFactor of rotaryScaling must be above lowFrequencyFactor, and that above 0",
    quoted(scaling),
  );
  check(
    Number.isSafeInteger(originalContextLength) && originalContextLength >= 1,
    "originalContextLength of rotaryScaling must be a positive integer",
    quoted(originalContextLength),
  );
}

/** Whether the attention kernels can compute heads of this size. */
export function areHeadsAllowed(dimensions: HeadDimensions): boolean {
  const { headSize } = headsOf(dimensions);
  return headSize >= 4 && headSize % 4 === 0 && headSize <= MOST_HEAD_SIZE &&
    dimensions.width % 4 === 0;
}
