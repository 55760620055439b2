import { isObject, type JsonObject, parseJsonObject } from "../../files/json.ts";
import { printable, quoted } from "../../files/printable.ts";
import { createTimeLimit, TimeLimitError } from "../../files/time_limit.ts";
import { UserError } from "../../files/user_error.ts";
import type { GptConfig, LoraConfig } from "../config.ts";
import { nameInFile, reorderHeads } from "./tensor_names.ts";
import {
  type Adapter,
  allAdapters,
  checkTargets,
  type LinearModule,
  validateLora,
} from "../parameters.ts";
import type { TensorReader } from "./tensor_files.ts";

/**
 * Adapters as PEFT stores them: `adapter_config.json`, and `adapter_model.safetensors` with A [r,inputs] and
 * B [outputs,r] of each linear layer (https://huggingface.co/docs/peft/developer_guides/checkpoint).
 *
 * @module
 */

/** Names of the files of adapters. */
export const ADAPTER_FILE = "adapter_model.safetensors", ADAPTER_CONFIG = "adapter_config.json";

/** Names of files with the tensors of adapters, in PEFT's order of preference; `.bin` is PyTorch's format. */
const ADAPTER_FILES: readonly string[] = [ADAPTER_FILE, "adapter_model.bin"];

/** Chooses the file with the tensors of adapters among the names in their directory. */
export function chooseAdapterFile(names: readonly string[]): string {
  return ADAPTER_FILES.find((name) => names.includes(name)) ?? ADAPTER_FILE;
}

/** Whether a parameter belongs to an adapter. */
export function isAdapter(name: string): boolean {
  return /\.lora_[AB]\.weight$/.test(name);
}

/** Layers that have adapters by default in a family, the same as in PEFT. */
export function defaultTargets({ family }: Pick<GptConfig, "family">): string[] {
  if (family === "gpt_neox") return ["query_key_value"];
  return family === undefined || family === "gpt2" ? ["c_attn"] : ["q_proj", "v_proj"];
}

/** Factor of the product of an adapter. */
export function loraScale({ rank, alpha }: Pick<LoraConfig, "rank" | "alpha">): number {
  return alpha / rank;
}

/** The name of an adapter's parameter in a file of PEFT. */
export function nameInAdapterFile(name: string, { family }: Pick<GptConfig, "family">): string {
  return `base_model.model.${nameInFile(name, family)}`;
}

/** The base of adapters. */
export interface AdapterBase {
  /** Name of the model for which they were trained: `OWNER/NAME` on the hub, or a directory. */
  readonly base: string;
  /** Its revision on the hub. */
  readonly revision?: string;
}

/** Makes the `adapter_config.json` of a model with adapters. */
export function toAdapterConfig(
  { lora, family }: GptConfig,
  { base, revision }: AdapterBase,
): Record<string, unknown> {
  return {
    alpha_pattern: {},
    auto_mapping: null,
    base_model_name_or_path: base,
    bias: "none",
    fan_in_fan_out: family === undefined || family === "gpt2", // GPT-2's layers are stored as [inputs,outputs]
    inference_mode: true,
    init_lora_weights: true,
    layers_pattern: null,
    layers_to_transform: null,
    lora_alpha: lora!.alpha,
    lora_dropout: 0,
    modules_to_save: null,
    peft_type: "LORA",
    r: lora!.rank,
    rank_pattern: {},
    revision: revision ?? null,
    target_modules: lora!.targets,
    task_type: "CAUSAL_LM",
    use_dora: false,
    use_rslora: false,
  };
}

/** Adapters as PEFT describes them; `LoraConfig` is a special case. */
export interface PeftLora extends Omit<LoraConfig, "targets"> {
  /**
   * Linear layers that have adapters: a list of names such as `transformer.h.0.attn.c_attn` or of ends of names; a
   * regular expression of Python that matches the whole name; or `all-linear`.
   */
  readonly targets: string | readonly string[];
  /** Layers that have no adapters, in the same notation. */
  readonly excluded?: string | readonly string[];
  /** Blocks to which ends of names in `targets` apply; all by default. */
  readonly layers?: readonly number[];
  /** Regular expressions for the name before the number of a block; any name by default. */
  readonly layerPatterns?: readonly string[];
  /** Exceptions from `rank`, by regular expressions that match the end of a name. */
  readonly ranks?: Readonly<Record<string, number>>;
  /** Exceptions from `alpha`, in the same notation. */
  readonly alphas?: Readonly<Record<string, number>>;
  /** Whether the scale is alpha / √rank (https://arxiv.org/abs/2312.03732) instead of alpha / rank. */
  readonly rankStabilized?: boolean;
}

