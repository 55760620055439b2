import type { Device } from "../kernels/device.ts";
import { bytesPerElement, createTensor, type DType, type Tensor } from "../kernels/tensor.ts";
import { type GptConfig, withDefaults } from "./config.ts";
import { STATISTICS } from "./norm.ts";
import { adaptersOf } from "./parameters.ts";
import { type DTypes, dtypesOf, type Precision } from "./precision.ts";

/** Sizes of one forward pass. */
export interface BatchShape {
  /** B: sequences. */
  readonly batchSize: number;
  /** T: tokens in each, at most the model's context length. */
  readonly sequenceLength: number;
}

/** What a forward pass is for, which decides which activations exist and for how long. */
export type Purpose = "training" | "evaluation" | "generation";

/**
 * What the backward pass of a training can compute again, so that it is not kept from the forward pass on (activation
 * checkpointing, Chen et al. 2016, https://arxiv.org/abs/1604.06174): nothing, the inner part of each MLP, or each block
 * from its input. The gradients are the same to the bit. The least work first.
 */
export const RECOMPUTE_MODES = ["none", "mlp", "block"] as const;

/** One of `RECOMPUTE_MODES`. */
export type RecomputeMode = typeof RECOMPUTE_MODES[number];

/** Rows of the table that each purpose needs, by their column `needed`. */
const NEEDED = {
  generation: ["forward"],
  evaluation: ["forward", "loss"],
  training: ["forward", "loss", "training"],
} as const;

/** One activation: a row of the table. */
interface ActivationSpec {
  readonly name: string;
  readonly shape: readonly number[];
  readonly role: keyof DTypes;
  /** Which passes need it: all (`forward`), those with a loss (`loss`), training alone, or training with dropout. */
  readonly needed: "forward" | "loss" | "training" | "dropout";
  /** Whether each layer has one; otherwise there is one for the whole model. */
  readonly perLayer: boolean;
  /** The modes in which the backward pass computes it again, so that all layers share its buffer. */
  readonly recomputed: readonly RecomputeMode[];
  /** The activation whose buffer it uses if there is no backward pass; its own name by default. */
  readonly shares: string;
}

/**
 * Largest chunk of logits in bytes, if a binding may be that large. Every chunk adds to the whole gradient
 * of wte, which moves eight bytes per element: a step of mini with 32 × 128 tokens takes 11.1 ms on an H100
 * in one chunk, 11.3 in two or four, 11.7 in seven and 11.9 in fourteen.
 */
const LOGITS_BYTES = 512 * 2 ** 20;

/**
 * Rows per chunk of logits are a multiple of CHUNK_ROWS, or of LEAST_CHUNK_ROWS if a binding holds fewer
 * rows of a large vocabulary. The chunks of all other tensors, whose narrowest rows are four f16, then also
 * begin at multiples of 256 bytes.
 */
const CHUNK_ROWS = 128, LEAST_CHUNK_ROWS = 32;

/** Columns of a stored row of logits: a multiple of 64, so that rows are whole cache lines. */
export function logitsColumns({ vocabularySize: V }: Pick<GptConfig, "vocabularySize">): number {
  return Math.ceil(V / 64) * 64;
}

/**
 * Rows per chunk of logits; the head and the loss run chunk by chunk, so that no more rows exist at a time.
 */
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

/**
 * The table of activations, whose columns are name, shape, role, needed and shares. A `row` exists once, the others once
 * per layer: the backward pass can compute an `attentionRow` or an `mlpRow` again, but not a `layerRow`.
 * M = B · T; R: rows in a chunk of logits; S: statistics of a row.
 */
