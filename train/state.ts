import { dirname, isAbsolute, join, resolve } from "node:path";
import { parseHubSpec } from "../data/hub/hub.ts";
import { readTokenizer } from "../data/tokenizer/load.ts";
import type { Tokenizer } from "../data/tokenizer/tokenizer.ts";
import { oneRank } from "../distributed/transport.ts";
import { readText } from "../files/json.ts";
import { CONFIG_FILE, TOKENIZER_FILE } from "../files/names.ts";
import { UserError } from "../files/user_error.ts";
import {
  checkBaseOption,
  fillModel,
  type FindModelOptions,
  readModel,
  withEndIds,
} from "../generate/source.ts";
import { type Arena, elementOffset } from "../kernels/arena.ts";
import { download, size, upload } from "../kernels/tensor.ts";
import type { GptConfig } from "../model/config.ts";
import {
  isWeightsOnly,
  listCheckpoints,
  OPTIMIZER_FILE,
  readTrainerState,
  STATE_FILE,
} from "../model/files/checkpoint.ts";
import {
  CHECKPOINT_FORMAT,
  CheckpointError,
  type TrainerState,
} from "../model/files/trainer_state.ts";
import { parseHuggingFaceConfig, toCheckpointConfig } from "../model/files/hugging_face.ts";
import {
  ADAPTER_CONFIG,
  ADAPTER_FILE,
  type AdapterBase,
  isAdapter,
  toAdapterConfig,
  trainableLora,
} from "../model/files/lora.ts";
import {
  fromFloat32,
  type SafetensorsEntry,
  serializeSafetensors,
} from "../model/files/safetensors.ts";
import { MODEL_FILE, openTensorFiles, type TensorFiles } from "../model/files/tensor_files.ts";
import type { ParameterSpec } from "../model/parameters.ts";
import { loadAdapters, loadParameters, saveAdapters } from "../model/weights.ts";
import { checkFinite, jsonFile, modelFiles, tokenizerFiles } from "./export.ts";
import { distribute, type OptimizerName, OPTIMIZERS } from "./optimizer.ts";
import { type ResolvedOptions, savedIn } from "./options.ts";
import { gatherRankStates, haveOwnStates, RESIDUAL, residualOf } from "./rank_states.ts";
import type { RankTraining } from "./rank_training.ts";
import { EARLIER_ARCHITECTURE } from "./architecture.ts";
import { dimensionsOf, savedOptions } from "./resolve.ts";
import type { Resumed, Run } from "./run.ts";
import type { RunDirectory } from "./directory/run_directory.ts";
import type { FileContent } from "./directory/run_files.ts";
import { asTyped } from "./directory/run_place.ts";
import { lastBeforeCooldown } from "./schedule.ts";
import type { TrainStep } from "./step.ts";
import { isReachable } from "./step_state.ts";
import { tuningOf } from "./tuning.ts";
import { OptionError, validateOptions } from "./validate.ts";

/**
 * The content of a checkpoint: how a training is saved and restored.
 *
 * @module
 */

/**
 * Makes sure that a training can reach a state: its options are valid, and its other fields agree with them.
 *
 * @throws {CheckpointError} naming the field that is wrong.
 */
export function checkState(state: TrainerState, path: string): void {
  const check = (ok: boolean, reason: string) => {
    if (!ok) throw new CheckpointError(`Cannot load ${join(path, STATE_FILE)} as ${reason}`);
  };
  try {
    validateOptions(state.options);
  } catch (error) {
    if (!(error instanceof OptionError)) throw error;
    check(false, `its options must be valid: ${error.reason}`);
  }
  const { step, batchIndex, seed } = state;
  const options = state.options as unknown as ResolvedOptions;
  const { precision, contextLength, batchSize, gradientAccumulation } = options;
  check(precision === "f16" || precision === "f32", "its options must name the precision");
  check(contextLength > 0 && batchSize > 0, "its options must give the size of batches");
  check(seed === options.seed, `seed must be that of its options, ${options.seed}: it is ${seed}`);
  const batches = step * gradientAccumulation; // of one rank; others may have computed as many each
  check(
    batchIndex >= batches && batchIndex % gradientAccumulation === 0 &&
      (step > 0 || batchIndex === 0),
    `batchIndex must be ${batches} after ${step} steps, or more if there were several ranks: ` +
      `current value is ${batchIndex}`,
  );
  for (const name of ["learningRate", "minLearningRate", "warmupSteps", "steps"] as const) {
    check(options[name] !== undefined, `its options must give ${name}`);
  }
  for (const own of [state, ...state.otherRanks ?? []]) {
    check(
      isReachable(own, precision),
      `its loss scale must be one that ${precision} reaches: current value is ${own.lossScale}`,
    );
  }
}

