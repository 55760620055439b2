import type { ActivationFunction } from "../kernels/activation.ts";
import type { Arena } from "../kernels/arena.ts";
import { linearBackward, linearForward } from "../kernels/linear/linear.ts";
import { MOST_FEW_ROWS } from "../kernels/matmul/launches.ts";
import {
  type BackwardEpilogue,
  type ForwardEpilogue,
  matmul,
  type MatmulOptions,
} from "../kernels/matmul/matmul.ts";
import type { Program } from "../kernels/program.ts";
import { type Tensor, viewTensor } from "../kernels/tensor.ts";
import type { Activations } from "./activations.ts";
import { loraScale } from "./files/lora.ts";
import { type Gpt, masterOf, matrixOf } from "./gpt.ts";
import { type Adapter, adaptersOf, weightBeside } from "./parameters.ts";

/** The tensor that holds an adapter's x · Aᵀ, or its gradient: [M,r], of x's type. */
export type LowOf = (adapter: Adapter) => Tensor;

/** These tensors among the activations of a pass. */
export function lowIn({ at }: Pick<Activations, "at">): LowOf {
  return ({ module, layer }) => at(`${module.name} low`, layer);
}

/**
 * Records a linear layer of the model, adapters included: y = x · W + b + Σ alpha / r · (x · Aᵀ) · Bᵀ.
 *
 * x: [M,inputs]; y: [M,outputs].
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
  { y, low }: { y: Tensor; low: LowOf },
  { epilogue, ...options }: Pick<MatmulOptions, "normalize" | "parts" | "kernelRows"> & {
    epilogue?: ForwardEpilogue | undefined;
  } = {},
): void {
  const adapters = adaptersBeside(model, name), last = adapters.at(-1);
  const first = options.parts === undefined
    ? y
    : viewTensor(y, { offset: 0, shape: y.shape.slice(1) });
  const bias = biasOf(model, name), quantized = model.quantized?.get(`${name}.weight`);
  const how = { ...options, epilogue: last ? undefined : epilogue };
  if (quantized) {
    const { values: b, scales } = quantized;
    matmul(program, { a: x, b, bias }, { y }, { ...how, transposeB: true, scales });
  } else {
    linearForward(program, { x, weight: matrixOf(model, `${name}.weight`), bias }, { y }, how);
  }
  for (const adapter of adapters) {
    adapterForward(program, model, adapter, { x }, { y: first, low: low(adapter) }, {
      normalize: options.normalize,
      kernelRows: options.kernelRows,
      epilogue: adapter === last ? epilogue : undefined, // y is complete after the last adapter
    });
  }
}

/**
 * Records the two linear layers of a gated MLP: gate and up, and activated = activation(gate) · up. A row that the
 * products normalise needs a single launch if the layers are nothing but products: then gate is not stored.
 *
 * x: [M,C]; gate, up, activated: [M,F].
 *
 * @param layer the number of the block.
 */
export function gatedLayersForward(
  program: Program,
  model: Gpt,
  layer: number,
  { x }: { x: Tensor },
  { gate, up, activated, low }: { gate: Tensor; up: Tensor; activated: Tensor; low: LowOf },
  { activation, normalize, kernelRows }: Pick<MatmulOptions, "normalize" | "kernelRows"> & {
    activation: ActivationFunction;
  },
): void {
  const gateName = `h.${layer}.mlp.c_gate`, upName = `h.${layer}.mlp.c_fc`;
  const areProducts = [gateName, upName].every((name) =>
    biasOf(model, name) === undefined && adaptersBeside(model, name).length === 0
  );
  const areFew = (kernelRows ?? x.shape[0]!) <= MOST_FEW_ROWS; // one launch computes both
  if (normalize && areProducts && areFew) {
    const epilogue = { kind: "pairedForward", activation, activated } as const;
    const [upInt8, gateInt8] = [upName, gateName].map((name) =>
      model.quantized?.get(`${name}.weight`)
    );
    if (upInt8 && gateInt8) {
      const { values: gateWeight, scales: gateScales } = gateInt8;
      return matmul(program, { a: x, b: upInt8.values }, { y: up }, {
        normalize,
        kernelRows,
        transposeB: true,
        scales: upInt8.scales,
        epilogue: { ...epilogue, gateWeight, gateScales },
      });
    }
    return matmul(program, { a: x, b: matrixOf(model, `${upName}.weight`) }, { y: up }, {
      normalize,
      kernelRows,
      epilogue: { ...epilogue, gateWeight: matrixOf(model, `${gateName}.weight`) },
    });
  }
  linearLayerForward(program, model, gateName, { x }, { y: gate, low }, {
    normalize,
    kernelRows,
  });
  linearLayerForward(program, model, upName, { x }, { y: up, low }, {
    normalize,
    kernelRows,
    epilogue: { kind: "gatedForward", activation, gate, activated },
  });
}

