import { defaultTemplate } from "../data/tokenizer/chat_template.ts";
import { ggufTokenizer } from "../data/tokenizer/gguf.ts";
import type { Tokenizer } from "../data/tokenizer/tokenizer.ts";
import { checkFilePath } from "../files/disk.ts";
import {
  CONFIG_FILE,
  GENERATION_FILE,
  TOKENIZER_CONFIG_FILE,
  TOKENIZER_FILE,
} from "../files/names.ts";
import { refuseOthers } from "../files/option_names.ts";
import { UserError } from "../files/user_error.ts";
import type { LoadedModel } from "../generate/load.ts";
import { DIVERGED } from "../kernels/sample/sample.ts";
import { type GgufTensor, type GgufValue, serializeGguf } from "../model/files/gguf.ts";
import { familyOf, oneOrAll, toHuggingFaceConfig } from "../model/files/hugging_face.ts";
import { llamaCppContext, llamaCppTensors, llamaCppValues } from "../model/files/llama_cpp.ts";
import { scalesOf } from "../model/files/q8_0.ts";
import { type SafetensorsEntry, serializeSafetensors } from "../model/files/safetensors.ts";
import { MODEL_FILE } from "../model/files/tensor_files.ts";
import type { Gpt } from "../model/gpt.ts";
import { saveParameters } from "../model/weights.ts";
import { type FileContent, writeNew } from "./directory/run_files.ts";
import { checkFree } from "./directory/run_place.ts";

/** Types that the matrices of an exported model can have. */
export type ExportDType = "f32" | "f16" | "q8_0";

/** How a model is exported. */
export interface ExportOptions {
  /** `hf`, a directory for Hugging Face transformers; `gguf`, a file for llama.cpp. */
  readonly to: "hf" | "gguf";
  /** The directory or file, which must not exist. */
  readonly out: string;
  /** Type that matrices are rounded to; f32 by default. Only `gguf` has q8_0, 8-bit integers with a scale for 32 each. */
  readonly dtype?: ExportDType;
  /** Is called with a sentence about each part of the model that the exported one lacks. */
  readonly onNotice?: (sentence: string) => void;
}

/**
 * Writes a model with its tokenizer for another program. Adapters were merged when it was loaded.
 *
 * @throws {CheckpointError} if the path exists, or if the system refuses.
 * @throws {UserError} if its values overflow f16, or if the other program has no model or no tokenizer of its kind.
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
  { to, out, dtype = "f32", onNotice = () => {}, ...others }: ExportOptions,
): Promise<void> {
  refuseOthers("export a model", "exportModel()", others);
  checkOutput(out, to, dtype);
  if (to === "hf" && dtype !== "q8_0") {
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
        `layers with local attention of ${context} tokens in this architecture`,
    );
  }
  const { unsaid, unquantized, content } = await ggufFile(model, dtype);
  if (unquantized > 0) {
    onNotice(
      `${unquantized} matrices of the exported model are f16: their rows are no multiple of 32 elements, which q8_0 needs`,
    );
  }
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
 * @throws {UserError} if the path of a file is that of a directory, or if the format does not have the type.
 */
export function checkOutput(
  out: string,
  to: ExportOptions["to"],
  dtype: ExportDType = "f32",
): void {
  if (to === "hf" && dtype === "q8_0") {
    throw new UserError(
      "Cannot export a model to Hugging Face transformers as --dtype must be f32 or f16: current value is q8_0",
      { hint: "q8_0 is a type of llama.cpp: --to gguf" },
    );
  }
  checkFree(out);
  if (to === "gguf") checkFilePath(out, "--out");
}

/**
 * The files of a model for transformers: tensors and configuration.
 *
 * @param options.toConfig makes the configuration; by default `toHuggingFaceConfig()`.
 */
export async function modelFiles(
  gpt: Gpt,
  tokenizer: Tokenizer,
  { dtype = "f32", dropout = 0, toConfig = toHuggingFaceConfig }: {
    dtype?: "f32" | "f16";
    dropout?: number;
    toConfig?: typeof toHuggingFaceConfig;
  } = {},
): Promise<[string, FileContent][]> {
  const { endOfText, endIds } = tokenizer, bosId = bosIdOf(tokenizer);
  const config = toConfig(gpt.config, { endOfText, endIds, bosId, dropout });
  const tensors = await saveParameters(gpt, {
    dtype: dtype === "f32" ? "F32" : "F16",
    family: familyOf(config),
  });
  checkFinite(tensors);
  return [
    [MODEL_FILE, serializeSafetensors(tensors, { format: "pt" })],
    [CONFIG_FILE, jsonFile(dtype === "f32" ? config : { ...config, torch_dtype: "float16" })],
  ];
}

/** Id of the `bos_token`, if it is not the token that ends a document. */
function bosIdOf({ bosToken, encode }: Tokenizer): number | undefined {
  const ids = bosToken === undefined ? [] : encode(bosToken);
  return ids.length === 1 ? ids[0] : undefined; // text, if the vocabulary does not have it
}

