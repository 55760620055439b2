import { checkFields, type FieldKind, type JsonObject, parseJsonObject } from "../../files/json.ts";
import { printable, quoted } from "../../files/printable.ts";
import { UserError } from "../../files/user_error.ts";
import type { ActivationFunction } from "../../kernels/activation.ts";
import {
  type Family,
  type GptConfig,
  LARGEST,
  validateConfig,
  withDefaults,
  withoutDefaults,
} from "../config.ts";
import {
  ACTIVATION_NAMES,
  type Dimension,
  MODEL_TYPES,
  refusal,
  SCALING_NAMES,
} from "./model_types.ts";
import { nameFromFile, storedName } from "./tensor_names.ts";

/**
 * The `config.json` of a model, as Hugging Face transformers describes it, or if no class there computes it, with the
 * fields of `GptConfig`.
 *
 * @module
 */

/** `model_type` of a checkpoint whose model no class of transformers computes: its fields are those of `GptConfig`. */
const OWN_TYPE = "toy_transformer";

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
    throw refusal(where, `${name} must be ${values.join(" or ")}`, fields[name]);
  };
  check("model_type", [...Object.keys(MODEL_TYPES), OWN_TYPE]);
  if (fields.model_type === OWN_TYPE) return parseOwnConfig(fields, where);
  const type = MODEL_TYPES[fields.model_type as string]!, { names, family } = type;
  for (const [name, allowed] of Object.entries(type.allowed)) check(name, allowed);
  check(names.activation, [...Object.values(ACTIVATION_NAMES).flat(), undefined]);
  const [activation] = Object.entries(ACTIVATION_NAMES)
    .find(([, names]) => names.includes(fields[type.names.activation] as string)) ?? [];
  const { [names.normEpsilon]: normEpsilon = type.normEpsilon } = fields;
  if (typeof normEpsilon !== "number") {
    throw refusal(where, `${names.normEpsilon} must be a number`, normEpsilon);
  }

  if (family === "gpt2") fields.n_positions ??= fields.n_ctx; // its name in GPT-2's first configurations
  for (const [name, size] of Object.entries(inferDimensions(tensors, family))) {
    fields[names[name as Dimension]] ??= size;
  }
  const { innerWidth: inner, activation: _, normEpsilon: __, ...others } = names;
  const kinds = Object.values(others).map((name) => [name, "whole"] as const);
  checkFields(
    fields,
    { ...Object.fromEntries(kinds), [inner]: type.hasDefaultInnerWidth ? "whole?" : "whole" },
    (requirement, value) => refusal(where, requirement, value),
  );
  const dimension = (name: Dimension) => fields[names[name]] as number;
  const innerWidth = dimension("innerWidth") ?? undefined;
  const dimensions = {
    vocabularySize: dimension("vocabularySize"),
    contextLength: dimension("contextLength"),
    width: dimension("width"),
    layers: dimension("layers"),
    heads: dimension("heads"),
  };
  checkLayers(dimensions.layers, names.layers, where);
  const config: GptConfig = {
    ...dimensions,
    family,
    ...(innerWidth === undefined ? {} : { innerWidth }),
    ...((fields.tie_word_embeddings ?? type.tied) === false ? { ownHead: true } : {}),
    ...(activation === undefined ? {} : { activation: activation as ActivationFunction }),
    normEpsilon,
    ...type.read(fields, where),
  };
  validateConfig(config, `load ${where}`);
  return withoutDefaults(config);
}

/** Checks the number of layers before anything is listed for each. */
function checkLayers(layers: number, name: string, where: string): void {
  if (layers >= 1 && layers <= LARGEST.layers) return;
  throw refusal(where, `${name} must be from 1 to ${LARGEST.layers}`, layers);
}

