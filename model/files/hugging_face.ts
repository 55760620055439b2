import { checkFields, parseJsonObject } from "../../files/json.ts";
import { quoted } from "../../files/printable.ts";
import { UserError } from "../../files/user_error.ts";
import type { ActivationFunction } from "../../kernels/activation.ts";
import {
  type Family,
  type GptConfig,
  validateConfig,
  withDefaults,
  withoutDefaults,
} from "../config.ts";
import { linearModules, type ParameterSpec } from "../parameters.ts";

/**
 * Models of the supported families as Hugging Face transformers describes and stores them: the fields of
 * `config.json`, and names and shapes of tensors.
 *
 * @module
 */

/** Families whose files are read and written. */
type StoredFamily = Exclude<Family, "llama">;

/** Supported values of fields of `config.json` that are not dimensions. */
const REQUIRED: Readonly<Record<StoredFamily, Readonly<Record<string, readonly unknown[]>>>> = {
  gpt2: {
    scale_attn_weights: [true, false, undefined],
    scale_attn_by_inverse_layer_idx: [true, false, undefined],
    add_cross_attention: [false, undefined],
    tie_word_embeddings: [true, false, undefined],
  },
  gpt_neo: { tie_word_embeddings: [true, false, undefined] },
};

/** Names of each activation function in transformers; the first is the one that is written. */
const ACTIVATION_NAMES: Readonly<Record<ActivationFunction, readonly string[]>> = {
  gelu_new: ["gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_accurate"],
  gelu: ["gelu", "gelu_python"],
  relu: ["relu"],
  relu2: ["relu2"],
  silu: ["silu", "swish"],
};

/** Fields of the dimensions. */
const DIMENSIONS = {
  gpt2: {
    vocabularySize: "vocab_size",
    contextLength: "n_positions",
    width: "n_embd",
    layers: "n_layer",
    heads: "n_head",
    innerWidth: "n_inner",
  },
  gpt_neo: {
    vocabularySize: "vocab_size",
    contextLength: "max_position_embeddings",
    width: "hidden_size",
    layers: "num_layers",
    heads: "num_heads",
    innerWidth: "intermediate_size",
  },
} as const;

/** Most layers in `attention_types`; `validateConfig()` allows no more. */
const MOST_LAYERS = 512;

/** GPT-Neo's window of local attention if `config.json` has none. */
const DEFAULT_WINDOW = 256;

/**
 * Parses a `config.json`.
 *
 * @param where path of the file, for error messages.
 * @param tensors of the model's files; their shapes supply the dimensions that the text leaves out.
 * @throws {UserError} if the text is not a JSON object, or if it describes another architecture or impossible
 * dimensions.
 */
export function parseHuggingFaceConfig(
  json: string,
  where: string,
  tensors: ReadonlyMap<string, { readonly shape: readonly number[] }> = new Map(),
): GptConfig {
  const fields = parseJsonObject(json, where);
  const check = (name: string, allowed: readonly unknown[]) => {
    if (allowed.includes(fields[name])) return;
    const values = allowed.filter((value) => value !== undefined).map((v) => JSON.stringify(v));
    throw new UserError(
      `Cannot load ${where} as ${name} must be ${values.join(" or ")}: ` +
        `current value is ${quoted(fields[name])}`,
    );
  };
  check("model_type", Object.keys(REQUIRED));
  const family = fields.model_type as StoredFamily;
  for (const [name, allowed] of Object.entries(REQUIRED[family])) check(name, allowed);
  check("activation_function", [...Object.values(ACTIVATION_NAMES).flat(), undefined]);
  const { activation_function: activationName, layer_norm_epsilon: epsilon } = fields;
  const [activation] = Object.entries(ACTIVATION_NAMES)
    .find(([, names]) => names.includes(activationName as string)) ?? [];
  if (epsilon !== undefined && typeof epsilon !== "number") {
    throw new UserError(
      `Cannot load ${where} as layer_norm_epsilon must be a number: current value is ${
        quoted(epsilon)
      }`,
    );
  }

  const names = DIMENSIONS[family];
  if (family === "gpt2") fields.n_positions ??= fields.n_ctx; // its name in GPT-2's first configurations
  for (const [name, size] of Object.entries(dimensionsOf(tensors))) {
    fields[names[name as keyof typeof names]] ??= size;
  }
  const { innerWidth: inner, ...others } = names;
  const kinds = Object.values(others).map((name) => [name, "whole"] as const);
  checkFields(
    fields,
    { ...Object.fromEntries(kinds), [inner]: "whole?" },
    (requirement, value) =>
      new UserError(`Cannot load ${where} as ${requirement}: current value is ${quoted(value)}`),
  );
  const dimension = (name: keyof typeof names) => fields[names[name]] as number;
  const innerWidth = dimension("innerWidth") ?? undefined;
  const config: GptConfig = {
    vocabularySize: dimension("vocabularySize"),
    contextLength: dimension("contextLength"),
    width: dimension("width"),
    layers: dimension("layers"),
    heads: dimension("heads"),
    ...(innerWidth === undefined ? {} : { innerWidth }),
    ...(fields.tie_word_embeddings === false ? { ownHead: true } : {}),
    ...(activation === undefined ? {} : { activation: activation as ActivationFunction }),
    ...(epsilon === undefined ? {} : { normEpsilon: epsilon }),
    ...(family === "gpt_neo"
      ? { family, attentionScale: 1, attentionWindows: windowsOf(fields, where) }
      : fields.scale_attn_weights === false
      ? { attentionScale: 1 }
      : {}),
    ...(fields.scale_attn_by_inverse_layer_idx === true ? { attentionScaleByLayer: true } : {}),
  };
  validateConfig(config, `load ${where}`);
  return withoutDefaults(config);
}

