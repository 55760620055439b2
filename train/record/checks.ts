import type { TrainEvent } from "../events.ts";
import type { Metric } from "./metrics.ts";
import { OUTER_DEFAULTS, type ResolvedOptions, tokensPerStepOf } from "../options.ts";

/**
 * What may be wrong with a model: one table of checks, and those of them that need nothing but the record of the
 * training. `inspect/diagnose.ts` has the checks that need the model.
 *
 * @module
 */

/** A check: a row of the table. */
interface Check {
  /** The number that it measures. */
  readonly measure: string;
  /** The side of the threshold on which a model is sick. */
  readonly sick: "above" | "below";
  /** The threshold; absent if it depends on the text or on the number of its tokens. */
  readonly threshold?: number;
  /** Whether it is printed as a percentage. */
  readonly isShare?: true;
  /** What is likely to be the reason. */
  readonly cause: string;
  /** What to do, as one or more sentences. */
  readonly cure: string;
}

/**
 * All checks, root causes first: the first check that finds something explains those after it.
 *
 * A threshold lies between the numbers of healthy and sick models, in the middle of their ratio if nothing else is
 * said. docs/diagnose.md has the numbers.
 */
export const CHECKS = {
  /** A masked position adds exactly 0, in f32 and in f16, so that nothing may change. */
  "leak": {
    measure: "change of a logit by a later token",
    sick: "above",
    threshold: 0,
    cause: "attention sees tokens that it should predict, as its mask does not hold",
    cure: "If the model was trained by this project, a kernel is wrong on this device: run " +
      "`deno task test tests/kernels`, and report what fails. Otherwise mask the scores of all keys s > t.",
  },
  "diverging": {
    measure: "rise of the training loss, nats",
    sick: "above",
    cause: "the learning rate is too high",
    cure: "Use a lower --learning-rate, a third of it to begin with, or a longer --warmup-steps.",
  },
  /** Steps whose gradient overflows halve the loss scale; below 1 the gradient itself overflows. */
  "overflowing-gradients": {
    measure: "loss scale",
    sick: "below",
    threshold: 1,
    cause: "gradients exceed 65,504, the largest number of f16, even unscaled",
    cure: "Use a lower --learning-rate, or --precision f32.",
  },
  "vanishing-gradients": {
    measure: "gradients below 2⁻²⁴, the least f16",
    sick: "above",
    threshold: 0.2,
    isShare: true,
    cause: "the loss scale is too small for gradients of this size, and f16 rounds them to zero",
    cure:
      "Resume with --precision f32, or find out why the loss scale fell: it is halved if a gradient overflows.",
  },
  "exploding-block": {
    measure: "growth of the residual stream in a block",
    sick: "above",
    threshold: 300,
    cause:
      "the weights of a block have grown out of proportion, as too high a learning rate makes them",
    cure:
      "Use a lower --learning-rate, --gradient-clip 1 and a --weight-decay above 0, and start from a checkpoint " +
      "before the growth.",
  },
  "dead-block": {
    measure: "least that a block adds to the stream",
    sick: "below",
    threshold: 1e-3,
    cause:
      "the weights of a block are zero or its activations saturate, so that it neither computes nor learns",
    cure: "Initialize the block anew, with a lower --learning-rate if it died during the training.",
  },
  "copies-input": {
    measure: "loss of the input over that of the next token",
    sick: "below",
    threshold: 0.5,
    cause: "the labels of the training were its inputs, not shifted by one",
    cure:
      "Shift the labels, as batchOf() and shiftedPair() in data/tokens/batch.ts do, and train anew.",
  },
  "below-entropy": {
    measure: "validation loss minus entropy, nats",
    sick: "below",
    cause: "no prediction has a smaller loss, so the model sees what it should predict",
    cure:
      "Shift the labels by one (see shiftedPair() in data/tokens/batch.ts), mask later tokens, and keep the " +
      "validation text out of the training.",
  },
  /** Evaluations of a converged model differ by less. */
  "overfitting": {
    measure: "rise of the validation loss",
    sick: "above",
    threshold: 0.01,
    isShare: true,
    cause: "the model memorizes its text",
    cure:
      "Use more text, --dropout or fewer --steps; --patience ends such a training, and --checkpoint best of " +
      "generate, eval and export chooses the best checkpoint that was saved.",
  },
  "unknown-tokens": {
    measure: "tokens for unknown characters",
    sick: "above",
    threshold: 0.001,
    isShare: true,
    cause:
      "the vocabulary lacks characters of the text, which the model can neither learn nor write",
    cure: "Use a byte-level vocabulary, such as GPT-2's or one of deno task tokenizer.",
  },
  "vocabulary": {
    measure: "tokens over those of a vocabulary for the text",
    sick: "above",
    threshold: 1.25,
    cause: "the vocabulary was made for other text, so that contexts hold less of this text",
    cure:
      "Train a vocabulary on the text (deno task tokenizer) and the model with --tokenizer, or start from a model " +
      "for such text.",
  },
  "frequent-tokens": {
    measure: "probability that stays on frequent tokens",
    sick: "above",
    isShare: true,
    cause:
      "the model ignores what it has read and knows only how frequent tokens are, as after too few steps or at too " +
      "high or too low a learning rate",
    cure:
      "Train longer; if the loss does not fall meanwhile, try a third of the --learning-rate, then three times.",
  },
  "repetition": {
    measure: "sampled text in loops",
    sick: "above",
    threshold: 0.2,
    isShare: true,
    cause: "the model expects what it has just read to come again",
    cure:
      "See the checks above for the reason. If there is none, train on more text; --repetition-penalty 1.1 and a " +
      "higher --temperature of generate hide it.",
  },
  "greedy-repetition": {
    measure: "greedy text that repeats one token",
    sick: "above",
    threshold: 0.5,
    isShare: true,
    cause: "the likeliest token makes itself likelier",
    cure:
      "Sample instead: --temperature 0.8 and --top-p 0.95 of generate. More text and a larger model make it rarer.",
  },
} as const satisfies Readonly<Record<string, Check>>;

