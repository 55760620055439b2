import { readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { isSystemError } from "../../files/disk.ts";
import { CONFIG_FILE } from "../../files/names.ts";
import { quoted } from "../../files/printable.ts";
import { UserError } from "../../files/user_error.ts";
import {
  attentionOf,
  type GptConfig,
  innerWidthOf,
  validateConfig,
  withDefaults,
  withoutDefaults,
} from "../config.ts";
import type { Gpt } from "../gpt.ts";
import { saveParameters } from "../weights.ts";
import type { GgufValue } from "./gguf.ts";
import { type GgufReadValue, parseGgufHeader } from "./gguf_reader.ts";
import { HEAD, nameInFile } from "./hugging_face.ts";
import { fromFloat32, type SafetensorsEntry, toFloat32 } from "./safetensors.ts";
import { openParts, placedReader, type TensorFiles, type TensorReader } from "./tensor_files.ts";

/**
 * Models in llama.cpp's architecture `gpt2` (gguf-py/gguf/constants.py and src/models/gpt2.cpp there): names and
 * shapes of tensors, and metadata.
 *
 * @module
 */

/** Names in llama.cpp of modules, by our names; within a block the prefix there is `blk.N.`. */
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
 * Context length of a model in llama.cpp. There every token attends to all tokens before it. Local layers of a
 * GPT-Neo do so only within texts that are no longer than their window.
 */
export function llamaCppContext({ contextLength, attentionWindows = [] }: GptConfig): number {
  return Math.min(contextLength, ...attentionWindows.filter((window) => window > 0));
}

/**
 * The metadata that llama.cpp needs beside the tensors of a model.
 *
 * @throws {UserError} if the activation function is not the one that llama.cpp's GPT-2 has.
 */
export function llamaCppValues(config: GptConfig, dtype: "F32" | "F16"): [string, GgufValue][] {
  const { activation, normEpsilon } = withDefaults(config);
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
    ["gpt2.attention.layer_norm_epsilon", ["float32", normEpsilon]],
  ];
}

/**
 * The tensors of a model for llama.cpp: matrices as [outputs,inputs], vectors and positions always in f32.
 *
 * llama.cpp always multiplies attention scores by 1 / √HS, so another scale becomes a factor of the queries. Biases
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

/** Multiplies the queries, the first third of every row of 3 · C. */
function scaleQueries(
  values: Float32Array,
  { width: C, scale }: { width: number; scale: number },
): void {
  for (let row = 0; row < values.length; row += 3 * C) {
    for (let i = row; i < row + C; i++) values[i]! *= scale;
  }
}

/** Transposes a matrix [inputs,outputs] to [outputs,inputs]. */
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

/** A model in a GGUF file. */
export interface GgufModel extends TensorFiles {
  /** Its configuration. */
  readonly config: GptConfig;
  /** All values of the file, including those of its tokenizer. */
  readonly values: ReadonlyMap<string, GgufReadValue>;
}

/** Whether a file is read as GGUF, by its name. */
export function isGguf(name: string): boolean {
  return /\.gguf$/i.test(name);
}

/**
 * Finds the GGUF file at a path, which names the file, or a directory without `config.json` that holds one.
 *
 * @returns the path of the file; undefined if there is none.
 */
export function ggufIn(path: string): string | undefined {
  try {
    if (!statSync(path).isDirectory()) return isGguf(path) ? path : undefined;
    const names = readdirSync(path), files = names.filter(isGguf);
    return files.length === 1 && !names.includes(CONFIG_FILE) ? join(path, files[0]!) : undefined;
  } catch (error) {
    if (!isSystemError(error)) throw error;
    return undefined;
  }
}

/**
 * Opens a GGUF file with a GPT-2. Its tensors get Hugging Face's names and shapes; those that a GPT-2 does not
 * have keep their names.
 *
 * @throws {UserError} if it cannot be read, or if it holds another architecture.
 */
