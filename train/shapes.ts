import { HubError, processEnvironment } from "../data/hub/request.ts";
import type { HubOptions } from "../data/hub/hub.ts";
import { oneRank } from "../distributed/transport.ts";
import { UserError } from "../files/user_error.ts";
import type { Device } from "../kernels/device.ts";
import { dryDevice } from "../kernels/dry_device.ts";
import { SCRATCH } from "../kernels/program.ts";
import { bytesPerElement, type DType, type Tensor, tensorBytes } from "../kernels/tensor.ts";
import { newModel } from "./architecture.ts";
import type { TrainEvent } from "./events.ts";
import { findCheckpoint } from "./find_checkpoint.ts";
import {
  memoryOf,
  type MemoryRole,
  recomputationOf,
  recordTraining,
  type TrainingMemory,
  type TrainingSpec,
} from "./limits.ts";
import { DEFAULT_OPTIONS, type OptionName, type TrainOptions } from "./options.ts";
import { makeSetup, openDeviceFor } from "./setup.ts";
import { notDownloaded, offline, openCorpus } from "./training_data.ts";
import { sizesOf } from "./resolve.ts";
import type { Resumed } from "./run.ts";
import type { TrainStep } from "./step.ts";
import { choicesOf } from "./tuning.ts";
import { checkNames, validateOptions } from "./validate.ts";

/**
 * Every tensor of a training: its shape, its bytes, and when its values are needed. The figures are those of the code
 * that allocates, which runs on a device that allocates nothing.
 *
 * @module
 */

/** The options that decide the shapes of a training. */
export const SHAPE_OPTIONS = [
  ...[
    "preset",
    "layers",
    "width",
    "heads",
    "kvHeads",
    "headSize",
    "hidden",
    "contextLength",
  ] as const,
  ...["arch", "norm", "positions", "mlp", "biases", "qkNorm", "windows"] as const,
  ...["data", "dataVersion", "textField", "tokenizer", "vocabulary"] as const,
  ...["initFrom", "freeze", "loraRank", "loraTargets", "base"] as const,
  ...["gpu", "precision", "batchSize", "gradientAccumulation", "dropout"] as const,
  ...["optimizer", "recompute", "histogramEvery"] as const,
] as const satisfies readonly OptionName[];

/** Launches of a step, by their indices in `TrainingShapes.launches`. */
export interface LaunchRange {
  /** The first. */
  readonly from: number;
  /** The last. */
  readonly to: number;
}

/** A tensor of a training. */
export interface TrainingTensor {
  /** Its name; `uniforms` are the arguments of all launches of a program, `padding` fills gaps between tensors. */
  readonly name: string;
  /** What it is for. */
  readonly role: MemoryRole;
  /** Its dimensions, slowest first. */
  readonly shape: readonly number[];
  /** Its element type; absent for uniforms, whose fields have several. */
  readonly dtype?: DType;
  /** Bytes on the device. */
  readonly bytes: number;
  /**
   * When its values are needed: during the whole run, during an evaluation, while a sample is drawn, while histograms
   * are counted, or in these launches of each step; in none if it is allocated but not used.
   */
  readonly needed: "run" | "evaluation" | "samples" | "histograms" | readonly LaunchRange[];
}

/** A part of a step. */
export interface StepPart extends LaunchRange {
  /**
   * `micro-batch`: forward and backward pass of the first batch of a step; `further micro-batch`: those of each of the
   * others, if there are any; `update`: norm of the gradients, and optimizer.
   */
  readonly name: "micro-batch" | "further micro-batch" | "update";
}

/** The tensors of a training, and the launches of its steps. */
export interface TrainingShapes {
  /** The device whose limits and kernels decide. */
  readonly device: string;
  /** The paths of the shaders that a step launches, in order. */
  readonly launches: readonly string[];
  /** The parts of a step. */
  readonly parts: readonly StepPart[];
  /** All tensors. */
  readonly tensors: readonly TrainingTensor[];
  /** Their bytes by role, as `train()` with `dryRun` estimates them. */
  readonly memory: TrainingMemory;
}

