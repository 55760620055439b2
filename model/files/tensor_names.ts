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
  gpt_neox: "gpt_neox.",
  llama: "model.",
};

/**
 * Names in the files of other families than GPT-2's of the modules that are not linear layers of blocks. Families that
 * have some have `layers.N.` before the names within a block.
 */
const NAMES: Readonly<Record<Family, Readonly<Record<string, string>> | undefined>> = {
  gpt2: undefined,
  gpt_neo: undefined,
  gpt_neox: {
    "wte": "embed_in",
    "ln_1": "input_layernorm",
    "ln_2": "post_attention_layernorm",
    "ln_f": "final_layer_norm",
  },
  llama: {
    "wte": "embed_tokens",
    "wpe": "embed_positions", // no llama of transformers has learned positions
    "ln_1": "input_layernorm",
    "attn.q_norm": "self_attn.q_norm",
    "attn.k_norm": "self_attn.k_norm",
    "ln_2": "post_attention_layernorm",
    "ln_f": "norm",
  },
};

/** Name of the head's matrix, which a file may hold even if it equals the token embedding. */
export const HEAD = "lm_head.weight";

/** The head's module in the files of a GPT-NeoX. */
const NEOX_HEAD = "embed_out";

/**
 * The name in a file of a parameter or a module, without the prefix of a model with a head. A name that is one of a
 * file already stays.
 */
export function storedName(name: string, family: Family = "gpt2"): string {
  const names = NAMES[family];
  if (names === undefined) return name;
  const [, block, inner] = /^(?:h\.(\d+)\.)?(.+)$/.exec(name)!;
  const module = Object.keys(names).find((key) => `${inner}.`.startsWith(`${key}.`));
  const stored = module === undefined ? inner! : names[module] + inner!.slice(module.length);
  return block === undefined ? stored : `layers.${block}.${stored}`;
}

/** The name in a file of a parameter or a module. */
export function nameInFile(name: string, family: Family = "gpt2"): string {
  if (!`${name}.weight`.startsWith(HEAD)) return PREFIX[family] + storedName(name, family);
  return family === "gpt_neox" ? name.replace(/^lm_head/, NEOX_HEAD) : name;
}

/** Prefixes of names: in a model with a head, after torch.compile(), and in parallel training. */
const PREFIXES: readonly string[] = [...Object.values(PREFIX), "_orig_mod.", "module."];

/**
 * Removes the prefixes from the name of a tensor in a file; the head is `lm_head` in every family. Models that are stored
 * without a head have none.
 */
export function nameFromFile(name: string): string {
  for (let rest = name;;) { // a hostile file may repeat prefixes more often than the stack has frames
    const prefix = PREFIXES.find((prefix) => rest.startsWith(prefix));
    if (prefix === undefined) return rest === `${NEOX_HEAD}.weight` ? HEAD : rest;
    rest = rest.slice(prefix.length);
  }
}

/** Whether a tensor is what older versions of transformers stored beside the parameters: masks and frequencies. */
export function isBuffer(name: string): boolean {
  return /^h\.\d+\.attn\.(attention\.)?(masked_)?bias$/.test(name) ||
    /^layers\.\d+\.(self_attn|attention)\.rotary_emb\.inv_freq$/.test(name) ||
    /^layers\.\d+\.attention\.(masked_)?bias$/.test(name);
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
  /** As in `LinearModule`. */
  readonly interleavedHeads?: number;
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
  return modules.map(({ name, firstColumn, inputs, outputs, interleavedHeads }) => ({
    name: storedName(`${block}${name}.${kind}`, family),
    shape: kind === "weight" ? [outputs, inputs] : [outputs],
    transposed: kind === "weight",
    firstColumn,
    ...(interleavedHeads === undefined ? {} : { interleavedHeads }),
  }));
}

/**
 * Reorders the rows of a tensor, [outputs] or [outputs,inputs], from the order of parameters, in which all q precede all
 * k and v, to that of files, in which q, k and v of each head are together; or back.
 */
export function reorderHeads(
  values: Float32Array<ArrayBuffer>,
  { interleavedHeads: heads, to }: {
    interleavedHeads: number | undefined;
    to: "file" | "parameter";
  },
): Float32Array<ArrayBuffer> {
  if (heads === undefined) return values;
  const [A, B] = to === "file" ? [3, heads] : [heads, 3], length = values.length / (3 * heads);
  const result = new Float32Array(values.length);
  for (let a = 0; a < A; a++) {
    for (let b = 0; b < B; b++) {
      const from = (a * B + b) * length;
      result.set(values.subarray(from, from + length), (b * A + a) * length);
    }
  }
  return result;
}
