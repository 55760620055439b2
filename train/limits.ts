import { oneRank } from "../distributed/transport.ts";
import { UserError } from "../files/user_error.ts";
import { DEFAULT_SAMPLER } from "../generate/request.ts";
import { batchSlots } from "../generate/slots.ts";
import { largestThat, misfitOf, shortageOf } from "../kernels/fit.ts";
import type { Device, LimitError } from "../kernels/device.ts";
import type { DryDevice } from "../kernels/dry_device.ts";
import type { Tensor } from "../kernels/tensor.ts";
import { RECOMPUTE_MODES, type RecomputeMode } from "../model/activations.ts";
import { type GptConfig, LARGEST } from "../model/config.ts";
import { createGpt, type Gpt } from "../model/gpt.ts";
import { countParameters } from "../model/parameters.ts";
import type { Precision } from "../model/precision.ts";
import { OuterStep } from "./diloco.ts";
import { recordEvaluation } from "./evaluate.ts";
import { createHistograms } from "./histograms.ts";
import { type ResolvedOptions, TRAIN_OPTIONS } from "./options.ts";
import { SAMPLE_TOKENS } from "./prompts.ts";
import { createTrainStep, type TrainStep } from "./step.ts";

/** What determines the memory and launches of a training. */
export interface TrainingSpec extends
  Pick<
    ResolvedOptions,
    | "batchSize"
    | "gradientAccumulation"
    | "documents"
    | "dropout"
    | "freeze"
    | "optimizer"
    | "beta1"
    | "beta2"
    | "histogramEvery"
    | "recompute"
    | "syncEvery"
  > {
  readonly config: GptConfig;
  readonly precision: Precision;
  /** T: tokens per row. */
  readonly contextLength: number;
  /** Whether the run is resumed, so that none of this can change. */
  readonly isResumed: boolean;
  /** Whether conversations are evaluated, each apart from the others; false until the data is read. */
  readonly hasConversations?: boolean;
}

/** What the backward pass of a training computes again. */
export interface Recomputation {
  readonly recompute: RecomputeMode;
  /** With `auto`, the shortage of memory if it computed nothing again. */
  readonly shortage?: LimitError;
}

/**
 * What the backward pass of a training computes again: what its options say, or with `auto` the first of
 * `RECOMPUTE_MODES` with which it fits the free memory, else the last.
 */
export function recomputationOf(device: Device, spec: TrainingSpec): Recomputation {
  if (spec.recompute !== "auto") return { recompute: spec.recompute };
  const shortageWith = (recompute: RecomputeMode) => {
    const problem = misfitOf(device, (dry) => void recordTraining(dry, { ...spec, recompute }));
    return problem?.exceeded.limit === "memory" ? problem : undefined;
  };
  const [first, ...others] = RECOMPUTE_MODES, shortage = shortageWith(first);
  if (!shortage) return { recompute: first };
  return { recompute: others.find((mode) => !shortageWith(mode)) ?? others.at(-1)!, shortage };
}

/**
 * Makes sure that a device can run the steps, evaluations and samples of a training, before anything is
 * allocated or compiled.
 *
 * @returns the bytes of the training on the device, and what its backward pass computes again.
 * @throws {UserError} naming the flag to lower; for a batch also the flags of a training on the same rows.
 */
export function checkTraining(
  device: Device,
  spec: TrainingSpec,
): Recomputation & { memory: TrainingMemory } {
  const { config, isResumed, gradientAccumulation } = spec;
  if (config.vocabularySize > LARGEST.vocabularySize) {
    throw new UserError(
      `Cannot train as --tokenizer must have at most ${LARGEST.vocabularySize} tokens: ` +
        `current number is ${config.vocabularySize}`,
    );
  }
  const recomputation = recomputationOf(device, spec), { recompute } = recomputation;
  let memory: TrainingMemory | undefined; // of the last one that was recorded
  const misfit = (batchSize: number, contextLength: number, mode = recompute) =>
    misfitOf(device, (dry) => {
      const positions = Math.min(config.contextLength, contextLength);
      const at = spec.contextLength === contextLength
        ? config
        : { ...config, contextLength: positions };
      const sizes = { config: at, batchSize, contextLength };
      const recorded = recordTraining(dry, { ...spec, ...sizes, recompute: mode });
      memory = memoryOf(recorded.allocations);
    });
  const { batchSize: B, contextLength: T } = spec, { name } = device;
  const problem = misfit(B, T);
  if (!problem) return { ...recomputation, memory: memory! };
  const reason = shortageOf(problem);
  const others = RECOMPUTE_MODES.slice(RECOMPUTE_MODES.indexOf(recompute) + 1);
  const fitting = others.find((mode) => !misfit(B, T, mode));
  if (fitting) {
    throw new UserError(
      `Cannot train as --recompute must be ${fitting} with --batch-size ${B} on ${name}: ` +
        `current value is ${recompute} ${reason}`,
    );
  }
  const kept = isResumed
    ? "; a resumed run cannot change it: resume it on the device where it began, or start another with --out"
    : "";

  const mostRows = largestThat((rows) => !misfit(rows, T), B - 1);
  if (mostRows > 0) {
    let rows = mostRows;
    while (B % rows !== 0) rows--; // a whole number of smaller batches has the same rows
    const batches = gradientAccumulation * B / rows;
    const same = batches <= TRAIN_OPTIONS.gradientAccumulation.range[1]
      ? `; --batch-size ${rows} --gradient-accumulation ${batches} trains on the same rows`
      : "";
    throw new UserError(
      `Cannot train as --batch-size must be at most ${mostRows} with --context-length ${T} on ` +
        `${name}: current value is ${B} ${reason}${isResumed ? kept : same}`,
    );
  }
  const mostTokens = largestThat((tokens) => !misfit(1, tokens), T - 1);
  if (mostTokens > 0) {
    throw new UserError(
      `Cannot train as --context-length must be at most ${mostTokens} on ${name}, whatever the ` +
        `--batch-size: current value is ${T} ${reason}${kept}`,
    );
  }
  throw new UserError(
    `Cannot train as the model must be smaller on ${name}, with another --preset, --width, --layers, ` +
      `--init-from or --tokenizer: it has ${
        countParameters(config)
      } parameters and ${config.vocabularySize} tokens ` +
      reason,
  );
}

