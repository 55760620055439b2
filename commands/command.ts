import { Command, InvalidArgumentError } from "@commander-js/extra-typings";
import { commandLine } from "../files/command_line.ts";
import { printable, terminalText } from "../files/printable.ts";

/**
 * What all commands share: checked numbers, output, signals, and failures in one sentence.
 *
 * @module
 */

/** A commander command with the project's manners: help after errors, nothing unknown accepted. */
export function command(name: string, description: string): Command {
  const program: Command = new Command();
  return program
    .name(`deno task ${name}`)
    .description(description)
    .allowExcessArguments(false)
    .hook("preAction", () => refuseEmpty(program))
    .showSuggestionAfterError()
    .showHelpAfterError("(--help lists all options)")
    .configureHelp({ helpWidth: Math.min(columns() ?? 80, 100) })
    .configureOutput({
      writeOut: (text) => orExit(() => output(text)),
      writeErr: (text) => print(terminalText(text)),
      // commander would ask the environment, which the commands may not see
      getOutHasColors: () => false,
      getErrHasColors: () => false,
      outputError: (text, write) =>
        write(text.replace(/^error: /, "Error: ") + argumentHint(program, text)),
    });
}

/** Ends the command if an option's value, or one of several names, is empty, as from a variable of the shell that is not set. */
function refuseEmpty(program: Command): void {
  for (const option of program.options) {
    const values: unknown[] = [program.getOptionValue(option.attributeName())].flat();
    if (!values.includes("")) continue;
    program.error(`error: option '${option.flags}' argument '' is invalid. It must not be empty.`);
  }
  // one text may be empty, but no name among several
  const list = program.registeredArguments.find(({ variadic }) => variadic);
  if (list && program.args.includes("")) {
    program.error(`error: argument '' of '${list.name()}' is invalid. It must not be empty.`);
  }
}

/** A hint if commander has taken a text or a name for an option or for several arguments. */
function argumentHint(program: Command, error: string): string {
  if (program.registeredArguments.length === 0) return "";
  const words = program.name().split(" ");
  const [, unknown] = /^error: unknown option '(-.*?)'\n/s.exec(error) ?? [];
  if (unknown !== undefined && !/^--[\w-]+$/.test(unknown)) {
    return `What begins with - and is no option goes behind --: ${
      commandLine([...words, "--", unknown])
    }\n`;
  }
  const isText = !program.registeredArguments.some(({ variadic }) => variadic);
  return isText && error.startsWith("error: too many arguments")
    ? "A text of several words goes between quotes\n"
    : "";
}

/** Parser for a whole number of at least `least`, and at most `most` if it is given. */
export function wholeNumber(least = 0, most = Infinity): (text: string) => number {
  const range = most === Infinity ? `of at least ${least}` : `from ${least} to ${most}`;
  return (text) => {
    const value = Number(text);
    if (text.trim() === "" || !Number.isSafeInteger(value) || value < least || value > most) {
      throw new InvalidArgumentError(`It must be a whole number ${range}.`);
    }
    return value;
  };
}

/** Parser for a number; what range it may lie in is for the receiver to say. */
export function realNumber(text: string): number {
  const value = Number(text);
  if (text.trim() === "" || !Number.isFinite(value)) {
    throw new InvalidArgumentError("It must be a number.");
  }
  return value;
}

/** Columns of the terminal; undefined without one. */
export function columns(): number | undefined {
  try {
    return Deno.consoleSize().columns;
  } catch {
    return undefined;
  }
}

/** Writes all of a text. */
function write(stream: { writeSync(bytes: Uint8Array): number }, text: string): void {
  const bytes = new TextEncoder().encode(text);
  for (let done = 0; done < bytes.length;) done += stream.writeSync(bytes.subarray(done));
}

/** Writes to stderr. What cannot be written is dropped: no work may depend on a person who reads. */
export function print(text: string): void {
  try {
    write(Deno.stderr, text);
  } catch {
    // the reader has gone, the terminal is closed, or the disk is full
  }
}

/** Writes a line of status, which is not the result of the command, to stderr. */
export function status(line: string): void {
  print(`${terminalText(line)}\n`);
}

/**
 * Writes a piece of the result to stdout. A terminal gets what would change it escaped, a file or a pipe
 * gets the text as it is.
 *
 * @returns false if the reader of the pipe has gone.
 * @throws {Error} if it cannot be written for another reason, such as a full disk.
 */
export function output(text: string): boolean {
  try {
    write(Deno.stdout, Deno.stdout.isTerminal() ? terminalText(text) : text);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.BrokenPipe) return false;
    throw new Error(`Cannot write the result to stdout: ${(error as Error).message}`);
  }
}

/** What may end a command before its work is done. */
export interface Interrupts {
  /** Aborts at the first signal. */
  readonly signal: AbortSignal;
  /** The exit status that shells expect after that signal. */
  readonly exitCode: number;
}

/** Exit status by signal: 128 and its number. */
const EXIT_CODES: Partial<Record<Deno.Signal, number>> = { SIGHUP: 129, SIGINT: 130, SIGTERM: 143 };

/**
 * Listens for Ctrl-C and what else asks a process to end. The first signal aborts, and soon after
 * prints the notice; a second one then ends the process at once. Both work while this thread is busy.
 */
export async function listenForInterrupts(notice: string): Promise<Interrupts> {
  const controller = new AbortController();
  let exitCode = 130;
  const worker = new Worker(new URL("./signal_worker.ts", import.meta.url), { type: "module" });
  worker.postMessage(notice);
  await new Promise<void>((resolve) => {
    worker.onmessage = ({ data }: MessageEvent<Deno.Signal | "ready">) => {
      if (data === "ready") return resolve();
      exitCode = EXIT_CODES[data] ?? exitCode;
      controller.abort();
    };
  });
  return {
    signal: controller.signal,
    get exitCode() {
      return exitCode;
    },
  };
}

/** Hints for failures whose messages do not say what to type next. */
const HINTS: readonly [pattern: RegExp, hint: string][] = [
  [/holds no checkpoint/, "Train a model first: deno task train"],
  [/no adapter|no WebGPU/, "See what is missing and how to mend it: deno task doctor"],
  [/ran out of memory/, "Try a smaller --batch-size, --context-length or --preset"],
  [/was lost/, "The last checkpoint is whole: the same command resumes from it"],
  [
    /Cannot resume .* data must/,
    "Name the text that it is trained on with --data, at its present path, or start over with --fresh",
  ],
  [
    /must be finite/,
    "The model has diverged: an earlier checkpoint may be sound; train with a lower --learning-rate or --precision f32",
  ],
  [/Cannot resume/, "Start over with --fresh, which keeps the old run, or choose another --out"],
];

/** UTF-16 units of an error message that are printed. */
const LONGEST_MESSAGE = 4000;

/**
 * Runs a command and turns every failure into one sentence, a hint where there is one, and exit
 * status 1: a stack trace tells a user nothing.
 */
export async function run(main: () => Promise<number | void>): Promise<never> {
  try {
    Deno.exit(await main() ?? 0);
  } catch (error) {
    fail(error);
  }
}

function orExit(action: () => void): void {
  try {
    action();
  } catch (error) {
    fail(error);
  }
}

function fail(error: unknown): never {
  const { message } = error as Error;
  status(`Error: ${printable(message.split("\n")[0]!, LONGEST_MESSAGE)}`);
  const hint = HINTS.find(([pattern]) => pattern.test(message))?.[1];
  if (hint) status(hint);
  Deno.exit(1);
}
