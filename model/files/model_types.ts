import { checkFields, isObject, type JsonObject } from "../../files/json.ts";
import { quoted } from "../../files/printable.ts";
import { UserError } from "../../files/user_error.ts";
import type { ActivationFunction } from "../../kernels/activation.ts";
import type { RotaryScaling } from "../../kernels/rope/rotation.ts";
import { type Family, type GptConfig, withDefaults } from "../config.ts";

/**
 * The classes of transformers that are supported: how the `config.json` of each describes a model, field by field.
 *
 * @module
 */

/** Names of each activation function in transformers; the first is the one that is written. */
export const ACTIVATION_NAMES: Readonly<Record<ActivationFunction, readonly string[]>> = {
  gelu_new: ["gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_accurate"],
  gelu: ["gelu", "gelu_python"],
  relu: ["relu"],
  relu2: ["relu2"],
  silu: ["silu", "swish"],
};

/** Dimensions, which every `config.json` has. */
export type Dimension =
  | "vocabularySize"
  | "contextLength"
  | "width"
  | "layers"
  | "heads"
  | "innerWidth";

/** What `config.json` holds besides dimensions, activation function and head. */
export interface ModelType {
  readonly family: Family;
  /** Class of transformers. */
  readonly architecture: string;
  /** Names of fields: of the dimensions, of the activation function, and of what norms add. */
  readonly names: Readonly<Record<Dimension | "activation" | "normEpsilon", string>>;
  /** What norms add if the file does not say it. */
  readonly normEpsilon: number;
  /** Whether the token embedding is the head's matrix if the file does not say it. */
  readonly tied: boolean;
  /** Whether `innerWidth` may be left out. */
  readonly hasDefaultInnerWidth?: true;
  /** Supported values of other fields. */
  readonly allowed: Readonly<Record<string, readonly unknown[]>>;
  /** The fields of a configuration that other fields of the file decide. */
  read(fields: JsonObject, where: string): Partial<GptConfig>;
  /** The other fields of the file. */
  write(config: GptConfig, options: { dropout: number }): JsonObject;
}

/** Values of a field that says yes or no. */
const YES_OR_NO: readonly unknown[] = [true, false, undefined, null];

/** Values of a field of something that is not supported. */
const NONE: readonly unknown[] = [undefined, null, false, 0];

/** Names that Llama, Mistral and Qwen3 share. */
const LLAMA_NAMES: ModelType["names"] = {
  vocabularySize: "vocab_size",
  contextLength: "max_position_embeddings",
  width: "hidden_size",
  layers: "num_hidden_layers",
  heads: "num_attention_heads",
  innerWidth: "intermediate_size",
  activation: "hidden_act",
  normEpsilon: "rms_norm_eps",
};

/** What Llama, Mistral and Qwen3 share. */
const LLAMA_LIKE = {
  family: "llama",
  names: LLAMA_NAMES,
  normEpsilon: 1e-6,
  tied: false,
} as const;

/** Experts and quantized weights, which no supported model has, by the names of their fields. */
const LLAMA_ALLOWED: ModelType["allowed"] = {
  tie_word_embeddings: YES_OR_NO,
  num_experts: NONE,
  num_local_experts: NONE,
  n_routed_experts: NONE,
  quantization_config: NONE,
  partial_rotary_factor: [1, undefined, null],
};

