import { setTimeout as delay } from "node:timers/promises";
import { Option } from "commander";
import { placementOf } from "../distributed/placement.ts";
import { taskCommand } from "../files/command_line.ts";
import { sleep } from "../files/sleep.ts";
import { CommonError } from "../files/user_error.ts";
import { estimateTable, timeTable } from "../train/estimate.ts";
import type { GpuChoice } from "../kernels/provider.ts";
import { DEFAULT_OPTIONS, OPTION_NAMES, optionNamed, type TrainOptions } from "../train/options.ts";
import { train, type TrainEvent } from "../train/train.ts";
import {
  command,
  listenForInterrupts,
  output,
  runCommand,
  status,
  statusColumns,
  stderrTerminal,
  warn,
} from "./command.ts";
import { giveBack, HUB } from "./permissions.ts";
import { ProgressBar } from "./progress.ts";
import { type StartEvent, TrainDisplay } from "./train_display.ts";
import { TrainSummary } from "./train_summary.ts";
import { addTrainOptions, givenOptions } from "./train_options.ts";

/** `train`: trains a model, or resumes its training. */
const program = command(
  "train",
  "Train a small GPT. By default: on built-in stories, with a model that suits this machine.",
  {
    "--run": "--out names the run; --init-from names a model to start from",
    "--model": "--init-from names the model to start from",
    "--resume": "the same command resumes a run; --resume-from names an earlier checkpoint of it",
    "--checkpoint": "--resume-from names the checkpoint; --init-from starts another run from one",
  },
);
addTrainOptions(program, OPTION_NAMES);
program.addOption(
  new Option("--json", "print every event as a line of JSON on standard output")
    .helpGroup(`${optionNamed("logEvery").group}:`),
);

/** What rank 0 says when its launcher asks it to end, as it does also when another rank has failed. */
const RANKS_NOTICE =
  "saving a checkpoint, unless a rank has failed; after Ctrl-C mpirun kills the ranks in 2 s " +
  "(--mca odls_base_sigkill_timeout), after pkill -USR2 mpirun it waits";

/** Milliseconds in which rank 0 prints an error of all ranks, and they are ended. */
const END_MS = 10_000;

/** The event that ends a training. */
type EndEvent = TrainEvent & { kind: "end" };

async function main(options: Partial<TrainOptions>, isJson: boolean): Promise<number> {
  // rank 0 prints for all ranks, and decides when they end
  const { rank, size } = (options.distributed === "off" ? undefined : placementOf()) ??
    { rank: 0, size: 1 };
  const follows = rank > 0;
  if (options.dryRun && !follows) return await dryRun(options, isJson);
  const notice = size > 1
    ? RANKS_NOTICE
    : "stopping, and saving what was trained; press Ctrl-C again to quit at once";
  const interrupts = await listenForInterrupts(follows ? "" : notice, { isRank: size > 1 });
  const { signal } = interrupts;
  // a bar on the terminal that shows the events would be written over them
  using display = new TrainDisplay(progressBar(!isJson || !Deno.stdout.isTerminal()));
  signal.addEventListener("abort", () => display.close());
  try {
    const trained = await trainAndShow({ ...options, signal }, { display, isJson });
    if (!trained) return 0; // the events are those of rank 0
    const { start, end } = trained;
    if (end.reason === "interrupted") {
      const again = size > 1 ? "the same command" : commandGiven(start.options.gpu);
      status(`stopped after step ${end.step}; to resume: ${again}`);
      return interrupts.exitCode;
    }
    await reportEnd(trained, isJson);
    return 0;
  } catch (error) {
    if (follows && error instanceof CommonError) {
      await delay(END_MS);
      return 1;
    }
    const isStopped = signal.aborted && (display.isPreparing || error === signal.reason);
    if (!isStopped) throw error;
    display.close();
    if (!follows) {
      const again = taskCommand(taskFor(options.gpu), ...Deno.args);
      status(`stopped before the first step; to train: ${again}`);
    }
    return interrupts.exitCode;
  }
}

/** A training that was not cut short by an error. */
interface Trained {
  readonly start: StartEvent;
  readonly end: EndEvent;
  readonly summary: TrainSummary;
}

/** Trains and shows each event; returns undefined on ranks that follow rank 0, which have no events. */
async function trainAndShow(
  options: Parameters<typeof train>[0],
  { display, isJson }: { display: TrainDisplay; isJson: boolean },
): Promise<Trained | undefined> {
  const summary = new TrainSummary();
  let start: StartEvent | undefined, end: EndEvent | undefined;
  for await (const event of train(options)) {
    display.show(event);
    summary.add(event);
    if (isJson) print(`${JSON.stringify(event)}\n`);
    if (event.kind === "start") {
      giveBack(...HUB, "ffi"); // data and models are downloaded, and the device is open
      start = event;
    }
    if (event.kind === "end") end = event;
  }
  display.close();
  return start && end && { start, end, summary };
}

