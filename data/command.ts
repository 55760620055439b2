import { Command, InvalidArgumentError } from "@commander-js/extra-typings";
import process from "node:process";
import { printable, terminalText } from "../files/printable.ts";

/**
 * What all commands share: numbers that are checked, and failures told in a sentence.
 *
 * @module
 */

/** A commander command with the project's manners: help after errors, nothing unknown accepted. */
export function command(name: string, description: string): Command {
  return new Command()
    .name(`deno task ${name}`)
    .description(description)
    .allowExcessArguments(false)
    .showSuggestionAfterError()
    .showHelpAfterError("(--help lists all options)")
    .configureHelp({ helpWidth: Math.min(process.stderr.columns || 80, 100) })
    .configureOutput({
      // commander would ask the environment, which the commands may not see
      getOutHasColors: () => false,
      getErrHasColors: () => false,
      outputError: (text, write) => write(`${text.replace(/^error: /, "Error: ")}`),
    });
}

/** Parser for a whole number of at least `least`. */
export function wholeNumber(least = 0): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() === "" || !Number.isSafeInteger(value) || value < least) {
      throw new InvalidArgumentError(`It must be a whole number of at least ${least}.`);
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

/** Writes a line of status, which is not the result of the command, to stderr. */
export function status(line: string): void {
  Deno.stderr.writeSync(new TextEncoder().encode(`${terminalText(line)}\n`));
}

/**
 * Writes a piece of the result to stdout; false if nobody reads it any more. A terminal gets what would
 * change it escaped, a file or a pipe gets the text as it is.
 */
export function output(text: string): boolean {
  const isTerminal = Deno.stdout.isTerminal();
  const bytes = new TextEncoder().encode(isTerminal ? terminalText(text) : text);
  try {
    for (let done = 0; done < bytes.length;) done += Deno.stdout.writeSync(bytes.subarray(done));
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.BrokenPipe) return false;
    throw error;
  }
}

/**
 * The first Ctrl-C asks for an end, and says so; a second one ends the process at once.
 */
export function listenForInterrupts(notice: string): AbortSignal {
  const controller = new AbortController();
  const signals: Deno.Signal[] = Deno.build.os === "windows"
    ? ["SIGINT", "SIGBREAK"]
    : ["SIGINT", "SIGTERM"];
  for (const signal of signals) {
    Deno.addSignalListener(signal, () => {
      if (controller.signal.aborted) Deno.exit(130);
      status(`\n${notice}`);
      controller.abort();
    });
  }
  return controller.signal;
}

/** Hints for failures that name their own remedy less clearly than a person would want. */
const HINTS: readonly [pattern: RegExp, hint: string][] = [
  [/holds no checkpoint/, "Train a model first: deno task train"],
  [/no adapter|no WebGPU/, "See what is missing and how to mend it: deno task doctor"],
  [/ran out of memory/, "Try a smaller --batch-size, --context-length or --preset"],
  [/was lost/, "The last checkpoint is whole: the same command goes on from it"],
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
    const { message } = error as Error;
    status(`Error: ${printable(message.split("\n")[0]!, LONGEST_MESSAGE)}`);
    const hint = HINTS.find(([pattern]) => pattern.test(message))?.[1];
    if (hint) status(hint);
    Deno.exit(1);
  }
}
