import { refuseOthers } from "../files/option_names.ts";
import { UserError } from "../files/user_error.ts";
import { type Arena, createArena, tensorNamed } from "../kernels/arena.ts";
import type { Device } from "../kernels/device.ts";
import { rotationTable } from "../kernels/rope/rotation.ts";
import { createTensor, type Tensor, upload } from "../kernels/tensor.ts";
import { type GptConfig, validateConfig, withDefaults } from "./config.ts";
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
  /** f32 master parameters by the names of the table. */
  readonly parameters: Arena;
  /** f16 copy of the decayed parameters (matrices, embeddings), updated by the optimizer; only in f16. */
  readonly copies?: Arena;
  /**
   * f32 [maxT,HS/2,2]: cosines and sines by which `ropeForward()` rotates queries and keys; only with rotary positions
   * or QK-norm.
   */
  readonly rotation?: Tensor;
  /** Bytes of parameters, copies and rotation on the device. */
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
 * @example Make a random model and generate text with it
 * ```ts
 * import { generate, gpt2Tokenizer, initializeParameters, openDevice } from "../mod.ts";
 * import { createGpt } from "./gpt.ts";
 *
 * const tokenizer = await gpt2Tokenizer(), { vocabularySize } = tokenizer;
 * const config = { vocabularySize, contextLength: 8, width: 16, layers: 2, heads: 2 };
 * const gpt = createGpt(await openDevice(), config, { precision: "f32" });
 * initializeParameters(gpt, { seed: 1 });
 *
 * const request = { prompt: "Once", maxNewTokens: 4 };
 * for await (const piece of generate({ gpt, tokenizer }, request)) console.log(piece);
 * ```
 */
export function createGpt(
  device: Device,
  config: GptConfig,
  { precision, freeze = "", ...others }: { precision: Precision; freeze?: string },
): Gpt {
  refuseOthers("build a model", "createGpt()", others);
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
  const rotation = createRotation(device, config);
  const buffers = [parameters.flat, copies?.flat, rotation].flatMap((t) => t ? [t.buffer] : []);
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
    ...(rotation ? { rotation } : {}),
    bytes: buffers.reduce((sum, { size }) => sum + size, 0),
    destroy,
    [Symbol.dispose]: destroy,
  };
}

/** The rotations of a model's positions; without rotary positions, QK-norm gets rotations by zero. */
function createRotation(device: Device, config: GptConfig): Tensor | undefined {
  const { positions, qkNorm, contextLength, headSize, rotaryBase: base, rotaryScaling: scaling } =
    withDefaults(config);
  if (positions !== "rotary" && !qkNorm) return undefined;
  const shape = [contextLength, headSize / 2, 2];
  const rotation = createTensor(device, "rotation", { shape, dtype: "f32" });
  const values = positions === "rotary"
    ? rotationTable({ contextLength, headSize, base, scaling })
    : Float32Array.from({ length: contextLength * headSize }, (_, i) => 1 - i % 2);
  upload(device, rotation, values);
  return rotation;
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
