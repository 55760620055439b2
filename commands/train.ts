import type { SingleBar } from "cli-progress";
import { Option } from "commander";
import {
  command,
  listenForInterrupts,
  output,
  print,
  realNumber,
  run,
  status,
  wholeNumber,
} from "./command.ts";
import { commandLine, flagOf } from "../files/command_line.ts";
import { giveBack, HUB } from "./permissions.ts";
import { DataProgressDisplay, makeBar } from "./progress.ts";
import { parseDataSpec } from "../data/text/dataset.ts";
import { terminalText } from "../files/printable.ts";
import { duration } from "../files/units.ts";
import {
  allowedValues,
  DEFAULT_OPTIONS,
  OPTION_NAMES,
  type OptionName,
  optionNamed,
  type TrainOptions,
} from "../train/options.ts";
import { train, type TrainEvent } from "../train/train.ts";

/** `train`: trains a model, or resumes its training. */
const program = command(
  "train",
  "Train a small GPT. By default: on built-in stories, with a model that suits this machine.",
);
for (const name of OPTION_NAMES) program.addOption(flagOption(name));

/** The flag of an option. */
function flagOption(name: OptionName): Option {
  const row = optionNamed(name), { group, type, help, rule, range: [least] = [] } = row;
  const placeholder = row.placeholder ?? { integer: "<n>", real: "<x>" }[type as string] ?? "";
  const option = new Option(
    `${flagOf(name)} ${placeholder}`.trimEnd(),
    rule?.help ? `${help} (default: ${rule.help})` : help,
  ).helpGroup(`${group}:`);
  const choices = allowedValues(row);
  if (choices) option.choices(choices);
  if (type === "integer") option.argParser(wholeNumber(least));
  if (type === "real") option.argParser(realNumber);
  // a switch that is off has no default in --help
  if (row.default !== undefined && type !== "switch") {
    option.default(type === "data" ? [row.default] : row.default);
  }
  return option;
}

/** The options that were typed; a resumed run keeps the values of all others. */
function givenOptions(): Partial<TrainOptions> {
  const all = program.opts() as Record<string, unknown>;
  const given = Object.fromEntries(
    Object.entries(all).filter(([name]) => program.getOptionValueSource(name) === "cli"),
  );
  const data = given.data as string[] | undefined;
  if (data) given.data = data.join() === "auto" ? "auto" : parseDataSpec(data);
  return given as Partial<TrainOptions>;
}

async function main(options: Partial<TrainOptions>): Promise<number> {
  const interrupts = await listenForInterrupts(
    "saving a checkpoint; press Ctrl-C again to quit at once",
  );
  const display = new Display(Deno.stderr.isTerminal());
  try {
    for await (const event of train({ ...options, signal: interrupts.signal })) {
      display.show(event);
      if (event.kind === "start") giveBack(...HUB); // data and models are downloaded
      if (event.kind !== "end") continue;
      display.close();
      if (event.reason === "interrupted") {
        status(`stopped after step ${event.step}; to resume: ${commandGiven()}`);
        return interrupts.exitCode;
      }
      const { out } = options;
      const run = out === undefined || out === DEFAULT_OPTIONS.out ? [] : ["--run", out];
      const next = commandLine(["deno", "task", "generate", ...run]) + ' "Once upon a time"';
      status(`done: ${event.step} steps; to generate text: ${next}`);
      try {
        output(`${event.path}\n`);
      } catch (error) {
        status(`Warning: ${(error as Error).message}`); // the result is the checkpoint
      }
    }
    return 0;
  } catch (error) {
    if (!interrupts.signal.aborted || !display.preparing) throw error;
    display.close();
    status(`stopped before the first step; to resume: ${commandGiven()}`);
    return interrupts.exitCode;
  } finally {
    display.close();
  }
}

/** The command that was typed, without --fresh, which would start over. */
function commandGiven(): string {
  const words = Deno.args.filter((argument) => argument !== "--fresh");
  return commandLine(["deno", "task", "train", ...words]);
}

/** Displays events: on a terminal with a bar at the bottom, otherwise line by line. */
class Display {
  readonly #bar: SingleBar | undefined;
  #started = false;
  #logEvery = 1;
  #scaled = false;
  #shown = -Infinity;
  readonly #data: DataProgressDisplay;

  constructor(terminal: boolean) {
    this.#data = new DataProgressDisplay(terminal);
    if (!terminal) return;
    this.#bar = makeBar("{bar} {value}/{total} | {report}");
  }

  /** Whether model and data are still being prepared. */
  get preparing(): boolean {
    return !this.#started;
  }