/** The supported models, by their `model_type`. Of several that express a configuration the first is written. */
export const MODEL_TYPES: Readonly<Record<string, ModelType>> = {
  gpt2: {
    family: "gpt2",
    architecture: "GPT2LMHeadModel",
    names: {
      vocabularySize: "vocab_size",
      contextLength: "n_positions",
      width: "n_embd",
      layers: "n_layer",
      heads: "n_head",
      innerWidth: "n_inner",
      activation: "activation_function",
      normEpsilon: "layer_norm_epsilon",
    },
    normEpsilon: 1e-5,
    tied: true,
    hasDefaultInnerWidth: true,
    allowed: {
      scale_attn_weights: [true, false, undefined],
      scale_attn_by_inverse_layer_idx: [true, false, undefined],
      add_cross_attention: [false, undefined],
      tie_word_embeddings: [true, false, undefined],
    },
    read: (fields) => ({
      ...(fields.scale_attn_weights === false ? { attentionScale: 1 } : {}),
      ...(fields.scale_attn_by_inverse_layer_idx === true ? { attentionScaleByLayer: true } : {}),
    }),
    write: (config, { dropout }) => ({
      attn_pdrop: dropout,
      embd_pdrop: dropout,
      n_ctx: config.contextLength,
      resid_pdrop: dropout,
      ...(config.attentionScaleByLayer ? { scale_attn_by_inverse_layer_idx: true } : {}),
      scale_attn_weights: config.attentionScale === undefined,
    }),
  },
  gpt_neo: {
    family: "gpt_neo",
    architecture: "GPTNeoForCausalLM",
    names: {
      vocabularySize: "vocab_size",
      contextLength: "max_position_embeddings",
      width: "hidden_size",
      layers: "num_layers",
      heads: "num_heads",
      innerWidth: "intermediate_size",
      activation: "activation_function",
      normEpsilon: "layer_norm_epsilon",
    },
    normEpsilon: 1e-5,
    tied: true,
    hasDefaultInnerWidth: true,
    allowed: { tie_word_embeddings: [true, false, undefined] },
    read: (fields, where) => ({ attentionScale: 1, attentionWindows: windowsOfNeo(fields, where) }),
    write: ({ attentionWindows: windows = [], layers }, { dropout }) => {
      const kinds = Array.from({ length: layers }, (_, i) => windows[i] ? "local" : "global");
      return {
        attention_dropout: dropout,
        attention_layers: kinds,
        attention_types: [[kinds, 1]],
        embed_dropout: dropout,
        resid_dropout: dropout,
        window_size: windows.find((window) => window > 0) ?? DEFAULT_WINDOW,
      };
    },
  },
  gpt_neox: {
    family: "gpt_neox",
    architecture: "GPTNeoXForCausalLM",
    names: { ...LLAMA_NAMES, normEpsilon: "layer_norm_eps" },
    normEpsilon: 1e-5,
    tied: false,
    allowed: {
      tie_word_embeddings: YES_OR_NO,
      attention_bias: YES_OR_NO,
      use_parallel_residual: [false], // true if absent
      partial_rotary_factor: [1, undefined, null],
      quantization_config: NONE,
    },
    read: ({ rotary_emb_base: rope_theta = 10_000, rotary_pct = 0.25, ...fields }, where) => ({
      ...readRotary({ ...fields, rope_theta }, where, { rotary_pct }),
      ...(fields.attention_bias === false ? { qkvBias: false, projectionBias: false } : {}),
      ...(fields.hidden_act === undefined ? { activation: "gelu" } : {}),
    }),
    write: (config, { dropout }) => {
      const { rope_parameters, rope_scaling, rope_theta } = writeRotary(config);
      return {
        attention_bias: withDefaults(config).qkvBias,
        attention_dropout: dropout,
        hidden_dropout: dropout,
        rope_parameters: { partial_rotary_factor: 1, ...rope_parameters },
        rope_scaling,
        rotary_emb_base: rope_theta,
        rotary_pct: 1,
        use_parallel_residual: false,
      };
    },
  },
  llama: {
    ...LLAMA_LIKE,
    architecture: "LlamaForCausalLM",
    allowed: { ...LLAMA_ALLOWED, attention_bias: YES_OR_NO, mlp_bias: YES_OR_NO },
    read: (fields, where) => ({
      ...readHeads(fields, where, {}),
      ...readRotary(fields, where),
      ...readAttentionBias(fields),
      mlpBias: fields.mlp_bias === true,
    }),
    write: (config, options) => ({
      ...writeLlama(config, options),
      attention_bias: withDefaults(config).qkvBias,
      mlp_bias: withDefaults(config).mlpBias,
    }),
  },
  mistral: {
    ...LLAMA_LIKE,
    architecture: "MistralForCausalLM",
    allowed: LLAMA_ALLOWED,
    read: (fields, where) => {
      const { sliding_window = 4096, num_hidden_layers } = fields;
      return {
        ...readHeads(fields, where, { keyHeads: 8 }),
        ...readRotary(fields, where),
        ...(sliding_window === null ? {} : {
          attentionWindows: listOf(num_hidden_layers, readWindow(sliding_window, where)),
        }),
      };
    },
    write: (config, options) => ({
      ...writeLlama(config, options),
      sliding_window: windowOf(config),
    }),
  },
  qwen3: {
    ...LLAMA_LIKE,
    architecture: "Qwen3ForCausalLM",
    allowed: { ...LLAMA_ALLOWED, attention_bias: YES_OR_NO, use_sliding_window: YES_OR_NO },
    read: (fields, where) => ({
      qkNorm: true,
      ...readHeads(fields, where, { keyHeads: 32, headSize: 128 }),
      ...readRotary(fields, where),
      ...readAttentionBias(fields),
      ...readWindowsOfQwen(fields, where),
    }),
    write: (config, options) => {
      const window = windowOf(config), { attentionWindows } = withDefaults(config);
      return {
        ...writeLlama(config, options),
        attention_bias: withDefaults(config).qkvBias,
        layer_types: attentionWindows.map((n) => n > 0 ? "sliding_attention" : "full_attention"),
        max_window_layers: Math.max(0, attentionWindows.findIndex((n) => n > 0)),
        sliding_window: window,
        use_sliding_window: window !== null,
      };
    },
  },
};