/** Infers dimensions from the names and shapes of a model's tensors. */
function inferDimensions(
  tensors: ReadonlyMap<string, { readonly shape: readonly number[] }>,
  family: Family,
): Partial<Record<Dimension, number>> {
  const shapes = new Map(Array.from(tensors, ([name, { shape }]) => [nameFromFile(name), shape]));
  const [embedding, positions] = ["wte.weight", "wpe.weight"]
    .map((name) => shapes.get(storedName(name, family)));
  let layers = 0;
  for (const name of shapes.keys()) {
    layers = Math.max(layers, 1 + Number(/^(?:h|layers)\.(\d{1,4})\./.exec(name)?.[1] ?? -1));
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
  throw refusal(
    where,
    `eos_token_id must be a whole number or a list of at most ${MOST_END_IDS}`,
    ids,
  );
}

/** Types of the fields of `GptConfig` in a checkpoint; adapters have separate files. */
const OWN_FIELDS = {
  vocabularySize: "whole",
  contextLength: "whole",
  width: "whole",
  layers: "whole",
  heads: "whole",
  family: "text?",
  keyHeads: "whole?",
  headSize: "whole?",
  innerWidth: "whole?",
  activation: "text?",
  gatedMlp: "boolean?",
  norm: "text?",
  normEpsilon: "number?",
  positions: "text?",
  rotaryBase: "number?",
  rotaryScaling: "object?",
  qkvBias: "boolean?",
  projectionBias: "boolean?",
  mlpBias: "boolean?",
  qkNorm: "boolean?",
  ownHead: "boolean?",
  attentionScale: "number?",
  attentionScaleByLayer: "boolean?",
  attentionWindows: "list?",
} as const satisfies Record<Exclude<keyof GptConfig, "lora">, FieldKind>;

/** Fields beside these. */
const OWN_EXTRAS: readonly string[] = [
  "model_type",
  "bos_token_id",
  "eos_token_id",
  "dropout",
  "torch_dtype",
];

/** Parses a `config.json` with the fields of `GptConfig`. */
function parseOwnConfig(fields: JsonObject, where: string): GptConfig {
  const unknown = Object.keys(fields)
    .find((name) => !Object.hasOwn(OWN_FIELDS, name) && !OWN_EXTRAS.includes(name));
  if (unknown !== undefined) {
    throw refusal(
      where,
      `its fields must be ones that this version knows, and not ${printable(unknown, 80)}`,
      fields[unknown],
    );
  }
  checkFields(fields, OWN_FIELDS, (requirement, value) => refusal(where, requirement, value));
  checkLayers(fields.layers as number, "layers", where);
  const given = Object.entries(fields).filter(([name, value]) =>
    Object.hasOwn(OWN_FIELDS, name) && value !== null
  );
  const config = Object.fromEntries(given) as unknown as GptConfig & { rotaryScaling?: JsonObject };
  const { activation = "silu", rotaryScaling: scaling } = config;
  if (!Object.hasOwn(ACTIVATION_NAMES, activation)) {
    throw refusal(
      where,
      `activation must be ${Object.keys(ACTIVATION_NAMES).join(" or ")}`,
      activation,
    );
  }
  const wrong = Object.entries(scaling ?? {}).find(([name, value]) =>
    name === "type"
      ? value !== "linear" && value !== "llama3"
      : !Object.hasOwn(SCALING_NAMES, name) || typeof value !== "number"
  );
  if (wrong) {
    throw refusal(where, `${printable(wrong[0], 80)} of rotaryScaling must be known`, wrong[1]);
  }
  validateConfig(config, `load ${where}`);
  return withoutDefaults(config);
}

/** What `config.json` says beside the architecture. */
export interface ConfigOptions {
  /** Id of the token that ends a document. */
  readonly endOfText: number;
  /** Ids that end a generated text; by default `endOfText` alone. */
  readonly endIds?: readonly number[] | undefined;
  /** Id of the `bos_token`, `endOfText` by default. */
  readonly bosId?: number | undefined;
  /** Probability of dropout in the training. */
  readonly dropout?: number;
}

/**
 * Makes the `config.json` of a model, which Hugging Face transformers reads.
 *
 * @throws {UserError} if no class of transformers computes the model, with the fields in which it differs.
 */
export function toHuggingFaceConfig(
  config: GptConfig,
  options: ConfigOptions,
): Record<string, unknown> {
  const { family = "gpt2" } = config;
  const isOther = (type: string) => Number(MODEL_TYPES[type]!.family !== family);
  const types = Object.keys(MODEL_TYPES).toSorted((a, b) => isOther(a) - isOther(b));
  const attempts = types.map((type) => expressed(config, type, options));
  const [best] = attempts.toSorted((a, b) => a.lost.length - b.lost.length),
    wanted = wholeConfig(config);
  if (best!.lost.length === 0) return best!.fields;
  throw new UserError(
    `Cannot write config.json as a class of transformers must compute the model: unlike the nearest, ` +
      `${best!.type}, its ${
        best!.lost.map((name) => `${name} is ${quoted(wanted[name])}`).join(", ")
      }`,
  );
}

/** The family whose names and shapes the tensors beside a `config.json` have; a model may have been of another. */
export function familyOf({ model_type, family }: Record<string, unknown>): Family {
  return MODEL_TYPES[model_type as string]?.family ?? (family ?? "gpt2") as Family;
}

/** Makes the `config.json` of a checkpoint, which describes every model. */
export function toCheckpointConfig(
  config: GptConfig,
  options: ConfigOptions,
): Record<string, unknown> {
  try {
    return toHuggingFaceConfig(config, options);
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    const { lora: _, ...own } = config, { dropout = 0 } = options;
    return { model_type: OWN_TYPE, ...own, ...tokenIds(options), dropout };
  }
}

/** The `config.json` of a model as one of transformers' types, and the fields that it does not express. */
function expressed(
  config: GptConfig,
  type: string,
  options: ConfigOptions,
): { type: string; fields: JsonObject; lost: readonly string[] } {
  const fields = fieldsOf(config, type, options), wanted = wholeConfig(config);
  let read: Record<string, unknown> = {};
  try {
    read = wholeConfig(parseHuggingFaceConfig(JSON.stringify(fields), "config.json"));
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
  }
  const lost = Object.keys(wanted)
    .filter((name) =>
      name !== "family" && JSON.stringify(wanted[name]) !== JSON.stringify(read[name])
    );
  // LlamaConfig refuses such a width even if it has a head size
  const isOdd = type === "llama" && config.width % config.heads !== 0;
  return { type, fields, lost: isOdd ? [...new Set([...lost, "width", "heads"])] : lost };
}

/** A configuration with all defaults, without adapters, which have separate files. */
function wholeConfig({ lora: _, ...config }: GptConfig): Record<string, unknown> {
  return { rotaryScaling: undefined, ...withDefaults(config) };
}

function fieldsOf(config: GptConfig, model_type: string, options: ConfigOptions): JsonObject {
  const type = MODEL_TYPES[model_type]!, { names, hasDefaultInnerWidth } = type;
  const { innerWidth, activation, normEpsilon } = withDefaults(config);
  return sorted({
    architectures: [type.architecture],
    [names.activation]: ACTIVATION_NAMES[activation][0],
    [names.normEpsilon]: normEpsilon,
    [names.vocabularySize]: config.vocabularySize,
    [names.contextLength]: config.contextLength,
    [names.width]: config.width,
    [names.layers]: config.layers,
    [names.heads]: config.heads,
    [names.innerWidth]: config.innerWidth ?? (hasDefaultInnerWidth ? null : innerWidth),
    ...tokenIds(options),
    initializer_range: 0.02,
    model_type,
    tie_word_embeddings: !config.ownHead,
    use_cache: true,
    ...type.write(config, { dropout: options.dropout ?? 0 }),
  });
}

function tokenIds(
  { endOfText, endIds = [endOfText], bosId = endOfText }: ConfigOptions,
): JsonObject {
  return { bos_token_id: bosId, eos_token_id: oneOrAll(endIds) };
}

/** Ids as transformers writes them: a single one as a number, others as a list. */
export function oneOrAll(ids: readonly number[]): number | readonly number[] {
  return ids.length === 1 ? ids[0]! : ids;
}

/** Sorts fields by name, as transformers does. */
function sorted(fields: JsonObject): JsonObject {
  return Object.fromEntries(Object.entries(fields).sort(([a], [b]) => a < b ? -1 : 1));
}
