import { join } from "node:path";
import { readTokenizer } from "../data/load_tokenizer.ts";
import type { Tokenizer } from "../data/tokenizer.ts";
import type { Device } from "../kernels/device.ts";
import { CheckpointError, newestCheckpoint, verifyCheckpoint } from "../model/checkpoint.ts";
import { parseHuggingFaceConfig } from "../model/config.ts";
import { createGpt, type Gpt } from "../model/gpt.ts";
import type { Precision } from "../model/precision.ts";
import { parseSafetensors } from "../model/safetensors.ts";
import { loadParameters } from "../model/weights.ts";

/** A model with the tokenizer that it was trained with. */
export interface LoadedModel {
  /** The model. */
  readonly gpt: Gpt;
  /** Its tokenizer. */
  readonly tokenizer: Tokenizer;
}

/** Where to load a model from. */
export interface LoadOptions {
  /** A run directory: the newest good checkpoint in it is loaded. */
  run?: string;
  /** A checkpoint directory: this one or none. */
  checkpoint?: string;
  /** `auto` takes f16 on a GPU that has it, and f32 otherwise. */
  precision?: Precision | "auto";
  /** Hears of damaged checkpoints that were passed over. */
  onWarning?: ((sentence: string) => void) | undefined;
}

/** The precision that `auto` stands for on a device: f16 on a GPU with `shader-f16`. */
export function resolvePrecision(device: Device, precision: Precision | "auto"): Precision {
  if (precision !== "auto") return precision;
  return device.features.has("shader-f16") && !device.isCpu ? "f16" : "f32";
}

/**
 * Finds the checkpoint to load and makes sure that it is whole.
 *
 * @throws {CheckpointError} if there is none, or if the one that was asked for is damaged.
 */
export function findCheckpoint(
  { run = "runs/default", checkpoint, onWarning = () => {} }: LoadOptions,
): string {
  if (checkpoint !== undefined) {
    verifyCheckpoint(checkpoint);
    return checkpoint;
  }
  const newest = newestCheckpoint(run, onWarning);
  if (newest === undefined) {
    throw new CheckpointError(`Cannot load a model as ${run} holds no checkpoint`);
  }
  return newest;
}

/**
 * Loads a model and its tokenizer from a run or a checkpoint directory.
 *
 * @throws {CheckpointError} if there is no checkpoint or it is damaged.
 * @throws {RangeError} if it holds another kind of model.
 */
export async function loadModel(device: Device, options: LoadOptions): Promise<LoadedModel> {
  const path = findCheckpoint(options);
  const file = (name: string) => join(path, name);
  const text = (name: string) => Deno.readTextFile(file(name));
  const config = parseHuggingFaceConfig(await text("config.json"), file("config.json"));
  const { vocabularySize } = config;
  const tokenizer = await readTokenizer(file("tokenizer.json"), { vocabularySize });
  const gpt = createGpt(device, config, {
    precision: resolvePrecision(device, options.precision ?? "auto"),
  });
  const weights = file("model.safetensors");
  loadParameters(gpt, parseSafetensors(await Deno.readFile(weights), weights).tensors, weights);
  return { gpt, tokenizer };
}