/** Infers dimensions from the names and shapes of a model's tensors. */
function dimensionsOf(
  tensors: ReadonlyMap<string, { readonly shape: readonly number[] }>,
): Partial<Record<keyof typeof DIMENSIONS.gpt2, number>> {
  const shapes = new Map(Array.from(tensors, ([name, { shape }]) => [nameFromFile(name), shape]));
  const [embedding, positions] = [shapes.get("wte.weight"), shapes.get("wpe.weight")];
  let layers = 0;
  for (const name of shapes.keys()) {
    layers = Math.max(layers, 1 + Number(/^h\.(\d{1,4})\./.exec(name)?.[1] ?? -1));
  }
  return {
    ...(embedding?.length === 2 ? { vocabularySize: embedding[0]!, width: embedding[1]! } : {}),
    ...(positions?.length === 2 ? { contextLength: positions[0]! } : {}),
    ...(layers > 0 ? { layers } : {}),
  };
}

/** Most ids that end a text: each is compared with every generated token. */
const MOST_END_IDS = 1000;

/**
 * Parses the ids that end a generated text, `eos_token_id` of a `generation_config.json` or a `config.json`: one id,
 * several, or none.
 *
 * @param where path of the file, for error messages.
 * @throws {UserError} if the text is not a JSON object, or if `eos_token_id` holds anything except ids.
 */
export function parseEndIds(json: string, where: string): number[] {
  const { eos_token_id: ids } = parseJsonObject(json, where);
  const list: unknown[] = Array.isArray(ids) ? ids : ids === undefined || ids === null ? [] : [ids];
  if (list.length <= MOST_END_IDS && list.every(Number.isSafeInteger)) {
    return [...new Set(list as number[])];
  }
  throw new UserError(
    `Cannot load ${where} as eos_token_id must be a whole number or a list of at most ` +
      `${MOST_END_IDS}: current value is ${quoted(ids)}`,
  );
}

/** Window of each layer of a GPT-Neo, from `attention_types` such as [[["global","local"],2]]. */
function windowsOf(fields: Record<string, unknown>, where: string): number[] {
  const { num_layers, attention_types, window_size = DEFAULT_WINDOW } = fields;
  const kinds: unknown[] = [];
  for (const item of Array.isArray(attention_types) ? attention_types : []) {
    const [pattern, count] = Array.isArray(item) ? item : [];
    const fits = Array.isArray(pattern) && pattern.length > 0 && // with an empty pattern any count would fit
      Number.isSafeInteger(count) && count >= 1 &&
      kinds.length + pattern.length * count <= Math.min(num_layers as number, MOST_LAYERS);
    if (!fits) {
      kinds.push(undefined);
      break;
    }
    for (let i = 0; i < count; i++) kinds.push(...pattern);
  }
  if (
    kinds.length !== num_layers || !kinds.every((kind) => kind === "global" || kind === "local")
  ) {
    throw new UserError(
      `Cannot load ${where} as attention_types must say global or local for each of ${num_layers} layers: ` +
        `current value is ${quoted(attention_types)}`,
    );
  }
  if (!Number.isInteger(window_size) || window_size as number < 1) {
    throw new UserError(
      `Cannot load ${where} as window_size must be a positive integer: ` +
        `current value is ${quoted(window_size)}`,
    );
  }
  return kinds.map((kind) => kind === "global" ? 0 : window_size as number);
}

/**
 * Makes the `config.json` of a model, which Hugging Face transformers reads.
 *
 * @throws {RangeError} if that file cannot describe the model.
 */
export function toHuggingFaceConfig(
  config: GptConfig,
  options: { endOfText: number; endIds?: readonly number[] | undefined; dropout?: number },
): Record<string, unknown> {
  const fields = fieldsOf(config, options);
  const read = parseHuggingFaceConfig(JSON.stringify(fields), "config.json");
  const [wanted, expressed] = [config, read].map(architectureOf);
  const lost = Object.keys(wanted!)
    .filter((name) => JSON.stringify(wanted![name]) !== JSON.stringify(expressed![name]));
  if (lost.length > 0) {
    throw new RangeError(
      `Cannot write config.json as a ${config.family ?? "gpt2"} must be as transformers has it: ` +
        `current ${lost.map((name) => `${name} is ${quoted(wanted![name])}`).join(", ")}`,
    );
  }
  return fields;
}

