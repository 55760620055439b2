import { flagOf, offFlagOf } from "../files/command_line.ts";
import { duration } from "../files/units.ts";
import {
  DEFAULT_OPTIONS,
  type OptionName,
  optionNamed,
  RANKS,
  type ResolvedOptions,
  tokensPerStepOf,
} from "../train/options.ts";
import { lastBeforeCooldown } from "../train/schedule.ts";
import type { TrainEvent } from "../train/train.ts";
import { statusColumns } from "./command.ts";
import { ProgressBar, ProgressDisplay } from "./progress.ts";

/** Milliseconds without a line of the log after which a step gets one. */
const SILENCE_MS = 60_000;

/** Milliseconds of the first step above which a line says how large a step is. */
const SLOW_STEP_MS = 20_000;

/** Columns of a log. */
const LOG_COLUMNS = 80;

/** The event that begins a training. */
export type StartEvent = TrainEvent & { kind: "start" };

/** Displays what training reports: on a terminal with a bar at the bottom, otherwise line by line. */
export class TrainDisplay implements Disposable {
  readonly #bar: ProgressBar;
  readonly #columns: number;
  readonly #data: ProgressDisplay;
  #isPreparing = true;
  #logEvery = 1;
  #isScaled = false;
  #epochDigits = 1;
  #loggedMs = -Infinity;
  /** Whether a line had the unit of validation losses: later ones do not, as they would be wider than most terminals. */
  #isUnitKnown = false;
  /** When the wait for the first step began; undefined once it is over. */
  #waitingSinceMs: number | undefined;
  /** The options that decide how many tokens a step has. */
  #stepSizes = { batchSize: 0, contextLength: 0, gradientAccumulation: 0, ranks: 1 };

  /** @param columns those of the terminal that shows the lines, if there is one. */
  constructor(bar: ProgressBar = new ProgressBar(), columns: number | undefined = statusColumns()) {
    this.#bar = bar;
    this.#columns = columns ?? LOG_COLUMNS;
    this.#data = new ProgressDisplay(bar);
  }

  /** Whether model and data are still being prepared. */
  get isPreparing(): boolean {
    return this.#isPreparing;
  }

  /** Displays an event. */
  show(event: TrainEvent): void {
    if (event.kind !== "preparing" && this.#isPreparing) this.#data.close();
    switch (event.kind) {
      case "preparing":
        return this.#data.show(event);
      case "notice":
      case "warning":
        return this.#bar.print(event.message);
      case "start":
        return this.#showStart(event);
      case "tuning":
        return this.#showTuning(event);
      case "step":
        return this.#showStep(event);
      case "evaluation":
        return this.#showEvaluation(event);
      case "sample":
        return this.#bar.print(`\n${event.prompt}${event.text}\n`);
      case "checkpoint":
        return this.#bar.print(`saved ${event.path}`);
    }
  }

  /** Removes the bar for good; lines are still printed. */
  close(): void {
    this.#bar.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /** Says on what a training trains, how, and how long. */
  #showStart(event: StartEvent): void {
    const { corpus, options, parameters, trainedParameters, steps, epochs, resumedFrom } = event;
    this.#logEvery = options.logEvery;
    this.#stepSizes = options;
    this.#waitingSinceMs = performance.now();
    this.#isScaled = options.precision === "f16";
    this.#epochDigits = Math.max(1, 1 - Math.floor(Math.log10(epochs))); // 0.034 has more digits than 1.4
    this.#bar.print(describeData(corpus, options));
    this.#isPreparing = false;
    if (resumedFrom !== undefined && resumedFrom >= steps) {
      return this.#bar.print(describeDone(resumedFrom, steps, options));
    }
    this.#bar.print(describeOptions(options, this.#columns));
    const trained = trainedParameters === parameters
      ? `${parameters}`
      : `${trainedParameters} of ${parameters}`;
    this.#bar.print(
      (options.dryRun ? "dry run, " : "") +
        (resumedFrom === undefined ? "training" : `resuming from step ${resumedFrom}:`) +
        ` ${trained} parameters for ${steps} steps, ` +
        `${epochs.toFixed(this.#epochDigits)} epochs, into ${options.out}`,
    );
    if (!options.dryRun) this.#bar.update(resumedFrom ?? 0, steps, "compiling the kernels");
  }

