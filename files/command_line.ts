import { environmentVariable } from "./environment.ts";

/** An option's name as a flag: `learningRate` is `--learning-rate`. */
export function flagOf(name: string): string {
  return `--${name.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
}

/** The flag that switches an option off: that of `tensorboard` is `--no-tensorboard`. */
export function offFlagOf(name: string): string {
  return `--no-${flagOf(name).slice(2)}`;
}

/** The name of the option that has a flag: that of `--learning-rate` is `learningRate`. */
export function propertyOf(flag: string): string {
  return flag.slice(2).replaceAll(/-(.)/g, (_, letter) => letter.toUpperCase());
}

/**
 * A command of the project with its arguments, to paste: `deno task train --out runs/a`, or with `./toy` for
 * someone who types that, which ./toy says in the environment.
 */
export function taskCommand(task: string, ...words: readonly string[]): string {
  const toy = environmentVariable("TOY_COMMAND");
  return commandLine([...(toy === undefined ? ["deno", "task"] : [toy]), task, ...words]);
}

/** Characters that cannot be typed, or that change the order of text on a terminal. */
const UNTYPABLE = /(?!\n)[\p{Cc}\u202a-\u202e\u2066-\u2069]/gu;

/** Words that need no quotes. */
const PLAIN_WORD = {
  posix: /^[\w@%+:./-][\w@%+=:./,-]*$/,
  windows: /^(?!-.*[.:])[\w+:./\\-][\w+=:./\\-]*$/,
};

/**
 * A command line to paste. Words are quoted so that the shell passes them on unchanged.
 *
 * Control characters are written by `printf`, because they would edit the line when pasted. On Windows the
 * quoting is PowerShell's. It means the same in cmd unless a word holds `"`, `$`, a backtick, a control
 * character or the name of a variable between two `%`; even then cmd executes no part of the word.
 */
export function commandLine(
  words: readonly string[],
  os: typeof Deno.build.os = Deno.build.os,
): string {
  return words.map(os === "windows" ? windowsWord : posixWord).join(" ");
}

function posixWord(word: string): string {
  if (PLAIN_WORD.posix.test(word)) return word;
  const octal = (character: string) =>
    [...new TextEncoder().encode(character)].map((byte) =>
      `\\${byte.toString(8).padStart(3, "0")}`
    );
  return `'${
    word.replaceAll("'", "'\\''")
      .replace(UNTYPABLE, (character) => `'"$(printf '${octal(character).join("")}')"'`)
  }'`;
}

function windowsWord(word: string): string {
  if (PLAIN_WORD.windows.test(word)) return word;
  return `"${
    word.replace(/[`$\u201c-\u201e]/g, "`$&") // to PowerShell, typographic quotes are quotes
      .replace(/\\+$/, "$&$&") // a backslash would escape the last quote
      .replace(/["\n\p{Cc}\u202a-\u202e\u2066-\u2069]/gu, (character) =>
        `$([char]${character.charCodeAt(0)})`)
  }"`;
}