/**
 * Lists the tensors of a training; nothing is allocated, and nothing is downloaded.
 *
 * @param options those of a new training that decide its shapes, or `run`: a run directory, whose training is described.
 * @throws {UserError} if an option is out of range, or if the training does not fit the device.
 *
 * @example See what the activations of a training need
 * ```ts
 * import { trainingShapes } from "../mod.ts";
 *
 * const { tensors, memory } = await trainingShapes({ preset: "nano", batchSize: 8 });
 * for (const { name, role, shape, bytes } of tensors) {
 *   if (role === "activations") console.log(name, shape, bytes);
 * }
 * console.log(memory.activations, "of", memory.total);
 * ```
 */
export async function trainingShapes(
  { device: given, run, signal, environment, onEvent = () => {}, ...wanted }:
    & Partial<Pick<TrainOptions, typeof SHAPE_OPTIONS[number]>>
    & {
      /** A run directory; its newest checkpoint decides. */
      run?: string;
      device?: Device;
      signal?: AbortSignal;
      /** Environment variables for access to the hub's cache; see `HubOptions`. */
      environment?: HubOptions["environment"];
      /** Is called with notices, and with the progress of tokenizing. */
      onEvent?: (event: TrainEvent) => void;
    } = {},
): Promise<TrainingShapes> {
  checkNames(wanted);
  validateOptions(wanted);
  using resources = new DisposableStack();
  const open = async function* (checkpoint: Resumed | undefined) {
    if (given) return given;
    const device = yield* openDeviceFor(wanted, checkpoint);
    return resources.adopt(device, (device) => device.destroy());
  };
  const events = specOf({ open, run, signal, environment }, wanted);
  try {
    while (true) {
      const { done, value } = await events.next();
      if (done) return shapesOf(value.device, value.spec);
      onEvent(value);
    }
  } catch (error) {
    throw error instanceof HubError ? notDownloaded(error) : error;
  } finally {
    await events.return(undefined!); // ends what is under way if `onEvent` has thrown
  }
}

/** Makes the choices of a training that decide its shapes; only those of a new model need its text. */
async function* specOf(
  { open, run, signal, environment = processEnvironment() }: {
    open: (checkpoint: Resumed | undefined) => AsyncGenerator<TrainEvent, Device>;
    run: string | undefined;
    signal: AbortSignal | undefined;
    environment: HubOptions["environment"];
  },
  wanted: Partial<TrainOptions>,
): AsyncGenerator<TrainEvent, { device: Device; spec: TrainingSpec }> {
  const out = run ?? DEFAULT_OPTIONS.out;
  const found = { out, signal, hub: { environment: offline(environment) } };
  const checkpoint = run === undefined ? undefined : yield* findCheckpoint(found, wanted);
  if (run !== undefined && !checkpoint) {
    throw new UserError(
      `Cannot list the tensors of ${run} as it must have a checkpoint: it has none`,
    );
  }
  const device = yield* open(checkpoint),
    place = { ...found, device, directory: undefined, transport: oneRank };
  const setup = yield* makeSetup(place, wanted, checkpoint);
  const { given, resumed, precision } = setup, sizes = sizesOf(given, setup.defaults);
  let { config } = setup, hasConversations = false;
  if (!config) {
    const corpus = yield* openCorpus(place, setup);
    const { vocabularySize } = corpus.tokenizer;
    hasConversations = corpus.validation.answersOf !== undefined;
    corpus.close();
    config = newModel({ ...given, ...sizes, vocabularySize });
  }
  const choices = resumed ? choicesOf(resumed.state, device) : undefined;
  return {
    device: choices ? { ...device, choices: new Map(choices) } : device,
    spec: {
      ...given,
      ...sizes,
      precision,
      config,
      isResumed: resumed !== undefined,
      hasConversations,
    },
  };
}

