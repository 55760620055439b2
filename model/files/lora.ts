import { isObject, type JsonObject, parseJsonObject } from "../../files/json.ts";
import { printable, quoted } from "../../files/printable.ts";
import { UserError } from "../../files/user_error.ts";
import type { GptConfig, LoraConfig } from "../config.ts";
import { nameInFile } from "./hugging_face.ts";
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
 */

/** The files of a directory with adapters. */
export const ADAPTER_FILE = "adapter_model.safetensors", ADAPTER_CONFIG = "adapter_config.json";

/** Whether a parameter belongs to an adapter. */
export function isAdapter(name: string): boolean {
  return /\.lora_[AB]\.weight$/.test(name);
}

/** Names of the layers that have adapters by default, per family: those that PEFT chooses. */
export function defaultTargets({ family }: Pick<GptConfig, "family">): string[] {
  return family === "gpt_neo" ? ["q_proj", "v_proj"] : ["c_attn"];
}

/** What the product of an adapter is multiplied with. */
export function loraScale({ rank, alpha }: LoraConfig): number {
  return alpha / rank;
}

/** The name of an adapter's parameter in PEFT's files. */
export function nameInAdapterFile(name: string): string {
  return `base_model.model.${nameInFile(name)}`;
}

/** Where adapters belong. */
export interface AdapterBase {
  /** The model that they stand beside: `OWNER/NAME` on the hub, or a directory. */
  readonly base: string;
  /** Its revision on the hub. */
  readonly revision?: string;
}

