import type { Device } from "../kernels/device.ts";
import type { DType } from "../kernels/tensor.ts";

/** Precision of a model: `f16` is autocast, with f32 where range or accumulation need it. */
export type Precision = "f16" | "f32";

/** The precision that `auto` stands for on a device: f16 on a GPU with `shader-f16`, else f32. */
export function resolvePrecision(
  { features, isCpu }: Pick<Device, "features" | "isCpu">,
  precision: Precision | "auto",
): Precision {
  if (precision !== "auto") return precision;
  return features.has("shader-f16") && !isCpu ? "f16" : "f32";
}

/**
 * Element types by role, after torch.autocast's rules.
 *
 * - `matrix`: operands and results of matrix products, attention and GELU. They make up nearly all
 *   operations and bytes, and products of f16 values summed in f32 lose little.
 * - `stream`: the residual stream and its gradient. It is the sum of every layer's output; f16 would
 *   round away small contributions to a large sum, and the gradient along it may leave f16's range.
 * - `statistic`: means and deviations of norms, log-sum-exp, losses, which leave f16's range.
 * - `master`: the parameters that the optimizer updates, its state, and gradients of parameters: updates far
 *   smaller than the value must not be lost.
 */
export interface DTypes {
  readonly matrix: DType;
  readonly stream: DType;
  readonly statistic: DType;
  readonly master: DType;
}

/** The autocast policy: which role has which element type. */
export function dtypesOf(precision: Precision): DTypes {
  return { matrix: precision, stream: "f32", statistic: "f32", master: "f32" };
}