  #showTuning({ done, of }: TrainEvent & { kind: "tuning" }): void {
    this.#waitingSinceMs = performance.now();
    this.#bar.update(done, of, `finding the fastest kernels: ${done} of ${of}`);
    if (!this.#bar.isVisible && done === 0) {
      this.#bar.print(`finding the fastest kernels, ${of} in all`);
    }
  }

  #showStep(event: TrainEvent & { kind: "step" }): void {
    this.#noteSlowStep();
    const line = this.#describeStep(event);
    this.#bar.update(event.step, event.steps, line);
    if (!this.#isLogged(event)) return;
    this.#loggedMs = performance.now();
    this.#bar.print(line);
  }

  #showEvaluation(event: TrainEvent & { kind: "evaluation" }): void {
    const { step, loss, perplexity, bitsPerByte, entropyPerToken } = event;
    const least = entropyPerToken === undefined
      ? ""
      : ` (at best ${entropyPerToken.toFixed(3)}, the entropy of the stories)`;
    const unit = this.#isUnitKnown ? "" : ` nats per token${least}`;
    this.#isUnitKnown = true;
    this.#bar.print(
      `step ${step}: validation loss ${loss.toFixed(3)}${unit}, ` +
        `perplexity ${perplexity.toFixed(1)}, ${bitsPerByte.toFixed(3)} bits per byte`,
    );
  }

  /** Says after a slow first step how large a step is. */
  #noteSlowStep(): void {
    if (this.#waitingSinceMs === undefined) return;
    const tookMs = performance.now() - this.#waitingSinceMs;
    this.#waitingSinceMs = undefined;
    if (tookMs <= SLOW_STEP_MS) return;
    const { batchSize, contextLength, gradientAccumulation, ranks } = this.#stepSizes;
    this.#bar.print(
      `the first step took ${duration(tookMs / 1000)}, compilation included: a step has ` +
        `${tokensPerStepOf(this.#stepSizes)} tokens, --batch-size ${batchSize} by ` +
        `--context-length ${contextLength} by --gradient-accumulation ${gradientAccumulation}` +
        (ranks > 1 ? ` by ${ranks} ranks` : ""),
    );
  }

  /** Whether a step has a line: the last, and without a bar the first, every `logEvery`-th, and one per minute. */
  #isLogged({ step, steps }: TrainEvent & { kind: "step" }): boolean {
    if (this.#logEvery === 0) return false;
    if (step === steps || this.#bar.isVisible) return step === steps;
    return step % this.#logEvery === 0 || performance.now() - this.#loggedMs >= SILENCE_MS;
  }

  #describeStep(event: TrainEvent & { kind: "step" }): string {
    const { step, steps, epoch, loss, learningRate, gradientNorm, lossScale, skipped } = event;
    const { muonLearningRate, tokensPerSecond, exchangeShare, secondsLeft } = event;
    return [
      `step ${step}/${steps}`,
      `epoch ${epoch.toFixed(this.#epochDigits)}`,
      `loss ${loss.toFixed(3)}`,
      `lr ${learningRate.toExponential(1)}`,
      ...(muonLearningRate === undefined ? [] : [`muon ${muonLearningRate.toExponential(1)}`]),
      `norm ${gradientNorm.toFixed(2)}`,
      ...(this.#isScaled ? [`scale ${lossScale}`] : []),
      ...(skipped > 0 ? [`skipped ${skipped}`] : []),
      ...(tokensPerSecond === undefined ? [] : [`${tokensPerSecond} tok/s`]),
      ...(exchangeShare === undefined ? [] : [`${(100 * exchangeShare).toFixed(0)} % exchanging`]),
      ...(secondsLeft === undefined ? [] : [`${duration(secondsLeft)} left`]),
    ].join(" ");
  }
}

/** The data of a training. */
function describeData(corpus: StartEvent["corpus"], options: ResolvedOptions): string {
  const { name, vocabularySize, documents, trainingTokens, validationTokens } = corpus;
  const { evalTokens } = options;
  const isPart = evalTokens > 0 && evalTokens < validationTokens;
  const { answerTokens } = corpus, one = answerTokens === undefined ? "document" : "conversation";
  return `data ${name}: ${documents} ${documents === 1 ? one : `${one}s`}, ` +
    `${trainingTokens} tokens to train on, ` +
    (answerTokens === undefined ? "" : `${answerTokens} of them in answers, `) +
    `${validationTokens} ${corpus.ownValidation ? "to validate with" : "held out"}` +
    (isPart ? `, of which ${evalTokens} are evaluated` : "") +
    `; ${partOfVocabulary(options)}vocabulary of ${vocabularySize}` +
    (corpus.cached ? "; found in the cache" : "");
}

/** Whether a model has all of GPT-2's tokens or a part, as words before "vocabulary"; empty if they are other tokens. */
function partOfVocabulary({ vocabulary, tokenizer = "gpt2" }: ResolvedOptions): string {
  // with a model to start from, whose tokens are kept, the choice stays open
  if (vocabulary === "auto" || vocabulary === "full" && tokenizer !== "gpt2") return "";
  return `${vocabulary} `;
}

/** What continues a training that has done its steps. */
function describeDone(done: number, steps: number, options: ResolvedOptions): string {
  const { out } = options, first = lastBeforeCooldown(options);
  const more = options.endsWith === "epochs" ? "more --epochs" : `--steps above ${done}`;
  return steps === done && first > 0 && first < steps
    ? `${out} has done ${done} steps already, and its cool-down: to continue from ` +
      `before the cool-down, give --resume-from ${first} and ${more}`
    : `${out} has done ${done} steps already: give ${more} to continue`;
}

/**
 * The options of a training, in lines of at most `columns` characters, without those of its directory and of its end, and
 * of ranks if it has one.
 */
function describeOptions(options: ResolvedOptions, columns: number): string {
  const words = Object.entries(options)
    .filter(([name, value]) =>
      value !== undefined && !/^(out|fresh|dryRun|endsWith|ranks)$/.test(name)
    )
    .filter(([name]) =>
      options.ranks > 1 || options.syncEvery > 1 || optionNamed(name as OptionName).group !== RANKS
    )
    .filter(([name]) =>
      (optionNamed(name as OptionName).optimizer ?? options.optimizer) === options.optimizer
    )
    .filter(([name, value]) =>
      typeof value !== "boolean" || value !== DEFAULT_OPTIONS[name as OptionName]
    )
    .map(([name, value]) =>
      value === true ? flagOf(name) : value === false ? offFlagOf(name) : `${flagOf(name)} ${value}`
    );
  const lines = ["options:"];
  for (const word of words) {
    if (`${lines.at(-1)} ${word},`.length > columns) lines.push("  ");
    lines[lines.length - 1] += ` ${word},`;
  }
  return lines.join("\n").replace(/,$/, "");
}
