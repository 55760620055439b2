import type { Arena } from "../kernels/arena.ts";
import * as kernel from "../kernels/linear/linear.ts";
import { matmul, type MatmulOptions } from "../kernels/matmul/matmul.ts";
import type { Program } from "../kernels/program.ts";
import type { Tensor } from "../kernels/tensor.ts";
import { type Gpt, masterOf, matrixOf } from "./model.ts";
import { loraScale } from "./files/lora.ts";
import { type Adapter, adaptersOf, weightBeside } from "./parameters.ts";

/** The tensor in which an adapter's x · Aᵀ goes, or its gradient: [M,r], of x's type. */
export type LowOf = (adapter: Adapter) => Tensor;

/**
 * y = x · W + b of a linear layer, and what adapters beside it add: alpha / r · (x · Aᵀ) · Bᵀ. Where it is
 * asked for, activated = gelu(y).
 *
 * x: [M,inputs]; y, activated: [M,outputs].
 *
 * @param name of the layer, such as `h.0.mlp.c_fc`.
 * @param low is set to alpha / r · x · Aᵀ of each adapter, which the backward pass needs.
 * @param options as of the kernel's `linearForward()`.
 */
export function linearForward(
  program: Program,
  model: Gpt,
  name: string,
  { x }: { x: Tensor },
  { y, activated, low }: { y: Tensor; activated?: Tensor; low: LowOf },
  options: Pick<MatmulOptions, "accumulate" | "normalize"> = {},
): void {
  const adapters = adaptersBeside(model, name);
  kernel.linearForward(
    program,
    { x, weight: matrixOf(model, `${name}.weight`), bias: biasOf(model, name) },
    { y, activated: adapters.length === 0 ? activated : undefined },
    options,
  );
  adapters.forEach((adapter, i) => {
    const { A, B, module: { firstColumn: firstColumnOfY } } = adapter;
    const xA = low(adapter), scale = loraScale(model.config.lora!);
    matmul(program, { a: x, b: matrixOf(model, A) }, { y: xA }, {
      transposeB: true,
      scale,
      ...(options.normalize ? { normalize: options.normalize } : {}),
    });
    matmul(program, { a: xA, b: matrixOf(model, B) }, { y }, {
      transposeB: true,
      firstColumnOfY,
      accumulate: true,
      ...(activated && i === adapters.length - 1 ? { activated } : {}),
    });
  });
}

/**
 * Gradients of `linearForward()`: of x where it is asked for, and of whatever in the layer is trained. Where
 * x is gelu(hidden), dx is the gradient of hidden.
 *
 * dy: [M,outputs]; x, dx, hidden: [M,inputs]. dx is set; gradients of parameters are set, or with
 * `accumulate` added to.
 *
 * @param low as `linearForward()` left them.
 * @param dlow scratch for their gradients.
 */
export function linearBackward(
  program: Program,
  model: Gpt,
  name: string,
  { x, dy, hidden, low }: { x: Tensor; dy: Tensor; hidden?: Tensor; low: LowOf },
  { dx, dlow }: { dx: Tensor | undefined; dlow: LowOf },
  { gradients, accumulate }: { gradients: Arena; accumulate: boolean },
): void {
  const gradient = (parameter: string) => gradients.tensors.get(parameter);
  const adapters = adaptersBeside(model, name);
  kernel.linearBackward(
    program,
    {
      x,
      dy,
      weight: matrixOf(model, `${name}.weight`),
      hidden: adapters.length === 0 ? hidden : undefined,
    },
    { dx, dweight: gradient(`${name}.weight`), dbias: gradient(`${name}.bias`) },
    { accumulate },
  );
  adapters.forEach((adapter, i) => {
    const { A, B, module: { firstColumn: start, outputs: count } } = adapter;
    const columnsOfA = { start, count }, scale = loraScale(model.config.lora!);
    const dxA = dlow(adapter);
    matmul(program, { a: dy, b: matrixOf(model, B) }, { y: dxA }, { columnsOfA, scale });
    matmul(program, { a: dy, b: low(adapter) }, { y: gradient(B)! }, {
      columnsOfA,
      transposeA: true,
      accumulate,
    });
    matmul(program, { a: dxA, b: x }, { y: gradient(A)! }, { transposeA: true, accumulate });
    if (!dx) return;
    matmul(program, { a: dxA, b: matrixOf(model, A) }, { y: dx }, {
      accumulate: true,
      ...(hidden && i === adapters.length - 1 ? { hidden } : {}),
    });
  });
}

function adaptersBeside({ config }: Gpt, name: string): Adapter[] {
  return adaptersOf(config).filter((adapter) => weightBeside(adapter) === `${name}.weight`);
}

/** The layer's bias; GPT-Neo's q, k and v have none. */
function biasOf(model: Gpt, name: string): Tensor | undefined {
  return model.parameters.tensors.has(`${name}.bias`) ? masterOf(model, `${name}.bias`) : undefined;
}
