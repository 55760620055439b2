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

// Train: text, its tokens and a run. `train()` is the whole way, of which the rest are parts and what they report.
export type { Texts } from "./train/given_documents.ts";
export { train, type TrainEvent } from "./train/train.ts";
export {
  type Option as TrainOption,
  type OptionName as TrainOptionName,
  type OptionTypes as TrainOptionTypes,
  type OptionValues as TrainOptionValues,
  type ResolvedOptions,
  type Rule as TrainOptionRule,
  type RuleInputs as TrainOptionRuleInputs,
  TRAIN_OPTIONS,
  type TrainOptions,
} from "./train/options.ts";
export { OptionError } from "./train/validate.ts";
export type { TrainingDefaults } from "./train/resolve.ts";
export { learningRateAt, type Schedule } from "./train/schedule.ts";
export {
  type DepthSizes,
  excessLoss,
  type Measurement as SpeedMeasurement,
  type Plan as TrainingPlan,
  type PlanCandidate as TrainingPlanCandidate,
  planForDepth,
  planForSeconds,
  PLANNED_OPTIONS,
  type PlannedOptions,
  sizesAtDepth,
} from "./train/plan/plan.ts";
export type {
  Estimate as TrainingEstimate,
  EstimatedTime as TrainingTimeEstimate,
} from "./train/events.ts";
export {
  type LaunchRange,
  SHAPE_OPTIONS,
  type StepPart,
  type TrainingShapes,
  trainingShapes,
  type TrainingTensor,
} from "./train/shapes.ts";
export type { MemoryRole, TrainingMemory } from "./train/limits.ts";
export type { Evaluation } from "./train/evaluate.ts";
export type { Metric as TrainingMetric } from "./train/record/metrics.ts";
export type { ParameterHistogram } from "./train/histograms.ts";
export { type CheckName, type CheckResult, CHECKS } from "./train/record/checks.ts";
export { openTransport, type TransportOptions } from "./distributed/open_mpi.ts";
export type { DistributedChoice } from "./distributed/placement.ts";
export { oneRank, type Transport } from "./distributed/transport.ts";
export type { WireType } from "./distributed/wire.ts";
export { OuterStep, type OuterStepOptions } from "./train/diloco.ts";
export type { ExchangeMs } from "./distributed/tensor_sum.ts";

// Data: a name becomes documents, documents become tokens, tokens become batches.
export {
  type Dataset,
  type DatasetOptions,
  type DataSpec,
  openDataset,
} from "./data/text/dataset.ts";
export type { DataOptions } from "./data/text/files.ts";
export {
  conversationsOf,
  type DataProgress,
  type Documents,
  documentsOf,
  type ReadOptions,
} from "./data/text/documents.ts";
export type { Block as DocumentBlock, PartsOrigin, PlaceUnit } from "./data/text/blocks.ts";
export type { Conversation, ConversationFields, Message } from "./data/text/conversations.ts";
export { DataError } from "./data/text/data_error.ts";
export { sampleStories, storyEntropy } from "./data/text/stories.ts";
export {
  QUESTION_KINDS,
  type QuestionKind,
  sampleConversations,
  type SampleConversationsOptions,
  type StoryQuestion,
  storyQuestions,
} from "./data/text/story_questions.ts";
export {
  type Corpus,
  type CorpusOptions,
  loadCorpus,
  type VocabularyMode,
} from "./data/tokens/corpus.ts";
export { tokenizeDocuments, type TokenizeOptions } from "./data/tokens/tokenize.ts";
export type { TokenizedDocuments } from "./data/tokens/token_file.ts";
export type { TokenDataset, Tokens } from "./data/tokens/token_dataset.ts";
export { type Batch, type BatchLayout, batchOf, type PackingCounts } from "./data/tokens/batch.ts";
export { Batches, type BatchesOptions } from "./data/tokens/batches.ts";
export {
  type CachedFile,
  type Environment as HubEnvironment,
  HubError,
  type HubFile,
  hubFile,
  type HubOptions,
  type HubRepo,
  type HubSpec,
  listHubFiles,
  parseHubSpec,
} from "./data/hub/hub.ts";

// Tokenizers: find one, train one, and write conversations.
export {
  type ChatTemplate,
  compactTokenizer,
  gpt2Tokenizer,
  parseTokenizer,
  type ParseTokenizerOptions,
  type Tokenizer,
} from "./data/tokenizer/tokenizer.ts";
export { loadTokenizer, type LoadTokenizerOptions } from "./data/tokenizer/load.ts";
export { trainTokenizer, type TrainTokenizerOptions } from "./data/tokenizer/train.ts";
export {
  type ChatFormat,
  ConversationError,
  createChatFormat,
  defaultChatTemplate,
  type EncodedConversation,
  type Span as TokenSpan,
} from "./data/tokenizer/chat_format.ts";