/** The `adapter_config.json` of a model with adapters. */
export function toAdapterConfig(
  { lora, family }: GptConfig,
  { base, revision }: AdapterBase,
): Record<string, unknown> {
  return {
    alpha_pattern: {},
    auto_mapping: null,
    base_model_name_or_path: base,
    bias: "none",
    fan_in_fan_out: family !== "gpt_neo", // GPT-2's layers are stored as [inputs,outputs]
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

/** What an `adapter_config.json` may say for this code to know what to do. */
const REQUIRED: Readonly<Record<string, (value: unknown) => boolean>> = {
  "peft_type: LORA": (value) => value === "LORA",
  "bias: none": (value) => value === "none" || value === undefined,
  "alpha_pattern: numbers by names of layers": isPattern,
  "rank_pattern: numbers by names of layers": isPattern,
  "exclude_modules: null": isEmpty,
  "layer_replication: null": isEmpty,
  "layers_to_transform: null": isEmpty,
  "lora_bias: false": isEmpty,
  "modules_to_save: null": isEmpty,
  "target_parameters: null": isEmpty,
  "trainable_token_indices: null": isEmpty,
  "use_dora: false": isEmpty,
  "use_qalora: false": isEmpty,
  "use_rslora: true or false": (value) => typeof value === "boolean" || isEmpty(value),
  "r: a number": (value) => typeof value === "number",
  "lora_alpha: a number": (value) => typeof value === "number",
  "base_model_name_or_path: text": (value) => typeof value === "string" && value !== "",
  "target_modules: a list of names": (value) =>
    Array.isArray(value) && value.every((name) => typeof name === "string"),
};

function isEmpty(value: unknown): boolean {
  return value === undefined || value === null || value === false ||
    (typeof value === "object" && Object.keys(value).length === 0);
}

/** PEFT reads the names as regular expressions: these are ones that stand for themselves. */
function isPattern(value: unknown): boolean {
  return isEmpty(value) ||
    (isObject(value) &&
      Object.entries(value).every(([name, n]) => /^[\w.]+$/.test(name) && typeof n === "number"));
}

/** How adapters of PEFT may differ from each other. */
export interface AdapterVariation {
  /** Ranks by names of layers, or ends of them, for those that have another. */
  readonly ranks: Readonly<Record<string, number>>;
  /** Alphas, likewise. */
  readonly alphas: Readonly<Record<string, number>>;
  /** Whether alpha is divided by the rank's root (https://arxiv.org/abs/2312.03732), and not by the rank. */
  readonly byRoot: boolean;
}

/**
 * Reads an `adapter_config.json`, PEFT's or ours.
 *
 * @param where the file's path, for error messages.
 * @throws {UserError} if the text is no JSON object.
 * @throws {UserError} if it describes adapters of another kind.
 */
export function parseAdapterConfig(
  json: string,
  where: string,
): { lora: LoraConfig; variation?: AdapterVariation } & AdapterBase {
  const fields: JsonObject = parseJsonObject(json, where);
  for (const [rule, isAllowed] of Object.entries(REQUIRED)) {
    const [name, requirement] = rule.split(": ") as [string, string];
    if (isAllowed(fields[name])) continue;
    throw new UserError(
      `Cannot load ${where} as ${name} must be ${requirement}: ` +
        `current value is ${quoted(fields[name])}`,
    );
  }
  const { r, lora_alpha, target_modules, base_model_name_or_path, revision } = fields;
  const variation: AdapterVariation = {
    ranks: (fields.rank_pattern ?? {}) as Record<string, number>,
    alphas: (fields.alpha_pattern ?? {}) as Record<string, number>,
    byRoot: fields.use_rslora === true,
  };
  return {
    lora: {
      rank: r as number,
      alpha: lora_alpha as number,
      targets: target_modules as string[],
    },
    ...(Object.values(variation).every(isEmpty) ? {} : { variation }),
    base: base_model_name_or_path as string,
    ...(typeof revision === "string" ? { revision } : {}),
  };
}

/** An adapter with its own rank, and what its product is multiplied with. */
export interface StoredAdapter extends Adapter {
  readonly rank: number;
  readonly scale: number;
}

/**
 * The adapters that PEFT puts beside a model: where the name of a layer, such as `transformer.h.0.attn.c_attn`,
 * is a target or ends with one.
 *
 * @throws {UserError} if a rank or an alpha is out of range, or if a target is no linear layer.
 */
export function storedAdapters(
  config: GptConfig,
  { rank, alpha, targets }: LoraConfig,
  { ranks, alphas, byRoot }: AdapterVariation = { ranks: {}, alphas: {}, byRoot: false },
): StoredAdapter[] {
  const all = allAdapters(config).map((adapter) => ({
    ...adapter,
    layerName: nameInFile(`h.${adapter.layer}.${adapter.module.name}`),
  }));
  const isMeant = (layerName: string, name: string) => `.${layerName}`.endsWith(`.${name}`);
  checkTargets(config, targets, (name) => all.some(({ layerName }) => isMeant(layerName, name)));
  const own = (values: Readonly<Record<string, number>>, layerName: string) =>
    Object.entries(values).find(([name]) => isMeant(layerName, name))?.[1];
  return all.filter(({ layerName }) => targets.some((name) => isMeant(layerName, name)))
    .map(({ layerName, ...adapter }) => {
      const lora = {
        rank: own(ranks, layerName) ?? rank,
        alpha: own(alphas, layerName) ?? alpha,
        targets,
      };
      validateLora(lora);
      const scale = byRoot ? lora.alpha / Math.sqrt(lora.rank) : loraScale(lora);
      return { ...adapter, rank: lora.rank, scale };
    });
}

/**
 * The tensors of adapters by the names of the model's parameters.
 *
 * @param where the file's path, for error messages.
 * @throws {UserError} if one is missing, unknown, or of another shape.
 */
export function adapterTensors(
  adapters: readonly Pick<StoredAdapter, "A" | "B" | "module" | "rank">[],
  tensors: ReadonlyMap<string, TensorReader>,
  where: string,
): Map<string, TensorReader> {
  const found = new Map<string, TensorReader>();
  for (const { A, B, rank, module: { inputs, outputs } } of adapters) {
    for (const [name, shape] of [[A, [rank, inputs]], [B, [outputs, rank]]] as const) {
      const stored = nameInAdapterFile(name), tensor = tensors.get(stored);
      if (tensor?.shape.join() !== shape.join()) {
        throw new UserError(
          `Cannot load ${where} as "${stored}" must be there as [${shape}]: ` +
            `current shape is ${tensor ? `[${tensor.shape}]` : "none"}`,
        );
      }
      found.set(name, tensor);
    }
  }
  const known = new Set([...found.keys()].map(nameInAdapterFile));
  const unknown = [...tensors.keys()].filter((name) => !known.has(name));
  if (unknown.length === 0) return found;
  throw new UserError(
    `Cannot load ${where} as it must hold the adapters of its configuration alone: ` +
      `current unknown names are ${
        unknown.slice(0, 20).map((name) => printable(name, 80)).join(", ")
      }`,
  );
}

/**
 * Merges an adapter into the matrix that it stands beside: W += scale · (B · A)ᵀ, after which the model
 * computes without the adapter what it did with it, up to rounding.
 *
 * @param adapter.A [r,inputs], adapter.B [outputs,r], row by row.
 * @param weight [inputs,columns], of which the module has `outputs` columns; is changed.
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
