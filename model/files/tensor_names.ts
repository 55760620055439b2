import type { Family, GptConfig } from "../config.ts";
import { linearModules, type ParameterSpec } from "../parameters.ts";

/**
 * Names and shapes of the tensors in a model's files, as Hugging Face transformers stores them.
 *
 * @module
 */

/** Prefix of every name except the head's in the file of a model with a head. */
const PREFIX: Readonly<Record<Family, string>> = {
  gpt2: "transformer.",
  gpt_neo: "transformer.",
  llama: "model.",
};

/** Names in the files of a llama of the modules that are not linear layers; within a block the prefix is `layers.N.`. */
const LLAMA_NAMES: Readonly<Record<string, string>> = {
  "wte": "embed_tokens",
  "wpe": "embed_positions", // no llama of transformers has learned positions
  "ln_1": "input_layernorm",
  "attn.q_norm": "self_attn.q_norm",
  "attn.k_norm": "self_attn.k_norm",
  "ln_2": "post_attention_layernorm",
  "ln_f": "norm",
};

/** Name of the head's matrix, which a file may hold even if it equals the token embedding. */
export const HEAD = "lm_head.weight";

/**
 * The name in a file of a parameter or a module, without the prefix of a model with a head. A name that is one of a
 * file already stays.
 */
export function storedName(name: string, family: Family = "gpt2"): string {
  if (family !== "llama") return name;
  const [, block, inner] = /^(?:h\.(\d+)\.)?(.+)$/.exec(name)!;
  const module = Object.keys(LLAMA_NAMES).find((key) => `${inner}.`.startsWith(`${key}.`));
  const stored = module === undefined ? inner! : LLAMA_NAMES[module] + inner!.slice(module.length);
  return block === undefined ? stored : `layers.${block}.${stored}`;
}

/** The name in a file of a parameter or a module. */
export function nameInFile(name: string, family: Family = "gpt2"): string {
  return `${name}.weight`.startsWith(HEAD) ? name : PREFIX[family] + storedName(name, family);
}

/** Prefixes of names: in a model with a head, after torch.compile(), and in parallel training. */
const PREFIXES: readonly string[] = [...Object.values(PREFIX), "_orig_mod.", "module."];

/**
 * Removes the prefixes from the name of a tensor in a file. Models that are stored without a head have none.
 */
export function nameFromFile(name: string): string {
  const prefix = PREFIXES.find((prefix) => name.startsWith(prefix));
  return prefix === undefined ? name : nameFromFile(name.slice(prefix.length));
}

/** Whether a tensor is what older versions of transformers stored beside the parameters: masks and frequencies. */
export function isBuffer(name: string): boolean {
  return /^h\.\d+\.attn\.(attention\.)?(masked_)?bias$/.test(name) ||
    /^layers\.\d+\.self_attn\.rotary_emb\.inv_freq$/.test(name);
}

/** A tensor of a file that holds a parameter, or some columns of it. */
export interface StoredTensor {
  /** Name without prefix. */
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
  const { name, shape } = spec, { family = "gpt2" } = config;
  const [, block, parameter, kind] = /^(h\.\d+\.)(.+)\.(weight|bias)$/.exec(name) ?? [];
  const modules = family === "gpt2" || block === undefined
    ? []
    : linearModules(config).filter((module) => module.parameter === parameter);
  if (modules.length === 0) { // GPT-2's linear layers are stored as they are; others are no linear layers
    return [{ name: storedName(name, family), shape, transposed: false, firstColumn: 0 }];
  }
  return modules.map(({ name, firstColumn, inputs, outputs }) => ({
    name: storedName(`${block}${name}.${kind}`, family),
    shape: kind === "weight" ? [outputs, inputs] : [outputs],
    transposed: kind === "weight",
    firstColumn,
  }));
}
