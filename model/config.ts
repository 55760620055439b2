/** Dimensions of a GPT-2 model. */
export interface GptConfig {
  /** V: number of tokens that the model knows. */
  readonly vocabularySize: number;
  /** L: most tokens that the model can look at, the number of learned positions. */
  readonly contextLength: number;
  /** C: width of the residual stream. */
  readonly width: number;
  /** Number of transformer blocks. */
  readonly layers: number;
  /** NH: attention heads in each block; each has HS = C / NH components. */
  readonly heads: number;
}

/** A model's dimensions without the vocabulary, which comes from the tokenizer. */
export type PresetDimensions = Omit<GptConfig, "vocabularySize">;

/** Names of the presets. */
export type PresetName = "nano" | "mini" | "small" | "distilgpt2" | "gpt2";

/** Models worth training, from one that a laptop's CPU trains in minutes to GPT-2 itself. */
export const PRESETS: Readonly<Record<PresetName, PresetDimensions>> = {
  nano: { width: 64, layers: 2, heads: 2, contextLength: 64 },
  mini: { width: 256, layers: 4, heads: 8, contextLength: 128 },
  small: { width: 512, layers: 8, heads: 8, contextLength: 256 },
  distilgpt2: { width: 768, layers: 6, heads: 12, contextLength: 1024 },
  gpt2: { width: 768, layers: 12, heads: 12, contextLength: 1024 },
};

/** Largest value that each dimension may take; beyond lie typing errors, not models. */
const LARGEST: Readonly<Record<keyof GptConfig, number>> = {
  vocabularySize: 1_000_000,
  contextLength: 32_768,
  width: 16_384,
  layers: 512,
  heads: 512,
};

/**
 * Checks every dimension of a model.
 *
 * @throws {RangeError} naming the first dimension that is no positive integer or too large, a width
 * that the heads do not divide, or a head size that is no multiple of four (the attention kernels
 * load vectors of four).
 */
export function validateConfig(config: GptConfig): void {
  for (const [name, largest] of Object.entries(LARGEST) as [keyof GptConfig, number][]) {
    const value = config[name];
    if (!Number.isInteger(value) || value < 1 || value > largest) {
      throw new RangeError(
        `Cannot build a model as ${name} must be an integer from 1 to ${largest}: ` +
          `current value is ${value}`,
      );
    }
  }
  const { width, heads } = config;
  if (width % heads !== 0 || width / heads % 4 !== 0) {
    throw new RangeError(
      `Cannot build a model as width must be a multiple of 4 · heads: ` +
        `current values are width ${width}, heads ${heads}`,
    );
  }
}

/** A model's dimensions as the `config.json` that Hugging Face transformers reads. */
export function toHuggingFaceConfig(
  { vocabularySize, contextLength, width, layers, heads }: GptConfig,
  { endOfText, dropout = 0 }: { endOfText: number; dropout?: number },
): Record<string, unknown> {
  return {
    activation_function: "gelu_new",
    architectures: ["GPT2LMHeadModel"],
    attn_pdrop: dropout,
    bos_token_id: endOfText,
    embd_pdrop: dropout,
    eos_token_id: endOfText,
    initializer_range: 0.02,
    layer_norm_epsilon: 1e-5,
    model_type: "gpt2",
    n_ctx: contextLength,
    n_embd: width,
    n_head: heads,
    n_inner: null,
    n_layer: layers,
    n_positions: contextLength,
    resid_pdrop: dropout,
    scale_attn_weights: true,
    tie_word_embeddings: true,
    use_cache: true,
    vocab_size: vocabularySize,
  };
}

/** What a `config.json` may say about the architecture, beside dimensions, for this code to run it. */
const REQUIRED: Readonly<Record<string, readonly unknown[]>> = {
  model_type: ["gpt2"],
  activation_function: ["gelu_new", "gelu_pytorch_tanh", undefined],
  layer_norm_epsilon: [1e-5, undefined],
  scale_attn_weights: [true, undefined],
  scale_attn_by_inverse_layer_idx: [false, undefined],
  tie_word_embeddings: [true, undefined],
};

/**
 * Reads the dimensions of a model from the text of its `config.json`.
 *
 * @param where the file's path, for error messages.
 * @throws {SyntaxError} if the text is no JSON object.
 * @throws {RangeError} if it describes another architecture or impossible dimensions.
 */
export function parseHuggingFaceConfig(json: string, where: string): GptConfig {
  let parsed: unknown;
  try {
    parsed = JSON.parse(json);
  } catch {
    throw new SyntaxError(`Cannot read ${where} as it must be JSON`);
  }
  if (typeof parsed !== "object" || parsed === null || Array.isArray(parsed)) {
    throw new SyntaxError(`Cannot read ${where} as it must be a JSON object`);
  }
  const fields = parsed as Record<string, unknown>;
  for (const [name, allowed] of Object.entries(REQUIRED)) {
    if (!allowed.includes(fields[name])) {
      throw new RangeError(
        `Cannot load ${where} as ${name} must be ${JSON.stringify(allowed[0])}: ` +
          `current value is ${JSON.stringify(fields[name])}`,
      );
    }
  }
  const inner = fields.n_inner;
  if (inner !== undefined && inner !== null && inner !== 4 * Number(fields.n_embd)) {
    throw new RangeError(
      `Cannot load ${where} as n_inner must be null or 4 · n_embd: current value is ${inner}`,
    );
  }
  const config: GptConfig = {
    vocabularySize: fields.vocab_size as number,
    contextLength: fields.n_positions as number,
    width: fields.n_embd as number,
    layers: fields.n_layer as number,
    heads: fields.n_head as number,
  };
  validateConfig(config);
  return config;
}
