import { checkFields, parseJsonObject } from "../../files/json.ts";
import { quoted } from "../../files/printable.ts";
import { UserError } from "../../files/user_error.ts";
import type { ActivationFunction } from "../../kernels/matmul/matmul.ts";
import { defaultsOf, type Family, type GptConfig, validateConfig } from "../config.ts";
import { linearModules, type ParameterSpec } from "../parameters.ts";

/**
 * How Hugging Face transformers describes and stores a model: the fields of `config.json`, and the names
 * and shapes of tensors, for the two families that this code runs.
 */

/** Values that a field of `config.json` may have, beside dimensions, for this code to compute the model. */
const REQUIRED: Readonly<Record<Family, Readonly<Record<string, readonly unknown[]>>>> = {
  gpt2: {
    scale_attn_weights: [true, false, undefined],
    scale_attn_by_inverse_layer_idx: [true, false, undefined],
    add_cross_attention: [false, undefined],
    tie_word_embeddings: [true, false, undefined],
  },
  gpt_neo: { tie_word_embeddings: [true, false, undefined] },
};

/** Activation functions by the names that transformers has for them, its preferred name of each first. */
const ACTIVATION_NAMES: Readonly<Record<ActivationFunction, readonly string[]>> = {
  gelu_new: ["gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_accurate"],
  gelu: ["gelu", "gelu_python"],
  relu: ["relu"],
  silu: ["silu", "swish"],
};

/** Fields with the dimensions. */
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

/** Most layers whose attention is read; `validateConfig()` allows no more. */
const MOST_LAYERS = 512;

/** GPT-Neo's window of local attention where `config.json` names none. */
const DEFAULT_WINDOW = 256;

/**
 * Reads the configuration of a model from the text of its `config.json`.
 *
 * @param where the file's path, for error messages.
 * @param tensors those of the model's files, whose shapes give dimensions that the text leaves out.
 * @throws {UserError} if the text is no JSON object, or if it describes another architecture or impossible
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
  const family = fields.model_type as Family;
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
    ...(epsilon === undefined ? {} : { layerNormEpsilon: epsilon }),
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

/** The dimensions that the shapes of a model's tensors show. */
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

/** A configuration without the fields that have their default. */
export function withoutDefaults(config: GptConfig): GptConfig {
  const defaults: Record<string, unknown> = defaultsOf(config);
  const fields = Object.entries(config).filter(([name, value]) =>
    !Object.hasOwn(defaults, name) || JSON.stringify(value) !== JSON.stringify(defaults[name])
  );
  return Object.fromEntries(fields) as unknown as GptConfig;
}

/** Most ids at which a text ends: each is compared with every token that is drawn. */
const MOST_END_IDS = 1000;

/**
 * Reads at which tokens a generated text ends, `eos_token_id`, from the text of a `generation_config.json` or
 * a `config.json`: one id or several, or none.
 *
 * @param where the file's path, for error messages.
 * @throws {UserError} if the text is no JSON object, or if `eos_token_id` holds anything but ids.
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

/** How far each layer of a GPT-Neo looks back, from `attention_types` such as [[["global","local"],2]]. */
function windowsOf(fields: Record<string, unknown>, where: string): number[] {
  const { num_layers, attention_types, window_size = DEFAULT_WINDOW } = fields;
  const kinds: unknown[] = [];
  for (const item of Array.isArray(attention_types) ? attention_types : []) {
    const [pattern, count] = Array.isArray(item) ? item : [];
    const fits = Array.isArray(pattern) && pattern.length > 0 && // or any count would fit
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
 * A model as the `config.json` that Hugging Face transformers reads.
 *
 * @throws {RangeError} if that file cannot express the model.
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

/** Every field of a configuration with its default, adapters aside, which have separate files. */
function architectureOf({ lora: _, ...config }: GptConfig): Record<string, unknown> {
  return { ...defaultsOf(config), ...config };
}

function fieldsOf(
  config: GptConfig,
  { endOfText, endIds = [endOfText], dropout = 0 }: Parameters<typeof toHuggingFaceConfig>[1],
): Record<string, unknown> {
  const { vocabularySize, contextLength, width, layers, heads, innerWidth = null } = config;
  const { activation, layerNormEpsilon } = { ...defaultsOf(config), ...config };
  const common = {
    activation_function: ACTIVATION_NAMES[activation][0],
    bos_token_id: endOfText,
    eos_token_id: oneOrAll(endIds),
    initializer_range: 0.02,
    layer_norm_epsilon: layerNormEpsilon,
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

/** Ids as transformers writes them: a number if there is one, or else a list. */
export function oneOrAll(ids: readonly number[]): number | readonly number[] {
  return ids.length === 1 ? ids[0]! : ids;
}

/** In the order of the names, as transformers writes them. */
function sorted(fields: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(fields).sort(([a], [b]) => a < b ? -1 : 1));
}

/** A tensor of a file that holds a parameter, or some of its columns. */
export interface StoredTensor {
  /** Name, without what `PREFIX` puts before it. */
  readonly name: string;
  /** Dimensions in the file. */
  readonly shape: readonly number[];
  /** Whether it is stored as [outputs,inputs]. */
  readonly transposed: boolean;
  /** First column of the parameter that is its. */
  readonly firstColumn: number;
}

/** The tensors that hold a parameter; adapters have files of their own. */
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

/** Prefix of every name but the head's in the file of a model with a head. */
const PREFIX = "transformer.";

/** A stored tensor's name in the files that this code writes. */
export function nameInFile(name: string): string {
  return name === HEAD ? name : PREFIX + name;
}

/** Prefixes of names: in a model with a head, after torch.compile(), and in parallel training. */
const PREFIXES: readonly string[] = [PREFIX, "_orig_mod.", "module."];

/**
 * The name of a stored tensor by that in a file, without its prefixes: models that are stored without a head have
 * none.
 */
export function nameFromFile(name: string): string {
  const prefix = PREFIXES.find((prefix) => name.startsWith(prefix));
  return prefix === undefined ? name : nameFromFile(name.slice(prefix.length));
}

/** The head's matrix, which files may hold although it is that of the token embedding. */
export const HEAD = "lm_head.weight";

/** Whether a tensor is one of the constants for masking that older versions of transformers stored. */
export function isMask(name: string): boolean {
  return /^h\.\d+\.attn\.(attention\.)?(masked_)?bias$/.test(name);
}
