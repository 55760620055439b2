import type { Arena } from "../kernels/arena.ts";
import { linearBackward, linearForward } from "../kernels/linear/linear.ts";
import { matmul, type MatmulOptions } from "../kernels/matmul/matmul.ts";
import type { Program } from "../kernels/program.ts";
import type { Tensor } from "../kernels/tensor.ts";
import { loraScale } from "./files/lora.ts";
import { type Gpt, masterOf, matrixOf } from "./gpt.ts";
import { type Adapter, adaptersOf, weightBeside } from "./parameters.ts";

/** The tensor that holds an adapter's x · Aᵀ, or its gradient: [M,r], of x's type. */
export type LowOf = (adapter: Adapter) => Tensor;

/**
 * Records a linear layer of the model, adapters included: y = x · W + b + Σ alpha / r · (x · Aᵀ) · Bᵀ.
 * `activated`, if given, is set to activation(y), by the activation function of the model.
 *
 * x: [M,inputs]; y, activated: [M,outputs].
 *
 * @param name of the layer, such as `h.0.mlp.c_fc`.
 * @param low is set to alpha / r · x · Aᵀ of each adapter, which the backward pass needs.
 * @param options those of `linearForward()`.
 */
export function linearLayerForward(
  program: Program,
  model: Gpt,
  name: string,
  { x }: { x: Tensor },
  { y, activated, low }: { y: Tensor; activated?: Tensor | undefined; low: LowOf },
  options: Pick<MatmulOptions, "accumulate" | "normalize"> = {},
): void {
  const adapters = adaptersBeside(model, name), last = adapters.at(-1);
  linearForward(
    program,
    { x, weight: matrixOf(model, `${name}.weight`), bias: biasOf(model, name) },
    { y, activated: last ? undefined : activated },
    { ...options, activation: model.config.activation },
  );
  for (const adapter of adapters) {
    adapterForward(
      program,
      model,
      adapter,
      { x },
      // y is complete after the last adapter
      { y, low: low(adapter), activated: adapter === last ? activated : undefined },
      { normalize: options.normalize },
    );
  }
}

/** low = alpha / r · x · Aᵀ; y += low · Bᵀ, and activated = activation(y) if it is given. */
function adapterForward(
  program: Program,
  model: Gpt,
  { A, B, module: { firstColumn: firstColumnOfY } }: Adapter,
  { x }: { x: Tensor },
  { y, low, activated }: { y: Tensor; low: Tensor; activated: Tensor | undefined },
  { normalize }: Pick<MatmulOptions, "normalize">,
): void {
  const { activation = "gelu_new", lora } = model.config, scale = loraScale(lora!);
  matmul(program, { a: x, b: matrixOf(model, A) }, { y: low }, {
    transposeB: true,
    scale,
    normalize,
  });
  matmul(program, { a: low, b: matrixOf(model, B) }, { y }, {
    transposeB: true,
    firstColumnOfY,
    accumulate: true,
    epilogue: activated && { kind: "forward", activation, activated },
  });
}

/**
 * Records the gradients of `linearLayerForward()`: that of x if `dx` is given, and those of the layer's
 * trained parameters. If x is activation(hidden), dx is the gradient of hidden.
 *
 * dy: [M,outputs]; x, dx, hidden: [M,inputs]. dx is set; gradients of parameters are set, or with
 * `accumulate` added to.
 *
 * @param low as `linearLayerForward()` set it.
 * @param dlow scratch for the gradient of low.
 */
export function linearLayerBackward(
  program: Program,
  model: Gpt,
  name: string,
  { x, dy, hidden, low }: { x: Tensor; dy: Tensor; hidden?: Tensor | undefined; low: LowOf },
  { dx, dlow }: { dx: Tensor | undefined; dlow: LowOf },
  { gradients, accumulate }: { gradients: Arena; accumulate: boolean },
): void {
  const adapters = adaptersBeside(model, name), last = adapters.at(-1);
  linearBackward(
    program,
    { x, dy, weight: matrixOf(model, `${name}.weight`), hidden: last ? undefined : hidden },
    {
      dx,
      dweight: gradients.tensors.get(`${name}.weight`),
      dbias: gradients.tensors.get(`${name}.bias`),
    },
    { accumulate, activation: model.config.activation },
  );
  for (const adapter of adapters) {
    adapterBackward(
      program,
      model,
      adapter,
      // dx is complete after the last adapter
      { x, dy, low: low(adapter), hidden: adapter === last ? hidden : undefined },
      { dx, dlow: dlow(adapter) },
      { gradients, accumulate },
    );
  }
}

/** dlow = alpha / r · dy · B; dB = dyᵀ · low; dA = dlowᵀ · x; dx += dlow · A, times activation'(hidden). */
function adapterBackward(
  program: Program,
  model: Gpt,
  { A, B, module: { firstColumn: start, outputs: count } }: Adapter,
  { x, dy, low, hidden }: { x: Tensor; dy: Tensor; low: Tensor; hidden: Tensor | undefined },
  { dx, dlow }: { dx: Tensor | undefined; dlow: Tensor },
  { gradients, accumulate }: { gradients: Arena; accumulate: boolean },
): void {
  const { activation = "gelu_new", lora } = model.config;
  const columnsOfA = { start, count }, scale = loraScale(lora!);
  const dA = gradients.tensors.get(A)!, dB = gradients.tensors.get(B)!;
  matmul(program, { a: dy, b: matrixOf(model, B) }, { y: dlow }, { columnsOfA, scale });
  matmul(program, { a: dy, b: low }, { y: dB }, { columnsOfA, transposeA: true, accumulate });
  matmul(program, { a: dlow, b: x }, { y: dA }, { transposeA: true, accumulate });
  if (!dx) return;
  matmul(program, { a: dlow, b: matrixOf(model, A) }, { y: dx }, {
    accumulate: true,
    epilogue: hidden && { kind: "backward", activation, hidden },
  });
}

function adaptersBeside({ config }: Gpt, name: string): Adapter[] {
  return adaptersOf(config).filter((adapter) => weightBeside(adapter) === `${name}.weight`);
}

/** The layer's bias; GPT-Neo's q, k and v have none. */
function biasOf(model: Gpt, name: string): Tensor | undefined {
  return model.parameters.tensors.has(`${name}.bias`) ? masterOf(model, `${name}.bias`) : undefined;
}
