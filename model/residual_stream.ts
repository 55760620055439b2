import type { Projection } from "../kernels/attention/decode.ts";
import type { Device } from "../kernels/device.ts";
import { canNormalize, MOST_BUFFERS, partsOf } from "../kernels/matmul/launches.ts";
import type { MatmulOptions } from "../kernels/matmul/matmul.ts";
import type { Program } from "../kernels/program.ts";
import type { Dropout } from "../kernels/random.ts";
import type { Tensor } from "../kernels/tensor.ts";
import type { Activations } from "./activations.ts";
import { headsOf, innerWidthOf } from "./config.ts";
import { type Gpt, matrixOf } from "./gpt.ts";
import { adaptersBeside, biasOf, linearLayerForward, lowIn } from "./linear.ts";
import { normForward, normParameters } from "./norm.ts";

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

/** Rows of a fused pass, at most, and at most if `kernelRows` is given. */
const MOST_ROWS = 4, MOST_FUSED_ROWS = 8;

/**
 * Parts of a sum over K, at most, if a pass may have many rows: the next launch reads the parts of all its rows in every
 * workgroup. A guess, as it was not measured.
 */
const MOST_PARTS_OF_MANY = 2;

/** Elements of the partial sums of a projection after attention, at most: the next launch reads them in every workgroup. */
const MOST_PROJECTED = 16_384;

/**
 * The residual stream of a forward pass, [M,C]: linear layers add to it, and the next ones read it normalised.
 *
 * A pass over a cache is fused if it has few rows, for which a launch costs a GPU more than a norm: products normalise the
 * rows that they read, attention computes the product after it, and sums over K are stored in parts, which the next norm
 * adds to the stream.
 */
export class ResidualStream {
  readonly #program: Program;
  readonly #model: Gpt;
  readonly #activations: Activations;
  readonly #kernelRows: number | undefined;
  readonly #isFused: boolean;
  /** The stream after the last addition that was recorded. */
  #x: Tensor;

  /** @param options.kernelRows see `forward()`. */
  constructor(
    program: Program,
    model: Gpt,
    activations: Activations,
    { hasCache, kernelRows }: { hasCache: boolean; kernelRows: number | undefined },
  ) {
    const rows = activations.batchSize * activations.sequenceLength;
    this.#program = program;
    this.#model = model;
    this.#activations = activations;
    this.#kernelRows = kernelRows;
    this.#isFused = hasCache && (kernelRows !== undefined || rows <= MOST_ROWS) &&
      canFuse(program.device, model, kernelRows ?? rows);
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
    if (this.#isFused) {
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
    const most = kernelRows === undefined ? undefined : MOST_PARTS_OF_MANY;
    const parts = this.#isFused ? partsOf({ K: x.shape[1]!, N: width, most }) : undefined;
    const y = parts === undefined ? this.#activations.at("projected") : this.#partialSums(parts);
    const outputs = { y, low: lowIn(this.#activations) };
    linearLayerForward(this.#program, this.#model, name, { x }, outputs, { parts, kernelRows });
    return this.normalize(norm, y);
  }

  /** The linear layer after attention, if attention computes it, and where it stores its partial sums. */
  projectionInAttention(name: string): { projection: Projection; sums: Tensor } | undefined {
    const model = this.#model, { config, quantized } = model, { heads, headSize } = headsOf(config);
    const isFused = this.#isFused && this.#kernelRows === undefined &&
      heads * config.width <= MOST_PROJECTED && adaptersBeside(model, name).length === 0 &&
      (!quantized || headSize % 8 === 0);
    if (!isFused) return undefined;
    const int8 = quantized?.get(`${name}.weight`);
    const weight = int8?.values ?? matrixOf(model, `${name}.weight`), scales = int8?.scales;
    const projection = { weight, scales, bias: biasOf(model, name) };
    return { projection, sums: this.#partialSums(heads) };
  }

  #partialSums(count: number): Tensor {
    const { batchSize: B, sequenceLength: T } = this.#activations;
    // slot 0 is that of products, which may need it before these sums are read
    return this.#program.scratch([count, B * T, this.#model.config.width], { slot: 1 });
  }
}

/** Whether a device can compute a fused pass, and gains by it. */
function canFuse(device: Device, { config }: Gpt, rows: number): boolean {
  return rows <= MOST_FUSED_ROWS && !device.isCpu &&
    canNormalize(device, config.width) && innerWidthOf(config) % 4 === 0 &&
    device.gpu.limits.maxStorageBuffersPerShaderStage >= MOST_BUFFERS;
}
