import { pcgHash } from "../dropout/reference.ts";
import type { SamplerOptions } from "./sample.ts";

/** A token that may be drawn, with its probability. */
export interface Candidate {
  /** Number of the token. */
  id: number;
  /** Its probability. */
  p: number;
}

/**
 * Candidates by descending log(p) plus Gumbel noise (Gumbel 1954), so that each comes first with
 * probability p; the first is drawn.
 *
 * @param logits [V], which are not changed.
 * @param options.history the tokens so far.
 * @throws {RangeError} if a logit is NaN or no token has a finite one.
 */
export function rankTokens(
  logits: Float32Array,
  { seed, ...options }: SamplerOptions & { history: readonly number[]; seed: number },
): { id: number; rank: number }[] {
  const candidates = filterTokens(penalize(logits, options), options);
  return candidates
    .map(({ id, p }) => {
      const bits = pcgHash(id + pcgHash(options.history.length + pcgHash(seed)));
      const exponential = -Math.log1p(-(bits + 0.5) / 2 ** 32);
      return { id, rank: Math.log(p) - Math.log(exponential) };
    })
    .sort((a, b) => b.rank - a.rank);
}

/**
 * The tokens that pass temperature, top-k, top-p and min-p, the likeliest first, and among equals the
 * lower id; their probabilities add up to 1.
 */
export function filterTokens(
  logits: Float32Array,
  { temperature, topK, topP, minP }: SamplerOptions,
): Candidate[] {
  let highest = -Infinity;
  for (const logit of logits) {
    if (Number.isNaN(logit)) throw new RangeError("Cannot sample as the model's logits are NaN");
    if (logit > highest) highest = logit;
  }
  if (!Number.isFinite(highest)) {
    throw new RangeError(
      `Cannot sample as the highest logit must be finite: current value is ${highest}`,
    );
  }
  if (temperature === 0) return [{ id: logits.indexOf(highest), p: 1 }];

  let candidates: Candidate[] = [];
  logits.forEach((logit, id) => {
    const p = Math.exp((logit - highest) / temperature);
    if (p > 0) candidates.push({ id, p });
  });
  candidates.sort((a, b) => b.p - a.p); // among equals the lower id stays first
  if (topK > 0) candidates = candidates.slice(0, topK);
  normalize(candidates);
  if (topP < 1) {
    let mass = 0;
    const enough = candidates.findIndex(({ p }) => (mass += p) >= topP);
    if (enough >= 0) candidates = candidates.slice(0, enough + 1);
  }
  const least = minP * candidates[0]!.p;
  candidates = candidates.filter(({ p }) => p >= least);
  normalize(candidates);
  return candidates;
}

/**
 * Logits, with those of each token in the window divided by the penalty if positive and multiplied if
 * negative, once.
 */
export function penalize(
  logits: Float32Array,
  { repetitionPenalty, repetitionWindow, history }: SamplerOptions & {
    history: readonly number[];
  },
): Float32Array {
  if (repetitionPenalty === 1) return logits;
  const penalized = logits.slice();
  const window = repetitionWindow === 0 ? history : history.slice(-repetitionWindow);
  for (const id of new Set(window)) {
    const logit = penalized[id]!;
    penalized[id] = logit > 0 ? logit / repetitionPenalty : logit * repetitionPenalty;
  }
  return penalized;
}

function normalize(candidates: Candidate[]): void {
  const total = candidates.reduce((sum, { p }) => sum + p, 0);
  for (const candidate of candidates) candidate.p /= total;
}
