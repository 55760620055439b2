/** How the next token is drawn from the model's logits. */
export interface SamplerOptions {
  /** Below 1 the likely gets likelier, above 1 less so; 0 takes the likeliest token always. */
  readonly temperature: number;
  /** Only the so many likeliest tokens; 0 for all. */
  readonly topK: number;
  /** Only the fewest tokens that together have this probability (Holtzman et al. 2020); 1 for all. */
  readonly topP: number;
  /** Only tokens at least this share as likely as the likeliest (Nguyen et al. 2024); 0 for all. */
  readonly minP: number;
  /** Divides positive logits of tokens that came before, multiplies negative ones; 1 for none. */
  readonly repetitionPenalty: number;
  /** How many tokens back the penalty looks; 0 for all. */
  readonly repetitionWindow: number;
}

/** Draws that tell varied stories; no penalty, for a story must repeat its hero's name. */
export const DEFAULT_SAMPLER: SamplerOptions = {
  temperature: 0.8,
  topK: 0,
  topP: 0.95,
  minP: 0,
  repetitionPenalty: 1,
  repetitionWindow: 64,
};

/** @throws {RangeError} naming the first option that is out of range, and its value. */
export function validateSampler(options: SamplerOptions): void {
  const ranges: Record<keyof SamplerOptions, [ok: (value: number) => boolean, text: string]> = {
    temperature: [(v) => v >= 0 && Number.isFinite(v), "a number not below 0"],
    topK: [(v) => Number.isInteger(v) && v >= 0, "a non-negative integer"],
    topP: [(v) => v > 0 && v <= 1, "above 0 and at most 1"],
    minP: [(v) => v >= 0 && v <= 1, "from 0 to 1"],
    repetitionPenalty: [(v) => v > 0 && Number.isFinite(v), "a number above 0"],
    repetitionWindow: [(v) => Number.isInteger(v) && v >= 0, "a non-negative integer"],
  };
  for (const [name, [ok, text]] of Object.entries(ranges)) {
    const value = options[name as keyof SamplerOptions];
    if (!ok(value)) {
      throw new RangeError(`Cannot sample as ${name} must be ${text}: current value is ${value}`);
    }
  }
}

/**
 * Draws the next token: repetition penalty, temperature, top-k, top-p and min-p, in this order, as in
 * Hugging Face's generate().
 *
 * @param logits [V], left as they are.
 * @param options.history the tokens so far.
 * @param options.random numbers in [0, 1).
 * @throws {RangeError} if a logit is NaN or no token has a finite one: the model is broken.
 */
export function sampleToken(
  logits: Float32Array,
  options: SamplerOptions & { history: readonly number[]; random: () => number },
): number {
  const candidates = filterTokens(penalize(logits, options), options);
  let draw = options.random();
  for (const { id, p } of candidates) {
    draw -= p;
    if (draw < 0) return id;
  }
  return candidates.at(-1)!.id; // the probabilities came to a little less than 1
}

/** A token that may be drawn, with its probability. */
export interface Candidate {
  id: number;
  p: number;
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
    throw new RangeError(`Cannot sample as some logit must be finite: the highest is ${highest}`);
  }
  if (temperature === 0) return [{ id: logits.indexOf(highest), p: 1 }];

  let candidates: Candidate[] = [];
  logits.forEach((logit, id) => {
    const p = Math.exp((logit - highest) / temperature);
    if (p > 0) candidates.push({ id, p });
  });
  candidates.sort((a, b) => b.p - a.p || a.id - b.id);
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
 * Repetition penalty of CTRL (Keskar et al. 2019, https://arxiv.org/abs/1909.05858) with the usual
 * care for signs: logits of tokens in the window are divided if positive and multiplied if negative,
 * once each.
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
