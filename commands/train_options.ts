import type { Command } from "@commander-js/extra-typings";
import { Option } from "commander";
import { parseDataSpec } from "../data/text/dataset.ts";
import { flagOf, offFlagOf } from "../files/command_line.ts";
import { defaultByArchitecture } from "../train/architecture.ts";
import {
  allowedValues,
  OPTION_NAMES,
  type OptionName,
  optionNamed,
  type OptionTypes,
  type TrainOptions,
} from "../train/options.ts";
import { realNumber, wholeNumber } from "./command.ts";

/** Adds options of a training to a command. */
export function addTrainOptions(program: Command, names: readonly OptionName[]): void {
  for (const name of names) program.addOption(flagOption(name));
}

/** Names of values in `--help`, by the type of the option. */
const PLACEHOLDERS: Readonly<Partial<Record<keyof OptionTypes, string>>> = {
  integer: "<n>",
  real: "<x>",
  choice: "<kind>",
};

/** The flag of an option. */
function flagOption(name: OptionName): Option {
  const row = optionNamed(name), { group, type, help, rule, range: [least] = [] } = row;
  const { placeholder = PLACEHOLDERS[type] ?? "" } = row;
  const byDefault = rule?.help ?? defaultByArchitecture(name);
  const option = new Option(
    row.default === true ? offFlagOf(name) : `${flagOf(name)} ${placeholder}`.trimEnd(),
    byDefault ? `${help} (default: ${byDefault})` : help,
  ).helpGroup(`${group}:`);
  const choices = allowedValues(row);
  if (choices) option.choices(choices);
  if (type === "integer") option.argParser(wholeNumber(least));
  if (type === "autoInteger") {
    option.argParser((text) => text === "auto" ? text : wholeNumber(least)(text));
  }
  if (type === "real") option.argParser(realNumber);
  // a switch has no default in --help
  if (row.default !== undefined && type !== "switch") {
    if (type === "data") option.default([row.default], JSON.stringify(row.default));
    else option.default(row.default);
  }
  return option;
}

/** The options of a training that were typed; a resumed run keeps the values of all others. */
export function givenOptions(program: Command): Partial<TrainOptions> {
  const all = program.opts() as Record<string, unknown>;
  const typed = OPTION_NAMES.filter((name) => program.getOptionValueSource(name) === "cli");
  const given: Record<string, unknown> = Object.fromEntries(typed.map((name) => [name, all[name]]));
  for (const name of typed.filter((name) => optionNamed(name).type === "data")) {
    const words = given[name] as string[];
    given[name] = words.join() === "auto" ? "auto" : parseDataSpec(words);
  }
  return given as Partial<TrainOptions>;
}