/**
 * Makes sure that a training can resume from a checkpoint that was verified.
 *
 * @throws {CheckpointError} if it holds only weights, naming the nearest whole checkpoints, or if `checkState()` does.
 */
export function checkResumable(state: TrainerState, path: string): void {
  if (isWeightsOnly(path)) throw weightsOnlyError(path, state.step);
  checkState(state, path);
}

function weightsOnlyError(path: string, step: number): CheckpointError {
  const whole = listCheckpoints(dirname(dirname(resolve(path))))
    .filter(({ path }) => !isWeightsOnly(path)).map(({ step }) => step);
  const below = whole.find((other) => other < step),
    above = whole.findLast((other) => other > step);
  const [nearest, second] = [below, above].filter((other) => other !== undefined);
  const others = second === undefined
    ? `; the nearest whole checkpoint is that of step ${nearest}`
    : `; the nearest whole checkpoints are those of steps ${nearest} and ${second}`;
  return new CheckpointError(
    `Cannot resume from ${path} as it must hold the state of the optimizer: it holds only weights, ` +
      `from which --init-from starts another run${nearest === undefined ? "" : others}`,
  );
}

/**
 * Reads a checkpoint from which a training is resumed, except for its large tensors, which `restore()` reads.
 *
 * @param likely directories where the base of adapters may be, if it is not at the place that they name.
 */
export async function readCheckpoint(
  path: string,
  options: FindModelOptions,
  likely: readonly string[] = [],
): Promise<Resumed> {
  const state = readTrainerState(path), { source } = state;
  if (!Object.hasOwn(state.files, ADAPTER_CONFIG)) {
    checkBaseOption(path, options);
    const configFile = join(path, CONFIG_FILE);
    const config = parseHuggingFaceConfig(readText(configFile), configFile);
    const { vocabularySize } = config;
    const tokenizer = await readTokenizer(join(path, TOKENIZER_FILE), { vocabularySize });
    return {
      path,
      state: withDimensions(state, config),
      config,
      tokenizer: withEndIds(tokenizer, path),
    };
  }
  if (!source) {
    throw new CheckpointError(
      `Cannot load ${join(path, STATE_FILE)} as source must name the base of its adapters`,
    );
  }
  const { contextLength } = savedIn(state);
  const found = { spec: path, directory: path };
  const { adapters, tokenizer, ...base } = await readModel(
    found,
    { ...options, contextLength },
    likely,
  );
  return {
    path,
    state: withDimensions(
      { ...state, source: { ...source, spec: adapters!.base } },
      base.config,
    ),
    config: { ...base.config, lora: trainableLora(adapters!.lora, path) },
    tokenizer,
    base: { ...base, tokenizer },
  };
}

/** A state with dimensions and architecture of its model among the options, which earlier versions did not save. */
function withDimensions(state: TrainerState, config: GptConfig): TrainerState {
  const architecture = state.options.initFrom === undefined ? EARLIER_ARCHITECTURE : {};
  return { ...state, options: { ...architecture, ...dimensionsOf(config), ...state.options } };
}

/** The parts of a training that a checkpoint saves. */
export interface Saved
  extends
    RankTraining,
    Pick<Run, "options" | "typed" | "corpus" | "batches" | "transport" | "source"> {
  directory: RunDirectory;
}

/** Upper bound of the bytes of a checkpoint's files without its tensors and tokenizer. */
const SMALL_FILES_BYTES = 2 ** 16;

/**
 * Bytes of a checkpoint, whole and with only weights, at most, by the parameters of its model and its optimizer.
 *
 * @param options.ranks with DiLoCo each has separate moments, and if they exchange f16 a residual.
 */