/** The name of a check. */
export type CheckName = keyof typeof CHECKS;

/** What a check found. */
export interface CheckResult {
  /** The check. */
  readonly name: CheckName;
  /** The number that it measured; null if it measured none. */
  readonly value: number | null;
  /** The number that separates healthy from sick models; null if it depends on what could not be measured. */
  readonly threshold: number | null;
  /** `unknown` if the check could not be made, or if the model has learned too little for a verdict. */
  readonly verdict: "ok" | "sick" | "unknown";
  /** What was found, or why there is no verdict: a clause without a full stop. */
  readonly finding: string;
  /** The likely cause of what makes a model sick. */
  readonly cause: string;
  /** What to do about it. */
  readonly cure: string;
  /** Other numbers that were measured, by name. */
  readonly figures?: Readonly<Record<string, number>>;
}

/**
 * The result of a check: its verdict by its threshold.
 *
 * @param options.threshold that of the table by default.
 * @param options.isSick the verdict, if it does not depend on the threshold alone.
 */
export function resultOf(
  name: CheckName,
  value: number,
  finding: string,
  { figures, ...given }: {
    threshold?: number;
    isSick?: boolean;
    figures?: Readonly<Record<string, number>>;
  } = {},
): CheckResult {
  const { sick, cause, cure, ...row }: Check = CHECKS[name];
  const threshold = given.threshold ?? row.threshold!;
  const { isSick = sick === "above" ? value > threshold : value < threshold } = given;
  const verdict = isSick ? "sick" : "ok";
  return { name, value, threshold, verdict, finding, cause, cure, ...(figures ? { figures } : {}) };
}