// Generate: load a model, and let it complete a prompt, many prompts or a conversation.
export { type LoadedModel, loadModel, type LoadOptions } from "./generate/load.ts";
export {
  fillModel,
  findModel,
  type FindModelOptions,
  MODEL_NAMES,
  type ModelSource,
} from "./generate/source.ts";
export type {
  CompletionPiece,
  GenerateResult,
  TokenLogprob,
  TokenLogprobs,
} from "./generate/completion.ts";
export {
  type BatchOptions,
  type BatchPiece,
  generate,
  generateBatch,
} from "./generate/generate.ts";
export {
  type CompletionRequest,
  DEFAULT_SAMPLER,
  type EngineRequest,
  type GenerateOptions,
  promptIdsOf,
} from "./generate/request.ts";
export { type Chat, type ChatAnswer, type ChatOptions, createChat } from "./generate/chat.ts";
export {
  createEngine,
  type Engine,
  type EngineOptions,
  type EngineStats,
} from "./generate/engine.ts";

// Serve: OpenAI's API as a function of requests.
export { type Api, type ApiOptions, createApi, type RequestRecord } from "./serve/api.ts";
export type { ServedModelOptions } from "./serve/served_model.ts";

// Inspect: what a model computes of a text, how well it writes, and whether a run is healthy.
export {
  attentionWeightsOf,
  gradientsOf,
  logitsOf,
  lossOf,
  type ReadText,
  type TextAttention,
  type TextGradients,
  type TextLogits,
  type TextLoss,
} from "./inspect/inspect.ts";
export {
  logitLensOf,
  type NextToken,
  type Prediction,
  predictionsOf,
  type TextLens,
  type TextPredictions,
} from "./inspect/predictions.ts";
export { type Neighbour, neighboursOf, type TextNeighbours } from "./inspect/neighbours.ts";
export { type SamplerDistribution, samplerDistributions } from "./inspect/sampler.ts";
export {
  likeliestTokens,
  type Token as VocabularyToken,
  tokenOf,
  type TokenProbability,
} from "./inspect/tokens.ts";
export {
  type AnswerFigure,
  type AnswerShares,
  beforeNames,
  judgeAnswers,
  type JudgeAnswersOptions,
  judgeModel,
  type JudgeOptions,
  type Share as JudgedShare,
  shareInterval,
  type StoryFigure,
  type StoryShares,
} from "./inspect/judge.ts";
export {
  type Beginning as StoryBeginning,
  type Judgement as StoryJudgement,
  judgeStory,
  storyBeginnings,
  type StoryRole,
} from "./inspect/story_judge.ts";
export { type BeforeCopy, type CopyingHead, copyingHeads } from "./inspect/copying_heads.ts";
export { meanRepetition, type Repetition, repetitionOf } from "./inspect/repetition.ts";
export { diagnose, type DiagnoseOptions, type TrainingFacts } from "./inspect/diagnose.ts";
export { diagnoseRun, type DiagnoseRunOptions, type Diagnosis } from "./inspect/diagnose_run.ts";

// Files of models: checkpoints, Hugging Face's, PEFT's and llama.cpp's.
export { type ExportDType, exportModel, type ExportOptions } from "./train/export.ts";
export {
  isWeightsOnly,
  listCheckpoints,
  newestCheckpoint,
  verifyCheckpoint,
} from "./model/files/checkpoint.ts";
export {
  CheckpointError,
  type FileDigest,
  type TrainerState,
} from "./model/files/trainer_state.ts";
export {
  parseSafetensors,
  type Safetensors,
  type SafetensorsDType,
  type SafetensorsEntry,
  serializeSafetensors,
} from "./model/files/safetensors.ts";
export {
  openModelTensors,
  openTensorFiles,
  type TensorFiles,
  type TensorReader,
} from "./model/files/tensor_files.ts";
export {
  type ConfigOptions,
  familyOf,
  parseHuggingFaceConfig,
  toHuggingFaceConfig,
} from "./model/files/hugging_face.ts";
export {
  type AdapterBase,
  parseAdapterConfig,
  type PeftLora,
  toAdapterConfig,
} from "./model/files/lora.ts";
export { type GgufModel, openGguf } from "./model/files/llama_cpp_reader.ts";
export type { GgufReadValue } from "./model/files/gguf_reader.ts";

