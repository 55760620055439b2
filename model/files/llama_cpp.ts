import { readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { isSystemError } from "../../files/disk.ts";
import { CONFIG_FILE } from "../../files/names.ts";
import { quoted } from "../../files/printable.ts";
import { UserError } from "../../files/user_error.ts";
import {
  attentionOf,
  type CompleteConfig,
  type Family,
  type GptConfig,
  headsOf,
  LARGEST,
  validateConfig,
  withDefaults,
  withoutDefaults,
} from "../config.ts";
import { frequenciesOf, type RotaryScaling } from "../../kernels/rope/rotation.ts";
import type { Gpt } from "../gpt.ts";
import { saveParameters } from "../weights.ts";
import type { GgufTensor, GgufValue } from "./gguf.ts";
import { type GgufReadValue, parseGgufHeader } from "./gguf_reader.ts";
import { Q8_BLOCK, toQ8 } from "./q8_0.ts";
import { fromFloat32, toFloat32 } from "./safetensors.ts";
import {
  haveSameValues,
  openParts,
  placedReader,
  type TensorFiles,
  type TensorReader,
} from "./tensor_files.ts";
import { HEAD, nameFromFile, nameInFile } from "./tensor_names.ts";

/**
 * Models in llama.cpp's architectures `gpt2`, `llama` and `qwen3` (gguf-py/gguf/constants.py and src/models there): names
 * and shapes of tensors, and metadata.
 *
 * @module
 */

/** An architecture of llama.cpp. */
interface Architecture {
  /** Family whose names and shapes the stored tensors have. */
  readonly family: Family;
  /** Names in llama.cpp of modules, by those in files of that family; within a block the prefix there is `blk.N.`. */
  readonly names: Readonly<Record<string, string>>;
  /** Values of fields of the configuration without which llama.cpp computes another model. */
  readonly required:
    & Partial<Pick<CompleteConfig, "activation" | "norm" | "positions" | "gatedMlp">>
    & {
      readonly qkNorm: boolean;
      readonly projectionBias?: false;
      readonly mlpBias?: false;
    };
  /** Name of the value that norms add. */
  readonly epsilon: string;
}

/** Names that `llama` and `qwen3` share. */
const LLAMA_NAMES = {
  "embed_tokens": "token_embd",
  "input_layernorm": "attn_norm",
  "self_attn.q_proj": "attn_q",
  "self_attn.k_proj": "attn_k",
  "self_attn.v_proj": "attn_v",
  "self_attn.o_proj": "attn_output",
  "post_attention_layernorm": "ffn_norm",
  "mlp.gate_proj": "ffn_gate",
  "mlp.up_proj": "ffn_up",
  "mlp.down_proj": "ffn_down",
  "norm": "output_norm",
  "lm_head": "output",
} as const;

/** What `llama` and `qwen3` share. */
const LLAMA_REQUIRED = {
  positions: "rotary",
  norm: "rmsnorm",
  gatedMlp: true,
  activation: "silu",
} as const;

/** The supported architectures, by their names in llama.cpp. */
const ARCHITECTURES = {
  gpt2: {
    family: "gpt2",
    names: {
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
    },
    required: {
      positions: "learned",
      norm: "layernorm",
      gatedMlp: false,
      activation: "gelu_new",
      qkNorm: false,
    },
    epsilon: "attention.layer_norm_epsilon",
  },
  llama: {
    family: "llama",
    names: LLAMA_NAMES,
    required: { ...LLAMA_REQUIRED, qkNorm: false },
    epsilon: "attention.layer_norm_rms_epsilon",
  },
  qwen3: {
    family: "llama",
    names: {
      ...LLAMA_NAMES,
      "self_attn.q_norm": "attn_q_norm",
      "self_attn.k_norm": "attn_k_norm",
    },
    required: { ...LLAMA_REQUIRED, qkNorm: true, projectionBias: false, mlpBias: false },
    epsilon: "attention.layer_norm_rms_epsilon",
  },
} as const satisfies Readonly<Record<string, Architecture>>;

type ArchitectureName = keyof typeof ARCHITECTURES;

/** Element types of matrices in files that are written, with llama.cpp's numbers of such files. */
const FILE_TYPES = { F32: 0, F16: 1, Q8_0: 7 } as const;

/** Element type of matrices in a file that is written. */
export type GgufDType = keyof typeof FILE_TYPES;

/** A value of a file with its name. */
type Value = readonly [name: string, value: GgufValue];

/** Version of the layout of quantized tensors in ggml. */
const QUANTIZATION_VERSION = 2;

/** Names of the factors of rotary wavelengths in a file: a module and its tensor. */
const FREQUENCIES = "rope_freqs.weight";

/**
 * Context length of a model in llama.cpp. There every token attends to all tokens before it. Local layers do so only
 * within texts that are no longer than their window.
 */
export function llamaCppContext({ contextLength, attentionWindows = [] }: GptConfig): number {
  return Math.min(contextLength, ...attentionWindows.filter((window) => window > 0));
}

/** The architecture of llama.cpp that is nearest to a model. */
function architectureOf(config: GptConfig): ArchitectureName {
  const { positions, qkNorm } = withDefaults(config);
  return positions === "learned" ? "gpt2" : qkNorm ? "qwen3" : "llama";
}

/**
 * Checks that an architecture of llama.cpp computes a model.
 *
 * @throws {UserError} naming a field that must be another.
 */
function checkArchitecture(name: ArchitectureName, config: GptConfig): void {
  const complete = withDefaults(config), { heads, width, rotaryScaling } = complete;
  const check = (field: string, value: unknown, current: unknown) => {
    if (value === current) return;
    throw new UserError(
      `Cannot write a model for llama.cpp as its ${name} must have ${field} ${value}: ` +
        `current value is ${current}`,
    );
  };
  const required: Partial<CompleteConfig> = {
    ...ARCHITECTURES[name].required,
    ...(name === "gpt2" ? { keyHeads: heads, headSize: width / heads } : {}),
  };
  for (const [field, value] of Object.entries(required)) {
    check(field, value, complete[field as keyof CompleteConfig]);
  }
  if (name !== "qwen3" || rotaryScaling?.type !== "llama3") return;
  check("rotaryScaling", "none or linear", rotaryScaling.type);
}

/**
 * The metadata that llama.cpp needs beside the tensors of a model.
 *
 * @throws {UserError} if llama.cpp does not compute such a model.
 */
export function llamaCppValues(config: GptConfig, dtype: GgufDType): Value[] {
  const name = architectureOf(config), complete = withDefaults(config);
  checkArchitecture(name, config);
  const { heads, keyHeads, headSize, rotaryBase, rotaryScaling } = complete;
  const values: Value[] = [
    ["context_length", ["uint32", llamaCppContext(config)]],
    ["embedding_length", ["uint32", config.width]],
    ["feed_forward_length", ["uint32", complete.innerWidth]],
    ["block_count", ["uint32", config.layers]],
    ["attention.head_count", ["uint32", heads]],
    ...(name === "gpt2" ? [] : [
      ["attention.head_count_kv", ["uint32", keyHeads]],
      ["attention.key_length", ["uint32", headSize]],
      ["attention.value_length", ["uint32", headSize]],
      ["rope.dimension_count", ["uint32", headSize]],
      ["rope.freq_base", ["float32", rotaryBase]],
      ["vocab_size", ["uint32", config.vocabularySize]],
    ] as const),
    ...(rotaryScaling?.type === "linear"
      ? [
        ["rope.scaling.type", ["string", "linear"]],
        ["rope.scaling.factor", ["float32", rotaryScaling.factor]],
      ] as const
      : []),
    [ARCHITECTURES[name].epsilon, ["float32", complete.normEpsilon]],
  ];
  return [
    ["general.architecture", ["string", name]],
    ["general.file_type", ["uint32", FILE_TYPES[dtype]]],
    ...(dtype === "Q8_0"
      ? [["general.quantization_version", ["uint32", QUANTIZATION_VERSION]]] as const
      : []),
    ...values.map(([key, value]): Value => [`${name}.${key}`, value]),
  ];
}

/**
 * The tensors of a model for llama.cpp: matrices as [outputs,inputs], vectors and positions always in f32, and rows that
 * are no whole number of blocks of Q8_0 in f16.
 *
 * llama.cpp always multiplies attention scores by 1 / √HS, so another scale becomes a factor of the queries, or of the
 * weights that norm them. In a `gpt2` absent biases are zero. A `llama` pairs neighbouring components in its rotation, so
 * the components of queries and keys are in another order.
 */
export async function llamaCppTensors(
  gpt: Gpt,
  dtype: GgufDType,
): Promise<Map<string, GgufTensor>> {
  const { config } = gpt,
    { width: C, layers } = config,
    { heads, keyHeads, headSize } = headsOf(config);
  const architecture = architectureOf(config), { family, names } = ARCHITECTURES[architecture];
  const stored = await saveParameters(gpt, { family });
  /** The factor of the queries of a layer. */
  const scaleOf = (layer: number) =>
    (attentionOf(config, layer).scale ?? 0) * Math.sqrt(headSize) || 1;

  const tensors = new Map<string, GgufTensor>();
  const add = (name: string, values: Float32Array<ArrayBuffer>, shape: readonly number[]) => {
    const [, block = "", module, kind] = /^(?:(?:h|layers)\.(\d+)\.)?(.+)\.(\w+)$/.exec(name)!;
    const isVector = shape.length === 1 || module === "wpe";
    const prefix = block === "" ? "" : `blk.${block}.`;
    const theirs = (names as Architecture["names"])[module!];
    tensors.set(`${prefix}${theirs}.${kind}`, toType(values, shape, isVector ? "F32" : dtype));
  };
  for (const [key, entry] of stored) {
    const name = nameFromFile(key);
    let values = toFloat32(entry), { shape } = entry;
    if (name === "wpe.weight") {
      shape = [llamaCppContext(config), C];
      values = values.slice(0, shape[0]! * C);
    }
    const [, layer, module] = /^(?:h|layers)\.(\d+)\.(.+)\.\w+$/.exec(name) ?? [];
    const scale = layer === undefined ? 1 : scaleOf(Number(layer));
    if (scale !== 1) {
      if (module === "attn.c_attn") scaleColumns(values, { columns: 3 * C, count: C, scale });
      const isOfQueries =
        module === (architecture === "qwen3" ? "self_attn.q_norm" : "self_attn.q_proj");
      if (isOfQueries) values = values.map((value) => value * scale);
    }
    if (family === "gpt2" && /\.c_\w+\.weight$/.test(name)) {
      [values, shape] = [transposed(values, shape), shape.toReversed()];
    }
    const rotated = architecture === "llama" && ROTATED.exec(module ?? "");
    if (rotated) {
      values = reordered(values, {
        heads: rotated[1] === "q" ? heads : keyHeads,
        headSize,
        to: "neighbours",
      });
    }
    add(name, values, shape);
  }
  if (family === "gpt2") {
    const { innerWidth } = withDefaults(config);
    const biases = {
      "attn.c_attn": 3 * C,
      "attn.c_proj": C,
      "mlp.c_fc": innerWidth,
      "mlp.c_proj": C,
    };
    for (const [module, length] of Object.entries(biases)) {
      for (let i = 0; i < layers; i++) {
        const name = `h.${i}.${module}.bias`;
        if (!stored.has(nameInFile(name))) add(name, new Float32Array(length), [length]);
      }
    }
  }
  if (config.rotaryScaling?.type === "llama3") {
    const factors = wavelengthFactors(config.rotaryScaling, withDefaults(config));
    tensors.set(FREQUENCIES, fromFloat32(factors, [factors.length], "F32"));
  }
  return tensors;
}

/** Modules whose outputs are rotated. */
const ROTATED = /^self_attn\.([qk])_proj$/;

/** Values in an element type; rows that are no whole number of blocks of Q8_0 become f16. */
function toType(
  values: Float32Array<ArrayBuffer>,
  shape: readonly number[],
  dtype: GgufDType,
): GgufTensor {
  if (dtype !== "Q8_0") return fromFloat32(values, shape, dtype);
  return shape.at(-1)! % Q8_BLOCK.elements === 0
    ? { dtype, shape, data: toQ8(values) }
    : fromFloat32(values, shape, "F16");
}

/** Multiplies the first columns of every row. */
function scaleColumns(
  values: Float32Array,
  { columns, count, scale }: { columns: number; count: number; scale: number },
): void {
  for (let row = 0; row < values.length; row += columns) {
    for (let i = row; i < row + count; i++) values[i]! *= scale;
  }
}

/**
 * Reorders the components of each head, the rows of a matrix or the elements of a bias: component i and i + HS/2 are
 * rotated together here, 2i and 2i + 1 in llama.cpp's `llama`.
 */
function reordered(
  values: Float32Array<ArrayBuffer>,
  { heads, headSize, to }: { heads: number; headSize: number; to: "halves" | "neighbours" },
): Float32Array<ArrayBuffer> {
  const row = values.length / (heads * headSize), half = headSize / 2;
  const result = new Float32Array(values.length);
  for (let h = 0; h < heads; h++) {
    for (let i = 0; i < headSize; i++) {
      const inHalves = h * headSize + i,
        inNeighbours = h * headSize + 2 * (i % half) + Math.floor(i / half);
      const [from, at] = to === "neighbours" ? [inHalves, inNeighbours] : [inNeighbours, inHalves];
      result.set(values.subarray(from * row, (from + 1) * row), at * row);
    }
  }
  return result;
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

/** The factors of the wavelengths of rotary positions, by pair of components: [HS/2]. */
function wavelengthFactors(
  scaling: RotaryScaling,
  { rotaryBase: base, headSize }: Pick<CompleteConfig, "rotaryBase" | "headSize">,
): Float32Array<ArrayBuffer> {
  const scaled = frequenciesOf({ headSize, base, scaling });
  return frequenciesOf({ headSize, base }).map((frequency, i) => frequency / scaled[i]!);
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
 * Opens a GGUF file with a model of a supported architecture. Its tensors get Hugging Face's names and shapes; those that such a model
 * does not have keep their names.
 *
 * @throws {UserError} if it cannot be read, or if it holds another architecture.
 */
export function openGguf(path: string): GgufModel {
  const { size, read, close } = openParts(path);
  try {
    const { values, tensors: places } = parseGgufHeader(read, size, path);
    const architecture = architectureIn(values, path), plain = new Map<string, TensorReader>();
    for (const [name, place] of places) {
      if (name === FREQUENCIES) continue; // the configuration has them
      const known = nameFromLlamaCpp(name, ARCHITECTURES[architecture]);
      plain.set(known ?? name, placedReader(place, read));
    }
    const frequencies = places.get(FREQUENCIES);
    const factors = frequencies && placedReader(frequencies, read);
    const config = configOf(architecture, values, { tensors: plain, factors }, path);
    const tensors = new Map(
      Array.from(
        plain,
        ([name, reader]) => [name, asStored(name, reader, architecture, headsOf(config))],
      ),
    );
    if (!config.ownHead) tensors.delete(HEAD);
    return { config, values, tensors, paths: [path], close };
  } catch (error) {
    close();
    throw error;
  }
}

/** The name of a tensor in Hugging Face's files, by that in llama.cpp; undefined if it has none. */
function nameFromLlamaCpp(
  stored: string,
  { family, names }: Pick<Architecture, "family" | "names">,
): string | undefined {
  const [, block, module, kind] = /^(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)$/.exec(stored) ?? [];
  const name = Object.keys(names).find((ours) => names[ours] === module);
  if (name === undefined) return undefined;
  const layers = family === "llama" ? "layers" : "h";
  return nameInFile(`${block === undefined ? "" : `${layers}.${block}.`}${name}.${kind}`, family);
}

/** The reader of a tensor that is changed as a whole; reading any part of it reads all of it. */
function changedReader(
  { shape, floats }: TensorReader,
  changedShape: readonly number[],
  change: (values: Float32Array<ArrayBuffer>) => Float32Array<ArrayBuffer>,
): TensorReader {
  const count = shape.reduce((product, dim) => product * dim, 1);
  return {
    shape: changedShape,
    floats: (first, length) => change(floats(0, count)).subarray(first, first + length),
  };
}

/** A tensor as Hugging Face's files have it. */
function asStored(
  name: string,
  reader: TensorReader,
  architecture: ArchitectureName,
  { heads, keyHeads, headSize }: ReturnType<typeof headsOf>,
): TensorReader {
  const { shape } = reader;
  if (architecture === "gpt2" && /\.c_\w+\.weight$/.test(name)) {
    return shape.length !== 2
      ? reader
      : changedReader(reader, shape.toReversed(), (values) => transposed(values, shape));
  }
  const [, part] = /\.self_attn\.([qk])_proj\.(?:weight|bias)$/.exec(name) ?? [];
  const ofPart = part === "q" ? heads : keyHeads;
  if (architecture !== "llama" || part === undefined || shape[0] !== ofPart * headSize) {
    return reader;
  }
  return changedReader(
    reader,
    shape,
    (values) => reordered(values, { heads: ofPart, headSize, to: "halves" }),
  );
}

/** The architecture that a file says it has. */
function architectureIn(
  values: ReadonlyMap<string, GgufReadValue>,
  where: string,
): ArchitectureName {
  const name = values.get("general.architecture");
  if (typeof name === "string" && Object.hasOwn(ARCHITECTURES, name)) {
    return name as ArchitectureName;
  }
  throw new UserError(
    `Cannot load ${where} as general.architecture must be ${
      Object.keys(ARCHITECTURES).join(", ")
    }: current value is ${quoted(name)}`,
  );
}

/** Reads the configuration of a model from the values and tensors of its file. */
function configOf(
  architecture: ArchitectureName,
  values: ReadonlyMap<string, GgufReadValue>,
  { tensors, factors }: {
    tensors: ReadonlyMap<string, TensorReader>;
    factors: TensorReader | undefined;
  },
  where: string,
): GptConfig {
  const refuse = (requirement: string, value: unknown) =>
    new UserError(`Cannot load ${where} as ${requirement}: current value is ${quoted(value)}`);
  const { family, epsilon: epsilonName, required } = ARCHITECTURES[architecture];
  const get = (name: string) => values.get(`${architecture}.${name}`);
  const whole = (name: string, fallback?: number) => {
    const value = get(name) ?? fallback;
    if (Number.isSafeInteger(value)) return value as number;
    throw refuse(`${architecture}.${name} must be a whole number`, value);
  };
  const number = (name: string, fallback?: number) => {
    const value = get(name) ?? fallback;
    if (typeof value === "number") return shortest(value);
    throw refuse(`${architecture}.${name} must be a number`, value);
  };
  const must = (name: string, wanted: number, meaning: string) => {
    const value = get(name) ?? wanted;
    if (value !== wanted) throw refuse(`${architecture}.${name} must be ${meaning}`, value);
  };
  const tensor = (name: string) => tensors.get(nameInFile(name, family));
  const embedding = tensor("wte.weight"), head = tensors.get(HEAD);
  if (embedding?.shape.length !== 2) {
    throw refuse("token_embd.weight must be a matrix", embedding?.shape);
  }
  const normEpsilon = number(epsilonName), heads = whole("attention.head_count");
  const width = whole("embedding_length"), layers = whole("block_count");
  if (layers < 1 || layers > LARGEST.layers) {
    throw refuse(`${architecture}.block_count must be from 1 to ${LARGEST.layers}`, layers);
  }
  must("expert_count", 0, "0");
  if (architecture === "gpt2") {
    must("attention.head_count_kv", heads, `that of all heads, ${heads}`);
  }
  const config: GptConfig = {
    vocabularySize: embedding.shape[0]!,
    contextLength: whole("context_length"),
    width,
    layers,
    heads,
    family,
    innerWidth: whole("feed_forward_length"),
    normEpsilon,
    // a file may repeat the token embedding as the head
    ownHead: head !== undefined && !haveSameValues(head, embedding),
    ...(architecture === "gpt2" ? {} : {
      qkNorm: required.qkNorm,
      keyHeads: whole("attention.head_count_kv", heads),
      headSize: whole("attention.key_length", width / heads),
      rotaryBase: number("rope.freq_base", 10_000),
      qkvBias: tensor("layers.0.self_attn.q_proj.bias") !== undefined,
      projectionBias: tensor("layers.0.self_attn.o_proj.bias") !== undefined,
      mlpBias: tensor("layers.0.mlp.up_proj.bias") !== undefined,
    }),
  };
  const { headSize } = headsOf(config);
  must("attention.value_length", headSize, `that of keys, ${headSize}`);
  must("rope.dimension_count", headSize, `the size of heads, ${headSize}`);
  validateConfig(config, `load ${where}`);
  const type = get("rope.scaling.type"), hasFactor = get("rope.scaling.factor") !== undefined;
  if (type !== undefined && type !== "none" && type !== "linear") {
    throw refuse(`${architecture}.rope.scaling.type must be none or linear`, type);
  }
  const linear = type === "none" || !hasFactor ? 1 : number("rope.scaling.factor");
  const rotaryScaling: RotaryScaling | undefined = factors
    ? scalingOf(factors, withDefaults(config), refuse)
    : linear === 1
    ? undefined
    : { type: "linear", factor: linear };
  const scaled = rotaryScaling ? { ...config, rotaryScaling } : config;
  validateConfig(scaled, `load ${where}`);
  return withoutDefaults(scaled);
}

/** Largest relative difference between factors of wavelengths, which are f32. */
const FACTOR_TOLERANCE = 1e-5;

/**
 * The scaling of rotary positions whose wavelengths have these factors: Llama 3's, as no other has factors in a file.
 * They determine the original context length only in units of `lowFrequencyFactor`, which is 1 in all of Llama's models.
 */
function scalingOf(
  reader: TensorReader,
  config: CompleteConfig,
  refuse: (requirement: string, value: unknown) => Error,
): RotaryScaling {
  const { headSize, rotaryBase: base } = config, pairs = headSize / 2;
  if (reader.shape.join() !== `${pairs}`) {
    throw refuse(`${FREQUENCIES} must have a factor for each of ${pairs} pairs`, reader.shape);
  }
  const factors = [...reader.floats(0, pairs)], factor = shortest(Math.max(...factors));
  // between the ends of its range 1 / factors is a linear function of 1 / wavelength
  const frequencies = frequenciesOf({ headSize, base });
  const points = factors.flatMap((value, i) =>
    value > 1 && value < factor
      ? [{ x: frequencies[i]! / (2 * Math.PI), kept: (1 / value - 1 / factor) / (1 - 1 / factor) }]
      : []
  );
  const first = points[0], last = points.at(-1), candidates = [{ length: 8192, high: 4 }]; // Llama 3.1 and 3.2
  if (first && last && first !== last) {
    const slope = (first.kept - last.kept) / (first.x - last.x);
    const high = 1 - 1 / (first.kept - slope * first.x);
    candidates.push({ length: Math.round(slope * (high - 1)), high: Number(high.toPrecision(4)) });
  } else if (first) {
    candidates.push({ length: Math.round((3 * first.kept + 1) / first.x), high: 4 });
  }
  for (const { length, high } of candidates) {
    const scaling: RotaryScaling = {
      type: "llama3",
      factor,
      lowFrequencyFactor: 1,
      highFrequencyFactor: high,
      originalContextLength: length,
    };
    const found = wavelengthFactors(scaling, config);
    if (found.every((value, i) => Math.abs(value / factors[i]! - 1) < FACTOR_TOLERANCE)) {
      return scaling;
    }
  }
  throw refuse(`${FREQUENCIES} must hold the factors of Llama 3's rotary positions`, factors);
}

/** The shortest decimal number that rounds to the same f32. */
function shortest(value: number): number {
  for (let digits = 1; digits < 9; digits++) {
    const rounded = Number(value.toPrecision(digits));
    if (Math.fround(rounded) === value) return rounded;
  }
  return value;
}
