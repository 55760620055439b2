import type { Metric } from "./metrics.ts";
import { tokensPerStepOf } from "../options.ts";

/**
 * Seconds of the steps of a training, without evaluations, samples and checkpoints, from the speeds in its record. The
 * steps of another run that it continues count as well.
 */
export class TrainingTime {
  #tokensPerStep: number;
  /** Tokens per second of the last step that has a speed; NaN before the first. */
  #speed: number;
  #seconds = 0;
  /** Steps whose seconds are counted. */
  #done = 0;
  /** Seconds of the steps before the record; NaN if unknown. */
  #secondsBefore = 0;
  /** Whether no line was added. */
  #isEmpty = true;

  /**
   * @param tokensPerStep those that count unless the record has others.
   * @param firstSpeed that of the first step that has one, as the steps before it are as fast; NaN if unknown.
   */
  constructor(tokensPerStep: number, firstSpeed = NaN) {
    this.#tokensPerStep = tokensPerStep;
    this.#speed = firstSpeed;
  }

  /** Adds the next line of the record, and returns the seconds up to its step; NaN if they are unknown. */
  add({ kind, step, tokensPerSecond = 0, options, secondsBefore }: Metric): number {
    if (kind === "start" && (secondsBefore !== undefined || this.#isEmpty)) {
      // earlier versions did not note the seconds of another run that they continued
      this.#secondsBefore = secondsBefore ?? (step === 0 ? 0 : NaN);
      this.goBack(step);
    }
    this.#isEmpty = false;
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
    return this.upTo(step);
  }

  /** Seconds up to a step; NaN if they are unknown. A step without a speed is as fast as the one before it. */
  upTo(step: number): number {
    this.#count(step);
    return step > this.#done ? NaN : this.#seconds;
  }

  /** Continues after a step. @param seconds those up to it, by default those before the record. */
  goBack(step: number, seconds = this.#secondsBefore): void {
    this.#done = step;
    this.#seconds = seconds;
  }

  #count(step: number): void {
    if (step <= this.#done || Number.isNaN(this.#speed)) return;
    this.#seconds += this.#tokensPerStep * (step - this.#done) / this.#speed;
    this.#done = step;
  }
}

/**
 * Tokens of the steps of a training, by its record: a step has others if it was resumed on other ranks. The steps of
 * another run that it continues count as well.
 */
export class TrainingTokens {
  /** The starts whose steps are not repeated: their steps, the tokens before them, and those of their steps. */
  readonly #starts: { step: number; tokens: number; tokensPerStep: number }[];

  /** @param tokensPerStep those that count unless the record has others. */
  constructor(tokensPerStep: number) {
    this.#starts = [{ step: 0, tokens: 0, tokensPerStep }];
  }

  /** Adds the next line of the record, and returns the tokens up to its step. */
  add({ kind, step, options, tokensBefore }: Metric): number {
    if (kind === "start") {
      while (this.#starts.length > 1 && this.#starts.at(-1)!.step > step) this.#starts.pop();
      const tokens = tokensBefore ?? this.#at(step);
      const { tokensPerStep: before } = this.#starts.at(-1)!;
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