/** The result of a check that could not be made. */
export function unknownResult(
  name: CheckName,
  finding: string,
): CheckResult {
  const { cause, cure, threshold: given }: Check = CHECKS[name], threshold = given ?? null;
  return { name, value: null, threshold, verdict: "unknown", finding, cause, cure };
}

/** What a check says about a run: a line of its record, and an event of its training. */
export type CheckWarning = Extract<TrainEvent, { kind: "warning" }>;

/** A result after a step as a warning: what was found, the likely cause and the cure. */
function warningOf({ name, finding, cause, cure }: CheckResult, step: number): CheckWarning {
  return {
    kind: "warning",
    step,
    name,
    message: `${finding}: ${cause}. ${cure.replace(/\.$/, "")}`,
  };
}

/** Steps over which the training loss is averaged, approximately. */
const SMOOTHED_STEPS = 20;

/**
 * Rise of the averaged training loss: nats, and a share of the lowest loss. Batches of other text differ by less, and
 * the loss of a training that diverges rises above that of its first step.
 */
const RISE = { nats: 0.5, share: 0.25 };

/** Losses in a row that are not finite after which a training diverges; f16 skips single steps. */
const NOT_FINITE = 20;

/** Evaluations in a row above the best loss that are a rise. */
const RISES = 3;

/** Nats by which the information of tokens differs from its mean, generously: their standard deviation. */
const DEVIATION = 1.5;

/** A momentum of DiLoCo with which short trainings do not diverge: docs/several-machines.md, "When DiLoCo loses". */
const SHORT_MOMENTUM = 0.5;

/** Tokens per step if the record does not say it. */
const USUAL_TOKENS = 1024;

/**
 * The checks that need only the record of a run. `add()` is called with all lines of the record in their order, while
 * they are written or later.
 */