/**
 * The files of a model's tokenizer for transformers, and of the tokens that end a generated text. A chat template is
 * in the configuration, where all versions of transformers find it.
 */
export function tokenizerFiles({ config }: Gpt, tokenizer: Tokenizer): [string, FileContent][] {
  const { json, endOfText, endOfTextToken, endIds = [endOfText], chatTemplate } = tokenizer;
  const { bosToken = endOfTextToken } = tokenizer, file = JSON.parse(json);
  return [
    [TOKENIZER_FILE, [new TextEncoder().encode(json)]],
    [
      TOKENIZER_CONFIG_FILE,
      jsonFile({
        // the defaults of transformers for these fields are others
        add_prefix_space: file.pre_tokenizer?.add_prefix_space ?? false,
        bos_token: bosToken,
        ...(chatTemplate === undefined ? {} : { chat_template: chatTemplate }),
        clean_up_tokenization_spaces: false,
        eos_token: endOfTextToken,
        model_max_length: config.contextLength,
        tokenizer_class: "PreTrainedTokenizerFast",
        unk_token: file.model.unk_token ?? endOfTextToken,
      }),
    ],
    [
      GENERATION_FILE,
      jsonFile({
        bos_token_id: bosIdOf(tokenizer) ?? endOfText,
        eos_token_id: oneOrAll(endIds),
      }),
    ],
  ];
}

/** A value as an indented JSON file. */
export function jsonFile(value: unknown): FileContent {
  return [new TextEncoder().encode(JSON.stringify(value, null, 2) + "\n")];
}

/** The file of a model for llama.cpp, and what it lacks. */
async function ggufFile(
  { gpt, tokenizer }: LoadedModel,
  dtype: ExportDType,
): Promise<{
  content: FileContent;
  /** Tokens that end a text but have no field there. */
  unsaid: readonly number[];
  /** Number of matrices that are f16 in place of Q8_0. */
  unquantized: number;
}> {
  const type = GGUF_DTYPES[dtype], { endOfText, endIds = [] } = tokenizer;
  // llama.cpp ends a text at each of three tokens: the ends of a text, of a turn, and of a message
  const [turn, message, ...unsaid] = endIds.filter((id) => id !== endOfText);
  const { vocabularySize } = gpt.config, template = defaultTemplate(tokenizer.chatTemplate);
  const values = new Map<string, GgufValue>([
    ...llamaCppValues(gpt.config, type),
    ggufId("bos", bosIdOf(tokenizer) ?? endOfText),
    ggufId("eos", endOfText),
    ...(turn === undefined ? [] : [ggufId("eot", turn)]),
    ...(message === undefined ? [] : [ggufId("eom", message)]),
    ...ggufTokenizer({ ...tokenizer, vocabularySize }), // an id that begins texts replaces the one above
    ...(template === undefined ? [] : [["tokenizer.chat_template", ["string", template]]] as const),
  ]);
  const tensors = await llamaCppTensors(gpt, type);
  checkFinite(tensors);
  const matrices = [...tensors.values()].filter(({ dtype }) => dtype === "F16");
  return {
    content: serializeGguf(values, tensors),
    unsaid,
    unquantized: type === "Q8_0" ? matrices.length : 0,
  };
}

/** Types in GGUF. */
const GGUF_DTYPES = { f32: "F32", f16: "F16", q8_0: "Q8_0" } as const;

function ggufId(name: string, id: number): [string, GgufValue] {
  return [`tokenizer.ggml.${name}_token_id`, ["uint32", id]];
}

/**
 * Makes sure that all values are finite. They are not if a training has diverged, or if they overflow f16.
 *
 * @throws {UserError} naming a tensor and a value.
 */
export function checkFinite(
  tensors: Iterable<readonly [string, Pick<SafetensorsEntry | GgufTensor, "dtype" | "data">]>,
): void {
  for (const [name, { dtype, data }] of tensors) {
    const { buffer, byteOffset, byteLength } = data, isHalf = dtype !== "F32";
    const values = dtype === "Q8_0"
      ? scalesOf(data)
      : isHalf
      ? new Float16Array(buffer, byteOffset, byteLength / 2)
      : new Float32Array(buffer, byteOffset, byteLength / 4);
    let i = 0;
    while (i < values.length && Math.abs(values[i]!) < Infinity) i++;
    if (i === values.length) continue;
    if (isHalf && !Number.isNaN(values[i])) {
      throw new UserError(
        `Cannot write "${name}" as ${dtype.toLowerCase()} as its ${
          dtype === "Q8_0" ? "scales" : "values"
        } must be within ±65504: ` +
          `one would become ${values[i]}; choose f32`,
      );
    }
    throw new UserError(
      `Cannot write "${name}" as its values must be finite: one is ${values[i]}`,
      { hint: DIVERGED },
    );
  }
}
