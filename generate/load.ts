import { resolve } from "node:path";
import type { Tokenizer } from "../data/tokenizer/tokenizer.ts";
import { UserError } from "../files/user_error.ts";
import type { Device } from "../kernels/device.ts";
import { verifyCheckpoint } from "../model/files/checkpoint.ts";
import { createGpt, type Gpt } from "../model/gpt.ts";
import { countParameters } from "../model/parameters.ts";
import { type Precision, resolvePrecision } from "../model/precision.ts";
import { misfitOf, shortageOf } from "./limits.ts";
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
  /** A run directory: the newest good checkpoint in it is loaded. */
  run?: string;
  /** A checkpoint directory: this one or none. */
  checkpoint?: string;
  /** Any other model, as `findModel()` takes it: `distilgpt2`, `hf:OWNER/NAME`, a directory. */
  model?: string;
  /** `auto` takes f16 on a GPU that has it, and f32 otherwise. */
  precision?: Precision | "auto";
  /** Is called with a sentence about each damaged checkpoint that was passed over. */
  onWarning?: ((sentence: string) => void) | undefined;
}

/**
 * Finds the checkpoint to load and makes sure that it is whole.
 *
 * @throws {CheckpointError} if there is none, or if the one that was asked for is damaged.
 */
function findCheckpoint(
  { run = "runs/default", checkpoint, onWarning }: LoadOptions,
): string {
  if (checkpoint !== undefined) {
    verifyCheckpoint(checkpoint);
    return checkpoint;
  }
  return newestIn(run, onWarning);
}

/**
 * Finds the model that options name, and makes sure that it is whole where it is a checkpoint.
 *
 * @throws {CheckpointError} if there is no checkpoint or it is damaged; else as `findModel()`.
 */
export async function findSource(options: LoadOptions): Promise<ModelSource> {
  if (options.model !== undefined) return await findModel(options.model, options);
  const directory = findCheckpoint(options);
  return await readModel({ spec: resolve(directory), directory }, options);
}

/**
 * Loads a model that was found.
 *
 * @throws {UserError} if the device cannot hold it.
 */
export function loadSource(
  device: Device,
  source: ModelSource,
  { precision = "auto" }: Pick<LoadOptions, "precision"> = {},
): LoadedModel {
  const { config, tokenizer } = source;
  const how = { precision: resolvePrecision(device, precision) };
  const problem = misfitOf(device, (dry) => createGpt(dry, config, how));
  if (problem) {
    throw new UserError(
      `Cannot load ${source.spec} as the model must be smaller on ${device.name}: ` +
        `it has ${countParameters(config)} parameters ${shortageOf(problem)}`,
    );
  }
  const gpt = createGpt(device, config, how);
  fillModel(gpt, source);
  return { gpt, tokenizer };
}

/**
 * Loads a model and its tokenizer: from a run, a checkpoint, or wherever `findModel()` finds one. Adapters
 * are merged into it.
 *
 * @throws {CheckpointError} if there is no checkpoint or it is damaged, or if it holds another kind
 * of model; else as `findModel()`.
 */
export async function loadModel(device: Device, options: LoadOptions): Promise<LoadedModel> {
  return loadSource(device, await findSource(options), options);
}
