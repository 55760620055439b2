import type { Command } from "@commander-js/extra-typings";
import { commandLine } from "../files/command_line.ts";

/**
 * What helps after a command line that commander refuses.
 *
 * @module
 */

/** Names of arguments that are texts: they may be empty, and have several words. */
export const TEXTS = ["prompt", "text"];

/** An error about an unknown option with what to type instead, if that is known, in place of commander's guess. */
export function withSuggestion(
  program: Command,
  error: string,
  instead: Readonly<Record<string, string>>,
): string {
  const [first, unknown = ""] = /^error: unknown option '(--[\w-]+).*'\n/.exec(error) ?? [];
  if (first === undefined) return error;
  if (Object.hasOwn(instead, unknown)) return `${first}(${instead[unknown]})\n`;
  const alike = program.options.flatMap(({ long }) =>
    long && meanAlike(unknown, long) ? [long] : []
  );
  if (alike.length === 0 || alike.length > MOST_ALIKE) return error;
  return `${first}(Did you mean ${alike.length > 1 ? "one of " : ""}${alike.join(", ")}?)\n`;
}

/** Options that are suggested for an unknown one, at most. */
const MOST_ALIKE = 4;

/** Whether two flags may mean the same: one is part of the other, as in --batch and --batch-size, or its initials, --lr. */
function meanAlike(unknown: string, known: string): boolean {
  const [a, b] = [unknown, known].map((flag) => flag.slice(2).split("-")) as [string[], string[]];
  return a.join("") === b.map(([initial]) => initial).join("") || arePart(a, b) || arePart(b, a);
}

/** Whether all words are among others, in their order, or the beginnings of those. */
function arePart(words: readonly string[], others: readonly string[]): boolean {
  let found = 0;
  for (const other of others) {
    if (found < words.length && other.startsWith(words[found]!)) found++;
  }
  return found === words.length;
}

/** What options name that is often typed as an argument. */
const NAMED_BY_OPTIONS = { "--run": "a run", "--data": "a text" };

/** A hint if a text or a name was typed as an argument that the command lacks, or is taken for an option or several arguments. */
export function argumentHint(program: Command, error: string): string {
  const isTooMany = error.startsWith("error: too many arguments");
  if (program.registeredArguments.length === 0) {
    const ways = Object.entries(NAMED_BY_OPTIONS)
      .filter(([flag]) => program.options.some(({ long }) => long === flag))
      .map(([flag, what]) => `${what} with ${flag}`);
    return isTooMany && ways.length > 0 ? `Name ${ways.join(", or ")}\n` : "";
  }
  const [, unknown] = /^error: unknown option '(-.*?)'\n/s.exec(error) ?? [];
  if (unknown !== undefined && !/^--[\w-]+(=.*)?$/s.test(unknown)) {
    const words = commandLine(["--", unknown]);
    return `Put an argument that begins with - behind --: ${program.name()} ${words}\n`;
  }
  const isText = program.registeredArguments.some((argument) => TEXTS.includes(argument.name()));
  return isText && isTooMany ? "Put a text of several words between quotes\n" : "";
}