  show(event: TrainEvent): void {
    if (event.kind !== "preparing") this.#data.close();
    switch (event.kind) {
      case "preparing":
        return this.#data.show(event);
      case "notice":
        return this.#print(event.message);
      case "start": {
        const { corpus, options, parameters, trainedParameters } = event;
        const trained = trainedParameters === parameters
          ? `${parameters}`
          : `${trainedParameters} of ${parameters}`;
        this.#logEvery = options.logEvery;
        this.#scaled = options.precision === "f16";
        const { evalTokens } = options;
        const some = evalTokens > 0 && evalTokens < corpus.validationTokens
          ? `, of which ${evalTokens} are evaluated`
          : "";
        this.#print(
          `data ${corpus.name}: ${corpus.trainingTokens} tokens to train on, ` +
            `${corpus.validationTokens} ${corpus.ownValidation ? "to validate with" : "held out"}` +
            `${some}; ${corpus.vocabulary} vocabulary of ${corpus.vocabularySize}` +
            (corpus.cached ? "; found in the cache" : ""),
        );
        this.#print(describeOptions(options));
        this.#print(
          (event.resumedFrom === undefined
            ? "training"
            : `resuming from step ${event.resumedFrom}:`) +
            ` ${trained} parameters for ${event.steps} steps, into ${options.out}`,
        );
        this.#bar?.start(event.steps, event.resumedFrom ?? 0, { report: "compiling the kernels" });
        this.#started = true;
        return;
      }
      case "tuning": {
        const report = `finding the fastest kernels: ${event.done} of ${event.of}`;
        this.#bar?.update({ report });
        if (!this.#bar && event.done === 0) {
          status(`finding the fastest kernels, ${event.of} in all`);
        }
        return;
      }
      case "step": {
        const report = describeStep(event, this.#scaled);
        this.#bar?.update(event.step, { report });
        const now = performance.now();
        const due = this.#logEvery > 0 && event.step % this.#logEvery === 0 &&
          now - this.#shown > 1000;
        if (!this.#bar && (due || event.step === event.steps || now - this.#shown > 10_000)) {
          this.#shown = now;
          status(`step ${event.step}/${event.steps} ${report}`);
        }
        return;
      }
      case "evaluation": {
        const { loss, perplexity, bitsPerByte, entropyPerToken } = event;
        const least = entropyPerToken === undefined
          ? ""
          : ` (at best ${entropyPerToken.toFixed(3)}, the entropy of the stories)`;
        return this.#print(
          `step ${event.step}: validation loss ${loss.toFixed(3)} nats per token${least}, ` +
            `perplexity ${perplexity.toFixed(1)}, ${bitsPerByte.toFixed(3)} bits per byte`,
        );
      }
      case "sample":
        return this.#print(`\n${event.prompt}${event.text}\n`);
      case "checkpoint":
        return this.#print(`saved ${event.path}`);
    }
  }

  close(): void {
    this.#data.close();
    if (this.#started) this.#bar?.stop();
    this.#started = false;
  }

  /** Prints above the bar. */
  #print(text: string): void {
    if (!this.#bar || !this.#started) return status(text);
    print("\r\x1b[K" + terminalText(text) + "\n");
    this.#bar.render();
  }
}

function describeStep(event: TrainEvent & { kind: "step" }, scaled: boolean): string {
  const { loss, learningRate, gradientNorm, lossScale, skipped } = event;
  const { tokensPerSecond, secondsLeft } = event;
  return [
    `loss ${loss.toFixed(3)}`,
    `lr ${learningRate.toExponential(1)}`,
    `norm ${gradientNorm.toFixed(2)}`,
    ...(scaled ? [`scale ${lossScale}`] : []),
    ...(skipped > 0 ? [`skipped ${skipped}`] : []),
    ...(tokensPerSecond === undefined ? [] : [`${tokensPerSecond} tok/s`]),
    ...(secondsLeft === undefined ? [] : [`${duration(secondsLeft)} left`]),
  ].join(" ");
}

function describeOptions(options: object): string {
  const words = Object.entries(options)
    .filter(([name, value]) => value !== undefined && name !== "out" && name !== "fresh")
    .map(([name, value]) => `${name} ${value}`);
  const lines = ["options:"];
  for (const word of words) {
    if (`${lines.at(-1)} ${word},`.length > 78) lines.push("  ");
    lines[lines.length - 1] += ` ${word},`;
  }
  return lines.join("\n").replace(/,$/, "");
}

program.action(() => run(() => main(givenOptions())));
await program.parseAsync();