export function checkpointSizes(
  table: readonly ParameterSpec[],
  optimizer: OptimizerName,
  { json }: Tokenizer,
  { ranks, syncEvery, wire }: Pick<ResolvedOptions, "ranks" | "syncEvery" | "wire">,
): { checkpointBytes: number; weightsOnlyBytes: number } {
  const isLora = table.some(({ name }) => isAdapter(name));
  const floatsOf = (rows: readonly ParameterSpec[]) =>
    rows.reduce((sum, { shape }) => sum + size(shape), 0);
  const trained = floatsOf(table.filter(({ trained }) => trained));
  // adapters are saved without their base; only trained parameters have optimizer state
  const weights = isLora ? trained : floatsOf(table);
  const tokenizerBytes = new TextEncoder().encode(json).length;
  const weightsOnlyBytes = 4 * weights + tokenizerBytes + SMALL_FILES_BYTES;
  const optimizerBytes = distribute(OPTIMIZERS[optimizer], table).reduce(
    (sum, { kind, parameters }) => sum + 4 * kind.state.length * floatsOf(parameters),
    0,
  );
  const hasMomentum = syncEvery > 1, hasResiduals = wire === "f16" && ranks > 1;
  const checkpointBytes = weightsOnlyBytes + (hasMomentum ? ranks : 1) * optimizerBytes +
    4 * trained * ((hasMomentum ? 1 : 0) + (hasResiduals ? ranks : 0));
  return { checkpointBytes, weightsOnlyBytes };
}

/** Prefix of the names of the outer momentum's tensors. */
const OUTER = "outer.momentum.";

/** Prefix of the names of a rank's arrays, see `RankState`. */
function prefixOf(rank: number, key: string): string {
  return rank === 0 ? `${key}.` : `rank${rank}.${key}.`;
}

/** The parts of an arena's values, by the names of its tensors behind a prefix. */
function* entriesOf(
  prefix: string,
  arena: Arena,
  values: Float32Array<ArrayBuffer>,
): Generator<[string, SafetensorsEntry]> {
  for (const [name, { shape }] of arena.tensors) {
    const start = elementOffset(arena, name);
    yield [prefix + name, fromFloat32(values.subarray(start, start + size(shape)), shape, "F32")];
  }
}

/** Writes a checkpoint, from which a training is resumed, and which Hugging Face transformers opens. */
export async function saveCheckpoint(
  { directory, options, typed, corpus, batches, gpt, trainStep, outer, transport, source }: Saved,
  { step, batchIndex, bestLoss, best }: {
    step: number;
    batchIndex: number;
    bestLoss: number | null;
    best: boolean;
  },
): Promise<string> {
  const { tokenizer, validationHash } = corpus;
  const training = { gpt, trainStep, outer };
  const ranks = await gatherRankStates(haveOwnStates(training) ? transport : oneRank, training);
  const optimizerState = new Map<string, SafetensorsEntry>();
  const add = (...given: Parameters<typeof entriesOf>) => {
    for (const [name, entry] of entriesOf(...given)) optimizerState.set(name, entry);
  };
  for (const [rank, { arrays }] of ranks.entries()) {
    for (const [name, values] of arrays) {
      const arena = trainStep.optimizer.state.get(name) ?? trainStep.gradients;
      add(prefixOf(rank, name), arena, values);
    }
  }
  if (outer) {
    const [momentum] = await download(gpt.device, outer.momentum);
    add(OUTER, trainStep.gradients, momentum as Float32Array<ArrayBuffer>);
  }
  const [own, ...others] = ranks.map(({ step }) => step);
  const adapters = gpt.config.lora ? await saveAdapters(gpt) : undefined;
  for (const tensors of [adapters ?? [], optimizerState]) checkFinite(tensors);
  const files = new Map<string, FileContent>([
    ...(adapters
      ? [
        [ADAPTER_FILE, serializeSafetensors(adapters, { format: "pt" })],
        [ADAPTER_CONFIG, jsonFile(toAdapterConfig(gpt.config, baseOf(source!.spec)))],
      ] as const
      : await modelFiles(gpt, tokenizer, {
        dropout: options.dropout,
        toConfig: toCheckpointConfig,
      })),
    ...tokenizerFiles(gpt, tokenizer),
    [OPTIMIZER_FILE, serializeSafetensors(optimizerState)],
  ]);
  return directory.save(files, {
    formatVersion: CHECKPOINT_FORMAT,
    step,
    epoch: Math.floor(batches.epochsBefore(batchIndex)),
    batchIndex,
    seed: options.seed,
    ...own!,
    ...(outer && others.length > 0 ? { otherRanks: others } : {}),
    bestValidationLoss: bestLoss,
    options: savedOptions(options),
    typed: [...typed],
    tokenizerHash: tokenizer.hash,
    ...(source ? { source } : {}),
    data: { name: corpus.name, hash: corpus.hash, ...(validationHash ? { validationHash } : {}) },
    tuning: tuningOf(gpt.device),
  }, { keep: options.keep, best, beforeCooldown: lastBeforeCooldown(options) });
}

