import { namesDataSet } from "../data/text/dataset.ts";
import { flagOf, taskCommand } from "../files/command_line.ts";
import { printable, quoted } from "../files/printable.ts";
import { UserError, type UserErrorOptions } from "../files/user_error.ts";
import {
  allowedValues,
  isGiven,
  type Option,
  OPTION_NAMES,
  type OptionName,
  optionNamed,
  TRAIN_OPTIONS,
  type TrainOptions,
} from "./options.ts";

/**
 * Checks the values of options against the rows of their table.
 *
 * @module
 */

/** Thrown if an option is out of range or contradicts another one. */
export class OptionError extends UserError {
  /** Tells this error from others without `instanceof`. */
  override name = "OptionError";
  /** The option and what is wrong with it: `--steps must be …: current value is …`. */
  readonly reason: string;

  /** An error whose sentence is `Cannot train as` and the reason. */
  constructor(reason: string, options?: UserErrorOptions) {
    super(`Cannot train as ${reason}`, options);
    this.reason = reason;
  }
}

/** What the value of an option must be, for an error. */
function requirementOf(option: Option): string {
  const { type, range: [least, greatest] = [] } = option;
  const from = least === Number.MIN_VALUE ? "above 0" : `from ${least}`;
  const requirements: Record<Option["type"], string> = {
    integer: `an integer ${from} to ${greatest}`,
    autoInteger: `auto or an integer ${from} to ${greatest}`,
    real: `a number ${from} to ${greatest}`,
    text: "text",
    switch: "true or false",
    choice: `one of ${allowedValues(option)?.join(", ")}`,
    preset: `one of ${allowedValues(option)?.join(", ")}`,
    data: "auto, sample, conversations, tinystories or a list of files",
  };
  return requirements[type];
}

/** Whether a value is allowed for an option. */
function accepts(option: Option, value: unknown): boolean {
  const { type, range: [least, greatest] = [-Infinity, Infinity] } = option;
  const isText = (word: unknown) => typeof word === "string";
  switch (type) {
    case "autoInteger":
      return value === "auto" || accepts({ ...option, type: "integer" }, value);
    case "integer":
    case "real":
      return typeof value === "number" && value >= least && value <= greatest &&
        (type === "real" || Number.isInteger(value));
    case "text":
      return isText(value);
    case "switch":
      return typeof value === "boolean";
    case "choice":
    case "preset":
      return allowedValues(option)!.includes(value as string);
    case "data":
      return Array.isArray(value)
        ? value.length > 0 && value.every(isText)
        : isText(value) && (value === "auto" || namesDataSet(value as string));
  }
}

/**
 * Checks the value of an option.
 *
 * @param flag how the error names the option.
 * @throws {OptionError} naming the flag, its requirement and its value.
 */
export function checkValue(name: OptionName, value: unknown, flag = flagOf(name)): void {
  const option = optionNamed(name);
  if (accepts(option, value)) return;
  const current = allowedValues(option) && typeof value === "string"
    ? printable(value)
    : quoted(value);
  throw new OptionError(`${flag} must be ${requirementOf(option)}: current value is ${current}`);
}

/**
 * Checks that names are those of options: Deno runs a program without looking at its types.
 *
 * @throws {OptionError} with the first other name.
 */
export function checkNames(options: object): void {
  const other = Object.keys(options).find((name) => !Object.hasOwn(TRAIN_OPTIONS, name));
  if (other === undefined) return;
  throw new OptionError(`every option must be one of train(): ${quoted(other)} is none`, {
    hint: `${taskCommand("train")} --help lists the options: --learning-rate is learningRate`,
  });
}

/**
 * Checks every option that is given.
 *
 * @throws {OptionError} naming the flag, its requirement and its value.
 */
export function validateOptions(options: Partial<TrainOptions>): void {
  for (const name of OPTION_NAMES) {
    if (options[name] !== undefined) checkValue(name, options[name]);
  }
  for (const name of OPTION_NAMES) {
    const { needs, excludes = {} } = optionNamed(name), value = options[name];
    for (const [other, reason] of Object.entries(excludes)) {
      checkExcluded(name, other as OptionName, reason, options);
    }
    if (needs && value !== undefined && options[needs as OptionName] === undefined) {
      throw new OptionError(
        `${flagOf(name)} needs ${flagOf(needs)}: current value is ${value}`,
      );
    }
  }
}

/**
 * Makes sure that of two options at most one is given.
 *
 * @throws {OptionError} naming both flags, with the reason.
 */
export function checkExcluded(
  name: OptionName,
  other: OptionName,
  reason: string,
  { [name]: value, [other]: excluded }: Partial<TrainOptions>,
): void {
  if (!isGiven(value) || value === false || !isGiven(excluded)) return;
  throw new OptionError(
    `${flagOf(name)} must be given without ${flagOf(other)}, ${reason}: ` +
      `current values are ${value} and ${excluded}`,
  );
}
