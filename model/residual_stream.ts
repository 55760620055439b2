import type { Projection } from "../kernels/attention/decode.ts";
import type { Device } from "../kernels/device.ts";
import {
  canMultiplyRows,
  canNormalize,
  MOST_BUFFERS,
  MOST_FEW_ROWS,
  partsOf,
} from "../kernels/matmul/launches.ts";
import type { MatmulOptions } from "../kernels/matmul/matmul.ts";
import type { Program } from "../kernels/program.ts";
import type { Dropout } from "../kernels/random.ts";
import type { Tensor } from "../kernels/tensor.ts";
import type { Activations } from "./activations.ts";
import { headsOf, innerWidthOf } from "./config.ts";
import { type Gpt, matrixOf } from "./gpt.ts";
import { adaptersBeside, biasOf, linearLayerForward, lowIn } from "./linear.ts";
import { normForward, normParameters } from "./norm.ts";
import { adaptersOf } from "./parameters.ts";

/** A tensor as a product reads it: normalised first if `normalize` is given, with the kernel for `kernelRows` rows. */
export interface Operand extends Pick<MatmulOptions, "normalize" | "kernelRows"> {
  readonly x: Tensor;
}

/** A norm of the network. It normalises the residual stream after an addition to it. */
export interface Norm {
  /** Name of its parameters, such as `h.0.ln_1`. */
  readonly name: string;
  /** The residual stream after the addition. */
  readonly x: Tensor;
  readonly y: Tensor;
  readonly statistics: Tensor;
  /** Dropout of the addend; nothing is added before the first norm. */
  readonly dropout: Dropout | undefined;
}

/**
 * Rows of a pass that is fused for few rows, at most. With `kernelRows` they are `MOST_FEW_ROWS`, as a pass may have fewer.
 */
const MOST_FUSED_ROWS = 4;

/**
 * Elements of the stream in a pass that is fused for tens of rows, at most: every workgroup of a product reads the rows and the
 * partial sums that it adds. On an H200 a token of mini, whose width is 256, took 0.69 of the time for 64 texts, of
 * SmolLM2, 576, 0.83 for 32 and 1.05 for 64, of gpt2, 768, 1.00 for 16 and 1.13 for 32 (November 2026).
 */
const MOST_ELEMENTS = 20_480;

/** Elements of the partial sums of a projection after attention, at most: the next launch reads them in every workgroup. */
const MOST_PROJECTED = 16_384;

/**
 * The residual stream of a forward pass, [M,C]: linear layers add to it, and the next ones read it normalised.
 *
 * A pass over a cache is fused if it has few rows, or on tensor cores tens, since a launch then costs a GPU more than a norm:
 * products normalise the rows that they read, and store partial sums, which the next norm adds to the stream. If the rows are
 * few, attention computes the product after it, too.
 */
export class ResidualStream {
  readonly #program: Program;
  readonly #model: Gpt;
  readonly #activations: Activations;
  readonly #kernelRows: number | undefined;
  /** Rows for which kernels are chosen. */
  readonly #rows: number;
  /** As `fusionOf()` says; undefined without a cache. */
  readonly #fusedFor: "few" | "tens" | undefined;
  /** The stream after the last addition that was recorded. */
  #x: Tensor;

