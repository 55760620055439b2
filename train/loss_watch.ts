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
    if (kind !== "evaluation" || step === 0) return undefined;
    const trainingLoss = this.#count > 0 ? this.#sum / this.#count : NaN;
    this.#sum = this.#count = 0;
    if (loss! < this.#best.loss) this.#best = { step, loss: loss!, trainingLoss };
    this.#above = loss! > this.#best.loss * (1 + NOISE) ? this.#above + 1 : 0;
    return this.#belowEntropy(metric) ?? this.#rise(trainingLoss);
  }

  #rise(trainingLoss: number): string | undefined {
    if (this.#above !== RISES) return undefined;
    const { step, loss, trainingLoss: before } = this.#best;
    const best = `${loss.toFixed(3)} at step ${step}`;
    const rise =
      `the validation loss has been rising: ${RISES} evaluations are above the best, ${best}`;
    return trainingLoss >= before
      ? `${rise}, and the training loss does not fall: use a lower --learning-rate`
      : `${rise}, while the training loss falls: the model learns its text by heart. Use more ` +
        `text, --dropout or fewer --steps; --patience ends such a training, and --checkpoint best ` +
        `of generate, eval and export chooses the best checkpoint that was saved`;
  }

  #belowEntropy({ loss, entropyPerToken, tokens = 0 }: Metric): string | undefined {
    // the information of a short text differs by chance from the entropy
    const margin = 3 * DEVIATION / Math.sqrt(tokens);
    if (entropyPerToken === undefined || !(loss! < entropyPerToken - margin)) return undefined;
    if (this.#isBelowEntropy) return undefined;
    this.#isBelowEntropy = true;
    const [least, current] = [entropyPerToken.toFixed(3), loss!.toFixed(3)];
    return `the validation loss, ${current}, is below the entropy of the text, ${least}, the least ` +
      `loss of a prediction: the model sees what it should predict. Are the labels shifted? See ` +
      `shiftedPair() in data/tokens/batches.ts`;
  }
}