export function openGguf(path: string): GgufModel {
  const { size, read, close } = openParts(path);
  try {
    const { values, tensors: places } = parseGgufHeader(read, size, path);
    const tensors = new Map<string, TensorReader>();
    for (const [name, place] of places) {
      const reader = placedReader(place, read), known = nameFromLlamaCpp(name);
      const isMatrix = known !== undefined && /\.c_\w+\.weight$/.test(known);
      tensors.set(known ?? name, isMatrix ? transposedReader(reader) : reader);
    }
    const config = configOf(values, tensors, path);
    if (!config.ownHead) tensors.delete(HEAD);
    return { config, values, tensors, paths: [path], close };
  } catch (error) {
    close();
    throw error;
  }
}

/** Our names of modules, by those in llama.cpp. */
const OUR_NAMES: ReadonlyMap<string, string> = new Map(
  Object.entries(NAMES).map(([ours, theirs]) => [theirs, ours]),
);

/** The name of a tensor in Hugging Face's files, by that in llama.cpp; undefined if it has none. */
function nameFromLlamaCpp(stored: string): string | undefined {
  const [, block, module, kind] = /^(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)$/.exec(stored) ?? [];
  const name = OUR_NAMES.get(module!);
  if (name === undefined) return undefined;
  return nameInFile(`${block === undefined ? "" : `h.${block}.`}${name}.${kind}`);
}

/** Transposes a matrix [outputs,inputs] to [inputs,outputs]; reading any part of it reads all of it. */
function transposedReader({ shape, floats }: TensorReader): TensorReader {
  if (shape.length !== 2) return { shape, floats };
  const count = shape[0]! * shape[1]!;
  return {
    shape: shape.toReversed(),
    floats: (first, length) => transposed(floats(0, count), shape).subarray(first, first + length),
  };
}

/** Reads the configuration of a model from the values and tensors of its file. */
function configOf(
  values: ReadonlyMap<string, GgufReadValue>,
  tensors: ReadonlyMap<string, TensorReader>,
  where: string,
): GptConfig {
  const refuse = (requirement: string, value: unknown) =>
    new UserError(`Cannot load ${where} as ${requirement}: current value is ${quoted(value)}`);
  const architecture = values.get("general.architecture");
  if (architecture !== "gpt2") throw refuse("general.architecture must be gpt2", architecture);
  const whole = (name: string) => {
    const value = values.get(`gpt2.${name}`);
    if (Number.isSafeInteger(value)) return value as number;
    throw refuse(`gpt2.${name} must be a whole number`, value);
  };
  const embedding = tensors.get(nameInFile("wte.weight")), head = tensors.get(HEAD);
  if (embedding?.shape.length !== 2) {
    throw refuse("token_embd.weight must be a matrix", embedding?.shape);
  }
  const epsilon = values.get("gpt2.attention.layer_norm_epsilon");
  if (typeof epsilon !== "number") {
    throw refuse("gpt2.attention.layer_norm_epsilon must be a number", epsilon);
  }
  const heads = whole("attention.head_count");
  const keyHeads = values.get("gpt2.attention.head_count_kv") ?? heads;
  if (keyHeads !== heads) {
    throw refuse(`gpt2.attention.head_count_kv must be that of all heads, ${heads}`, keyHeads);
  }
  const config: GptConfig = {
    vocabularySize: embedding.shape[0]!,
    contextLength: whole("context_length"),
    width: whole("embedding_length"),
    layers: whole("block_count"),
    heads,
    innerWidth: whole("feed_forward_length"),
    normEpsilon: shortest(epsilon),
    ownHead: head !== undefined && !isSame(head, embedding),
  };
  validateConfig(config, `load ${where}`);
  return withoutDefaults(config);
}

/** The shortest decimal number that rounds to the same f32. */
function shortest(value: number): number {
  for (let digits = 1; digits < 9; digits++) {
    const rounded = Number(value.toPrecision(digits));
    if (Math.fround(rounded) === value) return rounded;
  }
  return value;
}

/** Elements that are compared at a time. */
const PART = 2 ** 22;

/** Whether two tensors hold the same values; a file may repeat the token embedding as the head. */
function isSame(a: TensorReader, b: TensorReader): boolean {
  if (a.shape.join() !== b.shape.join()) return false;
  const count = a.shape.reduce((product, dim) => product * dim, 1);
  for (let first = 0; first < count; first += PART) {
    const length = Math.min(PART, count - first);
    const [some, others] = [a.floats(first, length), b.floats(first, length)];
    if (!some.every((value, i) => value === others[i])) return false;
  }
  return true;
}