/** low = alpha / r · x · Aᵀ; y += low · Bᵀ. */
function adapterForward(
  program: Program,
  model: Gpt,
  { A, B, module: { firstColumn: firstColumnOfY } }: Adapter,
  { x }: { x: Tensor },
  { y, low }: { y: Tensor; low: Tensor },
  { normalize, kernelRows, epilogue }: Pick<MatmulOptions, "normalize" | "kernelRows" | "epilogue">,
): void {
  matmul(program, { a: x, b: matrixOf(model, A) }, { y: low }, {
    transposeB: true,
    scale: loraScale(model.config.lora!),
    normalize,
    kernelRows,
  });
  matmul(program, { a: low, b: matrixOf(model, B) }, { y }, {
    transposeB: true,
    firstColumnOfY,
    accumulate: true,
    kernelRows,
    epilogue,
  });
}

/**
 * Records the gradients of `linearLayerForward()`: that of x if `dx` is given, and those of the layer's
 * trained parameters. With `epilogue`, dx is the gradient of what x is computed from, as in `linearBackward()`.
 *
 * dy: [M,outputs]; x, dx: [M,inputs]. dx is set, or with `accumulateDx` added to; gradients
 * of parameters are set, or with `accumulate` added to.
 *
 * @param low as `linearLayerForward()` set it.
 * @param dlow scratch for the gradient of low.
 * @param options.dbias whether to compute the gradient of the bias, as by default; the norm after the layer may do so.
 */
export function linearLayerBackward(
  program: Program,
  model: Gpt,
  name: string,
  { x, dy, low }: { x: Tensor; dy: Tensor; low: LowOf },
  { dx, dlow }: { dx: Tensor | undefined; dlow: LowOf },
  { gradients, accumulate, accumulateDx = false, dbias = true, epilogue }: {
    gradients: Arena;
    accumulate: boolean;
    accumulateDx?: boolean;
    dbias?: boolean;
    epilogue?: BackwardEpilogue | undefined;
  },
): void {
  const adapters = adaptersBeside(model, name), last = adapters.at(-1);
  linearBackward(
    program,
    { x, dy, weight: matrixOf(model, `${name}.weight`) },
    {
      dx,
      dweight: gradients.tensors.get(`${name}.weight`),
      dbias: dbias ? gradients.tensors.get(`${name}.bias`) : undefined,
    },
    { accumulate, accumulateDx, epilogue: last ? undefined : epilogue },
  );
  for (const adapter of adapters) {
    adapterBackward(
      program,
      model,
      adapter,
      { x, dy, low: low(adapter) },
      { dx, dlow: dlow(adapter) },
      {
        gradients,
        accumulate,
        epilogue: adapter === last ? epilogue : undefined, // dx is complete after the last adapter
      },
    );
  }
}

/** dlow = alpha / r · dy · B; dB = dyᵀ · low; dA = dlowᵀ · x; dx += dlow · A. */
function adapterBackward(
  program: Program,
  model: Gpt,
  { A, B, module: { firstColumn: start, outputs: count } }: Adapter,
  { x, dy, low }: { x: Tensor; dy: Tensor; low: Tensor },
  { dx, dlow }: { dx: Tensor | undefined; dlow: Tensor },
  { gradients, accumulate, epilogue }: {
    gradients: Arena;
    accumulate: boolean;
    epilogue: BackwardEpilogue | undefined;
  },
): void {
  const columnsOfA = { start, count }, scale = loraScale(model.config.lora!);
  const dA = gradients.tensors.get(A)!, dB = gradients.tensors.get(B)!;
  matmul(program, { a: dy, b: matrixOf(model, B) }, { y: dlow }, { columnsOfA, scale });
  matmul(program, { a: dy, b: low }, { y: dB }, { columnsOfA, transposeA: true, accumulate });
  matmul(program, { a: dlow, b: x }, { y: dA }, { transposeA: true, accumulate });
  if (!dx) return;
  matmul(program, { a: dlow, b: matrixOf(model, A) }, { y: dx }, { accumulate: true, epilogue });
}

/** The adapters of a linear layer. */
export function adaptersBeside({ config }: Gpt, name: string): Adapter[] {
  return adaptersOf(config).filter((adapter) => weightBeside(adapter) === `${name}.weight`);
}

/** The bias of a linear layer, if the configuration gives it one. */
export function biasOf(model: Gpt, name: string): Tensor | undefined {
  return model.parameters.tensors.has(`${name}.bias`) ? masterOf(model, `${name}.bias`) : undefined;
}