/** Bytes of a training on the device, by what they are for. */
export interface TrainingMemory {
  /** At most at any time. */
  readonly total: number;
  /** The model, with its copy in f16 if there is one. */
  readonly parameters: number;
  /** The optimizer's state, with DiLoCo also that of the outer one. */
  readonly optimizer: number;
  /** Gradients of the parameters that are trained. */
  readonly gradients: number;
  /** What the backward pass needs of the forward pass, and gradients of activations. */
  readonly activations: number;
  /** A chunk of logits, see `logitsRows()`. */
  readonly logits: number;
  /** Batches, reports, histograms, and scratch memory of kernels. */
  readonly other: number;
  /** The evaluation on held-out text. */
  readonly evaluation: number;
  /** The generation of samples, while one is drawn. */
  readonly samples: number;
}

/** What the memory of a training is for. */
export type MemoryRole = Exclude<keyof TrainingMemory, "total">;

/** A buffer of a training. */
export interface Allocation {
  readonly role: MemoryRole;
  /** The work for which it was allocated. */
  readonly work: "step" | "histograms" | "evaluation" | "samples";
  /** The tensor that fills it; undefined for the uniforms of a program, which are counted together. */
  readonly tensor: Tensor | undefined;
  readonly bytes: number;
}

/** The bytes of allocations by role, to the byte. */
export function memoryOf(allocations: readonly Allocation[]): TrainingMemory {
  const memory = {
    total: 0,
    parameters: 0,
    optimizer: 0,
    gradients: 0,
    activations: 0,
    logits: 0,
    other: 0,
    evaluation: 0,
    samples: 0,
  };
  for (const { role, bytes } of allocations) {
    memory[role] += bytes;
    memory.total += bytes;
  }
  return memory;
}

/** Records all work of a training on a device that allocates nothing. */
export function recordTraining(
  dry: DryDevice,
  { config, precision, freeze = "", batchSize, contextLength, hasConversations, ...options }:
    & TrainingSpec
    & { recompute: RecomputeMode },
): { gpt: Gpt; step: TrainStep; allocations: Allocation[] } {
  const allocations: Allocation[] = [], seen = new Set<Tensor>();
  let bytes = 0;
  /** Notes what was allocated since the last call. */
  const note = (
    work: Allocation["work"],
    role: MemoryRole,
    others: ReadonlyMap<Tensor, MemoryRole> = new Map(),
  ) => {
    for (const tensor of dry.tensors) {
      if (seen.has(tensor)) continue;
      seen.add(tensor);
      const { size } = tensor.buffer;
      allocations.push({ work, role: others.get(tensor) ?? role, tensor, bytes: size });
      bytes += size;
    }
    const uniforms = dry.bytes - bytes;
    if (uniforms > 0) allocations.push({ work, role, tensor: undefined, bytes: uniforms });
    bytes = dry.bytes;
  };
  const gpt = createGpt(dry, config, { precision, freeze });
  note("step", "parameters");
  const shape = { batchSize, sequenceLength: contextLength };
  const step = createTrainStep(gpt, { ...options, ...shape });
  const { activations, gradients } = step;
  const roles = new Map<Tensor, MemoryRole>([[gradients.flat, "gradients"]]);
  for (const tensor of step.optimizer.tensors) roles.set(tensor, "optimizer");
  for (const tensor of activations.tensors) roles.set(tensor, "activations");
  note("step", "other", roles.set(activations.at("logits"), "logits"));
  if (options.syncEvery > 1) new OuterStep(oneRank, { gpt, trainStep: step });
  note("step", "optimizer");
  if (options.histogramEvery > 0) createHistograms(gpt, step);
  note("histograms", "other");
  recordEvaluation(gpt, { ...shape, documents: hasConversations ? "apart" : "joined" });
  note("evaluation", "evaluation");
  batchSlots(gpt, {
    slots: 1,
    maxTokens: 2 + SAMPLE_TOKENS,
    sampler: DEFAULT_SAMPLER,
    readsPrompts: true,
  });
  note("samples", "samples");
  return { gpt, step, allocations };
}

/**
 * Rows per batch of an evaluation: as many as requested, or the most that fit the device.
 *
 * @throws {UserError} if not even one row fits.
 */
export function evaluationRows(
  device: Device,
  { config, precision, batchSize, sequenceLength }: {
    config: GptConfig;
    precision: Precision;
    batchSize: number;
    sequenceLength: number;
  },
): number {
  const misfit = (batchSize: number) =>
    misfitOf(device, (dry) => {
      recordEvaluation(createGpt(dry, config, { precision }), { batchSize, sequenceLength });
    });
  if (!misfit(batchSize)) return batchSize;
  const rows = largestThat((rows) => !misfit(rows), batchSize - 1);
  if (rows > 0) return rows;
  throw new UserError(
    `Cannot evaluate as the model must be smaller on ${device.name}: it has ` +
      `${countParameters(config)} parameters and contexts of ${sequenceLength} tokens ` +
      shortageOf(misfit(1)!),
  );
}