/** Initializations that change only A and B; all others change the base as well. */
const INITIALIZATIONS: readonly unknown[] = [true, false, "gaussian", "eva", "orthogonal"];

/** Fields of `adapter_config.json` that are read, with their requirements. */
const REQUIRED: Readonly<Record<string, (value: unknown) => boolean>> = {
  "peft_type: LORA": (value) => value === "LORA",
  "task_type: CAUSAL_LM or null": (value) => value === "CAUSAL_LM" || isEmpty(value),
  "bias: none": (value) => value === "none" || isEmpty(value),
  "init_lora_weights: true, false, gaussian, eva or orthogonal": (value) =>
    INITIALIZATIONS.includes(value) || isEmpty(value),
  "use_rslora: true or false": (value) => typeof value === "boolean" || isEmpty(value),
  "r: a number": isNumber,
  "lora_alpha: a number": isNumber,
  "alpha_pattern: numbers by regular expressions": isPattern,
  "rank_pattern: numbers by regular expressions": isPattern,
  "base_model_name_or_path: a string": (value) => typeof value === "string" && value !== "",
  "target_modules: names of layers or a regular expression": isSelection,
  "exclude_modules: names of layers, a regular expression or null": (value) =>
    isEmpty(value) || isSelection(value),
  "layers_to_transform: numbers of blocks or null": (value) =>
    isEmpty(value) || [value].flat().every(Number.isSafeInteger),
  "layers_pattern: regular expressions or null": (value) =>
    isEmpty(value) || value === "" || [value].flat().every(isExpression),
};

/** Fields that do not change what trained adapters compute; `fan_in_fan_out` follows from the base, as in PEFT. */
const WITHOUT_EFFECT: readonly string[] = [
  "auto_mapping",
  "corda_config",
  "ensure_weight_tying",
  "eva_config",
  "fan_in_fan_out",
  "inference_mode",
  "loftq_config",
  "lora_dropout",
  "lora_ga_config",
  "megatron_core",
  "peft_version",
  "qalora_group_size",
  "revision",
  "runtime_config",
];

function isEmpty(value: unknown): boolean {
  return value === undefined || value === null || value === false ||
    (typeof value === "object" && Object.keys(value).length === 0);
}

function isNumber(value: unknown): value is number {
  return typeof value === "number";
}

function isSelection(value: unknown): boolean {
  return isExpression(value) ||
    (Array.isArray(value) && value.every((name) => typeof name === "string"));
}

function isExpression(value: unknown): boolean {
  return typeof value === "string" && compile(value) !== undefined;
}

function isPattern(value: unknown): boolean {
  return isEmpty(value) ||
    (isObject(value) &&
      Object.entries(value).every(([name, n]) => isExpression(name) && isNumber(n)));
}

/** Most characters of a regular expression. */
const MOST_EXPRESSION = 10_000;

/**
 * Translates a regular expression of Python that must match a whole text. The notations differ in flags at the
 * beginning, in named groups, and in anchors.
 *
 * @returns undefined if it is invalid, or if JavaScript has no such expression.
 */
function compile(expression: string): RegExp | undefined {
  const [, flags = "", body] = /^(?:\(\?([aimsu]+)\))?(.*)$/s.exec(expression)!;
  const translated = body!.replaceAll("(?P<", "(?<").replaceAll(/\(\?P=(\w+)\)/g, "\\k<$1>")
    .replaceAll(/\\[\s\S]/g, (escape) => ({ "\\A": "^", "\\Z": "$" })[escape] ?? escape);
  if (expression.length > MOST_EXPRESSION) return undefined;
  try {
    return new RegExp(`^(?:${translated})$`, flags.replaceAll(/[au]/g, ""));
  } catch {
    return undefined;
  }
}

/** Whether a regular expression matches a whole text. */
function matches(expression: string, text: string): boolean {
  const compiled = compile(expression);
  if (compiled) return compiled.test(text);
  throw new UserError(
    `Cannot build adapters as ${quoted(expression)} must be a regular expression`,
  );
}

/**
 * Parses an `adapter_config.json`.
 *
 * @param where path of the file, for error messages.
 * @throws {UserError} if the text is not a JSON object, or if a field has an unsupported value; the message names both.
 */
