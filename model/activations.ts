import type { Device } from "../kernels/device.ts";
import { bytesPerElement, createTensor, type DType, type Tensor } from "../kernels/tensor.ts";
import { type GptConfig, innerWidthOf } from "./config.ts";
import { adaptersOf } from "./parameters.ts";
import { type DTypes, dtypesOf, type Precision } from "./precision.ts";

/** Sizes of one forward pass. */
export interface BatchShape {
  /** B: sequences. */
  readonly batchSize: number;
  /** T: tokens in each, at most the model's context length. */
  readonly sequenceLength: number;
}

/** One activation: a row of the table. */
interface ActivationSpec {
  readonly name: string;
  readonly shape: readonly number[];
  readonly role: keyof DTypes;
  /** When it is needed: `forward` always, `kept` until the backward pass, `backward` only there. */
  readonly needed: "forward" | "kept" | "backward";
  /** One a layer, or one that all layers share. */
  readonly perLayer: boolean;
}

/**
 * Largest chunk of logits in bytes, where a binding shows so many. Every chunk adds to all of wte's
 * gradient, eight bytes an element: a step of mini, 32 × 128, takes an H100 11.1 ms in one chunk, 11.3 in
 * two or four, 11.7 in seven and 11.9 in fourteen.
 */
const LOGITS_BYTES = 512 * 2 ** 20;

/**
 * The rows in a chunk of logits are a multiple of the first number; of the second if a binding holds fewer
 * rows of a large vocabulary. Four numbers of f16, the narrowest rows of other tensors, are then still aligned to 256 bytes.
 */
const CHUNK_ROWS = 128, LEAST_CHUNK_ROWS = 32;

/** Columns that a row of logits is stored in: whole cache lines, and vectors of four with them. */
export function logitsColumns({ vocabularySize: V }: Pick<GptConfig, "vocabularySize">): number {
  return Math.ceil(V / 64) * 64;
}

/** Rows of logits that exist at a time: the head and the loss run in chunks of so many rows. */
export function logitsRows(
  device: Device,
  config: GptConfig,
  { rows, dtype }: { rows: number; dtype: DType },
): number {
  const rowBytes = logitsColumns(config) * bytesPerElement(dtype);
  const limit = Math.min(LOGITS_BYTES, device.maxBindingBytes);
  const multiple = limit < CHUNK_ROWS * rowBytes ? LEAST_CHUNK_ROWS : CHUNK_ROWS;
  const chunk = Math.floor(limit / rowBytes / multiple) * multiple;
  return Math.min(rows, Math.max(chunk, multiple));
}

/** The table of activations.  M = B · T; R: rows in a chunk of logits. */
function activationTable(
  config: GptConfig,
  { batchSize: B, sequenceLength: T }: BatchShape,
  R: number,
): ActivationSpec[] {
  const { width: C, heads: NH, lora } = config, F = innerWidthOf(config);
  const M = B * T;
  const adapted = adaptersOf(config).filter(({ layer }) => layer === 0);
  const row = (
    name: string,
    shape: readonly number[],
    role: keyof DTypes,
    needed: ActivationSpec["needed"],
    perLayer = false,
  ): ActivationSpec => ({ name, shape, role, needed, perLayer });
  return [
    row("embedded", [M, C], "stream", "forward"),
    row("x", [M, C], "stream", "kept"), // what enters the first block
    row("ln1", [M, C], "matrix", "kept", true),
    row("ln1.statistics", [M, 2], "statistic", "kept", true),
    row("qkv", [M, 3 * C], "matrix", "kept", true),
    row("attention", [M, C], "matrix", "kept", true),
    row("attention.logSumExp", [B, NH, T], "statistic", "kept", true),
    row("projected", [M, C], "matrix", "forward"), // what a block adds to the stream
    row("middle", [M, C], "stream", "kept", true), // x after attention
    row("ln2", [M, C], "matrix", "kept", true),
    row("ln2.statistics", [M, 2], "statistic", "kept", true),
    row("hidden", [M, F], "matrix", "kept", true),
    row("gelu", [M, F], "matrix", "kept", true),
    row("out", [M, C], "stream", "kept", true), // x after the MLP
    // what an adapter makes of its input
    ...adapted.map(({ module }) =>
      row(`${module.name} low`, [M, lora!.rank], "matrix", "kept", true)
    ),
    row("lnf", [M, C], "matrix", "kept"),
    row("lnf.statistics", [M, 2], "statistic", "kept"),
    row("logits", [R, logitsColumns(config)], "matrix", "forward"), // and then dlogits, in place
    row("losses", [M], "statistic", "forward"),

    row("dx", [M, C], "stream", "backward"), // gradient of the residual stream
    row("dprojected", [M, C], "matrix", "backward"),
    row("dln", [M, C], "matrix", "backward"),
    row("dhidden", [M, F], "matrix", "backward"),
    row("dattention", [M, C], "matrix", "backward"),
    row("dqkv", [M, 3 * C], "matrix", "backward"),
    row("attention.delta", [B, NH, T], "statistic", "backward"),
    row("dembedded", [M, C], "stream", "backward"),
    ...(lora ? [row("dlow", [M, lora.rank], "matrix", "backward")] : []),
  ];
}

/** Tensors of a forward pass and, for training, of the backward pass. */
export interface Activations extends BatchShape {
  /** The tensor of this name, in this layer where there is one a layer. */
  at(name: string, layer?: number): Tensor;
  /** Bytes of all tensors together. */
  readonly bytes: number;
  /** Frees all tensors. */
  destroy(): void;
}

/**
 * Allocates the activations of one batch shape.
 *
 * For inference (`training: false`) nothing is kept for a backward pass: the layers share one set. So do the
 * layers before `firstLayer`, at which the backward pass ends.
 */
export function createActivations(
  device: Device,
  config: GptConfig,
  { batch, precision, training, firstLayer = 0 }: {
    batch: BatchShape;
    precision: Precision;
    training: boolean;
    firstLayer?: number;
  },
): Activations {
  // without a backward pass two sets do for all layers: a block reads one stream, writes the other
  const setOf = (layer: number) => training && layer >= firstLayer ? layer : layer % 2;
  const dtypes = dtypesOf(precision);
  const rows = batch.batchSize * batch.sequenceLength;
  const R = logitsRows(device, config, { rows, dtype: dtypes.matrix });
  const tensors = new Map<string, Tensor>();
  let bytes = 0;
  for (const { name, shape, role, needed, perLayer } of activationTable(config, batch, R)) {
    if (needed === "backward" && !training) continue;
    const sets = perLayer
      ? new Set(Array.from({ length: config.layers }, (_, i) => setOf(i)))
      : [0];
    for (const set of sets) {
      const key = perLayer ? `${name} ${set}` : name;
      const tensor = createTensor(device, key, { shape, dtype: dtypes[role] });
      tensors.set(key, tensor);
      bytes += tensor.buffer.size;
    }
  }
  return {
    ...batch,
    bytes,
    at(name, layer) {
      const key = layer === undefined ? name : `${name} ${setOf(layer)}`;
      const tensor = tensors.get(key);
      if (!tensor) throw new RangeError(`Cannot find the activation "${key}"`);
      return tensor;
    },
    destroy() {
      for (const { buffer } of tensors.values()) buffer.destroy();
    },
  };
}
