import { pcgHash } from "../dropout/reference.ts";
import { hasPenalties, type SamplerOptions } from "./sample.ts";

/** A text to continue. */
export interface History {
  /** Its tokens. */
  readonly history: readonly number[];
  /** Index of the first that was drawn; by default none was. */
  readonly firstDrawn?: number | undefined;
}

/** A token that may be drawn, with its probability. */
export interface Candidate {
  /** Number of the token. */
  id: number;
  /** Its probability. */
  p: number;
}

/**
 * The tokens that may be drawn after each stage of the sampler, the likeliest first, and among equals the lower id;
 * their probabilities add up to 1. The stages are in order: `logits` is the softmax of the logits, and a token is
 * drawn from `minP`.
 */
export interface SamplerStages {
  logits: Candidate[];
  repetitionPenalty: Candidate[];
  temperature: Candidate[];
  topK: Candidate[];
  topP: Candidate[];
  minP: Candidate[];
}

/**
 * Candidates by descending log(p) plus Gumbel noise (Gumbel 1954), so that each comes first with
 * probability p; the first is drawn.
 *
 * @param logits [V], which are not changed.
 * @throws {RangeError} as `samplerStages()` does.
 */
export function rankTokens(
  logits: Float32Array,
  { seed, ...options }: SamplerOptions & History & { seed: number },
): { id: number; rank: number }[] {
  return samplerStages(logits, options).minP
    .map(({ id, p }) => {
      const bits = pcgHash(id + pcgHash(options.history.length + pcgHash(seed)));
      const exponential = -Math.log1p(-(bits + 0.5) / 2 ** 32);
      return { id, rank: Math.log(p) - Math.log(exponential) };
    })
    .sort((a, b) => b.rank - a.rank);
}

/**
 * The distribution of the next token after each stage of the sampler.
 *
 * @param logits [V], which are not changed.
 * @throws {RangeError} if a logit is NaN or no token has a finite one.
 */
export function samplerStages(
  logits: Float32Array,
  options: SamplerOptions & History,
): SamplerStages {
  const penalized = penalize(logits, options);
  const temperature = softmax(penalized, options.temperature);
  const topK = options.topK > 0 ? normalize(temperature.slice(0, options.topK)) : temperature;
  const topP = options.topP < 1 ? normalize(likeliest(topK, options.topP)) : topK;
  const least = options.minP * topP[0]!.p;
  return {
    logits: softmax(logits, 1),
    repetitionPenalty: softmax(penalized, 1),
    temperature,
    topK,
    topP,
    minP: normalize(topP.filter(({ p }) => p >= least)),
  };
}

/**
 * Logits, with those of each token in the window divided by the repetition penalty if positive and multiplied if
 * negative, once; then those of each drawn token less the presence penalty, and less the frequency penalty for each time
 * that it was drawn.
 */
export function penalize(logits: Float32Array, options: SamplerOptions & History): Float32Array {
  const { repetitionPenalty, repetitionWindow, presencePenalty, frequencyPenalty } = options;
  const { history, firstDrawn = history.length } = options;
  if (!hasPenalties(options)) return logits;
  const penalized = logits.slice();
  const window = repetitionWindow === 0 ? history : history.slice(-repetitionWindow);
  for (const id of new Set(window)) {
    const logit = penalized[id]!;
    penalized[id] = logit > 0 ? logit / repetitionPenalty : logit * repetitionPenalty;
  }
  const drawn = history.slice(firstDrawn);
  for (const id of new Set(drawn)) {
    const count = drawn.filter((other) => other === id).length;
    penalized[id]! -= presencePenalty + count * frequencyPenalty;
  }
  return penalized;
}

/** The softmax of logits / temperature; at 0 the likeliest token alone. */
function softmax(logits: Float32Array, temperature: number): Candidate[] {
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
  const candidates: Candidate[] = [];
  logits.forEach((logit, id) => {
    const p = Math.exp((logit - highest) / temperature);
    if (p > 0) candidates.push({ id, p });
  });
  // among equals the lower id stays first
  return normalize(candidates.sort((a, b) => b.p - a.p));
}

/** The fewest candidates that together have a probability. */
function likeliest(candidates: readonly Candidate[], probability: number): Candidate[] {
  let mass = 0;
  const enough = candidates.findIndex(({ p }) => (mass += p) >= probability);
  return candidates.slice(0, enough < 0 ? candidates.length : enough + 1);
}

function normalize(candidates: readonly Candidate[]): Candidate[] {
  const total = candidates.reduce((sum, { p }) => sum + p, 0);
  return candidates.map(({ id, p }) => ({ id, p: p / total }));
}
