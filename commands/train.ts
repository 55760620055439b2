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
import { TEXT_FIELD, UNDERSTOOD } from "../data/text/formats.ts";
import { commandLine } from "../files/command_line.ts";
import { DataProgressDisplay, duration, makeBar } from "./progress.ts";
import { parseDataSpec } from "../data/text/sources.ts";
import { terminalText } from "../files/printable.ts";
import { BASE_HELP } from "./named_model.ts";
import { DEFAULT_OPTIONS, type TrainOptions } from "../train/options.ts";
import { train, type TrainEvent } from "../train/train.ts";

/** `train`: trains a model, or resumes its training. */
const program = command(
  "train",
  "Train a small GPT. Without options: on built-in stories, with a model that suits this machine.",
);
const choice = (flags: string, text: string, choices: string[], value: string) =>
  program.addOption(new Option(flags, text).choices(choices).default(value));
const { preset, vocabulary, sequence, precision, tune } = DEFAULT_OPTIONS;

program.optionsGroup("Model and data:");
choice("--preset <name>", "size of the model", [
  "auto",
  "nano",
  "mini",
  "small",
  "distilgpt2",
  "gpt2",
], preset);
program
  .option(
    "--data <what...>",
    `auto, sample, tinystories, patterns, hf:OWNER/NAME/FILE, or files: ${UNDERSTOOD}`,
    ["auto"],
  )
  .addOption(
    new Option("--data-version <version>", "edition of tinystories (default: v2)")
      .choices(["v1", "v2"]),
  )
  .option("--text-field <name>", `${TEXT_FIELD} (default: text)`)
  .option("--tokenizer <what>", "gpt2 (default), a tokenizer.json, or hf:OWNER/NAME")
  .option("--workers <n>", "workers that tokenize (default: one for each core)", wholeNumber(1));
choice("--vocabulary <kind>", "GPT-2's tokens: all, or those used", [
  "auto",
  "full",
  "compact",
], vocabulary);
choice("--sequence <kind>", "how rows are cut", ["packed", "padded"], sequence);
program.option("--context-length <n>", "tokens per row (default: the preset's)", wholeNumber(1));

program.optionsGroup("Starting from another model:")
  .option(
    "--init-from <model>",
    "distilgpt2, gpt2, gpt2-medium, hf:OWNER/NAME, or a directory with a model, checkpoint or run",
  )
  .option("--freeze <parts>", "leave parts as they are: embeddings,0-3,final-norm,head")
  .option("--lora-rank <n>", "train adapters of this rank beside the frozen model", wholeNumber(1))
  .option("--lora-alpha <x>", "adapters count alpha / rank (default: twice the rank)", realNumber)
  .option(
    "--lora-targets <names>",
    "layers with adapters (default: c_attn; GPT-Neo: q_proj,v_proj)",
  )
  .option("--base <model>", BASE_HELP)
  .option("--keep-base", "copy the model that adapters stand beside into the run");

program.optionsGroup("Run:")
  .option(
    "--out <directory>",
    "run directory; resumed if it holds a checkpoint",
    DEFAULT_OPTIONS.out,
  )
  .option("--fresh", "move an old run aside and start over")
  .option(
    "--steps <n>",
    "steps in all, resumed ones counted (default: the preset's)",
    wholeNumber(1),
  )
  .option("--epochs <x>", "passes over the data; what is reached first ends the run", realNumber)
  .option("--seed <n>", "seed of everything random", wholeNumber(), DEFAULT_OPTIONS.seed);
choice("--precision <kind>", "f16 is autocast", ["auto", "f16", "f32"], precision);
choice("--tune <when>", "time kernels to take the fastest; auto: on a GPU, for long runs", [
  "auto",
  "on",
  "off",
], tune);

program.optionsGroup("Optimization:")
  .option("--batch-size <n>", "rows per batch (default: the preset's)", wholeNumber(1))
  .option("--gradient-accumulation <n>", "batches per step", wholeNumber(1), 1)
  .option("--learning-rate <x>", "highest learning rate (default: the preset's)", realNumber)
  .option("--min-learning-rate <x>", "last learning rate (default: a tenth)", realNumber)
  .option(
    "--warmup-steps <n>",
    "steps of warm-up (default: a twentieth, at most 200)",
    wholeNumber(),
  )
  .option(
    "--weight-decay <x>",
    "of matrices and embeddings",
    realNumber,
    DEFAULT_OPTIONS.weightDecay,
  )
  .option("--beta1 <x>", "decay of AdamW's mean", realNumber, DEFAULT_OPTIONS.beta1)
  .option("--beta2 <x>", "decay of AdamW's variance", realNumber, DEFAULT_OPTIONS.beta2)
  .option(
    "--gradient-clip <x>",
    "largest gradient norm; 0: any",
    realNumber,
    DEFAULT_OPTIONS.gradientClip,
  )
  .option("--dropout <p>", "share of activations dropped", realNumber, DEFAULT_OPTIONS.dropout)
  .option("--label-smoothing <p>", "share of the target spread out", realNumber, 0);

program.optionsGroup("Reports (in steps; 0: never; default: by the length of the run):")
  .option("--log-every <n>", "between lines of the log", wholeNumber())
  .option("--eval-every <n>", "between evaluations on held-out text", wholeNumber())
  .option(
    "--eval-tokens <n>",
    "of held-out text that are evaluated, from its beginning; 0: all",
    wholeNumber(),
    DEFAULT_OPTIONS.evalTokens,
  )
  .option("--sample-every <n>", "between sample stories", wholeNumber())
  .option("--save-every <n>", "between checkpoints", wholeNumber())
  .option(
    "--keep <n>",
    "checkpoints to keep beside the best",
    wholeNumber(1),
    DEFAULT_OPTIONS.keep,
  );

/** The options that were typed: a resumed run keeps its own for all others. */
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
  const interrupts = await listenForInterrupts("saving what is done; once more to quit at once");
  const display = new Display(Deno.stderr.isTerminal());
  try {
    for await (const event of train({ ...options, signal: interrupts.signal })) {
      display.show(event);
      if (event.kind !== "end") continue;
      display.close();
      if (event.reason === "interrupted") {
        status(`stopped after step ${event.step}; to resume: ${commandGiven()}`);
        return interrupts.exitCode;
      }
      const { out } = options;
      const run = out === undefined || out === DEFAULT_OPTIONS.out ? [] : ["--run", out];
      const hear = commandLine(["deno", "task", "generate", ...run]) + ' "Once upon a time"';
      status(`done: ${event.step} steps; to hear a story: ${hear}`);
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

/** The command as it was typed, but --fresh, which would start over. */
function commandGiven(): string {
  const words = Deno.args.filter((argument) => argument !== "--fresh");
  return commandLine(["deno", "task", "train", ...words]);
}

/** Shows events: on a terminal with a bar at the bottom, elsewhere line by line. */
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
