import { ggufTokenizer } from "../data/tokenizer/gguf.ts";
import type { Tokenizer } from "../data/tokenizer/tokenizer.ts";
import { checkFilePath } from "../files/disk.ts";
import {
  CONFIG_FILE,
  GENERATION_FILE,
  TOKENIZER_CONFIG_FILE,
  TOKENIZER_FILE,
} from "../files/names.ts";
import { UserError } from "../files/user_error.ts";
import type { LoadedModel } from "../generate/load.ts";
import { DIVERGED } from "../kernels/sample/sample.ts";
import { type GgufValue, serializeGguf } from "../model/files/gguf.ts";
import { oneOrAll, toHuggingFaceConfig } from "../model/files/hugging_face.ts";
import { llamaCppContext, llamaCppTensors, llamaCppValues } from "../model/files/llama_cpp.ts";
import { type SafetensorsEntry, serializeSafetensors } from "../model/files/safetensors.ts";
import { MODEL_FILE } from "../model/files/tensor_files.ts";
import type { Gpt } from "../model/gpt.ts";
import { saveParameters } from "../model/weights.ts";
import { type FileContent, writeNew } from "./run_files.ts";
import { checkFree } from "./run_place.ts";

/** How a model is exported. */
export interface ExportOptions {
  /** `hf`, a directory for Hugging Face transformers; `gguf`, a file for llama.cpp. */
  readonly to: "hf" | "gguf";
  /** The directory or file, which must not exist. */
  readonly out: string;
  /** Type that matrices are rounded to; f32 by default. */
  readonly dtype?: "f32" | "f16";
  /** Is called with a sentence about each part of the model that the exported one lacks. */
  readonly onNotice?: (sentence: string) => void;
}

/**
 * Writes a model with its tokenizer for another program. Adapters were merged when it was loaded.
 *
 * @throws {CheckpointError} if the path exists, or if the system refuses.
 * @throws {UserError} if its values overflow f16, or if llama.cpp has no tokenizer of its kind.
 *
 * @example Take a model to llama.cpp
 * ```ts
 * import { exportModel, loadModel, openDevice } from "../mod.ts";
 *
 * const device = await openDevice();
 * const model = await loadModel(device, { run: "runs/default", precision: "f32" });
 * await exportModel(model, { to: "gguf", out: "story.gguf" });
 * ```
 */
export async function exportModel(
  model: LoadedModel,
  { to, out, dtype = "f32", onNotice = () => {} }: ExportOptions,
): Promise<void> {
  checkOutput(out, to);
  if (to === "hf") {
    const { gpt, tokenizer } = model;
    const files = [
      ...await modelFiles(gpt, tokenizer, { dtype }),
      ...tokenizerFiles(gpt, tokenizer),
    ];
    return writeNew(out, new Map(files));
  }
  const { contextLength } = model.gpt.config, context = llamaCppContext(model.gpt.config);
  if (context < contextLength) {
    onNotice(
      `the exported model has a context of ${context} tokens instead of ${contextLength}: llama.cpp has no ` +
        `GPT-2 layers with local attention of ${context} tokens`,
    );
  }
  const { unsaid, content } = await ggufFile(model, dtype);
  if (unsaid.length > 0) {
    onNotice(
      `texts of the exported model do not end at the tokens ${
        unsaid.join(", ")
      }: GGUF has room for three at most`,
    );
  }
  writeNew(out, content);
}

/**
 * Makes sure that a model can be written at a path.
 *
 * @throws {CheckpointError} if the path exists, or is among the checkpoints of a run, which removes old ones.
 * @throws {UserError} if the path of a file is that of a directory.
 */
export function checkOutput(out: string, to: ExportOptions["to"]): void {
  checkFree(out);
  if (to === "gguf") checkFilePath(out, "--out");
}

/** The files of a model for transformers: tensors and configuration. */
export async function modelFiles(
  gpt: Gpt,
  { endOfText, endIds }: Tokenizer,
  { dtype = "f32", dropout = 0 }: { dtype?: "f32" | "f16"; dropout?: number } = {},
): Promise<[string, FileContent][]> {
  const tensors = await saveParameters(gpt, { dtype: dtype === "f32" ? "F32" : "F16" });
  checkFinite(tensors);
  const config = toHuggingFaceConfig(gpt.config, { endOfText, endIds, dropout });
  return [
    [MODEL_FILE, serializeSafetensors(tensors, { format: "pt" })],
    [CONFIG_FILE, jsonFile(dtype === "f32" ? config : { ...config, torch_dtype: "float16" })],
  ];
}