// Build your own training loop: a model, its weights, and the step that trains it.
export { createGpt, type Gpt, type Quantization, type QuantizedMatrix } from "./model/gpt.ts";
export {
  type Family,
  type GptConfig,
  type LoraConfig,
  type PresetDimensions,
  type PresetName,
  PRESETS,
} from "./model/config.ts";
export type { Precision } from "./model/precision.ts";
export type { ParameterSpec } from "./model/parameters.ts";
export {
  initializeParameters,
  loadAdapters,
  loadParameters,
  saveAdapters,
  saveParameters,
} from "./model/weights.ts";
export {
  type Activations,
  type BatchShape,
  type Purpose as ActivationsPurpose,
  RECOMPUTE_MODES,
  type RecomputeMode,
} from "./model/activations.ts";
export {
  createTrainStep,
  type StepBatches,
  type StepOptions,
  type TrainStep,
} from "./train/step.ts";
export type { StepReport, StepState } from "./train/step_state.ts";
export type { Optimizer, OptimizerName, OptimizerOptions } from "./train/optimizer.ts";

// Build your own model: a device, tensors, programs that launch kernels, and the kernels, one function each.
export {
  type Device,
  DeviceError,
  type Exceeded as ExceededLimit,
  LimitError,
  openDevice,
} from "./kernels/device.ts";
export type { GpuChoice, MatrixShape, Provider } from "./kernels/provider.ts";
export {
  createTensor,
  download,
  type DType,
  type HostArray,
  type Tensor,
  upload,
  viewTensor,
} from "./kernels/tensor.ts";
export { type Arena, createArena } from "./kernels/arena.ts";
export {
  type BoundTensor,
  type Constants,
  type Dispatch,
  type Launch,
  Program,
  type Shader,
  type Tunable,
} from "./kernels/program.ts";
export type { Pipeline, Pipelines } from "./kernels/pipelines.ts";
export type { Binding } from "./kernels/shader.ts";
export type { Dropout, DropoutSite } from "./kernels/random.ts";
export { ACTIVATION_FUNCTIONS, type ActivationFunction } from "./kernels/activation.ts";
export { adamw, adamwCorrections, type AdamwOptions } from "./kernels/adamw/adamw.ts";
export {
  attentionBackward,
  attentionForward,
  type AttentionOptions,
  type AttentionScores,
} from "./kernels/attention/attention.ts";
export { attentionDecode, type Projection } from "./kernels/attention/decode.ts";
export { attentionWeights } from "./kernels/attention/weights.ts";
export {
  crossEntropyBackward,
  crossEntropyForward,
  type CrossEntropyOptions,
} from "./kernels/cross_entropy/cross_entropy.ts";
export { dropoutBackward, dropoutForward } from "./kernels/dropout/dropout.ts";
export { embeddingDecode } from "./kernels/embedding/decode.ts";
export { embeddingBackward, embeddingForward } from "./kernels/embedding/embedding.ts";
export { gradientNorm, gradientNormBlocks } from "./kernels/gradient_norm/gradient_norm.ts";
export {
  type Histogram,
  histogram,
  HISTOGRAM_LENGTH,
  histogramOf,
} from "./kernels/histogram/histogram.ts";
export { layernormBackward, layernormForward } from "./kernels/layernorm/layernorm.ts";
export { linearBackward, linearForward } from "./kernels/linear/linear.ts";
export {
  type Addend,
  type BackwardEpilogue,
  type Epilogue,
  type ForwardEpilogue,
  matmul,
  type MatmulOptions,
  type Normalization,
} from "./kernels/matmul/matmul.ts";
export { muon, type MuonMatrix, type MuonOptions } from "./kernels/muon/muon.ts";
export { fillNormal, type NormalOptions } from "./kernels/normal/normal.ts";
export { outerGradient, outerStep } from "./kernels/outer_step/outer_step.ts";
export {
  prepareStep,
  type PrepareStepInputs,
  type PrepareStepOptions,
  type PrepareStepOutputs,
} from "./kernels/prepare_step/prepare_step.ts";
export { rmsnormBackward, rmsnormForward } from "./kernels/rmsnorm/rmsnorm.ts";
export { type QkNorm, ropeBackward, ropeForward, type RopeOptions } from "./kernels/rope/rope.ts";
export {
  type RotaryScaling,
  type RotationOptions,
  rotationTable,
} from "./kernels/rope/rotation.ts";
export {
  sample,
  type SamplerOptions,
  samplerSettings,
  SETTINGS_LENGTH,
  type TextSettings,
} from "./kernels/sample/sample.ts";
export { sumForward } from "./kernels/sum/sum.ts";
export { swigluBackward, swigluForward, type SwigluOptions } from "./kernels/swiglu/swiglu.ts";

// Errors of users, which have a sentence and a hint.
export { UserError, type UserErrorOptions } from "./files/user_error.ts";