/**
 * The base of adapters, as PEFT's configuration names it: relative to the working directory if it is below that, as
 * people type it for PEFT, so that a project that is moved or published names no directory above it.
 */
export function baseOf(spec: string): AdapterBase {
  if (!spec.startsWith("hf:")) {
    const path = asTyped(spec);
    return { base: isAbsolute(path) ? path : `./${path}` };
  }
  const { repo, path, revision } = parseHubSpec(spec);
  if (path !== undefined) return { base: spec }; // a GGUF file, which PEFT does not read
  return { base: repo, ...(revision === undefined ? {} : { revision }) };
}

/** The tensors of a file of a checkpoint, and its path. */
type TensorFile = [tensors: TensorFiles["tensors"], where: string];

/** Reads tensors of a file of a checkpoint. */
function readTensors<T>(path: string, name: string, read: (...file: TensorFile) => T): T {
  const where = join(path, name), files = openTensorFiles([where]);
  try {
    return read(files.tensors, where);
  } finally {
    files.close();
  }
}

/** Reads back what `entriesOf()` gives a file of an optimizer, in the same layout. */
function valuesOf(
  prefix: string,
  arena: Arena,
  ...[tensors, where]: TensorFile
): Float32Array<ArrayBuffer> {
  const values = new Float32Array(size(arena.flat.shape));
  for (const [name, { shape }] of arena.tensors) {
    const tensor = tensors.get(prefix + name);
    if (!tensor || tensor.shape.join() !== shape.join()) {
      throw new UserError(
        `Cannot load ${where} as "${prefix}${name}" must be there as [${shape}]`,
      );
    }
    values.set(tensor.floats(0, size(shape)), elementOffset(arena, name));
  }
  return values;
}

/**
 * Whether a checkpoint has the residuals of ranks that train in this way: those of gradients and of weights mean
 * something else, and those of other ranks leave out a part.
 */
export function hasResiduals(
  state: Pick<TrainerState, "options">,
  { wire, ranks, syncEvery }: Pick<ResolvedOptions, "wire" | "ranks" | "syncEvery">,
): boolean {
  const saved = savedIn(state), areGradients = saved.syncEvery === 1;
  return ranks > 1 && wire === "f16" && saved.wire === "f16" && saved.ranks === ranks &&
    areGradients === (syncEvery === 1);
}

/** The residual of a rank in a checkpoint that has it. */
export function readResidual(
  path: string,
  { gradients }: TrainStep,
  rank: number,
): Float32Array<ArrayBuffer> {
  const prefix = prefixOf(rank, RESIDUAL);
  return readTensors(path, OPTIMIZER_FILE, (...file) => valuesOf(prefix, gradients, ...file));
}

/** The moments of a rank in a checkpoint, by the names of the optimizer's arenas. */
export function readMoments(
  path: string,
  { optimizer }: TrainStep,
  rank: number,
): Map<string, Float32Array<ArrayBuffer>> {
  return readTensors(path, OPTIMIZER_FILE, (...file) =>
    new Map(
      optimizer.state.entries().map(([key, arena]) => [
        key,
        valuesOf(prefixOf(rank, key), arena, ...file),
      ]),
    ));
}

/**
 * Restores the model, the state of the optimizer and the state of the step from a checkpoint; of these the states of rank
 * 0 if each rank has its own.
 *
 * @param options those with which the training is resumed.
 */
export function restore(
  { path, state, base }: Resumed,
  training: RankTraining,
  options: ResolvedOptions,
): void {
  const { gpt, trainStep, outer } = training;
  if (base) {
    fillModel(gpt, base);
    readTensors(path, ADAPTER_FILE, (...file) => loadAdapters(gpt, ...file));
  } else {
    readTensors(path, MODEL_FILE, (...file) => loadParameters(gpt, ...file));
  }
  const moments = readMoments(path, trainStep, 0);
  for (const [key, { flat }] of trainStep.optimizer.state) {
    upload(gpt.device, flat, moments.get(key)!);
  }
  if (outer && savedIn(state).syncEvery > 1) {
    readTensors(path, OPTIMIZER_FILE, (...file) => {
      upload(gpt.device, outer.momentum, valuesOf(OUTER, trainStep.gradients, ...file));
    });
  }
  if (hasResiduals(state, options)) residualOf(training)?.set(readResidual(path, trainStep, 0));
  trainStep.restore(state);
}