/** Lists the tensors of a training on a device. */
export function shapesOf(device: Device, spec: TrainingSpec): TrainingShapes {
  const { recompute } = recomputationOf(device, spec);
  const { gpt, step, allocations } = recordTraining(dryDevice(device), { ...spec, recompute });
  const parts = partsOf(step), neededIn = lifetimesIn(step);
  const arenas = [gpt.parameters, gpt.copies, step.gradients, ...step.optimizer.state.values()];
  const arenaOf = new Map(arenas.flatMap((arena) => arena ? [[arena.flat, arena]] : []));
  const lasting = new Set(step.lasting);
  const end = step.program.length - 1, hasHistograms = spec.histogramEvery > 0;
  const tensors = allocations.flatMap(({ work, role, tensor, bytes }): TrainingTensor[] => {
    /** When the values of a tensor are needed, or those of uniforms. */
    const needed = (part?: Tensor): TrainingTensor["needed"] => {
      if (work !== "step") return work;
      const isLasting = role === "parameters" || role === "optimizer" || !part || lasting.has(part);
      if (isLasting) return "run";
      const ranges = neededIn(part);
      // histograms count the gradients after the step
      return role === "gradients" && hasHistograms
        ? ranges.map(({ from }) => ({ from, to: end }))
        : ranges;
    };
    if (!tensor) return [{ name: "uniforms", role, shape: [bytes / 4], bytes, needed: needed() }];
    const members = [...arenaOf.get(tensor)?.tensors.values() ?? [tensor]];
    const rows = members.map((part) => {
      const { name, shape, dtype } = part;
      return { name, role, shape, dtype, bytes: tensorBytes(part), needed: needed(part) };
    });
    const padding = bytes - rows.reduce((sum, row) => sum + row.bytes, 0);
    if (padding === 0) return rows;
    const { name, dtype } = tensor, shape = [padding / bytesPerElement(dtype)];
    const between = { name: `${name} padding`, role, shape, dtype, bytes: padding };
    return [...rows, { ...between, needed: needed(tensor) }];
  });
  return {
    device: device.name,
    launches: step.program.labels,
    parts,
    tensors,
    memory: memoryOf(allocations),
  };
}

/** The parts of a step. */
function partsOf({ program, parts: { first, others, update } }: TrainStep): StepPart[] {
  const parts = [
    { name: "micro-batch", from: first, to: others - 1 },
    { name: "further micro-batch", from: others, to: update - 1 },
    { name: "update", from: update, to: program.length - 1 },
  ] as const;
  return parts.filter(({ from, to }) => from <= to);
}

/** The use of a part of a buffer by a launch. */
interface Use {
  readonly launch: number;
  readonly start: number;
  readonly end: number;
  readonly isWritten: boolean;
}

/**
 * Finds the launches of a step in which the values of a tensor are needed: from the first that uses it to the last. If
 * the first only reads it, the host has written it before. A tensor that the update does not use is needed anew in
 * each micro-batch, and so is scratch memory.
 */
export function lifetimesIn(step: TrainStep): (tensor: Tensor) => LaunchRange[] {
  const { program } = step, parts = partsOf(step);
  const usesOf = new Map<GPUBuffer, Use[]>();
  for (const [launch, { tensors }] of program.launches.entries()) {
    for (const { tensor, isWritten } of tensors) {
      const start = tensor.offsetBytes,
        use = { launch, start, end: start + tensorBytes(tensor), isWritten };
      const uses = usesOf.get(tensor.buffer);
      if (uses) uses.push(use);
      else usesOf.set(tensor.buffer, [use]);
    }
  }
  const update = parts.at(-1)!.from, whole = { from: 0, to: program.length - 1 };
  return (tensor) => {
    const start = tensor.offsetBytes, end = start + tensorBytes(tensor);
    const uses = (usesOf.get(tensor.buffer) ?? []).filter((use) =>
      use.start < end && start < use.end
    );
    const isPerPart = tensor.name === SCRATCH || !uses.some(({ launch }) => launch >= update);
    return (isPerPart ? parts : [whole]).flatMap(({ from, to }) => {
      const within = uses.filter(({ launch }) => launch >= from && launch <= to);
      const first = within[0], last = within.at(-1);
      if (!first || !last) return [];
      const isUploaded = !within.some(({ launch, isWritten }) =>
        launch === first.launch && isWritten
      );
      return [{ from: isUploaded ? from : first.launch, to: last.launch }];
    });
  };
}