/** A configuration with all defaults, without adapters, which have separate files. */
function architectureOf({ lora: _, ...config }: GptConfig): Record<string, unknown> {
  return withDefaults(config);
}

function fieldsOf(
  config: GptConfig,
  { endOfText, endIds = [endOfText], dropout = 0 }: Parameters<typeof toHuggingFaceConfig>[1],
): Record<string, unknown> {
  const { vocabularySize, contextLength, width, layers, heads, innerWidth = null } = config;
  const { activation, normEpsilon } = withDefaults(config);
  const common = {
    activation_function: ACTIVATION_NAMES[activation][0],
    bos_token_id: endOfText,
    eos_token_id: oneOrAll(endIds),
    initializer_range: 0.02,
    layer_norm_epsilon: normEpsilon,
    tie_word_embeddings: !config.ownHead,
    use_cache: true,
    vocab_size: vocabularySize,
  };
  if (config.family === "gpt_neo") {
    const windows = config.attentionWindows ?? new Array<number>(layers).fill(0);
    const kinds = windows.map((window) => window === 0 ? "global" : "local");
    return sorted({
      ...common,
      architectures: ["GPTNeoForCausalLM"],
      attention_dropout: dropout,
      attention_layers: kinds,
      attention_types: [[kinds, 1]],
      embed_dropout: dropout,
      hidden_size: width,
      intermediate_size: innerWidth,
      max_position_embeddings: contextLength,
      model_type: "gpt_neo",
      num_heads: heads,
      num_layers: layers,
      resid_dropout: dropout,
      window_size: windows.find((window) => window > 0) ?? DEFAULT_WINDOW,
    });
  }
  return sorted({
    ...common,
    architectures: ["GPT2LMHeadModel"],
    attn_pdrop: dropout,
    embd_pdrop: dropout,
    model_type: "gpt2",
    n_ctx: contextLength,
    n_embd: width,
    n_head: heads,
    n_inner: innerWidth,
    n_layer: layers,
    n_positions: contextLength,
    resid_pdrop: dropout,
    ...(config.attentionScaleByLayer ? { scale_attn_by_inverse_layer_idx: true } : {}),
    scale_attn_weights: config.attentionScale === undefined,
  });
}

/** Ids as transformers writes them: a single one as a number, others as a list. */
export function oneOrAll(ids: readonly number[]): number | readonly number[] {
  return ids.length === 1 ? ids[0]! : ids;
}

/** Sorts fields by name, as transformers does. */
function sorted(fields: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(fields).sort(([a], [b]) => a < b ? -1 : 1));
}

/** A tensor of a file that holds a parameter, or some columns of it. */
export interface StoredTensor {
  /** Name without `PREFIX`. */
  readonly name: string;
  /** Dimensions in the file. */
  readonly shape: readonly number[];
  /** Whether it is stored as [outputs,inputs]. */
  readonly transposed: boolean;
  /** First of the parameter's columns that it holds. */
  readonly firstColumn: number;
}

/** The tensors of a file that hold a parameter; adapters have separate files. */
export function storedTensors(config: GptConfig, spec: ParameterSpec): StoredTensor[] {
  const { name, shape } = spec;
  const asItIs = { name, shape, transposed: false, firstColumn: 0 };
  const [, block, parameter, kind] = /^(h\.\d+\.)(.+)\.(weight|bias)$/.exec(name) ?? [];
  if (config.family !== "gpt_neo" || block === undefined) return [asItIs];
  const modules = linearModules(config).filter((module) => module.parameter === parameter);
  if (modules.length === 0) return [asItIs]; // a layer-norm
  return modules.map(({ name, firstColumn, inputs, outputs }) => ({
    name: `${block}${name}.${kind}`,
    shape: kind === "weight" ? [outputs, inputs] : [outputs],
    transposed: kind === "weight",
    firstColumn,
  }));
}

/** Prefix of every name except the head's in the file of a model with a head. */
const PREFIX = "transformer.";

/** The name under which a tensor is written. */
export function nameInFile(name: string): string {
  return name === HEAD ? name : PREFIX + name;
}

/** Prefixes of names: in a model with a head, after torch.compile(), and in parallel training. */
const PREFIXES: readonly string[] = [PREFIX, "_orig_mod.", "module."];

/**
 * Removes the prefixes from the name of a tensor in a file. Models that are stored without a head have none.
 */
export function nameFromFile(name: string): string {
  const prefix = PREFIXES.find((prefix) => name.startsWith(prefix));
  return prefix === undefined ? name : nameFromFile(name.slice(prefix.length));
}

/** Name of the head's matrix, which a file may hold even if it equals the token embedding. */
export const HEAD = "lm_head.weight";

/** Whether a tensor is an attention mask, which older versions of transformers stored. */
export function isMask(name: string): boolean {
  return /^h\.\d+\.attn\.(attention\.)?(masked_)?bias$/.test(name);
}
