import { existsSync, statSync } from "node:fs";
import { join } from "node:path";
import { isObject, parseJsonObject, readText } from "../../files/json.ts";
import { quoted } from "../../files/printable.ts";
import { UserError } from "../../files/user_error.ts";
import {
  isGiven,
  optionNamed,
  optionsWhere,
  type ResolvedOptions,
  type TrainOptions,
} from "../options.ts";
import { type Plan, PLANNED_OPTIONS } from "./plan.ts";
import { mustStay } from "../resolve.ts";
import type { Resumed } from "../run.ts";
import { OptionError, validateOptions } from "../validate.ts";

/**
 * The plan that a run saves, and that `--plan` reads: every option that says what is trained and how.
 *
 * @module
 */

/** Name of the file of a run's plan. */
export const PLAN_FILE = "plan.json";

/** Names of the options that a plan may hold: all that say what is trained and how, but not on which text and machine. */
const PLAN_OPTIONS = optionsWhere(({ names, onResume, reportsOnly, unplanned }) =>
  names !== "data" && onResume !== "unsaved" && !reportsOnly && !unplanned
);

/**
 * Options of these that a plan holds even if they are not given: those that planners decide, and those whose defaults
 * depend on the model from which a run starts or on the version of this program.
 */
const BASIC_OPTIONS: readonly string[] = [...PLANNED_OPTIONS, "arch", "muonLearningRate"];

/**
 * The options that the plan of a run holds: those that are given or have a default, and those on which others depend. An
 * option that follows from others is not held, so that it also follows from what is given beside the plan.
 */
export function planOptions(given: TrainOptions, resolved: ResolvedOptions): Partial<TrainOptions> {
  const held = PLAN_OPTIONS.filter((name) => {
    const { optimizer = resolved.optimizer } = optionNamed(name);
    return optimizer === resolved.optimizer &&
      (isGiven(given[name]) || BASIC_OPTIONS.includes(name) && resolved[name] !== undefined);
  });
  return Object.fromEntries(held.map((name) => [name, resolved[name]]));
}

/**
 * Reads the plan of a run.
 *
 * @param at the run's directory, or the path of a plan.
 * @throws {UserError} if the file cannot be read or is no plan.
 */
export function readPlan(at: string): Pick<Plan, "options" | "depth"> {
  const isDirectory = existsSync(at) && statSync(at).isDirectory();
  const path = isDirectory ? join(at, PLAN_FILE) : at;
  if (isDirectory && !existsSync(path)) {
    throw new UserError(
      `Cannot read the plan of ${at} as it must be a run that was planned: it has no ${PLAN_FILE}`,
      { hint: "Trainings with --depth, --minutes or --plan are planned" },
    );
  }
  const { options, depth } = parseJsonObject(readText(path, "plan"), path) as Partial<Plan>;
  const refuse = (reason: string) => new UserError(`Cannot read plan ${path} as ${reason}`);
  if (!isObject(options)) {
    throw refuse(`options must be an object: current value is ${quoted(options)}`);
  }
  const names: readonly string[] = PLAN_OPTIONS;
  const other = Object.keys(options).find((name) => !names.includes(name));
  if (other !== undefined) {
    throw refuse(`every option must be one that a plan may hold: ${quoted(other)} is none`);
  }
  const values = { ...options, ...(depth === undefined ? {} : { depth }) };
  try {
    validateOptions(values);
  } catch (error) {
    if (!(error instanceof OptionError)) throw error;
    throw refuse(`its options must be valid: ${error.reason}`);
  }
  if (values.steps === undefined) {
    throw refuse(`its options must have steps: current value is ${quoted(options)}`);
  }
  return values.depth === undefined ? { options } : { options, depth: values.depth };
}

/**
 * Makes sure that a resumed run is given no other plan than its own.
 *
 * @throws {UserError} naming the first option that differs.
 */
export function checkSamePlan(path: string, { state, path: checkpoint }: Resumed): void {
  const { options } = readPlan(path), { options: saved, typed } = state;
  for (const [name, value] of Object.entries(options)) {
    // a run in time may have become shorter
    if (name === "steps" || typed.includes(name) || saved[name] === value) continue;
    throw mustStay(name, value, saved[name], checkpoint);
  }
}
