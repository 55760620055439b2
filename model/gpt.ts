import { UserError } from "../files/user_error.ts";
import { type Arena, createArena, tensorNamed } from "../kernels/arena.ts";
import type { Device } from "../kernels/device.ts";
import type { Tensor } from "../kernels/tensor.ts";
import { type GptConfig, validateConfig } from "./config.ts";
import { type ParameterSpec, parameterTable } from "./parameters.ts";
import type { Precision } from "./precision.ts";

/** A model on a device: its configuration and parameters, independent of any batch. */
export interface Gpt extends Disposable {
  /** The device that holds its parameters. */
  readonly device: Device;
  /** Its dimensions. */
  readonly config: GptConfig;
  /** Element types of its matrix products. */
  readonly precision: Precision;
  /** Names, shapes and other facts of its parameters, in the order of the arenas. */
  readonly table: readonly ParameterSpec[];
  /** f32 master parameters by Hugging Face's names. */
  readonly parameters: Arena;
  /** f16 copy of the decayed parameters (matrices, embeddings), updated by AdamW; only in f16. */
  readonly copies?: Arena;
  /** Bytes of parameters and copies on the device. */
  readonly bytes: number;
  /** Frees the parameters. */
  destroy(): void;
}

/**
 * Allocates a model with all parameters zero; `loadParameters()` or `initializeParameters()` fill it.
 *
 * @param options.freeze parts that are not trained, in the syntax of `parseFreeze()`.
 * @throws {UserError} if a dimension is impossible; {LimitError} if the parameters leave the device's
 * limits.
 *
 * @example Compute the logits of a random model
 * ```ts
 * import { openDevice } from "../kernels/device.ts";
 * import { Program } from "../kernels/program.ts";
 * import { createTensor, download, upload } from "../kernels/tensor.ts";
 * import { createActivations } from "./activations.ts";
 * import { forward } from "./forward_backward.ts";
 * import { createGpt, headOf } from "./gpt.ts";
 * import { headLogits } from "./head.ts";
 * import { initializeParameters } from "./weights.ts";
 *
 * const device = await openDevice(), precision = "f32";
 * const config = { vocabularySize: 64, contextLength: 4, width: 16, layers: 2, heads: 2 };
 * const model = createGpt(device, config, { precision });
 * initializeParameters(model, { seed: 1 });
 *
 * const batch = { batchSize: 1, sequenceLength: 4 };
 * const activations = createActivations(device, config, { batch, precision, purpose: "evaluation" });
 * const tokens = createTensor(device, "tokens", { shape: [4], dtype: "u32" });
 * const logits = createTensor(device, "logits", { shape: [4, 64], dtype: "f32" });
 * upload(device, tokens, [1, 2, 3, 4]);
 *
 * const program = new Program(device);
 * const { x } = forward(program, model, { tokens }, activations);
 * headLogits(program, { x, weight: headOf(model) }, { logits });
 * program.run();
 * const [values] = await download(device, logits);
 * console.log(values); // 4 · 64 numbers: for each position the logit of each token
 * ```
 */
export function createGpt(
  device: Device,
  config: GptConfig,
  { precision, freeze = "" }: { precision: Precision; freeze?: string },
): Gpt {
  validateConfig(config);
  if (precision === "f16" && !device.features.has("shader-f16")) {
    throw new UserError(
      `Cannot compute in f16 as ${device.name} must have the feature shader-f16: ` +
        `current features are ${[...device.features].join(", ") || "none"}`,
    );
  }
  const table = parameterTable(config, freeze);
  const parameters = createArena(device, "parameters", {
    shapes: new Map(table.map(({ name, shape }) => [name, shape])),
    dtype: "f32",
  });
  const decayed = table.filter((p) => p.decayed);
  const copies = precision === "f32" ? undefined : createArena(device, "f16 copies", {
    shapes: new Map(decayed.map(({ name, shape }) => [name, shape])),
    dtype: "f16",
  });
  const buffers = [parameters, copies].flatMap((arena) => arena ? [arena.flat.buffer] : []);
  const destroy = () => {
    for (const buffer of buffers) buffer.destroy();
  };
  return {
    device,
    config,
    precision,
    table,
    parameters,
    ...(copies ? { copies } : {}),
    bytes: buffers.reduce((sum, { size }) => sum + size, 0),
    destroy,
    [Symbol.dispose]: destroy,
  };
}

/** A parameter as matrix products read it: the f16 copy under autocast, else the master. */
export function matrixOf(model: Gpt, name: string): Tensor {
  return tensorNamed(model.copies ?? model.parameters, name);
}

/** A parameter's f32 master. */
export function masterOf(model: Gpt, name: string): Tensor {
  return tensorNamed(model.parameters, name);
}

/** The head's matrix as products read it: its own, or the token embedding's. */
export function headOf(model: Gpt): Tensor {
  return matrixOf(model, headName(model));
}

/** The name of the head's matrix. */
export function headName({ config }: Pick<Gpt, "config">): string {
  return config.ownHead ? "lm_head.weight" : "wte.weight";
}

/**
 * The first block with a trained parameter, at which the backward pass ends: 0 if the embeddings are
 * trained, the number of blocks if neither they nor any block is.
 */
export function firstTrainedBlock({ config, table }: Pick<Gpt, "config" | "table">): number {
  let first = config.layers;
  for (const { name, trained } of table) {
    const [, block] = /^h\.(\d+)\./.exec(name) ?? [];
    if (!trained) continue;
    if (block !== undefined) first = Math.min(first, Number(block));
    else if (name.startsWith("wpe.")) first = 0;
  }
  return first;
}
