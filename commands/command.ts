import { Command, Help, InvalidArgumentError } from "@commander-js/extra-typings";
import manifest from "../deno.json" with { type: "json" };
import { commandLine, taskCommand } from "../files/command_line.ts";
import { isSystemError } from "../files/disk.ts";
import { environmentVariable } from "../files/environment.ts";
import { printable, terminalText } from "../files/printable.ts";
import { sleep } from "../files/sleep.ts";
import { wrap } from "../files/table.ts";
import { UserError } from "../files/user_error.ts";
import { argumentHint, TEXTS, withSuggestion } from "./mistyped.ts";
import { permissionError } from "./permissions.ts";
import { EXIT_CODES, type Listening } from "./signals.ts";

/**
 * Code that all commands share: checked numbers, output, signals, and the report of an error.
 *
 * @module
 */

/**
 * A commander command that prints help after errors and refuses unknown arguments.
 *
 * @param instead what to type in place of options of other commands.
 */
export function command(
  name: string,
  description: string,
  instead: Readonly<Record<string, string>> = {},
): Command {
  const program: Command = new Command();
  return program
    .name(taskCommand(name))
    .description(description)
    .allowExcessArguments(false)
    .hook("preAction", () => {
      refuseEmpty(program);
      enterDirectoryOfUser();
    })
    .showSuggestionAfterError()
    .showHelpAfterError("(--help lists all options)")
    .configureHelp(helpLayout(Math.min(consoleSize()?.columns ?? 80, 100)))
    .configureOutput({
      writeOut: (text) => orExit(() => output(text)),
      writeErr: (text) => writeStderr(terminalText(text)),
      // commander would read environment variables, which the commands may not
      getOutHasColors: () => false,
      getErrHasColors: () => false,
      outputError: (text, write) =>
        write(
          withSuggestion(program, text, instead).replace(/^error: /, "Error: ") +
            argumentHint(program, text),
        ),
    });
}

/** Columns of the descriptions in a help below which they are lines under what they describe. */
const LEAST_DESCRIPTION = 40;

/** How a help is wrapped: in two columns if there is room for them. */
export function helpLayout(helpWidth: number): Partial<Help> {
  return {
    helpWidth,
    minWidthToWrap: 0,
    formatItem(term, termWidth, description, helper) {
      if (!description || helpWidth - termWidth >= LEAST_DESCRIPTION) {
        return Help.prototype.formatItem.call(helper, term, termWidth, description, helper);
      }
      const indent = "\n      ", text = helper.boxWrap(description, helpWidth - indent.length);
      return `  ${term}${indent}${text.replaceAll("\n", indent)}`;
    },
  };
}

/** Adds lines to the end of a command's help, wrapped as the help is. */
export function endHelp(
  program: { addHelpText(place: "after", text: () => string): unknown; createHelp(): Help },
  lines: string,
): void {
  program.addHelpText("after", () => {
    const help = program.createHelp();
    return `\n${help.boxWrap(lines, help.helpWidth!)}`;
  });
}

/** Ends the command if an option's value or a name is empty, as an unset variable of the shell is. */
function refuseEmpty(program: Command): void {
  for (const option of program.options) {
    const values: unknown[] = [program.getOptionValue(option.attributeName())].flat();
    if (!values.includes("")) continue;
    program.error(`error: option '${option.flags}' argument '' is invalid. It must not be empty.`);
  }
  program.args.forEach((value, i) => {
    const argument = program.registeredArguments[i] ?? program.registeredArguments.at(-1);
    if (value !== "" || !argument || TEXTS.includes(argument.name())) return;
    program.error(`error: argument '' of '${argument.name()}' is invalid. It must not be empty.`);
  });
}

/**
 * Makes paths relative to the directory where the command was typed. `deno task` and ./toy start it in the
 * project's and note that directory in a variable, as npm does.
 */
