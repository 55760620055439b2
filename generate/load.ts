import { basename, resolve } from "node:path";
import type { Tokenizer } from "../data/tokenizer/tokenizer.ts";
import { refuseOthers } from "../files/option_names.ts";
import { UserError } from "../files/user_error.ts";
import type { Device } from "../kernels/device.ts";
import { misfitOf, shortageOf } from "../kernels/fit.ts";
import {
  checkpointNamed,
  isNameInRun,
  listCheckpoints,
  readHint,
  verifyCheckpoint,
} from "../model/files/checkpoint.ts";
import { createGpt, type Gpt, type Quantization } from "../model/gpt.ts";
import { countParameters } from "../model/parameters.ts";
import { type Precision, resolvePrecision } from "../model/precision.ts";
import { checkPlace } from "./place.ts";
import {
  fillModel,
  findModel,
  type FindModelOptions,
  type ModelSource,
  newestIn,
  readModel,
} from "./source.ts";

/** A model with the tokenizer that it was trained with. */
export interface LoadedModel {
  /** The model. */
  readonly gpt: Gpt;
  /** Its tokenizer. */
  readonly tokenizer: Tokenizer;
}

/** Where to load a model from, and how. */
export interface LoadOptions extends FindModelOptions {
  /** A run directory, whose newest whole checkpoint is loaded. */
  run?: string;
  /** A checkpoint of the run, `latest`, `best` or a number of steps, or else a directory, which must be whole. */
  checkpoint?: string;
  /** Any other model, as a `spec` of `findModel()`: `distilgpt2`, `hf:OWNER/NAME`, a directory. */
  model?: string;
  /** `auto` is f16 on a GPU that supports it, and f32 otherwise. */
  precision?: Precision | "auto";
  /** `int8` keeps matrices in half the bytes of f16; such a model cannot be trained. */
  quantize?: Quantization | undefined;
  /** Is called with a sentence about each damaged checkpoint that is skipped. */
  onWarning?: ((sentence: string) => void) | undefined;
}

/** Names of these options, by which `loadModel()` refuses others: it does not take them apart, but passes them on. */
const LOAD_OPTIONS: Readonly<Record<keyof LoadOptions, true>> = {
  run: true,
  checkpoint: true,
  model: true,
  precision: true,
  quantize: true,
  onWarning: true,
  contextLength: true,
  base: true,
  onProgress: true,
  environment: true,
  onNotice: true,
  signal: true,
  mostBytes: true,
};

/**
 * Finds the checkpoint to load and makes sure that it is whole.
 *
 * @throws {CheckpointError} if there is none, or if the given one is damaged.
 */
function findCheckpoint(
  { run = "runs/default", checkpoint = "latest", onNotice, onWarning }: LoadOptions,
): string {
  const isInRun = checkpoint === "latest" || isNameInRun(checkpoint);
  if (isInRun) checkPlace("--run", run);
  else checkPlace("--checkpoint", checkpoint);
  if (checkpoint !== "latest") {
    const path = isInRun ? checkpointNamed(run, checkpoint) : checkpoint;
    verifyCheckpoint(path);
    return path;
  }
  const newest = newestIn(run, onWarning), best = readHint(run, "best");
  const isKept = listCheckpoints(run).some(({ path }) => basename(path) === best);
  if (isKept && best !== basename(newest)) {
    onNotice?.(
      `using the newest checkpoint of ${run}, after ${Number(basename(newest))} steps; ` +
        `the validation loss was lowest after ${Number(best)}: --checkpoint best`,
    );
  }
  return newest;
}

/**
 * Finds the model that options name; if it is a checkpoint, makes sure that it is whole.
 *
 * @throws {CheckpointError} if there is no checkpoint or it is damaged; otherwise as `findModel()`.
 */
export async function findSource(options: LoadOptions): Promise<ModelSource> {
  if (options.model !== undefined) return await findModel(options.model, options);
  const directory = findCheckpoint(options);
  return await readModel({ spec: resolve(directory), directory }, options);
}

/**
 * Loads a model from its source.
 *
 * @throws {UserError} if the device cannot hold it.
 */
export function loadSource(
  device: Device,
  source: ModelSource,
  { precision = "auto", quantize }: Pick<LoadOptions, "precision" | "quantize"> = {},
): LoadedModel {
  const { config, tokenizer } = source;
  const how = { precision: resolvePrecision(device, precision), quantize };
  const problem = misfitOf(device, (dry) => createGpt(dry, config, how));
  if (problem) {
    throw new UserError(
      `Cannot load ${source.spec} as the model must be smaller on ${device.name}: ` +
        `it has ${countParameters(config)} parameters ${shortageOf(problem)}`,
    );
  }
  const gpt = createGpt(device, config, how);
  try {
    fillModel(gpt, source);
  } catch (error) {
    gpt.destroy();
    throw error;
  }
  return { gpt, tokenizer };
}

/**
 * Loads a model and its tokenizer from a run, a checkpoint, or any `spec` of `findModel()`. Adapters are merged into
 * the model.
 *
 * @throws {CheckpointError} if there is no checkpoint or it is damaged, or if it holds another kind of model;
 * otherwise as `findModel()`.
 */
export async function loadModel(device: Device, options: LoadOptions): Promise<LoadedModel> {
  const others = Object.entries(options).filter(([name]) => !Object.hasOwn(LOAD_OPTIONS, name));
  refuseOthers("load a model", "loadModel()", Object.fromEntries(others));
  return loadSource(device, await findSource(options), options);
}
