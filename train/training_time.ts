import type { Metric } from "./metrics.ts";

/**
 * Seconds of the steps of a training, without evaluations, samples and checkpoints, from the speeds in its record.
 */
export class TrainingTime {
  readonly #tokensPerStep: number;
  /** Ranks that computed as many tokens each. */
  #ranks = 1;
  /** Tokens per second of the last step that has a speed; NaN before the first. */
  #speed: number;
  #seconds = 0;
  /** Steps whose seconds are counted. */
  #done = 0;
  #hasStarted = false;

  /**
   * @param tokensPerStep those of one rank.
   * @param firstSpeed that of the first step that has one, as the steps before it are as fast; NaN if unknown.
   */
  constructor(tokensPerStep: number, firstSpeed = NaN) {
    this.#tokensPerStep = tokensPerStep;
    this.#speed = firstSpeed;
  }

  /** Adds the next line of the record, and returns the seconds up to its step; NaN if they are unknown. */
  add({ kind, step, tokensPerSecond = 0, ranks = 1 }: Metric): number {
    // a run that continues another one begins with the steps of that, whose time it does not know
    if (kind === "start" && !this.#hasStarted) {
      this.#done = step;
      this.#hasStarted = true;
    }
    if (kind === "step" && tokensPerSecond > 0) {
      if (Number.isNaN(this.#speed)) this.#speed = tokensPerSecond;
      this.#count(step - 1);
      this.#speed = tokensPerSecond;
    }
    this.#count(step);
    if (kind === "start") {
      this.#speed *= ranks / this.#ranks; // until there is a new one
      this.#ranks = ranks;
    }
    return step > this.#done ? NaN : this.#seconds;
  }

  /** Continues after an earlier step, whose seconds are given. */
  goBack(step: number, seconds: number): void {
    this.#done = step;
    this.#seconds = seconds;
  }

  /** Counts the seconds up to a step. A step without a speed is as fast as the one before it. */
  #count(step: number): void {
    if (step <= this.#done || Number.isNaN(this.#speed)) return;
    this.#seconds += this.#ranks * this.#tokensPerStep * (step - this.#done) / this.#speed;
    this.#done = step;
  }
}
