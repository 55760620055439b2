import { UserError } from "../../files/user_error.ts";
import { frequenciesOf, type RotaryScaling } from "../../kernels/rope/rotation.ts";
import {
  attentionOf,
  type CompleteConfig,
  type Family,
  type GptConfig,
  headsOf,
  withDefaults,
} from "../config.ts";
import type { Gpt } from "../gpt.ts";
import { linearShapes } from "../parameters.ts";
import { saveParameters } from "../weights.ts";
import type { GgufTensor, GgufValue } from "./gguf.ts";
import { Q8_BLOCK, toQ8 } from "./q8_0.ts";
import { fromFloat32, toFloat32 } from "./safetensors.ts";
import { HEAD, nameFromFile, nameInFile } from "./tensor_names.ts";

/**
 * Models in llama.cpp's architectures `gpt2`, `gptneox`, `llama` and `qwen3` (gguf-py/gguf/constants.py and src/models
 * there): their table, and the tensors and metadata that are written. `llama_cpp_reader.ts` reads them.
 *
 * @module
 */

/** An architecture of llama.cpp. */
export interface Architecture {
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

/** Names that `gpt2` and `gptneox` share. */
const GPT2_NAMES = {
  "wte": "token_embd",
  "ln_1": "attn_norm",
  "attn.c_attn": "attn_qkv",
  "attn.c_proj": "attn_output",
  "ln_2": "ffn_norm",
  "mlp.c_fc": "ffn_up",
  "mlp.c_proj": "ffn_down",
  "ln_f": "output_norm",
  "lm_head": "output",
} as const;

/** What `gpt2` and `gptneox` share. */
const GPT2_REQUIRED = {
  norm: "layernorm",
  gatedMlp: false,
  activation: "gelu_new",
  qkNorm: false,
} as const;

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
export const ARCHITECTURES = {
  gpt2: {
    family: "gpt2",
    names: { ...GPT2_NAMES, "wpe": "position_embd" },
    required: { ...GPT2_REQUIRED, positions: "learned" },
    epsilon: "attention.layer_norm_epsilon",
  },
  gptneox: {
    family: "gpt2", // q, k and v are not interleaved as in transformers' files of a GPT-NeoX
    names: GPT2_NAMES,
    required: { ...GPT2_REQUIRED, positions: "rotary" },
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

/** Name of a supported architecture. */
export type ArchitectureName = keyof typeof ARCHITECTURES;

/** Element types of matrices in files that are written, with llama.cpp's numbers of such files. */
const FILE_TYPES = { F32: 0, F16: 1, Q8_0: 7 } as const;

/** Element type of matrices in a file that is written. */
export type GgufDType = keyof typeof FILE_TYPES;

/** A value of a file with its name. */
type Value = readonly [name: string, value: GgufValue];

/** Version of the layout of quantized tensors in ggml. */
const QUANTIZATION_VERSION = 2;

/** Names of the factors of rotary wavelengths in a file: a module and its tensor. */
export const FREQUENCIES = "rope_freqs.weight";

/**
 * Context length of a model in llama.cpp. There every token attends to all tokens before it. Local layers do so only
 * within texts that are no longer than their window.
 */
export function llamaCppContext({ contextLength, attentionWindows = [] }: GptConfig): number {
  return Math.min(contextLength, ...attentionWindows.filter((window) => window > 0));
}

/** The architecture of llama.cpp that is nearest to a model. */
function architectureOf(config: GptConfig): ArchitectureName {
  const { positions, norm, qkNorm } = withDefaults(config);
  if (positions === "learned") return "gpt2";
  return norm === "layernorm" ? "gptneox" : qkNorm ? "qwen3" : "llama";
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
    ...(ARCHITECTURES[name].family === "gpt2" ? { keyHeads: heads, headSize: width / heads } : {}),
  };
  for (const [field, value] of Object.entries(required)) {
    check(field, value, complete[field as keyof CompleteConfig]);
  }
  if (name === "llama" || rotaryScaling?.type !== "llama3") return;
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
    ...(name === "gptneox" ? [["use_parallel_residual", ["bool", false]]] as const : []),
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
 * weights that norm them. In a `gpt2` and a `gptneox` absent biases are zero. A `gptneox` always has a separate matrix of
 * the head. A `llama` pairs neighbouring components in its rotation, so the components of queries and keys are in another
 * order.
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
    if (architecture === "gptneox" && name === "wte.weight" && !config.ownHead) {
      add(HEAD, values, shape);
    }
  }
  if (family === "gpt2") {
    for (const [module, [, outputs]] of linearShapes(config)) {
      for (let i = 0; i < layers; i++) {
        const name = `h.${i}.${module}.bias`;
        if (!stored.has(nameInFile(name))) add(name, new Float32Array(outputs), [outputs]);
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
export function reordered(
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
export function transposed(
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
export function wavelengthFactors(
  scaling: RotaryScaling,
  { rotaryBase: base, headSize }: Pick<CompleteConfig, "rotaryBase" | "headSize">,
): Float32Array<ArrayBuffer> {
  const scaled = frequenciesOf({ headSize, base, scaling });
  return frequenciesOf({ headSize, base }).map((frequency, i) => frequency / scaled[i]!);
}
