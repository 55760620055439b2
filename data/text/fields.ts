import { isObject } from "../../files/json.ts";
import { printable } from "../../files/printable.ts";

/**
 * Fields by the names that users type, and lists of names in messages.
 *
 * @module
 */

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

/** Names from a file as part of a message: about `most` of them. */
export function listOfNames(names: readonly string[], most = 20): string {
  const more = names.length - most;
  const listed = more > 1 ? names.slice(0, most) : names; // "and 1 more" would be longer than a name
  const text = listed.map((name) => printable(name, LONGEST_NAME)).join(", ");
  return more > 1 ? `${text} and ${more} more` : text;
}
