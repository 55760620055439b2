import { parseJsonObject } from "../files/json.ts";
import { printable, quoted } from "../files/printable.ts";
import type { GptConfig, LoraConfig } from "./config.ts";
import { nameInFile } from "./hugging_face.ts";
import { adaptersOf, type LinearModule } from "./parameters.ts";
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
  "alpha_pattern: {}": isEmpty,
  "rank_pattern: {}": isEmpty,
  "layers_to_transform: null": isEmpty,
  "modules_to_save: null": isEmpty,
  "use_dora: false": isEmpty,
  "use_rslora: false": isEmpty,
  "base_model_name_or_path: text": (value) => typeof value === "string" && value !== "",
  "target_modules: a list of names": (value) =>
    Array.isArray(value) && value.every((name) => typeof name === "string"),
};

function isEmpty(value: unknown): boolean {
  return value === undefined || value === null || value === false ||
    (typeof value === "object" && Object.keys(value).length === 0);
}

/**
 * Reads an `adapter_config.json`, PEFT's or ours.
 *
 * @param where the file's path, for error messages.
 * @throws {SyntaxError} if the text is no JSON object.
 * @throws {RangeError} if it describes adapters of another kind.
 */
export function parseAdapterConfig(
  json: string,
  where: string,
): { lora: LoraConfig } & AdapterBase {
  const fields = parseJsonObject(json, where);
  for (const [rule, isAllowed] of Object.entries(REQUIRED)) {
    const [name, requirement] = rule.split(": ") as [string, string];
    if (isAllowed(fields[name])) continue;
    throw new RangeError(
      `Cannot load ${where} as ${name} must be ${requirement}: ` +
        `current value is ${quoted(fields[name])}`,
    );
  }
  const { r, lora_alpha, target_modules, base_model_name_or_path, revision } = fields;
  return {
    lora: {
      rank: r as number,
      alpha: lora_alpha as number,
      targets: target_modules as string[],
    },
    base: base_model_name_or_path as string,
    ...(typeof revision === "string" ? { revision } : {}),
  };
}

/**
 * The tensors of adapters by the names of the model's parameters.
 *
 * @param where the file's path, for error messages.
 * @throws {RangeError} if one is missing, unknown, or of another shape.
 */
export function adapterTensors(
  config: GptConfig,
  tensors: ReadonlyMap<string, TensorReader>,
  where: string,
): Map<string, TensorReader> {
  const { rank } = config.lora!;
  const found = new Map<string, TensorReader>();
  for (const { A, B, module: { inputs, outputs } } of adaptersOf(config)) {
    for (const [name, shape] of [[A, [rank, inputs]], [B, [outputs, rank]]] as const) {
      const stored = nameInAdapterFile(name), tensor = tensors.get(stored);
      if (tensor?.shape.join() !== shape.join()) {
        throw new RangeError(
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
  throw new RangeError(
    `Cannot load ${where} as it must hold the adapters of its configuration alone: ` +
      `current unknown names are ${
        unknown.slice(0, 20).map((name) => printable(name, 80)).join(", ")
      }`,
  );
}

/**
 * Merges an adapter into the matrix that it stands beside: W += alpha / r · (B · A)ᵀ, after which the model
 * computes without the adapter what it did with it, up to rounding.
 *
 * @param adapter.A [r,inputs], adapter.B [outputs,r], row by row.
 * @param weight [inputs,columns], of which the module has `outputs` columns; is changed.
 */
export function mergeLora(
  { lora, module: { inputs, outputs, firstColumn } }: { lora: LoraConfig; module: LinearModule },
  { A, B }: { A: ArrayLike<number>; B: ArrayLike<number> },
  weight: Float32Array,
): void {
  const columns = weight.length / inputs, scale = loraScale(lora), { rank } = lora;
  for (let c = 0; c < inputs; c++) {
    const row = c * columns + firstColumn;
    for (let n = 0; n < outputs; n++) {
      let sum = 0;
      for (let k = 0; k < rank; k++) sum += A[k * inputs + c]! * B[n * rank + k]!;
      weight[row + n]! += scale * sum;
    }
  }
}
