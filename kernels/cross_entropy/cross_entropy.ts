import shader from "./cross_entropy.wgsl" with { type: "text" };
import { dims } from "../dims.ts";
import { maxIterationsOf, type Program, splitWorkgroups } from "../program.ts";
import { assertShape, ceilDiv, type Tensor } from "../tensor.ts";

/** Vocabulary and label smoothing of a cross-entropy. */
export interface CrossEntropyOptions {
  /** V: logits of a row that count, from the first on; by default all that are stored. */
  vocabularySize?: number;
  /** Index in targets and losses of the first row of logits; 0 by default. */
  firstRow?: number;
  /**
   * Share of the target's probability that is spread over the vocabulary, in [0, 1); 0 by default.
   */
  labelSmoothing?: number;
}

/**
 * losses[m] = −log softmax(logits[m])[targets[m]], and 0 if the target is 0xffffffff.
 *
 * logits: [M,columns], f32 or f16; the first V columns count, and columns is a multiple of four. targets:
 * u32 [M]; losses: f32 [M]; if they are longer, M elements from `firstRow` on are read and set. Arithmetic
 * is f32. With label smoothing ε the target distribution is (1 − ε) · one-hot + ε / V, as in PyTorch.
 *
 * @throws {RangeError | TypeError} if a tensor has another shape or element type.
 */
export function crossEntropyForward(
  program: Program,
  { logits, targets }: { logits: Tensor; targets: Tensor },
  { losses }: { losses: Tensor },
  options: CrossEntropyOptions = {},
): void {
  const launch = launchOf("crossEntropyForward", program, { logits, targets, losses }, options);
  program.dispatch({
    ...launch,
    constants: { ...launch.constants, BACKWARD: false },
    tensors: { logits, targets, losses },
  });
}

/**
 * The losses of `crossEntropyForward()`, and the gradient of their mean times the loss scale, which
 * replaces the logits.
 *
 * targets, losses: as in `crossEntropyForward()`; stepInputs: f32 [3], whose second element is 1 / number
 * of targets of the whole step; lossScale: f32 [1]; dlogits: [M,columns], holds the logits at first and is
 * set; it becomes 0 in ignored rows and past the vocabulary.
 *
 * @throws {RangeError | TypeError} if a tensor has another shape or element type.
 */
export function crossEntropyBackward(
  program: Program,
  { targets, stepInputs, lossScale }: { targets: Tensor; stepInputs: Tensor; lossScale: Tensor },
  { losses, dlogits }: { losses: Tensor; dlogits: Tensor },
  options: CrossEntropyOptions = {},
): void {
  const action = "crossEntropyBackward";
  dims(action, { stepInputs: [stepInputs, "3", "f32"], lossScale: [lossScale, "1", "f32"] });
  program.dispatch({
    ...launchOf(action, program, { logits: dlogits, targets, losses }, options),
    tensors: { targets, stepInputs, lossScale, dlogits, losses },
  });
}

function launchOf(
  action: string,
  { device }: Program,
  { logits, targets, losses }: { logits: Tensor; targets: Tensor; losses: Tensor },
  { vocabularySize, firstRow = 0, labelSmoothing = 0 }: CrossEntropyOptions,
) {
  const { M, columns, ofTargets, ofLosses } = dims(action, {
    logits: [logits, "M,columns", "f32|f16"],
    targets: [targets, "ofTargets", "u32"],
    losses: [losses, "ofLosses", "f32"],
  });
  const V = vocabularySize ?? columns;
  assertShape(action, { targets }, [Math.max(ofTargets, firstRow + M)]);
  assertShape(action, { losses }, [Math.max(ofLosses, firstRow + M)]);
  if (columns % 4 !== 0 || V < 1 || V > columns) {
    throw new RangeError(
      `Cannot run ${action} as the rows of logits must be a multiple of four and hold ` +
        `the vocabulary: current shape of "${logits.name}" is [${logits.shape}], vocabulary ${V}`,
    );
  }
  // on a GPU a workgroup has one row, so that all rows in progress fit the cache; on a CPU adapter it has
  // several
  const most = device.isCpu
    ? 64
    : Math.min(1024, device.gpu.limits.maxComputeInvocationsPerWorkgroup);
  const iterationsOf = (lanes: number) => 2 * (ceilDiv(columns / 4, lanes) + 4) + Math.log2(lanes);
  let LANES = device.isCpu ? 8 : most;
  while (LANES < most && iterationsOf(LANES) > maxIterationsOf(device)) LANES *= 2;
  const ROWS = most / LANES;
  return {
    shader: { "kernels/cross_entropy/cross_entropy.wgsl": shader },
    constants: { real: logits.dtype, SMOOTHING: labelSmoothing, LANES, ROWS },
    uniforms: { M, V, columns4: columns / 4, firstRow },
    workgroups: splitWorkgroups(ceilDiv(M, ROWS)),
    iterations: iterationsOf(LANES),
    workgroupBytes: LANES * ROWS * 16,
  };
}