/** The files of a model's tokenizer for transformers, and of the tokens that end a generated text. */
export function tokenizerFiles(
  { config }: Gpt,
  { json, endOfText, endOfTextToken, endIds = [endOfText] }: Tokenizer,
): [string, FileContent][] {
  return [
    [TOKENIZER_FILE, [new TextEncoder().encode(json)]],
    [
      TOKENIZER_CONFIG_FILE,
      jsonFile({
        // the defaults of transformers for these fields are others
        add_prefix_space: JSON.parse(json).pre_tokenizer?.add_prefix_space ?? false,
        bos_token: endOfTextToken,
        clean_up_tokenization_spaces: false,
        eos_token: endOfTextToken,
        model_max_length: config.contextLength,
        tokenizer_class: "PreTrainedTokenizerFast",
        unk_token: endOfTextToken,
      }),
    ],
    [
      GENERATION_FILE,
      jsonFile({ bos_token_id: endOfText, eos_token_id: oneOrAll(endIds) }),
    ],
  ];
}

/** A value as an indented JSON file. */
export function jsonFile(value: unknown): FileContent {
  return [new TextEncoder().encode(JSON.stringify(value, null, 2) + "\n")];
}

/** The file of a model for llama.cpp, and the tokens that end a text but have no field there. */
async function ggufFile(
  { gpt, tokenizer }: LoadedModel,
  dtype: "f32" | "f16",
): Promise<{ content: FileContent; unsaid: readonly number[] }> {
  const type = dtype === "f32" ? "F32" : "F16", { endOfText, endIds = [] } = tokenizer;
  // llama.cpp ends a text at each of three tokens: the ends of a text, of a turn, and of a message
  const [turn, message, ...unsaid] = endIds.filter((id) => id !== endOfText);
  const { vocabularySize } = gpt.config;
  const { tokens, kinds, merges } = ggufTokenizer({ ...tokenizer, vocabularySize });
  const values = new Map<string, GgufValue>([
    ...llamaCppValues(gpt.config, type),
    ["tokenizer.ggml.model", ["string", "gpt2"]],
    ["tokenizer.ggml.pre", ["string", "gpt-2"]],
    ["tokenizer.ggml.tokens", ["string", tokens]],
    ["tokenizer.ggml.token_type", ["int32", kinds]],
    ["tokenizer.ggml.merges", ["string", merges]],
    ["tokenizer.ggml.bos_token_id", ["uint32", endOfText]],
    ["tokenizer.ggml.eos_token_id", ["uint32", endOfText]],
    ...(turn === undefined ? [] : [ggufId("eot", turn)]),
    ...(message === undefined ? [] : [ggufId("eom", message)]),
    ["tokenizer.ggml.add_bos_token", ["bool", false]],
  ]);
  const tensors = await llamaCppTensors(gpt, type);
  checkFinite(tensors);
  return { content: serializeGguf(values, tensors), unsaid };
}

function ggufId(name: string, id: number): [string, GgufValue] {
  return [`tokenizer.ggml.${name}_token_id`, ["uint32", id]];
}

/**
 * Makes sure that all values are finite. They are not if a training has diverged, or if they overflow f16.
 *
 * @throws {UserError} naming a tensor and a value.
 */
export function checkFinite(tensors: Iterable<readonly [string, SafetensorsEntry]>): void {
  for (const [name, { dtype, data: { buffer, byteOffset, byteLength } }] of tensors) {
    const isHalf = dtype === "F16";
    const values = isHalf
      ? new Float16Array(buffer, byteOffset, byteLength / 2)
      : new Float32Array(buffer, byteOffset, byteLength / 4);
    let i = 0;
    while (i < values.length && Math.abs(values[i]!) < Infinity) i++;
    if (i === values.length) continue;
    if (isHalf && !Number.isNaN(values[i])) {
      throw new UserError(
        `Cannot write "${name}" as f16 as its values must be within ±65504: ` +
          `one would become ${values[i]}; choose f32`,
      );
    }
    throw new UserError(
      `Cannot write "${name}" as its values must be finite: one is ${values[i]}`,
      { hint: DIVERGED },
    );
  }
}