  /** @param options.kernelRows see `forward()`. */
  constructor(
    program: Program,
    model: Gpt,
    activations: Activations,
    { hasCache, kernelRows }: { hasCache: boolean; kernelRows: number | undefined },
  ) {
    this.#program = program;
    this.#model = model;
    this.#activations = activations;
    this.#kernelRows = kernelRows;
    this.#rows = kernelRows ?? activations.batchSize * activations.sequenceLength;
    this.#fusedFor = hasCache
      ? fusionOf(program.device, model, { rows: this.#rows, isInvariant: kernelRows !== undefined })
      : undefined;
    this.#x = activations.at("x");
  }

  /**
   * Normalises the stream, to which z is added if it is given, fused its partial sums.
   *
   * @returns what the next linear layer reads.
   */
  normalize({ name, x: sum, y, statistics, dropout }: Norm, z?: Tensor): Operand {
    const x = z ? this.#x : sum, kernelRows = this.#kernelRows; // without z the stream begins there
    this.#x = sum;
    if (this.#fuses(name)) {
      const parameters = normParameters(this.#model, name);
      return { x, kernelRows, normalize: { ...parameters, addends: z, total: z && sum } };
    }
    const outputs = { sum: z && sum, y, statistics };
    normForward(this.#program, this.#model, name, { x, z }, outputs, { dropout });
    return { x: y, kernelRows };
  }

  /** Adds a linear layer of x, and normalises the sum as `normalize()` does. */
  add(name: string, x: Tensor, norm: Norm): Operand {
    const kernelRows = this.#kernelRows, { width } = this.#model.config;
    const parts = this.#fuses(norm.name)
      ? partsOf({
        K: x.shape[1]!,
        N: width,
        rows: this.#rows,
        isInvariant: kernelRows !== undefined,
      })
      : undefined;
    const y = parts === undefined ? this.#activations.at("projected") : this.#partialSums(parts);
    const outputs = { y, low: lowIn(this.#activations) };
    linearLayerForward(this.#program, this.#model, name, { x }, outputs, { parts, kernelRows });
    return this.normalize(norm, y);
  }

  /** The linear layer after attention, if attention computes it, and where it stores its partial sums. */
  projectionInAttention(name: string): { projection: Projection; sums: Tensor } | undefined {
    const model = this.#model, { config, quantized } = model, { heads, headSize } = headsOf(config);
    const isFused = this.#fusedFor === "few" && this.#kernelRows === undefined &&
      heads * config.width <= MOST_PROJECTED && adaptersBeside(model, name).length === 0 &&
      (!quantized || headSize % 8 === 0);
    if (!isFused) return undefined;
    const int8 = quantized?.get(`${name}.weight`);
    const weight = int8?.values ?? matrixOf(model, `${name}.weight`), scales = int8?.scales;
    const projection = { weight, scales, bias: biasOf(model, name) };
    return { projection, sums: this.#partialSums(heads) };
  }

  /** Whether the products after a norm normalise their rows. Those of tens of rows do not, if it is the head's norm. */
  #fuses(norm: string): boolean {
    return this.#fusedFor === "few" || this.#fusedFor === "tens" && norm !== "ln_f";
  }

  #partialSums(count: number): Tensor {
    const { batchSize: B, sequenceLength: T } = this.#activations;
    // slot 0 is that of products, which may need it before these sums are read
    return this.#program.scratch([count, B * T, this.#model.config.width], { slot: 1 });
  }
}

/** For how many rows, few or tens, a device fuses a pass over a cache; undefined if it cannot, or does not gain by it. */
function fusionOf(
  device: Device,
  { config, precision, quantized }: Gpt,
  { rows, isInvariant }: { rows: number; isInvariant: boolean },
): "few" | "tens" | undefined {
  const { width } = config, inner = innerWidthOf(config);
  const fits = !device.isCpu && canNormalize(device, width) && inner % 4 === 0 &&
    device.gpu.limits.maxStorageBuffersPerShaderStage >= MOST_BUFFERS;
  if (!fits) return undefined;
  if (rows <= (isInvariant ? MOST_FEW_ROWS : MOST_FUSED_ROWS)) return "few";
  const { heads, keyHeads, headSize } = headsOf(config), attended = heads * headSize;
  const normalized = [attended + 2 * keyHeads * headSize, inner]
    .map((N) => ({ N, K: width, isNormalized: true }));
  const added = [attended, inner]
    .map((K) => ({ N: width, K, parts: partsOf({ N: width, K, rows, isInvariant }) }));
  const areTens = rows > MOST_FEW_ROWS && rows * width <= MOST_ELEMENTS &&
    precision === "f16" && !quantized && adaptersOf(config).length === 0 &&
    [...normalized, ...added].every((sizes) => canMultiplyRows(device, sizes));
  return areTens ? "tens" : undefined;
}
