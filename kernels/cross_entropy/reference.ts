import { IGNORED } from "../../files/ignored.ts";

/** Sizes and smoothing of a cross-entropy: M rows of V logits. */
export interface CrossEntropyShape {
  M: number;
  V: number;
  labelSmoothing?: number;
}

function logSoftmax(logits: Float32Array, m: number, V: number): number[] {
  const row = Array.from(logits.subarray(m * V, (m + 1) * V));
  const highest = row.reduce((a, b) => Math.max(a, b));
  const lse = highest + Math.log(row.reduce((sum, v) => sum + Math.exp(v - highest), 0));
  return row.map((v) => v - lse);
}

/** Loss of every row, 0 if its target is ignored.  logits: [M,V]; targets, losses: [M] */
export function crossEntropyForward(
  { logits, targets }: { logits: Float32Array; targets: Uint32Array },
  { M, V, labelSmoothing = 0 }: CrossEntropyShape,
): { losses: Float32Array } {
  const losses = new Float32Array(M);
  for (let m = 0; m < M; m++) {
    if (targets[m] === IGNORED) continue;
    const logP = logSoftmax(logits, m, V);
    const uniform = logP.reduce((sum, v) => sum - v, 0) / V;
    losses[m] = -(1 - labelSmoothing) * logP[targets[m]!]! + labelSmoothing * uniform;
  }
  return { losses };
}

/** Gradient of `factor` times the sum of all losses.  dlogits: [M,V] */
export function crossEntropyBackward(
  { logits, targets, factor }: { logits: Float32Array; targets: Uint32Array; factor: number },
  { M, V, labelSmoothing = 0 }: CrossEntropyShape,
): { dlogits: Float32Array } {
  const dlogits = new Float32Array(M * V);
  for (let m = 0; m < M; m++) {
    if (targets[m] === IGNORED) continue;
    logSoftmax(logits, m, V).forEach((logP, v) => {
      const wanted = (v === targets[m] ? 1 - labelSmoothing : 0) + labelSmoothing / V;
      dlogits[m * V + v] = (Math.exp(logP) - wanted) * factor;
    });
  }
  return { dlogits };
}