/** GPT-Neo's window of local attention if `config.json` has none. */
const DEFAULT_WINDOW = 256;

/** Number and size of the heads of a llama; `defaults` are those of its class for absent fields. */
function readHeads(
  fields: JsonObject,
  where: string,
  defaults: { keyHeads?: number; headSize?: number },
): Partial<GptConfig> {
  const {
    num_key_value_heads: keyHeads = defaults.keyHeads,
    head_dim: headSize = defaults.headSize,
  } = fields;
  checkFields(
    { num_key_value_heads: keyHeads, head_dim: headSize },
    { num_key_value_heads: "whole?", head_dim: "whole?" },
    (requirement, value) => refusal(where, requirement, value),
  );
  return {
    ...(typeof keyHeads === "number" ? { keyHeads } : {}),
    ...(typeof headSize === "number" ? { headSize } : {}),
  };
}

function readAttentionBias(fields: JsonObject): Partial<GptConfig> {
  const hasBias = fields.attention_bias === true;
  return { qkvBias: hasBias, projectionBias: hasBias };
}

/** Names of the fields of scaled rotary positions, by their names here. */
export const SCALING_NAMES = {
  factor: "factor",
  lowFrequencyFactor: "low_freq_factor",
  highFrequencyFactor: "high_freq_factor",
  originalContextLength: "original_max_position_embeddings",
} as const;

/**
 * Rotary positions, from `rope_parameters` of transformers 5, or from `rope_theta` and `rope_scaling` of older
 * versions.
 *
 * @param options.rotary_pct the rotated part of a head if `rope_parameters` does not say it.
 */
function readRotary(
  fields: JsonObject,
  where: string,
  { rotary_pct }: { rotary_pct: unknown } = { rotary_pct: 1 },
): Partial<GptConfig> {
  const field = isEmpty(fields.rope_scaling) ? "rope_parameters" : "rope_scaling";
  const given = fields[field] ?? {};
  if (!isObject(given)) throw refusal(where, `${field} must be an object`, given);
  const byLayer = ["full_attention", "sliding_attention"].find((name) =>
    Object.hasOwn(given, name)
  );
  if (byLayer !== undefined) {
    throw refusal(where, `${field} must be the same for all layers, without ${byLayer}`, given);
  }
  const { rope_theta: base = fields.rope_theta ?? 10_000, partial_rotary_factor: part = 1 } = given;
  if (given.partial_rotary_factor === undefined && rotary_pct !== 1) {
    throw refusal(where, "rotary_pct must be 1, all components of heads", rotary_pct);
  }
  if (typeof base !== "number") throw refusal(where, "rope_theta must be a number", base);
  if (part !== 1 && part !== null) {
    throw refusal(where, `partial_rotary_factor of ${field} must be 1`, part);
  }
  const type = given.rope_type ?? given.type ?? "default";
  if (type === "default") return { rotaryBase: base };
  if (type !== "linear" && type !== "llama3") {
    throw refusal(where, `rope_type of ${field} must be default, linear or llama3`, type);
  }
  const withContext: JsonObject = {
    original_max_position_embeddings: fields.original_max_position_embeddings ??
      fields.max_position_embeddings,
    ...given,
  };
  const number = (name: keyof typeof SCALING_NAMES) => {
    const value = withContext[SCALING_NAMES[name]];
    if (typeof value === "number") return value;
    throw refusal(where, `${SCALING_NAMES[name]} of ${field} must be a number`, value);
  };
  return { rotaryBase: base, rotaryScaling: scalingOf(type, number) };
}

function scalingOf(
  type: RotaryScaling["type"],
  number: (name: keyof typeof SCALING_NAMES) => number,
): RotaryScaling {
  return type === "linear" ? { type, factor: number("factor") } : {
    type,
    factor: number("factor"),
    lowFrequencyFactor: number("lowFrequencyFactor"),
    highFrequencyFactor: number("highFrequencyFactor"),
    originalContextLength: number("originalContextLength"),
  };
}

function isEmpty(value: unknown): boolean {
  return value === undefined || value === null ||
    (isObject(value) && Object.keys(value).length === 0);
}