function enterDirectoryOfUser(): void {
  const directory = environmentVariable("INIT_CWD");
  if (directory === undefined) return;
  const project = Deno.realPathSync(new URL("..", import.meta.url));
  if (Deno.cwd() === project) Deno.chdir(directory);
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

/** Parser for a number, whose range the caller checks. */
export function realNumber(text: string): number {
  const value = Number(text);
  if (text.trim() === "" || !Number.isFinite(value)) {
    throw new InvalidArgumentError("It must be a number.");
  }
  return value;
}

/** Where progress is shown: stderr, or what takes its place in tests. */
export interface Terminal {
  /** Writes a text. */
  write(text: string): void;
  /** The size if a text can be replaced in place; undefined for a pipe, a file, or a terminal without that. */
  size(): { readonly columns: number; readonly rows: number } | undefined;
}

/**
 * Moves the cursor to the beginning of its line, and erases everything from there on: first the line, then the
 * rest from its second column on, as tmux keeps what is erased from the first in its scrollback.
 */
export const ERASE = "\r\x1b[K\x1b[C\x1b[J\r";

/** stderr as the place of progress. */
export function stderrTerminal(): Terminal {
  const isPlain = !takesEscapes();
  return { write: writeStderr, size: () => isPlain ? undefined : consoleSize() };
}

/**
 * Whether stderr is a terminal that may be sent escape sequences: neither TERM=dumb nor NO_COLOR nor CI, where
 * a log is read later, forbids them.
 */
function takesEscapes(): boolean {
  return Deno.stderr.isTerminal() && !Deno.noColor && environmentVariable("TERM") !== "dumb" &&
    /^(0|false)?$/.test(environmentVariable("CI") ?? "");
}

/** Size of the terminal; undefined without one, or if the terminal does not know it. */
function consoleSize(): { columns: number; rows: number } | undefined {
  try {
    const size = Deno.consoleSize();
    return size.columns > 0 && size.rows > 0 ? size : undefined;
  } catch {
    return undefined;
  }
}

/** Columns of the terminal to which the result is printed; undefined for a pipe or a file. */
export function outputColumns(): number | undefined {
  return Deno.stdout.isTerminal() ? consoleSize()?.columns : undefined;
}

/** Columns of the terminal that shows stderr; undefined without one. */
export function statusColumns(): number | undefined {
  return Deno.stderr.isTerminal() ? consoleSize()?.columns : undefined;
}

/** Milliseconds between attempts to write to a full pipe. */
const FULL_PIPE_MS = 2;

/** Writes all of a text. A pipe that another program, such as Node, has made non-blocking refuses it while it is full. */
function write(stream: { writeSync(bytes: Uint8Array): number }, text: string): void {
  const bytes = new TextEncoder().encode(text);
  for (let done = 0; done < bytes.length;) {
    try {
      done += stream.writeSync(bytes.subarray(done));
    } catch (error) {
      if (!(error instanceof Deno.errors.WouldBlock)) throw error;
      sleep(FULL_PIPE_MS);
    }
  }
}

/** Writes to stderr. Text that cannot be written is dropped, as no work may depend on its reader. */
function writeStderr(text: string): void {
  try {
    write(Deno.stderr, text);
  } catch {
    // the pipe or the terminal is closed, or the disk is full
  }
}

/** Writes a status line to stderr; the result of a command goes to stdout. */
export function status(line: string): void {
  writeStderr(`${terminalText(line)}\n`);
}

/** Writes a warning to stderr. */
export function warn(sentence: string): void {
  status(`Warning: ${sentence}`);
}

/**
 * Writes a part of the result to stdout. A file or a pipe receives it unchanged, a terminal with control characters
 * escaped.
 *
 * @returns false if the pipe is closed.
 * @throws {UserError} if it cannot be written for another reason, such as a full disk.
 */
export function output(text: string): boolean {
  try {
    write(Deno.stdout, Deno.stdout.isTerminal() ? terminalText(text) : text);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.BrokenPipe) return false;
    if (!isSystemError(error)) throw error;
    throw new UserError(`Cannot write the result to stdout: ${error.message}`);
  }
}

/**
 * The text on standard input.
 *
 * @param verb what the command does with the text, for error messages.
 * @throws {UserError} if it is not UTF-8.
 */
export async function readStandardInput(verb: string): Promise<string> {
  const bytes = await new Response(Deno.stdin.readable).bytes();
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes).trimEnd();
  } catch {
    throw new UserError(`Cannot ${verb} the text on standard input as it must be UTF-8`);
  }
}

/** The signal that ends a command early, and its exit status. */
export interface Interrupts {
  /** Aborts at the first signal. */
  readonly signal: AbortSignal;
  /** Exit status by which shells recognize that signal. */
  readonly exitCode: number;
}

/**
 * Listens for Ctrl-C and the other signals that ask a process to end. The first signal aborts and prints the
 * notice; a second one ends the process at once. Both work while this thread is busy.
 *
 * @param options.isRank whether `mpirun` or `srun` has started this process.
 */
export async function listenForInterrupts(
  notice: string,
  { isRank = false } = {},
): Promise<Interrupts> {
  const controller = new AbortController();
  let exitCode = 130;
  const worker = new Worker(new URL("./signal_worker.ts", import.meta.url), { type: "module" });
  // a terminal has echoed ^C, perhaps over the progress bar
  const line = `${stderrTerminal().size() ? ERASE : "\n"}${notice}\n`;
  worker.postMessage({ notice: notice === "" ? "" : line, isRank } satisfies Listening);
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

/** UTF-16 units of an error message that is printed, at most. */
const LONGEST_MESSAGE = 4000;

/** Writes a user's mistake to stderr: its sentence, between words on a terminal, and its hint, which may be pasted. */
export function reportMistake({ sentence, hint }: UserError): void {
  const line = `Error: ${printable(sentence.split("\n")[0]!, LONGEST_MESSAGE)}`;
  status(wrap(line, statusColumns() ?? Infinity));
  if (hint) status(hint);
}

/** The exit status after a mistake in the program, as `sysexits.h` numbers it; a user's mistake ends with 1. */
const EX_SOFTWARE = 70;

/**
 * Runs a command and ends the process. A `UserError` is printed as one sentence and its hint; the exit status is 1.
 * Any other error is a mistake in the program: it is printed with its stack and with what a report of it needs; the
 * exit status is 70.
 */
export async function runCommand(
  main: () => number | void | Promise<number | void>,
): Promise<never> {
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
  if (error instanceof Deno.errors.NotCapable) return fail(permissionError(error));
  if (error instanceof UserError) {
    reportMistake(error);
    Deno.exit(1);
  }
  const script = Deno.mainModule.split("/").slice(-2).join("/");
  status(Deno.inspect(error, { colors: false }));
  status(`
This is a mistake in toy-transformer, not in what you typed. A report of it needs the lines above and these:
  version  toy-transformer ${manifest.version}, Deno ${Deno.version.deno}, ${Deno.build.target}
  command  ${commandLine([script, ...Deno.args])}`);
  Deno.exit(EX_SOFTWARE);
}
