import { UserError } from "../files/user_error.ts";
import { MOST_HEAD_SIZE } from "../kernels/attention/attention.ts";
import { EPSILON } from "../kernels/layernorm/layernorm.ts";
import type { ActivationFunction } from "../kernels/matmul/matmul.ts";

/** Architectures, named as in Hugging Face's `model_type`. */
export type Family = "gpt2" | "gpt_neo";

/** Low-rank adapters (Hu et al. 2021, https://arxiv.org/abs/2106.09685) beside frozen matrices. */
export interface LoraConfig {
  /** r: y = x · W + alpha / r · (x · Aᵀ) · Bᵀ, with A [r,inputs] and B [outputs,r]. */
  readonly rank: number;
  /** alpha: the factor alpha / rank makes the adapters' part hardly depend on the rank. */
  readonly alpha: number;
  /** Ends of names of linear layers, as in PEFT: `c_proj` is both `attn.c_proj` and `mlp.c_proj`. */
  readonly targets: readonly string[];
}

/** Architecture of a model of GPT-2's kind: its dimensions and its differences from GPT-2. */
export interface GptConfig {
  /** V: number of tokens that the model knows. */
  readonly vocabularySize: number;
  /** maxT: most tokens that the model can attend to, the number of learned positions. */
  readonly contextLength: number;
  /** C: width of the residual stream. */
  readonly width: number;
  /** Number of transformer blocks. */
  readonly layers: number;
  /** NH: attention heads in each block; each has HS = C / NH components. */
  readonly heads: number;
  /** Architecture, `gpt2` by default. GPT-Neo has no biases of q, k and v. */
  readonly family?: Family;
  /** F: width of an MLP between its two matrices; 4 · C by default. */
  readonly innerWidth?: number;
  /** Activation function between the two matrices of an MLP; `gelu_new` by default. */
  readonly activation?: ActivationFunction;
  /** What layer-norms add to the variance; 1e-5 by default. */
  readonly layerNormEpsilon?: number;
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

/** The values of the fields that a configuration may leave out, adapters aside. */
export function defaultsOf(
  { width, heads, layers }: Pick<GptConfig, "width" | "heads" | "layers">,
): Required<
  Omit<GptConfig, "vocabularySize" | "contextLength" | "width" | "layers" | "heads" | "lora">
> {
  return {
    family: "gpt2",
    innerWidth: 4 * width,
    activation: "gelu_new",
    layerNormEpsilon: EPSILON,
    ownHead: false,
    attentionScale: 1 / Math.sqrt(width / heads),
    attentionScaleByLayer: false,
    attentionWindows: new Array<number>(layers).fill(0),
  };
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
  contextLength: 32_768,
  width: 16_384,
  layers: 512,
  heads: 512,
  innerWidth: 65_536,
} as const;

/** F: width of an MLP between its two matrices. */
export function innerWidthOf(
  { innerWidth, width }: Pick<GptConfig, "innerWidth" | "width">,
): number {
  return innerWidth ?? 4 * width;
}

/** Options of `attentionForward()` by which a layer's attention differs from GPT-2's. */
export function attentionOf(
  config: GptConfig,
  layer: number,
): { scale?: number; window?: number } {
  const { attentionScaleByLayer, attentionWindows } = config;
  const { attentionScale } = { ...defaultsOf(config), ...config };
  const scale = attentionScaleByLayer ? attentionScale / (layer + 1) : config.attentionScale;
  const window = attentionWindows?.[layer];
  return {
    ...(scale === undefined ? {} : { scale }),
    ...(window === undefined || window === 0 ? {} : { window }),
  };
}

/**
 * Checks every dimension of a model.
 *
 * @throws {UserError} naming the first dimension that is no positive integer or too large, a width
 * that the heads do not divide, or a head size that is no multiple of four or too large for the
 * attention kernels.
 * @param action verb and object of the error message, such as `load config.json`.
 */
export function validateConfig(config: GptConfig, action = "build a model"): void {
  for (const [name, largest] of Object.entries(LARGEST) as [keyof typeof LARGEST, number][]) {
    const value = name === "innerWidth" ? innerWidthOf(config) : config[name];
    if (!Number.isInteger(value) || value < 1 || value > largest) {
      throw new UserError(
        `Cannot ${action} as ${name} must be an integer from 1 to ${largest}: ` +
          `current value is ${value}`,
      );
    }
  }
  const { width, heads, layers, attentionWindows: windows, layerNormEpsilon = EPSILON } = config;
  if (!(layerNormEpsilon > 0 && layerNormEpsilon <= 1)) {
    throw new UserError(
      `Cannot ${action} as layerNormEpsilon must be a number above 0 and at most 1: ` +
        `current value is ${layerNormEpsilon}`,
    );
  }
  if (
    windows && (windows.length !== layers || !windows.every((n) => Number.isInteger(n) && n >= 0))
  ) {
    throw new UserError(
      `Cannot ${action} as attentionWindows must be a whole number for each of ${layers} layers: ` +
        `current value is [${windows}]`,
    );
  }
  if (!areHeadsAllowed(config)) {
    throw new UserError(
      `Cannot ${action} as width must be a multiple of 4 · heads, and at most ${MOST_HEAD_SIZE} · ` +
        `heads: current values are width ${width}, heads ${heads}`,
    );
  }
}

/** Whether the attention kernels can compute heads of width / heads components. */
export function areHeadsAllowed({ width, heads }: Pick<GptConfig, "width" | "heads">): boolean {
  const headSize = width / heads;
  return headSize % 4 === 0 && headSize <= MOST_HEAD_SIZE;
}
