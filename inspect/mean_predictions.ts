import type { TokenDataset } from "../data/tokens/token_dataset.ts";
import type { LoadedModel } from "../generate/load.ts";
import { forward } from "../model/forward_backward.ts";
import { preparePass, readLogits } from "./pass.ts";
import { lossesOf } from "./tokens.ts";

/**
 * The mean predictions of a model on texts: for the token that it has just read, and for the frequent tokens.
 *
 * @module
 */

/** How often tokens occur in the text of a training, and how often a frequent one comes after each. */
export interface Frequency {
  /** The most frequent tokens, which together make up half of the text. */
  readonly frequent: ReadonlySet<number>;
  /** Per token its share of the text. */
  readonly shares: Float64Array;
  /** Per token how often it occurs. */
  readonly counts: Float64Array;
  /** Per token how often a frequent token comes after it. */
  readonly before: Float64Array;
}

/** Tokens of a training text that are counted at most, from its beginning. */
export const COUNTED_TOKENS = 2 ** 20;

/** Counts the tokens of a text. */
export function frequencyOf(dataset: TokenDataset, vocabularySize: number): Frequency {
  const ids = dataset.read(0, Math.min(dataset.length, COUNTED_TOKENS));
  const counts = new Float64Array(vocabularySize), before = new Float64Array(vocabularySize);
  for (const id of ids) counts[id]!++;
  const byCount = Array.from(counts, (_, id) => id).sort((a, b) => counts[b]! - counts[a]!);
  const frequent = new Set<number>();
  let covered = 0;
  for (const id of byCount) {
    if (covered >= ids.length / 2) break;
    frequent.add(id);
    covered += counts[id]!;
  }
  for (let t = 0; t + 1 < ids.length; t++) if (frequent.has(ids[t + 1]!)) before[ids[t]!]!++;
  return { frequent, shares: counts.map((count) => count / ids.length), counts, before };
}

/** Predictions of a model, as means over the positions of texts. */
export interface MeanPredictions {
  /** Loss of the next token in nats, where it differs from the token just read. */
  readonly nextLoss: number;
  /** Loss of the token just read at the same positions, in nats. */
  readonly inputLoss: number;
  /** Probability of the frequent tokens except the last two, where another token comes next. */
  readonly onFrequent: number;
  /** The same of a model that ignores what it has read, and knows only how frequent tokens are. */
  readonly onFrequentIgnoring: number;
  /** The same of a model that knows only how often frequent tokens come after the token just read. */
  readonly onFrequentByCounts: number;
}

/** Predicts the tokens of texts; undefined if a logit is not finite. */
export async function meanPredictions(
  { gpt }: LoadedModel,
  texts: readonly (readonly number[])[],
  frequency: Frequency | undefined,
): Promise<MeanPredictions | undefined> {
  let isFinite = true, differing = 0, rare = 0;
  const sums = { nextLoss: 0, inputLoss: 0, model: 0, ignoring: 0, byCounts: 0 };
  for (const ids of texts) {
    using pass = preparePass(gpt, { tokens: ids, purpose: "evaluation" });
    await pass.run((program) => forward(program, gpt, pass, pass.activations));
    await readLogits(gpt, pass, (logits, t) => {
      const losses = lossesOf(logits), input = ids[t]!, next = ids[t + 1];
      isFinite &&= losses !== undefined;
      if (!losses || next === undefined) return;
      const { loss } = losses;
      if (next !== input) {
        differing++;
        sums.nextLoss += loss(next);
        sums.inputLoss += loss(input);
      }
      if (!frequency || frequency.frequent.has(next)) return;
      rare++;
      const { frequent, before, counts, shares } = frequency;
      let share = 0;
      for (const id of frequent) {
        if (id === input || id === ids[t - 1]) continue; // a model that repeats them may know nothing of frequency
        sums.model += Math.exp(-loss(id));
        share += shares[id]!;
      }
      sums.ignoring += share;
      sums.byCounts += (before[input]! + share) / (counts[input]! + 1);
    });
  }
  if (!isFinite) return undefined;
  return {
    nextLoss: sums.nextLoss / differing,
    inputLoss: sums.inputLoss / differing,
    onFrequent: sums.model / rare,
    onFrequentIgnoring: sums.ignoring / rare,
    onFrequentByCounts: sums.byCounts / rare,
  };
}
