import { UserError } from "../../files/user_error.ts";
import { attentionOf, defaultsOf, type GptConfig, innerWidthOf } from "../config.ts";
import type { GgufValue } from "./gguf.ts";
import type { Gpt } from "../gpt.ts";
import { fromFloat32, type SafetensorsEntry, toFloat32 } from "./safetensors.ts";
import { saveParameters } from "../weights.ts";

/**
 * Models as llama.cpp's architecture `gpt2` has them (its gguf-py/gguf/constants.py and
 * src/models/gpt2.cpp): names, shapes, and what it lacks.
 *
 * @module
 */

/** llama.cpp's names of what stands before `.weight` and `.bias`; of a block, behind `blk.N.`. */
const NAMES: Readonly<Record<string, string>> = {
  "wte": "token_embd",
  "wpe": "position_embd",
  "ln_1": "attn_norm",
  "attn.c_attn": "attn_qkv",
  "attn.c_proj": "attn_output",
  "ln_2": "ffn_norm",
  "mlp.c_fc": "ffn_up",
  "mlp.c_proj": "ffn_down",
  "ln_f": "output_norm",
  "lm_head": "output",
};

/**
 * Most tokens that a model may look at there: all see all, while the layers of a GPT-Neo that look back a
 * little way only see all of a text that is no longer.
 */
export function llamaCppContext({ contextLength, attentionWindows = [] }: GptConfig): number {
  return Math.min(contextLength, ...attentionWindows.filter((window) => window > 0));
}

/**
 * The metadata of a model that llama.cpp needs beside its tensors.
 *
 * @throws {UserError} if the activation function is not the one that llama.cpp's GPT-2 has.
 */
export function llamaCppValues(config: GptConfig, dtype: "F32" | "F16"): [string, GgufValue][] {
  const { activation, layerNormEpsilon } = { ...defaultsOf(config), ...config };
  if (activation !== "gelu_new") {
    throw new UserError(
      `Cannot write a model for llama.cpp as its GPT-2 must have the activation function gelu_new: ` +
        `current value is ${activation}`,
    );
  }
  return [
    ["general.architecture", ["string", "gpt2"]],
    ["general.file_type", ["uint32", dtype === "F32" ? 0 : 1]],
    ["gpt2.context_length", ["uint32", llamaCppContext(config)]],
    ["gpt2.embedding_length", ["uint32", config.width]],
    ["gpt2.feed_forward_length", ["uint32", innerWidthOf(config)]],
    ["gpt2.block_count", ["uint32", config.layers]],
    ["gpt2.attention.head_count", ["uint32", config.heads]],
    ["gpt2.attention.layer_norm_epsilon", ["float32", layerNormEpsilon]],
  ];
}

/**
 * A model's tensors for llama.cpp: matrices as [outputs,inputs], vectors and positions in f32 whatever
 * `dtype` is.
 *
 * There attention scores are always multiplied by 1 / √HS: another scale becomes a factor of the queries. Biases
 * that a GPT-Neo lacks are zero.
 */
export async function llamaCppTensors(
  gpt: Gpt,
  dtype: "F32" | "F16",
): Promise<Map<string, SafetensorsEntry>> {
  const { config } = gpt, { width: C, heads, layers } = config;
  const stored = await saveParameters(gpt, { family: "gpt2" });
  /** The factor of the queries of a layer. */
  const scaleOf = (layer: number) =>
    (attentionOf(config, layer).scale ?? 0) * Math.sqrt(C / heads) || 1;

  const tensors = new Map<string, SafetensorsEntry>();
  const add = (name: string, values: Float32Array<ArrayBuffer>, shape: readonly number[]) => {
    const [, block = "", module, kind] = /^(?:h\.(\d+)\.)?(.+)\.(\w+)$/.exec(name)!;
    const type = shape.length === 1 || module === "wpe" ? "F32" : dtype;
    const prefix = block === "" ? "" : `blk.${block}.`;
    tensors.set(`${prefix}${NAMES[module!]}.${kind}`, fromFloat32(values, shape, type));
  };
  for (const [key, entry] of stored) {
    const name = key.replace(/^transformer\./, "");
    let values = toFloat32(entry), { shape } = entry;
    if (name === "wpe.weight") {
      shape = [llamaCppContext(config), C];
      values = values.slice(0, shape[0]! * C);
    }
    const [, layer] = /^h\.(\d+)\.attn\.c_attn\./.exec(name) ?? [], scale = scaleOf(Number(layer));
    if (layer !== undefined && scale !== 1) scaleQueries(values, { width: C, scale });
    const isMatrix = /\.c_\w+\.weight$/.test(name);
    if (isMatrix) [values, shape] = [transposed(values, shape), shape.toReversed()];
    add(name, values, shape);
  }
  for (let i = 0; i < layers; i++) {
    const name = `h.${i}.attn.c_attn.bias`;
    if (!stored.has(`transformer.${name}`)) add(name, new Float32Array(3 * C), [3 * C]);
  }
  return tensors;
}

/** Multiplies the first third of every row of 3 · C: the queries. */
function scaleQueries(
  values: Float32Array,
  { width: C, scale }: { width: number; scale: number },
): void {
  for (let row = 0; row < values.length; row += 3 * C) {
    for (let i = row; i < row + C; i++) values[i]! *= scale;
  }
}

/** A matrix [inputs,outputs] as [outputs,inputs]. */
function transposed(
  values: Float32Array,
  [inputs, outputs]: readonly number[],
): Float32Array<ArrayBuffer> {
  const turned = new Float32Array(values.length);
  for (let c = 0; c < inputs!; c++) {
    for (let n = 0; n < outputs!; n++) turned[n * inputs! + c] = values[c * outputs! + n]!;
  }
  return turned;
}
