/** B sequences of T tokens, NH heads of q and KH heads of k and v of HS components, and how scores are computed. */
export interface AttentionShape {
  B: number;
  T: number;
  NH: number;
  /** NH by default; query head h reads key head ⌊h / (NH / KH)⌋. */
  KH?: number;
  HS: number;
  /** 1 / √HS by default. */
  scale?: number;
  /** Most tokens that a query sees, itself included; all by default. */
  window?: number;
  /** [B,T]: the position of each token in its document; by default a sequence is one document. */
  positions?: ArrayLike<number> | undefined;
}

/** Factor of element `index` of [B,NH,T,T] under dropout: 0 or 1 / (1 − rate). */
export type DropoutFactor = (index: number) => number;

const KEEP_ALL: DropoutFactor = () => 1;

/** One query: token t of head h of sequence b. */
interface Query {
  b: number;
  h: number;
  t: number;
}

/** All queries, sequence by sequence, head by head. */
function* queriesOf({ B, T, NH }: AttentionShape): Generator<Query & { row: number }> {
  for (let b = 0; b < B; b++) {
    for (let h = 0; h < NH; h++) {
      for (let t = 0; t < T; t++) yield { b, h, t, row: (b * NH + h) * T + t };
    }
  }
}

/** Components of q, k and v of a token. */
function rowOf({ NH, KH = NH, HS }: AttentionShape): number {
  return (NH + 2 * KH) * HS;
}

/** Index in qkv of the first component of a token's q, in the head of a query, or of its k or v in the head it reads. */
function placeOf(
  shape: AttentionShape,
  { b, h }: Query,
  part: "q" | "k" | "v",
  token: number,
) {
  const { T, NH, KH = NH, HS } = shape, keyHead = Math.floor(h / (NH / KH));
  const head = { q: h, k: NH + keyHead, v: NH + KH + keyHead }[part];
  return (b * T + token) * rowOf(shape) + head * HS;
}

/** Index in y of the first component of a query's output. */
function outputOf({ T, NH, HS }: AttentionShape, { b, h, t }: Query) {
  return (b * T + t) * NH * HS + h * HS;
}

/** Dot product of HS components of a from i on and of b from j on. */
function dot(a: ArrayLike<number>, i: number, b: ArrayLike<number>, j: number, HS: number): number {
  let sum = 0;
  for (let c = 0; c < HS; c++) sum += a[i + c]! * b[j + c]!;
  return sum;
}

/** Whether a query sees a token: itself, or one before it in its window and its document. */
function sees({ T, window = Infinity, positions }: AttentionShape, { b, t }: Query, s: number) {
  const documentStart = positions ? t - positions[b * T + t]! : 0;
  return s <= t && s > t - window && s >= documentStart;
}

/** scale · q[t] · k[s] for s = 0 … t; −∞ if the query does not see the key. */
function scoresOf(qkv: ArrayLike<number>, shape: AttentionShape, query: Query): number[] {
  const { HS, scale = 1 / Math.sqrt(HS) } = shape, { t } = query;
  return Array.from({ length: t + 1 }, (_, s) => {
    const score = dot(qkv, placeOf(shape, query, "q", t), qkv, placeOf(shape, query, "k", s), HS);
    return sees(shape, query, s) ? scale * score : -Infinity;
  });
}

/** exp(score) / Σ exp(scores); the maximum is subtracted so that nothing overflows. */
function softmax(scores: readonly number[]): number[] {
  const max = Math.max(...scores);
  const exponentials = scores.map((score) => Math.exp(score - max));
  const total = exponentials.reduce((sum, value) => sum + value, 0);
  return exponentials.map((value) => value / total);
}

/** log Σ exp(scores). */
function logSumExpOf(scores: readonly number[]): number {
  const max = Math.max(...scores);
  return max + Math.log(scores.reduce((sum, score) => sum + Math.exp(score - max), 0));
}

/** y = dropout(softmax(scale · q · kᵀ)) · v, causal.  qkv: [B,T,(NH+2·KH)·HS]; y: [B,T,NH·HS]; logSumExp: [B,NH,T] */
export function attentionForward(
  { qkv }: { qkv: ArrayLike<number> },
  shape: AttentionShape,
  factor: DropoutFactor = KEEP_ALL,
): { y: Float32Array; logSumExp: Float32Array } {
  const { B, T, NH, HS } = shape;
  const y = new Float64Array(B * T * NH * HS), logSumExp = new Float32Array(B * NH * T);
  for (const query of queriesOf(shape)) {
    const { t, row } = query, output = outputOf(shape, query);
    const scores = scoresOf(qkv, shape, query);
    const p = softmax(scores);
    logSumExp[row] = logSumExpOf(scores);
    for (let s = 0; s <= t; s++) {
      const v = placeOf(shape, query, "v", s);
      for (let c = 0; c < HS; c++) y[output + c]! += factor(row * T + s) * p[s]! * qkv[v + c]!;
    }
  }
  return { y: Float32Array.from(y), logSumExp };
}

