import { readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { isSystemError } from "../../files/disk.ts";
import { CONFIG_FILE } from "../../files/names.ts";
import { quoted } from "../../files/printable.ts";
import { UserError } from "../../files/user_error.ts";
import {
  attentionOf,
  defaultsOf,
  type GptConfig,
  innerWidthOf,
  validateConfig,
} from "../config.ts";
import type { Gpt } from "../gpt.ts";
import { saveParameters } from "../weights.ts";
import type { GgufValue } from "./gguf.ts";
import { type GgufReadValue, parseGgufHeader } from "./gguf_reader.ts";
import { HEAD, nameInFile, withoutDefaults } from "./hugging_face.ts";
import { fromFloat32, type SafetensorsEntry, toFloat32 } from "./safetensors.ts";
import { openParts, placedReader, type TensorFiles, type TensorReader } from "./tensor_files.ts";

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

/** A model in a GGUF file. */
export interface GgufModel extends TensorFiles {
  /** Its configuration. */
  readonly config: GptConfig;
  /** All values of the file, those of its tokenizer among them. */
  readonly values: ReadonlyMap<string, GgufReadValue>;
}

/**
 * The GGUF file at a path: the file itself, or the only one of a directory that has no `config.json`.
 *
 * @returns its path; undefined if there is none.
 */
export function ggufIn(path: string): string | undefined {
  const isGguf = (name: string) => /\.gguf$/i.test(name);
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

/** Names by llama.cpp's. */
const OUR_NAMES: ReadonlyMap<string, string> = new Map(
  Object.entries(NAMES).map(([ours, theirs]) => [theirs, ours]),
);

/** The name of a tensor in Hugging Face's files. */
function nameFromLlamaCpp(stored: string): string | undefined {
  const [, block, module, kind] = /^(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)$/.exec(stored) ?? [];
  const name = OUR_NAMES.get(module!);
  if (name === undefined) return undefined;
  return nameInFile(`${block === undefined ? "" : `h.${block}.`}${name}.${kind}`);
}

/** A matrix [outputs,inputs] as [inputs,outputs]: each part that is asked for takes the whole matrix. */
function transposedReader({ shape, floats }: TensorReader): TensorReader {
  if (shape.length !== 2) return { shape, floats };
  const count = shape[0]! * shape[1]!;
  return {
    shape: shape.toReversed(),
    floats: (first, length) => transposed(floats(0, count), shape).subarray(first, first + length),
  };
}

/** The configuration of a model from the values and tensors of its file. */
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
    layerNormEpsilon: shortest(epsilon),
    ownHead: head !== undefined && !isSame(head, embedding),
  };
  validateConfig(config, `load ${where}`);
  return withoutDefaults(config);
}

/** The shortest decimal number that is the same in f32. */
function shortest(value: number): number {
  for (let digits = 1; digits < 9; digits++) {
    const rounded = Number(value.toPrecision(digits));
    if (Math.fround(rounded) === value) return rounded;
  }
  return value;
}

/** Elements of two tensors that are compared at a time. */
const PART = 2 ** 22;

/** Whether two tensors hold the same values: files may have the head although it is the token embedding. */
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
