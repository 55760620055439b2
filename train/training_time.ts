import type { Metric } from "./metrics.ts";
import { tokensPerStepOf } from "./options.ts";

/**
 * Seconds of the steps of a training, without evaluations, samples and checkpoints, from the speeds in its record.
 */
export class TrainingTime {
  #tokensPerStep: number;
  /** Tokens per second of the last step that has a speed; NaN before the first. */
  #speed: number;
  #seconds = 0;
  /** Steps whose seconds are counted. */
  #done = 0;
  #hasStarted = false;

  /**
   * @param tokensPerStep those that count unless the record has others.
   * @param firstSpeed that of the first step that has one, as the steps before it are as fast; NaN if unknown.
   */
  constructor(tokensPerStep: number, firstSpeed = NaN) {
    this.#tokensPerStep = tokensPerStep;
    this.#speed = firstSpeed;
  }

  /** Adds the next line of the record, and returns the seconds up to its step; NaN if they are unknown. */
  add({ kind, step, tokensPerSecond = 0, options }: Metric): number {
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
      const tokensPerStep = tokensPerStepOf(options);
      if (tokensPerStep > 0) {
        this.#speed *= tokensPerStep / this.#tokensPerStep; // until there is a new one
        this.#tokensPerStep = tokensPerStep;
      }
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
    this.#seconds += this.#tokensPerStep * (step - this.#done) / this.#speed;
    this.#done = step;
  }
}

/** Tokens of the steps of a training, by its record: a step has others if it was resumed on other ranks. */
export class TrainingTokens {
  /** The starts whose steps are not repeated: their steps, the tokens before them, and those of their steps. */
  readonly #starts: { step: number; tokens: number; tokensPerStep: number }[];

  /** @param tokensPerStep those that count unless the record has others. */
  constructor(tokensPerStep: number) {
    this.#starts = [{ step: 0, tokens: 0, tokensPerStep }];
  }

  /** Adds the next line of the record, and returns the tokens up to its step. */
  add({ kind, step, options }: Metric): number {
    if (kind === "start") {
      while (this.#starts.length > 1 && this.#starts.at(-1)!.step >= step) this.#starts.pop();
      const tokens = this.#at(step), { tokensPerStep: before } = this.#starts.at(-1)!;
      this.#starts.push({ step, tokens, tokensPerStep: tokensPerStepOf(options) || before });
    }
    return this.#at(step);
  }

  #at(step: number): number {
    const start = this.#starts.at(-1)!;
    if (step === start.step) return start.tokens; // also if those of its steps are unknown
    return start.tokens + (step - start.step) * start.tokensPerStep;
  }
}
