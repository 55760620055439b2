import type { Metric } from "./metrics.ts";

/**
 * What the losses of a run say about it: that the model learns its text by heart, that the training diverges, or that
 * the model sees what it should predict.
 *
 * @module
 */

/** Evaluations in a row above the best loss that are a rise. */
const RISES = 3;

/** Share by which their losses exceed the best one; evaluations of a converged model differ by less. */
const NOISE = 0.01;

/** Nats by which the information of tokens differs from its mean, generously: their standard deviation. */
const DEVIATION = 1.5;

/** Watches the losses of a run, over all its starts. */
export class LossWatch {
  /** The best evaluation, and the mean training loss before it. */
  #best = { step: 0, loss: Infinity, trainingLoss: Infinity };
  /** Evaluations in a row above the best loss, by more than noise. */
  #above = 0;
  /** Training losses since the last evaluation. */
  #sum = 0;
  #count = 0;
  #isBelowEntropy = false;

  /**
   * Adds the next line of the run's record.
   *
   * @returns a sentence for the user if there is one to say: once for each rise, and once for a loss below the
   * entropy.
   */
  add(metric: Metric): string | undefined {
    const { kind, step, loss } = metric;
    if (!Number.isFinite(loss)) return undefined;
    if (kind === "step") {
      this.#sum += loss!;
      this.#count++;
    }
    if (kind !== "evaluation") return undefined;
    const trainingLoss = this.#count > 0 ? this.#sum / this.#count : NaN;
    this.#sum = this.#count = 0;
    if (loss! < this.#best.loss) this.#best = { step, loss: loss!, trainingLoss };
    this.#above = loss! > this.#best.loss * (1 + NOISE) ? this.#above + 1 : 0;
    return this.#belowEntropy(metric) ?? this.#rise(trainingLoss);
  }

  #rise(trainingLoss: number): string | undefined {
    if (this.#above !== RISES) return undefined;
    const { step, loss, trainingLoss: before } = this.#best;
    const rise = `the validation loss has been rising: the last ${RISES} evaluations are above ` +
      `${loss.toFixed(3)}, the best, at step ${step}`;
    return trainingLoss < before
      ? `${rise}, while the training loss falls, as the model learns its text by heart: use more ` +
        `text, --dropout or fewer --steps; --patience ends such a training, and --checkpoint best ` +
        `of generate, eval and export chooses the best checkpoint`
      : `${rise}, and the training loss does not fall: use a lower --learning-rate`;
  }

  #belowEntropy({ loss, entropyPerToken, tokens = 0 }: Metric): string | undefined {
    // the information of a short text differs by chance from the entropy
    const margin = 3 * DEVIATION / Math.sqrt(tokens);
    if (entropyPerToken === undefined || !(loss! < entropyPerToken - margin)) return undefined;
    if (this.#isBelowEntropy) return undefined;
    this.#isBelowEntropy = true;
    return `the validation loss, ${loss!.toFixed(3)}, is below the entropy of the text, ` +
      `${
        entropyPerToken.toFixed(3)
      }, which no model can reach that predicts: the model sees what ` +
      `it should predict; are the labels shifted, see shiftedPair() in data/tokens/batches.ts?`;
  }
}