/** Prints the summary of a training, the command that uses its model, and the result on stdout. */
async function reportEnd({ start, end, summary }: Trained, isJson: boolean): Promise<void> {
  const isPlain = stderrTerminal().size() === undefined;
  const report = await summary.text(end, { columns: statusColumns(), isPlain });
  if (report !== "") status(report);
  status(whatIsNext(end, start));
  if (isJson) return;
  print(`${start.options.minutes === undefined ? end.path : resultOf(end, start)}\n`);
}

/** How a training ended, and the command that uses its model. */
function whatIsNext(
  { reason, step, best, prompt }: EndEvent,
  { options: { out, patience }, corpus }: StartEvent,
): string {
  const isBest = reason === "patience" && best !== undefined;
  const model = [
    ...out === DEFAULT_OPTIONS.out ? [] : ["--run", out],
    ...isBest ? ["--checkpoint", "best"] : [],
  ];
  const done = isBest
    ? `ended after step ${step}, as ${patience} evaluations found no better ` +
      `validation loss (--patience; 0 continues); the best checkpoint is ${best}`
    : `done: ${step} steps`;
  return corpus.answerTokens === undefined
    ? `${done}; to generate text: ${taskCommand("generate", ...model, ...argument(prompt))}`
    : `${done}; to talk with it: ${taskCommand("chat", ...model)}`;
}

/**
 * Prints what a training would need. Signals end the process at once, as there is nothing to save, and as nothing else
 * ends a step of a large model.
 */
async function dryRun(options: Partial<TrainOptions>, isJson: boolean): Promise<number> {
  const display = new TrainDisplay(progressBar(false)); // a signal would leave a bar behind
  let start: StartEvent | undefined;
  let time: TrainEvent & { kind: "time" } | undefined;
  for await (const event of train(options)) {
    display.show(event);
    if (isJson) print(`${JSON.stringify(event)}\n`);
    if (event.kind === "start") {
      giveBack(...HUB);
      start = event;
    }
    if (event.kind === "estimate") {
      if (!isJson) output(estimateTable(event, start!));
      if (start!.steps > (start!.resumedFrom ?? 0)) status("timing a few steps; Ctrl-C ends that");
    }
    if (event.kind === "time") time = event;
  }
  if (!isJson) output(timeTable(time));
  status("nothing was changed; to train, repeat the command without --dry-run");
  return 0;
}

/** Whether rank 0 prints what is wrong with the command line. */
function isFollower(): boolean {
  try {
    return (placementOf()?.rank ?? 0) > 0;
  } catch {
    return false; // `main()` prints it
  }
}

/** The progress bar, or what prints lines in its place. */
function progressBar(isBar: boolean): ProgressBar {
  const terminal = stderrTerminal();
  return new ProgressBar(isBar ? terminal : { ...terminal, size: () => undefined });
}

/** The result of a training whose time is limited, as one line of JSON. */
function resultOf(
  { path, step, seconds, tokens, flops, loss, bitsPerByte }: EndEvent,
  { options, parameters }: StartEvent,
): string {
  const { depth, minutes } = options, figures = { tokens, flops, loss, bitsPerByte };
  return JSON.stringify({ path, minutes, seconds, depth, parameters, steps: step, ...figures });
}

/** Whether stdout is closed or cannot be written. */
let isClosed = false;

/** Writes to stdout as long as that is possible: the result of a training is the checkpoint. */
function print(text: string): void {
  if (isClosed) return;
  try {
    isClosed = !output(text);
  } catch (error) {
    isClosed = true;
    warn((error as Error).message);
  }
}

/** A text as the argument of a command: none if it is empty, and behind -- if it begins with -. */
function argument(text: string): string[] {
  return text === "" ? [] : text.startsWith("-") ? ["--", text] : [text];
}

/** The task that trains, with permission to load native code if the provider needs it. */
function taskFor(gpu: GpuChoice = "native"): string {
  return gpu === "native" ? "train" : "train:ffi";
}

/** The command that was typed, without the flags that would start over or go back once more. */
function commandGiven(gpu: GpuChoice): string {
  const words = Deno.args.filter((word, i, all) =>
    !/^--(fresh$|resume-from(=|$))/.test(word) && all[i - 1] !== "--resume-from"
  );
  return taskCommand(taskFor(gpu), ...words);
}

if (isFollower()) { // rank 0 has the same command line
  program.configureOutput({ writeErr() {}, writeOut() {} });
  program.exitOverride(({ exitCode }) => {
    if (exitCode !== 0) sleep(END_MS); // until rank 0 has printed it and mpirun ends all
    Deno.exit(exitCode);
  });
}

program.action(() =>
  runCommand(() => main(givenOptions(program), program.getOptionValue("json") === true))
);
await program.parseAsync();