export function parseAdapterConfig(json: string, where: string): { lora: PeftLora } & AdapterBase {
  const fields: JsonObject = parseJsonObject(json, where);
  const refuse = (requirement: string, value: unknown) =>
    new UserError(`Cannot load ${where} as ${requirement}: current value is ${quoted(value)}`);
  const known = new Set(WITHOUT_EFFECT);
  for (const [rule, isAllowed] of Object.entries(REQUIRED)) {
    const [name, requirement] = rule.split(": ") as [string, string];
    known.add(name);
    if (!isAllowed(fields[name])) throw refuse(`${name} must be ${requirement}`, fields[name]);
  }
  for (const [name, value] of Object.entries(fields)) {
    if (known.has(name) || isEmpty(value)) continue;
    throw refuse(`${printable(name, 80)} must be null or false`, value);
  }
  const { target_modules, exclude_modules, layers_to_transform, layers_pattern } = fields;
  const hasLayers = !isEmpty(layers_to_transform);
  if (hasLayers && typeof target_modules === "string") {
    throw refuse(
      "layers_to_transform must be null if target_modules is a string",
      layers_to_transform,
    );
  }
  if (!hasLayers && layers_pattern && !isEmpty(layers_pattern)) {
    throw refuse("layers_pattern must be null without layers_to_transform", layers_pattern);
  }
  const { r, lora_alpha, rank_pattern, alpha_pattern, base_model_name_or_path, revision } = fields;
  return {
    lora: {
      rank: r as number,
      alpha: lora_alpha as number,
      targets: target_modules as string | string[],
      ...(isEmpty(exclude_modules) ? {} : { excluded: exclude_modules as string | string[] }),
      ...(hasLayers ? { layers: [layers_to_transform].flat() as number[] } : {}),
      ...(layers_pattern && !isEmpty(layers_pattern)
        ? { layerPatterns: [layers_pattern].flat() as string[] }
        : {}),
      ...(isEmpty(rank_pattern) ? {} : { ranks: rank_pattern as Record<string, number> }),
      ...(isEmpty(alpha_pattern) ? {} : { alphas: alpha_pattern as Record<string, number> }),
      ...(fields.use_rslora === true ? { rankStabilized: true } : {}),
    },
    base: base_model_name_or_path as string,
    ...(typeof revision === "string" ? { revision } : {}),
  };
}

/**
 * Converts the description of adapters to one that can be trained.
 *
 * @param where directory of the adapters, for error messages.
 * @throws {UserError} if they need more than one rank, one alpha and a list of names.
 */
export function trainableLora(
  { rank, alpha, targets, ...more }: PeftLora,
  where: string,
): LoraConfig {
  const [[name, value] = ["targets", targets]] = Object.entries(more);
  if (value === targets && typeof targets !== "string") return { rank, alpha, targets };
  throw new UserError(
    `Cannot train the adapters in ${where} as they must have one rank, one alpha and names of layers: ` +
      `current ${name} are ${quoted(value)}`,
  );
}

/** An adapter with its rank, and the factor of its product. */
export interface StoredAdapter extends Adapter {
  readonly rank: number;
  readonly scale: number;
}

/** Modules that can have adapters in PEFT but not here. */
const UNSUPPORTED: readonly string[] = ["wte", "wpe", "lm_head"];

/**
 * The adapters that PEFT gives a model, block by block.
 *
 * @throws {UserError} if a rank or an alpha is out of range, if no linear layer is a target, or if an embedding or
 * the head is a target.
 */
export function storedAdapters(config: GptConfig, lora: PeftLora): StoredAdapter[] {
  try {
    return createTimeLimit()(() => findAdapters(config, lora), MATCHING_MS);
  } catch (error) {
    if (!(error instanceof TimeLimitError)) throw error;
    const { targets, excluded, ranks, alphas, layerPatterns } = lora;
    throw new UserError(
      `Cannot build adapters as their regular expressions must backtrack less: ${error.message} to match ` +
        quoted({ targets, excluded, ranks, alphas, layerPatterns }),
    );
  }
}

/** Milliseconds that all expressions of adapters may take for all layers; those in use take a few. */
const MATCHING_MS = 500;