function activationTable(
  config: GptConfig,
  { batchSize: B, sequenceLength: T }: BatchShape,
  R: number,
): ActivationSpec[] {
  const complete = withDefaults(config), { width: C, innerWidth: F, lora } = complete;
  const { heads: NH, keyHeads: KH, headSize: HS, gatedMlp, qkNorm } = complete;
  const M = B * T, S = STATISTICS[complete.norm];
  const row = (
    name: string,
    shape: readonly number[],
    role: keyof DTypes,
    needed: ActivationSpec["needed"],
    shares = name,
  ): ActivationSpec => ({ name, shape, role, needed, shares, perLayer: false, recomputed: [] });
  const rowsOfLayers =
    (recomputed: readonly RecomputeMode[]) =>
    (...columns: Parameters<typeof row>): ActivationSpec => (
      { ...row(...columns), perLayer: true, recomputed }
    );
  const layerRow = rowsOfLayers([]);
  const attentionRow = rowsOfLayers(["block"]), mlpRow = rowsOfLayers(["block", "mlp"]);
  const adapted = adaptersOf(config).filter(({ layer }) => layer === 0);
  return [
    row("embedded", [M, C], "stream", "dropout"), // before dropout
    row("x", [M, C], "stream", "forward"), // residual stream before the first block
    attentionRow("ln1", [M, C], "matrix", "forward"),
    layerRow("ln1.statistics", [M, S], "statistic", "forward"),
    attentionRow("qkv", [M, (NH + 2 * KH) * HS], "matrix", "forward"), // with q and k rotated
    ...(qkNorm ? [attentionRow("qk", [M, (NH + KH) * HS], "matrix", "training")] : []), // before norm and rotation
    attentionRow("attention", [M, NH * HS], "matrix", "forward"),
    attentionRow("attention.logSumExp", [B, NH, T], "statistic", "loss"),
    row("projected", [M, C], "matrix", "forward"), // addend of the residual stream
    attentionRow("middle", [M, C], "stream", "forward"), // residual stream after attention
    mlpRow("ln2", [M, C], "matrix", "forward", "ln1"),
    attentionRow("ln2.statistics", [M, S], "statistic", "forward", "ln1.statistics"),
    ...(gatedMlp ? [mlpRow("gate", [M, F], "matrix", "forward")] : []),
    mlpRow("hidden", [M, F], "matrix", "forward"),
    mlpRow("activated", [M, F], "matrix", "forward"), // activation(hidden), or activation(gate) · hidden
    layerRow("out", [M, C], "stream", "forward", "x"), // residual stream after the MLP
    ...adapted.map(({ module }) =>
      // x · Aᵀ of each adapter
      layerRow(`${module.name} low`, [M, lora!.rank], "matrix", "forward", "low")
    ),
    row("lnf", [M, C], "matrix", "forward", "ln1"),
    row("lnf.statistics", [M, S], "statistic", "forward", "ln1.statistics"),
    row("logits", [R, logitsColumns(config)], "matrix", "loss"), // replaced by dlogits in training
    row("losses", [M], "statistic", "loss"),

    row("dx", [M, C], "stream", "training"), // gradient of the residual stream
    row("dprojected", [M, C], "matrix", "training"),
    row("dln", [M, C], "matrix", "training"),
    row("dhidden", [M, F], "matrix", "training"),
    ...(gatedMlp ? [row("dgate", [M, F], "matrix", "training")] : []),
    row("dattention", [M, NH * HS], "matrix", "training"),
    row("dqkv", [M, (NH + 2 * KH) * HS], "matrix", "training"),
    row("attention.delta", [B, NH, T], "statistic", "training"),
    row("dembedded", [M, C], "stream", "dropout"),
    ...(lora ? [row("dlow", [M, lora.rank], "matrix", "training")] : []),
  ];
}

/** Tensors of a forward pass and, for training, of the backward pass. */
export interface Activations extends BatchShape, Disposable {
  /** What the forward pass is for. */
  readonly purpose: Purpose;
  /** What the backward pass computes again. */
  readonly recompute: RecomputeMode;
  /** The tensor of this name, of this layer if each layer has one. */
  at(name: string, layer?: number): Tensor;
  /** All tensors. */
  readonly tensors: Iterable<Tensor>;
  /** Bytes of all tensors together. */
  readonly bytes: number;
  /** Frees all tensors. */
  destroy(): void;
}

/**
 * Allocates the activations of one batch shape.
 *
 * Training keeps the activations of every layer from `firstLayer` on, at which the backward pass ends; the
 * layers before it alternate between two sets, because each reads the residual stream that the previous one
 * wrote. What the backward pass computes again has one buffer for all layers. Without a backward pass all layers share
 * one set.
 */
export function createActivations(
  device: Device,
  config: GptConfig,
  { batch, precision, purpose, firstLayer = 0, hasDropout = false, recompute = "none" }: {
    batch: BatchShape;
    precision: Precision;
    purpose: Purpose;
    firstLayer?: number;
    hasDropout?: boolean;
    recompute?: RecomputeMode;
  },
): Activations {
  const dtypes = dtypesOf(precision);
  const rows = batch.batchSize * batch.sequenceLength;
  const R = logitsRows(device, config, { rows, dtype: dtypes.matrix });
  const needed: readonly string[] = hasDropout ? [...NEEDED[purpose], "dropout"] : NEEDED[purpose];
  const table = new Map(
    activationTable(config, batch, R)
      .filter((spec) => needed.includes(spec.needed))
      .map((spec) => [spec.name, spec]),
  );
  const keyOf = ({ name, perLayer, recomputed, shares }: ActivationSpec, layer: number) => {
    if (purpose !== "training") return shares;
    if (!perLayer || recomputed.includes(recompute)) return name;
    return `${name} ${layer >= firstLayer ? layer : layer % 2}`;
  };
  const tensors = new Map<string, Tensor>();
  for (const spec of table.values()) {
    for (let layer = 0; layer < (spec.perLayer ? config.layers : 1); layer++) {
      const key = keyOf(spec, layer), { shape, role } = spec;
      if (tensors.has(key)) continue;
      tensors.set(key, createTensor(device, key, { shape, dtype: dtypes[role] }));
    }
  }
  const destroy = () => {
    for (const { buffer } of tensors.values()) buffer.destroy();
  };
  return {
    ...batch,
    purpose,
    recompute,
    tensors: [...tensors.values()],
    bytes: tensors.values().reduce((sum, { buffer }) => sum + buffer.size, 0),
    at(name, layer = 0) {
      const spec = table.get(name), tensor = spec && tensors.get(keyOf(spec, layer));
      if (!tensor) {
        throw new RangeError(
          `Cannot find the activation "${name}" of layer ${layer} for ${purpose}`,
        );
      }
      return tensor;
    },
    destroy,
    [Symbol.dispose]: destroy,
  };
}
