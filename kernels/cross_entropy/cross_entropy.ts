import forward from "./forward.wgsl" with { type: "text" };
import backward from "./backward.wgsl" with { type: "text" };
import { type Program, splitWorkgroups } from "../program.ts";
import { assertDType, assertShape, ceilDiv, type Tensor } from "../tensor.ts";

/** Label smoothing of a cross-entropy. */
export interface CrossEntropyOptions {
  /** Share of the target's probability that is spread over the vocabulary, in [0, 1). */
  labelSmoothing?: number;
}

/**
 * Loss of every row in nats: −log softmax(logits)[target], 0 where the target is 0xffffffff.
 *
 * logits: [M,V], f32 or f16; targets: u32 [M]; losses, logSumExp: f32 [M]. Arithmetic is f32. With
 * label smoothing ε the loss is (1 − ε) · loss + ε · mean over all v of −log softmax(logits)[v]
 * (Szegedy et al. 2016, as in torch.nn.CrossEntropyLoss).
 */
export function crossEntropyForward(
  program: Program,
  { logits, targets }: { logits: Tensor; targets: Tensor },
  { losses, logSumExp }: { losses: Tensor; logSumExp: Tensor },
  { labelSmoothing = 0 }: CrossEntropyOptions = {},
): void {
  const [M, V] = checkRows("crossEntropyForward", { logits, targets, logSumExp });
  assertDType("crossEntropyForward", losses, "f32");
  assertShape("crossEntropyForward", losses, [M]);
  const LANES = 32, ROWS = 8;
  program.dispatch({
    label: "kernels/cross_entropy/forward.wgsl",
    source: forward,
    constants: { real: logits.dtype, M, V, SMOOTHING: labelSmoothing, LANES, ROWS },
    tensors: [logits, targets, losses, logSumExp],
    workgroups: splitWorkgroups(ceilDiv(M, ROWS)),
    iterations: ceilDiv(V, LANES) + LANES,
    workgroupBytes: LANES * ROWS * 16,
  });
}

/**
 * Gradient of the mean loss times the loss scale, written over the logits.
 *
 * targets: u32 [M]; logSumExp: f32 [M], of `crossEntropyForward()`; stepInputs: f32 [4], whose second
 * element is 1 / number of targets over the whole step; lossScale: f32 [1]; dlogits: [M,V], f32 or
 * f16, holds the logits before and their gradient after. What overflows f16 becomes infinite, for
 * the non-finite check to find.
 */
export function crossEntropyBackward(
  program: Program,
  { targets, logSumExp, stepInputs, lossScale }: {
    targets: Tensor;
    logSumExp: Tensor;
    stepInputs: Tensor;
    lossScale: Tensor;
  },
  { dlogits }: { dlogits: Tensor },
  { labelSmoothing = 0 }: CrossEntropyOptions = {},
): void {
  const action = "crossEntropyBackward";
  const [M, V] = checkRows(action, { logits: dlogits, targets, logSumExp });
  assertShape(action, stepInputs, [4]);
  assertShape(action, lossScale, [1]);
  const WORKGROUP_SIZE = 256;
  program.dispatch({
    label: "kernels/cross_entropy/backward.wgsl",
    source: backward,
    constants: { real: dlogits.dtype, M, V, SMOOTHING: labelSmoothing, WORKGROUP_SIZE },
    tensors: [targets, logSumExp, stepInputs, lossScale, dlogits],
    workgroups: splitWorkgroups(ceilDiv(M * V, WORKGROUP_SIZE)),
  });
}

function checkRows(
  action: string,
  { logits, targets, logSumExp }: { logits: Tensor; targets: Tensor; logSumExp: Tensor },
): [M: number, V: number] {
  const [M, V] = logits.shape as [number, number];
  assertDType(action, logits, "f32", "f16");
  assertShape(action, logits, [M, V]);
  assertDType(action, targets, "u32");
  assertShape(action, targets, [M]);
  assertDType(action, logSumExp, "f32");
  assertShape(action, logSumExp, [M]);
  return [M, V];
}
