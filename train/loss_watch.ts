import type { Metric } from "./metrics.ts";

/**
 * Checks of the losses of a run: whether the model learns its text by heart, whether the training diverges, whether
 * the model sees what it should predict, and whether gradients overflow f16.
 *
 * @module
 */

/** What a check says about a run. */
export interface Warning {
  /** What it is about, as one word. */
  readonly name: string;
  /** A sentence for the user. */
  readonly message: string;
}

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
  #isScaleLow = false;

  /**
   * Adds the next line of the run's record.
   *
   * @returns what there is to say: once for each rise, once for a loss below the entropy, and once for each fall of
   * the loss scale below 1.
   */
  add(metric: Metric): Warning[] {
    const { kind, step, loss } = metric;
    const warnings: (Warning | undefined)[] = [];
    if (kind === "step") warnings.push(this.#lowScale(metric));
    if (kind === "step" && Number.isFinite(loss)) {
      this.#sum += loss!;
      this.#count++;
    }
    if (kind === "evaluation" && step > 0 && Number.isFinite(loss)) {
      const trainingLoss = this.#count > 0 ? this.#sum / this.#count : NaN;
      this.#sum = this.#count = 0;
      if (loss! < this.#best.loss) this.#best = { step, loss: loss!, trainingLoss };
      this.#above = loss! > this.#best.loss * (1 + NOISE) ? this.#above + 1 : 0;
      warnings.push(this.#belowEntropy(metric), this.#rise(trainingLoss));
    }
    return warnings.filter((warning) => warning !== undefined);
  }

  #lowScale({ lossScale = 1 }: Metric): Warning | undefined {
    const wasLow = this.#isScaleLow;
    this.#isScaleLow = lossScale < 1;
    if (wasLow || !this.#isScaleLow) return undefined;
    return {
      name: "low-loss-scale",
      message: `the loss scale fell to ${lossScale}: gradients overflow f16`,
    };
  }

  #rise(trainingLoss: number): Warning | undefined {
    if (this.#above !== RISES) return undefined;
    const { step, loss, trainingLoss: before } = this.#best;
    const best = `${loss.toFixed(3)} at step ${step}`;
    const rise =
      `the validation loss has been rising: ${RISES} evaluations are above the best, ${best}`;
    if (trainingLoss >= before) {
      return {
        name: "diverging",
        message: `${rise}, and the training loss does not fall: use a lower --learning-rate`,
      };
    }
    return {
      name: "overfitting",
      message:
        `${rise}, while the training loss falls: the model learns its text by heart. Use more ` +
        `text, --dropout or fewer --steps; --patience ends such a training, and --checkpoint best ` +
        `of generate, eval and export chooses the best checkpoint that was saved`,
    };
  }

  #belowEntropy({ loss, entropyPerToken, tokens = 0 }: Metric): Warning | undefined {
    // the information of a short text differs by chance from the entropy
    const margin = 3 * DEVIATION / Math.sqrt(tokens);
    if (entropyPerToken === undefined || !(loss! < entropyPerToken - margin)) return undefined;
    if (this.#isBelowEntropy) return undefined;
    this.#isBelowEntropy = true;
    const [least, current] = [entropyPerToken.toFixed(3), loss!.toFixed(3)];
    return {
      name: "below-entropy",
      message:
        `the validation loss, ${current}, is below the entropy of the text, ${least}, the least ` +
        `loss of a prediction: the model sees what it should predict. Are the labels shifted? See ` +
        `shiftedPair() in data/tokens/batches.ts`,
    };
  }
}