/** The fields that Llama, Mistral and Qwen3 share. */
function writeLlama(config: GptConfig, { dropout }: { dropout: number }): JsonObject {
  const { keyHeads, headSize } = withDefaults(config);
  return {
    attention_dropout: dropout,
    head_dim: headSize,
    num_key_value_heads: keyHeads,
    ...writeRotary(config),
  };
}

/** The fields of rotary positions. */
function writeRotary(config: GptConfig) {
  const { rotaryBase, rotaryScaling } = withDefaults(config);
  const { type = "default", ...numbers } = rotaryScaling ?? {};
  const scaling = Object.entries(numbers)
    .map(([name, value]) => [SCALING_NAMES[name as keyof typeof SCALING_NAMES], value]);
  return {
    rope_parameters: { ...Object.fromEntries(scaling), rope_theta: rotaryBase, rope_type: type },
    // before version 5 transformers reads these
    rope_scaling: rotaryScaling ? { ...Object.fromEntries(scaling), rope_type: type } : null,
    rope_theta: rotaryBase,
  };
}

/** The window of the layers that have one; null if none has. */
function windowOf({ attentionWindows = [] }: GptConfig): number | null {
  return attentionWindows.find((window) => window > 0) ?? null;
}

function readWindow(window: unknown, where: string): number {
  if (Number.isSafeInteger(window) && window as number >= 1) return window as number;
  throw refusal(where, "sliding_window must be a positive integer", window);
}

/** A list that repeats a value for each layer, whose number is checked. */
function listOf<Value>(layers: unknown, value: Value): Value[] {
  return new Array<Value>(layers as number).fill(value);
}

/** Window of each layer of a Qwen3. */
function readWindowsOfQwen(fields: JsonObject, where: string): Partial<GptConfig> {
  const { use_sliding_window: isUsed, sliding_window: window = 4096, layer_types } = fields;
  const { max_window_layers: first = 28 } = fields, layers = fields.num_hidden_layers as number;
  const known: readonly unknown[] = ["full_attention", "sliding_attention"];
  if (
    !isEmpty(layer_types) && !(Array.isArray(layer_types) && layer_types.length === layers &&
      layer_types.every((type) => known.includes(type)))
  ) {
    throw refusal(
      where,
      `layer_types must say ${known.join(" or ")} for each of ${layers} layers`,
      layer_types,
    );
  }
  if (isEmpty(layer_types) && isUsed === true && !Number.isSafeInteger(first)) {
    throw refusal(where, "max_window_layers must be a whole number", first);
  }
  const isLocal = Array.isArray(layer_types)
    ? layer_types.map((type) => type === "sliding_attention")
    : Array.from({ length: layers }, (_, i) => isUsed === true && i >= (first as number));
  if (!isLocal.includes(true)) return {};
  if (isUsed !== true) {
    throw refusal(where, "use_sliding_window must be true with sliding layer_types", isUsed);
  }
  if (window === null) return {};
  const size = readWindow(window, where);
  return { attentionWindows: isLocal.map((local) => local ? size : 0) };
}

/** Window of each layer of a GPT-Neo, from `attention_types` such as [[["global","local"],2]]. */
function windowsOfNeo(fields: JsonObject, where: string): number[] {
  const { num_layers, attention_types, window_size = DEFAULT_WINDOW } = fields;
  const kinds: unknown[] = [];
  for (const item of Array.isArray(attention_types) ? attention_types : []) {
    const [pattern, count] = Array.isArray(item) ? item : [];
    const fits = Array.isArray(pattern) && pattern.length > 0 && // with an empty pattern any count would fit
      Number.isSafeInteger(count) && count >= 1 &&
      kinds.length + pattern.length * count <= (num_layers as number);
    if (!fits) {
      kinds.push(undefined);
      break;
    }
    for (let i = 0; i < count; i++) kinds.push(...pattern);
  }
  if (
    kinds.length !== num_layers || !kinds.every((kind) => kind === "global" || kind === "local")
  ) {
    throw refusal(
      where,
      `attention_types must say global or local for each of ${num_layers} layers`,
      attention_types,
    );
  }
  if (!Number.isInteger(window_size) || window_size as number < 1) {
    throw refusal(where, "window_size must be a positive integer", window_size);
  }
  return kinds.map((kind) => kind === "global" ? 0 : window_size as number);
}

/** The error for a field of a `config.json`. */
export function refusal(where: string, requirement: string, value: unknown): UserError {
  return new UserError(`Cannot load ${where} as ${requirement}: current value is ${quoted(value)}`);
}