function findAdapters(config: GptConfig, lora: PeftLora): StoredAdapter[] {
  const { rank, alpha, targets, ranks = {}, alphas = {}, rankStabilized = false } = lora;
  const unsupported = isAllLinear(targets)
    ? undefined
    : UNSUPPORTED.map((name) => nameInFile(name, config.family))
      .find((name) => isTarget(name, lora));
  if (unsupported !== undefined) {
    throw new UserError(
      `Cannot build adapters as their targets must be linear layers of blocks: ` +
        `${unsupported} is one of the current targets ${quoted(targets)}`,
    );
  }
  const adapters = allAdapters(config).flatMap((adapter) => {
    const name = nameInFile(`h.${adapter.layer}.${adapter.module.name}`, config.family);
    if (!isTarget(name, lora)) return [];
    const own = (values: Readonly<Record<string, number>>) =>
      Object.entries(values).find(([pattern]) => matches(`(?:.*\\.)?(?:${pattern})`, name))?.[1];
    const numbers = { rank: own(ranks) ?? rank, alpha: own(alphas) ?? alpha };
    validateLora(numbers);
    const scale = rankStabilized ? numbers.alpha / Math.sqrt(numbers.rank) : loraScale(numbers);
    return [{ ...adapter, rank: numbers.rank, scale }];
  });
  if (adapters.length === 0) checkTargets(config, [targets].flat(), () => false);
  return adapters;
}

/** Whether a layer has an adapter, by the rules of PEFT's `check_target_module_exists()`. */
function isTarget(name: string, { targets, excluded, layers, layerPatterns }: PeftLora): boolean {
  const isEnd = (end: string) => name.endsWith(`.${end}`);
  if (typeof excluded === "string" && matches(excluded, name)) return false;
  if (typeof excluded === "object" && (excluded.includes(name) || excluded.some(isEnd))) {
    return false;
  }
  if (typeof targets === "string") return isAllLinear(targets) || matches(targets, name);
  if (targets.includes(name)) return true;
  if (!targets.some(isEnd)) return false;
  if (layers === undefined) return true;
  for (const pattern of layerPatterns ?? ["[^.]*"]) {
    const [, block] = compile(`.*\\.${pattern}\\.(\\d+)\\..*`)?.exec(name) ?? [];
    if (block !== undefined) return layers.includes(Number(block));
  }
  return false;
}

function isAllLinear(targets: PeftLora["targets"]): boolean {
  return typeof targets === "string" && targets.toLowerCase() === "all-linear";
}

/**
 * Reads the values of adapters, by the names of the model's parameters and in their order.
 *
 * @param where path of the file, for error messages.
 * @throws {UserError} if a tensor is missing, unknown, or of another shape.
 */
export function adapterValues(
  config: Pick<GptConfig, "family">,
  adapters: readonly Pick<StoredAdapter, "A" | "B" | "module" | "rank">[],
  tensors: ReadonlyMap<string, TensorReader>,
  where: string,
): Map<string, Float32Array<ArrayBuffer>> {
  const known = new Set<string>(), values = new Map<string, Float32Array<ArrayBuffer>>();
  for (const { A, B, rank, module: { inputs, outputs, interleavedHeads } } of adapters) {
    for (const [name, shape] of [[A, [rank, inputs]], [B, [outputs, rank]]] as const) {
      const stored = nameInAdapterFile(name, config), tensor = tensors.get(stored);
      if (tensor?.shape.join() !== shape.join()) {
        throw new UserError(
          `Cannot load ${where} as "${stored}" must be there as [${shape}]: ` +
            `current shape is ${tensor ? `[${tensor.shape}]` : "none"}`,
        );
      }
      known.add(stored);
      const inFile = tensor.floats(0, shape[0] * shape[1]);
      const heads = name === B ? interleavedHeads : undefined;
      values.set(name, reorderHeads(inFile, { interleavedHeads: heads, to: "parameter" }));
    }
  }
  const unknown = [...tensors.keys()].filter((name) => !known.has(name));
  if (unknown.length === 0) return values;
  throw new UserError(
    `Cannot load ${where} as it must hold only the adapters of its configuration: ` +
      `current unknown names are ${
        unknown.slice(0, 20).map((name) => printable(name, 80)).join(", ")
      }`,
  );
}

/**
 * Merges an adapter into the weight of its layer: W += scale · (B · A)ᵀ. The model then computes the same without
 * the adapter, up to rounding.
 *
 * @param adapter.A [r,inputs], adapter.B [outputs,r], row-major.
 * @param weight [inputs,columns], of which `outputs` columns belong to the module; they are changed.
 */
export function mergeLora(
  { rank, scale, module: { inputs, outputs, firstColumn } }: {
    rank: number;
    scale: number;
    module: LinearModule;
  },
  { A, B }: { A: ArrayLike<number>; B: ArrayLike<number> },
  weight: Float32Array,
): void {
  const columns = weight.length / inputs;
  for (let c = 0; c < inputs; c++) {
    const row = c * columns + firstColumn;
    for (let n = 0; n < outputs; n++) {
      let sum = 0;
      for (let k = 0; k < rank; k++) sum += A[k * inputs + c]! * B[n * rank + k]!;
      weight[row + n]! += scale * sum;
    }
  }
}
