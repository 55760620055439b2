/**
 * Train a small GPT from scratch on WebGPU, understand every line of it, and generate text with it.
 *
 * @example Continue a text with a trained model
 * ```ts
 * import { generate, loadModel, openDevice } from "./mod.ts";
 *
 * const device = await openDevice();
 * const model = await loadModel(device, { run: "runs/default" });
 * for await (const text of generate(model, { prompt: "Once upon a time" })) console.log(text);
 * ```
 *
 * @module
 */
export { UserError, type UserErrorOptions } from "./files/user_error.ts";
export { type Arena } from "./kernels/arena.ts";
export { type Device, DeviceError, openDevice } from "./kernels/device.ts";
export type { ActivationFunction } from "./kernels/matmul/matmul.ts";
export type { Binding, Pipeline } from "./kernels/shader.ts";
export type { DType, Tensor } from "./kernels/tensor.ts";
export {
  type Family,
  type GptConfig,
  type LoraConfig,
  type PresetDimensions,
  type PresetName,
  PRESETS,
} from "./model/config.ts";
export { createGpt, type Gpt } from "./model/gpt.ts";
export type { ParameterSpec } from "./model/parameters.ts";
export { parseHuggingFaceConfig, toHuggingFaceConfig } from "./model/files/hugging_face.ts";
export {
  type AdapterBase,
  parseAdapterConfig,
  type PeftLora,
  toAdapterConfig,
} from "./model/files/lora.ts";
export {
  initializeParameters,
  loadAdapters,
  loadParameters,
  saveAdapters,
  saveParameters,
} from "./model/weights.ts";
export {
  openModelTensors,
  openTensorFiles,
  type TensorFiles,
  type TensorReader,
} from "./model/files/tensor_files.ts";
export type { Precision } from "./model/precision.ts";
export {
  parseSafetensors,
  type Safetensors,
  type SafetensorsDType,
  type SafetensorsEntry,
  serializeSafetensors,
} from "./model/files/safetensors.ts";
export {
  CheckpointError,
  type FileDigest,
  listCheckpoints,
  newestCheckpoint,
  type TrainerState,
  verifyCheckpoint,
} from "./model/files/checkpoint.ts";
export {
  type Corpus,
  type CorpusOptions,
  loadCorpus,
  type VocabularyMode,
} from "./data/tokens/corpus.ts";
export {
  type CachedFile,
  type Environment,
  HubError,
  type HubFile,
  hubFile,
  type HubOptions,
  type HubRepo,
  type HubSpec,
  listHubFiles,
  parseHubSpec,
} from "./data/hub/hub.ts";
export { type Dataset, type DataSpec, openDataset } from "./data/text/dataset.ts";
export type { DataOptions } from "./data/text/files.ts";
export {
  type DataProgress,
  type Documents,
  documentsOf,
  type ReadOptions,
} from "./data/text/documents.ts";
export type { Block, PartsOrigin, PlaceUnit } from "./data/text/blocks.ts";
export { DataError } from "./data/text/data_error.ts";
export type { TokenDataset, Tokens } from "./data/tokens/token_dataset.ts";
export type { TokenizedDocuments } from "./data/tokens/token_file.ts";
export { tokenizeDocuments, type TokenizeOptions } from "./data/tokens/tokenize.ts";
export { openSources, tokenizeSource } from "./data/tokens/deprecated.ts";
export { type Judgement, judgeStory, sampleStories, storyEntropy } from "./data/text/stories.ts";
export {
  compactTokenizer,
  gpt2Tokenizer,
  parseTokenizer,
  type ParseTokenizerOptions,
  type Tokenizer,
} from "./data/tokenizer/tokenizer.ts";
export { loadTokenizer, type LoadTokenizerOptions } from "./data/tokenizer/load.ts";
export { trainTokenizer, type TrainTokenizerOptions } from "./data/tokenizer/train.ts";
export { train, type TrainEvent } from "./train/train.ts";
export {
  type Option,
  type OptionName,
  type OptionTypes,
  type OptionValues,
  type ResolvedOptions,
  type Rule,
  TRAIN_OPTIONS,
  type TrainOptions,
} from "./train/options.ts";
export { OptionError } from "./train/validate.ts";
export type { TrainingDefaults } from "./train/resolve.ts";
export type { Evaluation } from "./train/evaluate.ts";
export {
  type BatchOptions,
  type BatchPiece,
  DEFAULT_SAMPLER,
  generate,
  generateBatch,
  type GenerateOptions,
  type GenerateResult,
  type SamplerOptions,
  type StreamOptions,
} from "./generate/generate.ts";
export { exportModel, type ExportOptions } from "./train/export.ts";
export { type LoadedModel, loadModel, type LoadOptions } from "./generate/load.ts";
export {
  fillModel,
  findModel,
  type FindModelOptions,
  MODEL_NAMES,
  type ModelSource,
} from "./generate/source.ts";