/** p = softmax(scale · q · kᵀ), causal.  qkv: [B,T,(NH+2·KH)·HS]; p: [B,NH,T,T] */
export function attentionWeights(
  { qkv }: { qkv: ArrayLike<number> },
  shape: AttentionShape,
): { p: Float32Array } {
  const { B, T, NH } = shape, p = new Float32Array(B * NH * T * T);
  for (const query of queriesOf(shape)) {
    p.set(softmax(scoresOf(qkv, shape, query)), query.row * T);
  }
  return { p };
}

/**
 * dqkv of `attentionForward()` for dy: [B,T,NH·HS], by the chain rule. The gradient of the softmax p subtracts from
 * dp its mean under p, which is a sum over all keys of a query.
 */
export function attentionBackward(
  { qkv, dy }: { qkv: ArrayLike<number>; dy: ArrayLike<number> },
  shape: AttentionShape,
  factor: DropoutFactor = KEEP_ALL,
): { dqkv: Float32Array } {
  const { B, T, HS, scale = 1 / Math.sqrt(HS) } = shape;
  const dqkv = new Float64Array(B * T * rowOf(shape));
  for (const query of queriesOf(shape)) {
    const { t, row } = query, output = outputOf(shape, query);
    const p = softmax(scoresOf(qkv, shape, query));
    const dp = p.map((_, s) =>
      factor(row * T + s) * dot(dy, output, qkv, placeOf(shape, query, "v", s), HS)
    );
    const delta = dp.reduce((sum, value, s) => sum + p[s]! * value, 0);
    const q = placeOf(shape, query, "q", t);
    for (let s = 0; s <= t; s++) {
      const k = placeOf(shape, query, "k", s), v = placeOf(shape, query, "v", s);
      const ds = p[s]! * (dp[s]! - delta);
      for (let c = 0; c < HS; c++) {
        dqkv[q + c]! += scale * ds * qkv[k + c]!;
        dqkv[k + c]! += scale * ds * qkv[q + c]!;
        dqkv[v + c]! += factor(row * T + s) * p[s]! * dy[output + c]!;
      }
    }
  }
  return { dqkv: Float32Array.from(dqkv) };
}

/**
 * dqkv as the kernels compute it, from y and logSumExp of the forward pass. The addends of each pair of query and
 * key need no sum over the other keys of the query, because p = exp(score − logSumExp) and
 * delta = Σₛ p · dp = dy · y (Dao et al. 2022, https://arxiv.org/abs/2205.14135, appendix B.2).
 *
 * y, dy: [B,T,NH·HS]; logSumExp, delta: [B,NH,T].
 */
export function attentionBackwardByPairs(
  { qkv, y, dy, logSumExp }: Readonly<Record<"qkv" | "y" | "dy" | "logSumExp", ArrayLike<number>>>,
  shape: AttentionShape,
  factor: DropoutFactor = KEEP_ALL,
): { dqkv: Float32Array; delta: Float32Array } {
  const { B, T, NH, HS, scale = 1 / Math.sqrt(HS) } = shape;
  const dqkv = new Float64Array(B * T * rowOf(shape)), delta = new Float32Array(B * NH * T);
  for (const query of queriesOf(shape)) {
    const output = outputOf(shape, query);
    delta[query.row] = dot(dy, output, y, output, HS);
  }
  for (const query of queriesOf(shape)) {
    const { t, row } = query, output = outputOf(shape, query);
    const q = placeOf(shape, query, "q", t);
    for (let s = 0; s <= t; s++) {
      if (!sees(shape, query, s)) continue;
      const k = placeOf(shape, query, "k", s), v = placeOf(shape, query, "v", s);
      const f = factor(row * T + s);
      const p = Math.exp(scale * dot(qkv, q, qkv, k, HS) - logSumExp[row]!);
      const dp = f * dot(dy, output, qkv, v, HS);
      const ds = p * (dp - delta[row]!);
      for (let c = 0; c < HS; c++) {
        dqkv[q + c]! += scale * ds * qkv[k + c]!;
        dqkv[k + c]! += scale * ds * qkv[q + c]!;
        dqkv[v + c]! += f * p * dy[output + c]!;
      }
    }
  }
  return { dqkv: Float32Array.from(dqkv), delta };
}