export class RunChecks {
  /** Checks that found something at the last line. */
  readonly #sick = new Set<CheckName>();
  #tokensPerStep = USUAL_TOKENS;
  /** Whether ranks exchange weights, with a momentum that is too much for a short training. */
  #hasOuterMomentum = false;
  /** The last start, while no step has come since: none comes if a run is resumed that has done its steps. */
  #start: Metric | undefined;
  /** Moving average of the training loss since the last start that steps followed: sum of weighted losses, and of weights. */
  #average = { sum: 0, weight: 0, steps: 0 };
  /** Its lowest value, and the steps that it is an average of. */
  #lowest = { loss: Infinity, steps: 0 };
  /** Losses in a row, up to the last one, that are not finite. */
  #notFinite = 0;
  #lossScale: number | undefined;
  #lastEvaluation: Metric | undefined;
  /** The best evaluation, and the mean training loss before it. */
  #best: { step: number; epoch?: number | undefined; loss: number; trainingLoss: number } = {
    step: 0,
    loss: Infinity,
    trainingLoss: Infinity,
  };
  /** The mean training loss before the last evaluation. */
  #trainingLoss = NaN;
  /** Evaluations in a row above the best loss, by more than noise. */
  #above = 0;
  /** Training losses since the last evaluation. */
  #sum = 0;
  #count = 0;

  /**
   * Adds the next line of the record.
   *
   * @returns what has become wrong with it: nothing for what was already wrong at the line before.
   */
  add(metric: Metric): CheckWarning[] {
    const { kind, step } = metric;
    if (kind === "start") this.#start = metric;
    else if (kind === "step") this.#addStep(metric);
    else if (kind === "evaluation" && step > 0) this.#addEvaluation(metric);
    else return [];
    const warnings: CheckWarning[] = [];
    const note = (name: CheckName, isSick: boolean, result: () => CheckResult) => {
      if (isSick && !this.#sick.has(name)) warnings.push(warningOf(result(), step));
      if (isSick) this.#sick.add(name);
      else this.#sick.delete(name);
    };
    if (kind === "evaluation") {
      const belowEntropy = this.#belowEntropy();
      note("below-entropy", belowEntropy.verdict === "sick", () => belowEntropy);
      note("overfitting", this.#overfits(), () => this.#overfitting());
    }
    note("diverging", this.#diverges(), () => this.#diverging());
    note("overflowing-gradients", this.#overflows(), () => this.#overflowing());
    return warnings;
  }

  /** What the checks say of the lines so far. */
  results(): CheckResult[] {
    return [this.#belowEntropy(), this.#diverging(), this.#overflowing(), this.#overfitting()];
  }

  #begin({ options }: Metric): void {
    const tokens = tokensPerStepOf(options);
    this.#tokensPerStep = tokens >= 1 ? tokens : USUAL_TOKENS;
    const { syncEvery = 1, outerMomentum = OUTER_DEFAULTS.outerMomentum } =
      (options ?? {}) as Partial<ResolvedOptions>;
    this.#hasOuterMomentum = syncEvery > 1 && outerMomentum > SHORT_MOMENTUM;
    // a resumed training may have other text and another rate
    this.#average = { sum: 0, weight: 0, steps: 0 };
    this.#lowest = { loss: Infinity, steps: 0 };
    this.#notFinite = 0;
    this.#start = undefined;
  }

  #addStep({ loss, lossScale }: Metric): void {
    this.#lossScale = lossScale;
    if (this.#start) this.#begin(this.#start);
    if (!Number.isFinite(loss)) {
      this.#notFinite++;
      return;
    }
    this.#notFinite = 0;
    this.#sum += loss!;
    this.#count++;
    const average = this.#average, decay = 1 - 1 / SMOOTHED_STEPS;
    average.sum = decay * average.sum + loss!;
    average.weight = decay * average.weight + 1;
    average.steps = Math.min(average.steps + 1, SMOOTHED_STEPS);
    if (this.#smoothed < this.#lowest.loss) {
      this.#lowest = { loss: this.#smoothed, steps: average.steps };
    }
  }

  #addEvaluation(metric: Metric): void {
    const { step, epoch, loss } = metric;
    if (!Number.isFinite(loss)) return;
    this.#lastEvaluation = metric;
    const trainingLoss = this.#trainingLoss = this.#count > 0 ? this.#sum / this.#count : NaN;
    this.#sum = this.#count = 0;
    if (loss! < this.#best.loss) this.#best = { step, epoch, loss: loss!, trainingLoss };
    const isAbove = loss! > this.#best.loss * (1 + CHECKS.overfitting.threshold);
    this.#above = isAbove ? this.#above + 1 : 0;
  }

  /** The average of the last training losses. */
  get #smoothed(): number {
    return this.#average.sum / this.#average.weight;
  }

  #belowEntropy(): CheckResult {
    const name = "below-entropy";
    if (!this.#lastEvaluation) return unknownResult(name, "the record has no evaluation");
    const { loss, entropyPerToken, tokens = 0 } = this.#lastEvaluation;
    if (entropyPerToken === undefined) {
      return unknownResult(name, "the entropy is known of the built-in stories alone");
    }
    if (!(tokens > 0)) {
      return unknownResult(name, "the record does not say how many tokens were evaluated");
    }
    // the information of a short text differs by chance from the entropy
    const threshold = -3 * DEVIATION / Math.sqrt(tokens);
    const finding = `the validation loss, ${loss!.toFixed(3)}, is ` +
      `${loss! < entropyPerToken ? "below" : "above"} the entropy of the text, ` +
      `${entropyPerToken.toFixed(3)} nats per token`;
    const figures = { loss: loss!, entropyPerToken };
    return resultOf(name, loss! - entropyPerToken, finding, { threshold, figures });
  }

  /** The rise of the averaged training loss from which on a training diverges. */
  get #greatestRise(): number {
    const { loss, steps } = this.#lowest;
    // an average over few tokens may be low by chance; neighbouring tokens are not independent
    const chance = 3 * 2 * DEVIATION / Math.sqrt(this.#tokensPerStep * Math.max(1, steps));
    return RISE.nats + RISE.share * loss + chance;
  }

  /** Whether the validation loss rises, and the training loss does not fall. */
  get #bothRise(): boolean {
    return this.#above >= RISES && this.#trainingLoss >= this.#best.trainingLoss;
  }

  #diverges(): boolean {
    return this.#notFinite >= NOT_FINITE || this.#bothRise ||
      this.#smoothed - this.#lowest.loss > this.#greatestRise;
  }

  #diverging(): CheckResult {
    const result = this.#divergence();
    if (!this.#hasOuterMomentum) return result;
    return {
      ...result,
      cause: "the momentum of DiLoCo is too high for a short training, or the learning rate",
      cure:
        `Use --outer-momentum ${SHORT_MOMENTUM}; if that does not help, a lower --learning-rate.`,
    };
  }

  #divergence(): CheckResult {
    const name = "diverging";
    if (this.#notFinite >= NOT_FINITE) {
      const finding = `the last ${this.#notFinite} training losses are not finite`;
      return resultOf(name, Infinity, finding, { threshold: RISE.nats });
    }
    if (this.#average.steps === 0) return unknownResult(name, "the record has no training loss");
    const rise = this.#smoothed - this.#lowest.loss, threshold = this.#greatestRise;
    const now = this.#smoothed.toFixed(3), then = this.#lowest.loss.toFixed(3);
    const finding = this.#bothRise
      ? `${this.#rise()}, and the training loss does not fall`
      : `the training loss, ${now}, is ${
        rise > threshold ? "far " : ""
      }above its lowest, ${then} ` +
        `(averages of ${SMOOTHED_STEPS} steps)`;
    return resultOf(name, rise, finding, { threshold, isSick: this.#diverges() });
  }

  /** A clause about the rise of the validation loss. */
  #rise(): string {
    const { step, epoch, loss } = this.#best;
    return `the validation loss has been rising: ${this.#above} evaluations are above the best, ` +
      `${loss.toFixed(3)} at step ${step}${after(epoch)}`;
  }

  #overflows(): boolean {
    return (this.#lossScale ?? 1) < CHECKS["overflowing-gradients"].threshold;
  }

  #overflowing(): CheckResult {
    const name = "overflowing-gradients", scale = this.#lossScale;
    if (scale === undefined) return unknownResult(name, "the record has no loss scale");
    return resultOf(name, scale, `the loss scale ${scale < 1 ? "fell to" : "is"} ${scale}`);
  }

  #overfits(): boolean {
    return this.#above >= RISES && !this.#diverges();
  }

  #overfitting(): CheckResult {
    const name = "overfitting", last = this.#lastEvaluation, { loss: best, step } = this.#best;
    if (!last) return unknownResult(name, "the record has no evaluation");
    const losses = Object.entries({
      "training loss": this.#trainingLoss.toFixed(3),
      "validation loss": last.loss!.toFixed(3),
    }).filter(([, loss]) => loss !== "NaN").map((entry) => entry.join(" ")).join(", ");
    const isSick = this.#overfits();
    const finding = isSick
      ? `${this.#rise()}, while the training loss falls (${losses}${after(last.epoch)})`
      : `${losses}${after(last.epoch)}; the best validation loss was ${
        best.toFixed(3)
      } at step ${step}`;
    const figures = {
      ...(Number.isFinite(this.#trainingLoss) ? { trainingLoss: this.#trainingLoss } : {}),
      validationLoss: last.loss!,
      bestLoss: best,
      bestStep: step,
      ...(last.epoch === undefined ? {} : { epochs: last.epoch }),
    };
    return resultOf(name, last.loss! / best - 1, finding, { isSick, figures });
  }
}

/** The end of a clause that says after how many passes over the training text something was; empty if not known. */
function after(epochs: number | undefined): string {
  return epochs === undefined ? "" : ` after ${Number(epochs.toPrecision(2))} epochs`;
}
