import type { Arena } from "../kernels/arena.ts";
import { layernormBackward, layernormForward } from "../kernels/layernorm/layernorm.ts";
import type { Program } from "../kernels/program.ts";
import type { Dropout } from "../kernels/random.ts";
import { rmsnormBackward, rmsnormForward } from "../kernels/rmsnorm/rmsnorm.ts";
import type { Tensor } from "../kernels/tensor.ts";
import { withDefaults } from "./config.ts";
import { type Gpt, masterOf } from "./gpt.ts";

/** Values per row that each kind of norm keeps for its backward pass. */
export const STATISTICS = { layernorm: 2, rmsnorm: 1 } as const;

/** The parameters of a norm; an RMS norm has no bias. */
export function normParameters(
  model: Gpt,
  name: string,
): { weight: Tensor; bias?: Tensor; epsilon: number } {
  const { norm, normEpsilon: epsilon } = withDefaults(model.config);
  const weight = masterOf(model, `${name}.weight`);
  return norm === "rmsnorm"
    ? { weight, epsilon }
    : { weight, bias: masterOf(model, `${name}.bias`), epsilon };
}

/**
 * Records a norm of the model, of the kind that its configuration has: y = norm(s), with s = x, or if z is given
 * s = sum = x + dropout(z).
 *
 * x, z, sum, y: [M,C]; statistics: f32 [M,STATISTICS], for the backward pass.
 *
 * @param name of the norm, such as `h.0.ln_1`.
 */
export function normForward(
  program: Program,
  model: Gpt,
  name: string,
  { x, z }: { x: Tensor; z?: Tensor | undefined },
  outputs: { sum?: Tensor | undefined; y: Tensor; statistics: Tensor },
  { dropout }: { dropout?: Dropout | undefined } = {},
): void {
  const { weight, bias, epsilon } = normParameters(model, name), options = { epsilon, dropout };
  if (bias) layernormForward(program, { x, z, weight, bias }, outputs, options);
  else rmsnormForward(program, { x, z, weight }, outputs, options);
}

/**
 * Records the gradients of `normForward()`: that of the residual stream, dx, is set, or with `accumulateDx` added to;
 * that of z is set if `dz` is given; `dzBias`, the gradient of the bias of the linear layer that computes z, and those of
 * the norm's trained parameters are set, or with `accumulate` added to.
 *
 * x: [M,C], with z the sum; dy, dz: [M,C]; dx: f32 [M,C]; dzBias: f32 [C].
 */
export function normBackward(
  program: Program,
  model: Gpt,
  name: string,
  { x, statistics, dy }: { x: Tensor; statistics: Tensor; dy: Tensor },
  { dx, dz, dzBias }: { dx: Tensor; dz?: Tensor | undefined; dzBias?: Tensor | undefined },
  { gradients, ...options }: {
    gradients: Arena;
    accumulate: boolean;
    accumulateDx: boolean;
    dropout?: Dropout | undefined;
  },
): void {
  const { weight, bias } = normParameters(model, name);
  const dweight = gradients.tensors.get(`${name}.weight`);
  const dbias = gradients.tensors.get(`${name}.bias`);
  const inputs = { x, weight, statistics, dy };
  if (bias) layernormBackward(program, inputs, { dx, dz, dweight, dbias, dzBias }, options);
  else rmsnormBackward(program, inputs, { dx, dz, dweight, dzBias }, options);
}
