/** Sizes of attention: B sequences of T tokens, NH heads of HS components; which tokens see each other. */
export interface AttentionShape {
  B: number;
  T: number;
  NH: number;
  HS: number;
  /** 1 / √HS by default. */
  scale?: number;
  /** Tokens that a token sees, itself included; all by default. */
  window?: number;
}

/** Factor of element `index` of [B,NH,T,T] under dropout: 0 or 1 / (1 − rate). */
export type DropoutFactor = (index: number) => number;

const KEEP_ALL: DropoutFactor = () => 1;

/** softmax(scale · q · kᵀ) of one query over the keys up to its own position, 0 before its window. */
function probabilities(
  qkv: ArrayLike<number>,
  { T, NH, HS, scale = 1 / Math.sqrt(HS), window = Infinity }: AttentionShape,
  { b, h, t }: { b: number; h: number; t: number },
): { p: number[]; logSumExp: number } {
  const C = NH * HS;
  const scores: number[] = [];
  for (let s = 0; s <= t; s++) {
    let score = 0;
    for (let i = 0; i < HS; i++) {
      const q = qkv[(b * T + t) * 3 * C + h * HS + i]!;
      const k = qkv[(b * T + s) * 3 * C + C + h * HS + i]!;
      score += q * k;
    }
    scores.push(t - s < window ? score * scale : -Infinity);
  }
  const highest = Math.max(...scores);
  const total = scores.reduce((sum, score) => sum + Math.exp(score - highest), 0);
  const logSumExp = highest + Math.log(total);
  return { p: scores.map((score) => Math.exp(score - logSumExp)), logSumExp };
}

/** y = dropout(softmax(scale · q · kᵀ)) · v, causal.  qkv: [B,T,3C]; y: [B,T,C]; logSumExp: [B,NH,T] */
export function attentionForward(
  { qkv }: { qkv: ArrayLike<number> },
  shape: AttentionShape,
  factor: DropoutFactor = KEEP_ALL,
): { y: Float32Array; logSumExp: Float32Array } {
  const { B, T, NH, HS } = shape, C = NH * HS;
  const y = new Float32Array(B * T * C), logSumExps = new Float32Array(B * NH * T);
  for (let b = 0; b < B; b++) {
    for (let h = 0; h < NH; h++) {
      for (let t = 0; t < T; t++) {
        const row = (b * NH + h) * T + t;
        const { p, logSumExp } = probabilities(qkv, shape, { b, h, t });
        logSumExps[row] = logSumExp;
        for (let i = 0; i < HS; i++) {
          let sum = 0;
          for (let s = 0; s <= t; s++) {
            sum += factor(row * T + s) * p[s]! *
              qkv[(b * T + s) * 3 * C + 2 * C + h * HS + i]!;
          }
          y[(b * T + t) * C + h * HS + i] = sum;
        }
      }
    }
  }
  return { y, logSumExp: logSumExps };
}

/** dqkv of `attentionForward()` for dy: [B,T,C]. */
export function attentionBackward(
  { qkv, dy }: { qkv: ArrayLike<number>; dy: ArrayLike<number> },
  shape: AttentionShape,
  factor: DropoutFactor = KEEP_ALL,
): { dqkv: Float32Array } {
  const { B, T, NH, HS, scale = 1 / Math.sqrt(HS) } = shape, C = NH * HS;
  const dqkv = new Float64Array(B * T * 3 * C);
  for (let b = 0; b < B; b++) {
    for (let h = 0; h < NH; h++) {
      for (let t = 0; t < T; t++) {
        const row = (b * NH + h) * T + t;
        const { p } = probabilities(qkv, shape, { b, h, t });
        const query = (b * T + t) * 3 * C + h * HS, out = (b * T + t) * C + h * HS;
        const dp = p.map((_, s) => {
          let sum = 0;
          for (let i = 0; i < HS; i++) {
            sum += dy[out + i]! * qkv[(b * T + s) * 3 * C + 2 * C + h * HS + i]!;
          }
          return factor(row * T + s) * sum;
        });
        const mean = dp.reduce((sum, slope, s) => sum + p[s]! * slope, 0);
        for (let s = 0; s <= t; s++) {
          const key = (b * T + s) * 3 * C + C + h * HS;
          const ds = p[s]! * (dp[s]! - mean) * scale;
          for (let i = 0; i < HS; i++) {
            dqkv[query + i]! += ds * qkv[key + i]!;
            dqkv[key + i]! += ds * qkv[query + i]!;
            dqkv[key + C + i]! += factor(row * T + s) * p[s]! * dy[out + i]!;
          }
        }
      }
    }
  }
  return { dqkv: Float32Array.from(dqkv) };
}
