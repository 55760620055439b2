import { refuseOthers } from "../files/option_names.ts";
import { UserError } from "../files/user_error.ts";
import { type Arena, createArena, tensorNamed } from "../kernels/arena.ts";
import type { Device } from "../kernels/device.ts";
import { rotationTable } from "../kernels/rope/rotation.ts";
import { createTensor, type DType, type Tensor, upload } from "../kernels/tensor.ts";
import { type GptConfig, validateConfig, withDefaults } from "./config.ts";
import { isAdapter } from "./files/lora.ts";
import { type ParameterSpec, parameterTable } from "./parameters.ts";
import type { Precision } from "./precision.ts";

/** Types of matrices with fewer bits than activations; a model that has them cannot be trained. */
export type Quantization = "int8";

/** A matrix of int8 elements, in which output n counts scales[n] times. */
export interface QuantizedMatrix {
  /** i8 [outputs,inputs]; a linear layer has its parameter as [inputs,outputs]. */
  readonly values: Tensor;
  /** f32 [outputs] */
  readonly scales: Tensor;
}

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
  /** f32 master parameters by the names of the table, but those in `quantized`. */
  readonly parameters: Arena;
  /** f16 copy of the decayed parameters (matrices, embeddings), updated by the optimizer; only in f16. */
  readonly copies?: Arena;
  /** Type of the matrices in `quantized`. */
  readonly quantize?: Quantization | undefined;
  /** The matrices with fewer bits, by the names of the table; only if the model is quantised. */
  readonly quantized?: ReadonlyMap<string, QuantizedMatrix>;
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
 * @param options.quantize the type of matrices and of the token embedding, for a model that is not trained.
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
  { precision, freeze = "", quantize, ...others }: {
    precision: Precision;
    freeze?: string;
    quantize?: Quantization | undefined;
  },
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
  const inInt8 = quantize === undefined ? [] : table.filter(isQuantizable);
  const masters = table.filter((p) => !inInt8.includes(p)),
    decayed = masters.filter((p) => p.decayed);
  const arenaOf = (name: string, dtype: DType, specs: ParameterSpec[]) =>
    createArena(device, name, {
      shapes: new Map(specs.map(({ name, shape }) => [name, shape])),
      dtype,
    });
  const parameters = arenaOf("parameters", "f32", masters);
  const copies = precision === "f32" || decayed.length === 0
    ? undefined
    : arenaOf("f16 copies", "f16", decayed);
  const quantized = inInt8.length === 0 ? undefined : createQuantized(device, inInt8);
  const rotation = createRotation(device, config);
  const tensors = [parameters.flat, copies?.flat, ...quantized?.arenas ?? [], rotation];
  const buffers = tensors.flatMap((t) => t ? [t.buffer] : []);
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
    ...(quantize ? { quantize } : {}),
    ...(quantized ? { quantized: quantized.matrices } : {}),
    ...(rotation ? { rotation } : {}),
    bytes: buffers.reduce((sum, { size }) => sum + size, 0),
    destroy,
    [Symbol.dispose]: destroy,
  };
}

/** Inputs of whose multiples a quantised matrix has rows: products fetch whole words of them. */
const QUANTIZED_INPUTS = 8;

/** Whether products read a parameter, and can read it as int8. */
function isQuantizable({ name, shape, decayed }: ParameterSpec): boolean {
  return decayed && name !== "wpe.weight" && !isAdapter(name) &&
    quantizedShape({ name, shape })[1] % QUANTIZED_INPUTS === 0;
}

/** Outputs and inputs of a matrix: rows and columns of embeddings and heads, columns and rows of linear layers. */
function quantizedShape(
  { name, shape }: Pick<ParameterSpec, "name" | "shape">,
): readonly [outputs: number, inputs: number] {
  const [rows, columns] = shape as [number, number];
  return isRowPerOutput(name) ? [rows, columns] : [columns, rows];
}

/** Whether rows of a parameter are its outputs: those of the token embedding and of the head. */
function isRowPerOutput(name: string): boolean {
  return name === "wte.weight" || name === "lm_head.weight";
}

function createQuantized(device: Device, specs: readonly ParameterSpec[]) {
  const shapes = new Map(specs.map((spec) => [spec.name, quantizedShape(spec)]));
  const values = createArena(device, "int8 matrices", { shapes, dtype: "i8" });
  const scales = createArena(device, "scales of int8 matrices", {
    shapes: new Map([...shapes].map(([name, [outputs]]) => [name, [outputs]])),
    dtype: "f32",
  });
  const matrices = new Map(specs.map(({ name }): [string, QuantizedMatrix] => [name, {
    values: tensorNamed(values, name),
    scales: tensorNamed(scales, name),
  }]));
  return { matrices, arenas: [values.flat, scales.flat] };
}

/** The largest int8, of which the negative is one, too. */
const LARGEST_INT8 = 127;

/**
 * Sets a matrix in int8: each output has the scale at which the input with the largest weight is ±127.
 *
 * @param values those of the whole parameter, in its shape.
 */
export function setQuantized(
  device: Device,
  name: string,
  matrix: QuantizedMatrix,
  values: Float32Array,
): void {
  const [outputs, inputs] = matrix.values.shape as [number, number];
  const [toOutput, toInput] = isRowPerOutput(name) ? [inputs, 1] : [1, outputs];
  const scales = new Float32Array(outputs), int8 = new Int8Array(outputs * inputs);
  for (let i = 0; i < inputs; i++) {
    for (let n = 0; n < outputs; n++) {
      const magnitude = Math.abs(values[n * toOutput + i * toInput]!);
      scales[n] = Math.max(scales[n]!, magnitude); // NaN if one is, so that a model that has diverged shows it
    }
  }
  for (let n = 0; n < outputs; n++) {
    const scale = scales[n] = scales[n] === 0 ? 1 : scales[n]! / LARGEST_INT8;
    for (let i = 0; i < inputs; i++) {
      int8[n * inputs + i] = Math.round(values[n * toOutput + i * toInput]! / scale);
    }
  }
  upload(device, matrix.values, int8);
  upload(device, matrix.scales, scales);
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
  return unquantized(model, model.copies ?? model.parameters, name);
}

/** A parameter's f32 master. */
export function masterOf(model: Gpt, name: string): Tensor {
  return unquantized(model, model.parameters, name);
}

/**
 * A parameter in an arena of a model.
 *
 * @throws {UserError} if the model has it in fewer bits alone.
 */
function unquantized({ quantize, quantized }: Gpt, arena: Arena, name: string): Tensor {
  if (!quantized?.has(name)) return tensorNamed(arena, name);
  throw new UserError(
    `Cannot read ${name} as a float as the model must be loaded without quantize: ` +
      `current value is ${quantize}`,
  );
}

/** The head as `headLogits()` reads it, quantised or not. */
export function headMatrixOf(model: Gpt): { weight: Tensor; scales?: Tensor } {
  const { values: weight, scales } = model.quantized?.get(headName(model)) ?? {};
  return weight && scales ? { weight, scales } : { weight: headOf(model) };
}

/** The head's matrix as products read it: its own, or the token embedding's. */
export function headOf(model: Gpt): Tensor {
  return matrixOf(model, headName(model));
}

/** The name of the head's matrix. */
export function headName({ config }: Pick<Gpt, "config">): string {
  return config.ownHead ? "lm_head.weight" : "wte.weight";
}
