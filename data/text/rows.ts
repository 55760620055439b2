import { isObject, type JsonObject } from "../../files/json.ts";
import { printable, quoted } from "../../files/printable.ts";
import { DataError } from "./data_error.ts";

/**
 * Rows of data as JSON objects: how they are parsed, and their fields by the names that users type.
 *
 * @module
 */

/** A row that cannot be used; the message completes the sentence "line 3 must …". */
export class RowError extends Error {
  /** What to type next. */
  readonly hint: string | undefined;

  constructor(requirement: string, hint?: string) {
    super(requirement);
    this.hint = hint;
  }
}

/**
 * Runs an action on a row.
 *
 * @param where file and place of the row: `tale.jsonl as line 3`.
 * @throws {DataError} with file and place if the action throws a `RowError`.
 */
export function inRow<T>(where: string, action: () => T): T {
  try {
    return action();
  } catch (error) {
    if (!(error instanceof RowError)) throw error;
    throw new DataError(`${where} must ${error.message}`, { hint: error.hint });
  }
}

/**
 * Parses a row. NaN, Infinity and -Infinity, which Python writes, become null.
 *
 * @param advice what to do if it is not JSON.
 * @throws {RowError} if it is no JSON object.
 */
export function parseRow(json: string, advice?: string): JsonObject {
  let value: unknown;
  try {
    value = parseJson(json);
  } catch (error) {
    const reason = printable((error as Error).message.split("\n")[0]!);
    throw new RowError(`be JSON: ${reason}${advice ? `; ${advice}` : ""}`);
  }
  if (isObject(value)) return value;
  throw new RowError(`be a JSON object: current value is ${quoted(value, 40)}`);
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    if (!/NaN|Infinity/.test(text)) throw error;
    return JSON.parse(withoutNaN(text));
  }
}

/** Replaces NaN and the infinities outside strings; a pattern that matches whole strings overflows the stack. */
function withoutNaN(json: string): string {
  let isInString = false;
  return json.replace(/\\[^]|"|\bNaN\b|-?\bInfinity\b/g, (found) => {
    if (found === '"') isInString = !isInString;
    return isInString || found === '"' || found[0] === "\\" ? found : "null";
  });
}

/**
 * The value of a field of a JSON value; `data.text` is the field `text` of `data`, unless a field has that
 * whole name.
 *
 * @returns null if the field, or an object around it, is null; undefined if it is absent.
 */
export function fieldOf(value: unknown, field: string): unknown {
  if (value === null) return null;
  if (!isObject(value)) return undefined;
  if (Object.hasOwn(value, field)) return value[field];
  for (let dot = field.indexOf("."); dot > 0; dot = field.indexOf(".", dot + 1)) {
    const outer = field.slice(0, dot);
    if (!Object.hasOwn(value, outer)) continue;
    const found = fieldOf(value[outer], field.slice(dot + 1));
    if (found !== undefined) return found;
  }
  return undefined;
}

/**
 * The text in a field of a row; empty if it is null.
 *
 * @throws {RowError} if it is no text.
 */
export function textIn(row: JsonObject, field: string): string {
  const text = fieldOf(row, field);
  if (text === null) return "";
  if (typeof text === "string") return text.toWellFormed();
  throw new RowError(
    `hold a string in its field ${field}: ` +
      (text === undefined ? "" : `current value is ${quoted(text, 40)}; `) +
      `its fields are ${listOfNames(fieldNames(row))}; choose with --text-field`,
    "Conversations have a field messages or conversations, or prompt and completion",
  );
}

/** Levels of nested fields that messages list. */
const LISTED_DEPTH = 3;

/** The names by which `fieldOf()` finds the values in an object. */
export function fieldNames(value: object, depth = 1): string[] {
  return Object.entries(value).flatMap(([name, inner]) =>
    isObject(inner) && depth < LISTED_DEPTH
      ? fieldNames(inner, depth + 1).map((rest) => `${name}.${rest}`)
      : [name]
  );
}

/** Characters of a name that a message repeats. */
const LONGEST_NAME = 60;

/** A list of names from a file for a message; names beyond about `most` are counted. */
export function listOfNames(names: readonly string[], most = 20): string {
  const more = names.length - most;
  const listed = more > 1 ? names.slice(0, most) : names; // "and 1 more" would be longer than a name
  const text = listed.map((name) => printable(name, LONGEST_NAME)).join(", ");
  return more > 1 ? `${text} and ${more} more` : text;
}
