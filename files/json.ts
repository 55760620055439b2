import { isUtf8 } from "node:buffer";
import { readFileSync, statSync } from "node:fs";
import { standIn } from "./stand_in.ts";
import { reading } from "./disk.ts";
import { UserError } from "./user_error.ts";

/**
 * JSON files of other programs: bounded in size, with checked types of fields.
 *
 * @module
 */

/** A JSON object whose fields nobody has checked yet. */
export type JsonObject = Record<string, unknown>;

/** Largest JSON file that is read; the tokenizer.json of a vocabulary of 262,144 tokens has 33 MB. */
export const MOST_JSON_BYTES = 2 ** 27;

/**
 * The text of a file.
 *
 * @param what kind of file, for messages, such as "tokenizer".
 * @throws {UserError} if it is too large, is not UTF-8, or cannot be read.
 */
export function readText(path: string, what?: string): string {
  const file = what === undefined ? path : `${what} ${path}`;
  return reading(() => {
    const stat = statSync(path), { size } = stat;
    if (!stat.isFile()) { // a device or a pipe may have no end
      throw new UserError(`Cannot read ${file} as it must be a file`);
    }
    if (size > MOST_JSON_BYTES) {
      throw new UserError(
        `Cannot read ${file} as it must have at most ${MOST_JSON_BYTES} bytes: current size is ${size}`,
      );
    }
    const bytes = readFileSync(path);
    if (isUtf8(bytes)) return bytes.toString();
    throw new UserError(`Cannot read ${file} as it must be UTF-8`);
  }, (reason) => new UserError(`Cannot read ${file}: ${reason}`));
}

/**
 * Parses a text that must be a JSON object.
 *
 * @param where the file's path, for error messages.
 * @param hint what to do if it is not JSON, or not an object.
 * @throws {UserError} in these cases.
 */
export function parseJsonObject(text: string, where: string, hint?: string): JsonObject {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new UserError(`Cannot read ${where} as ${standIn(text) ?? "it must be JSON"}`, { hint });
  }
  if (isObject(value)) return value;
  throw new UserError(`Cannot read ${where} as it must be a JSON object`, { hint });
}

/** Whether a JSON value is an object, and no list. */
export function isObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** A JSON value as bytes, for `fromJsonBytes()`. */
export function toJsonBytes(value: unknown): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(JSON.stringify(value));
}

/** The JSON value of bytes. */
export function fromJsonBytes(bytes: Uint8Array): unknown {
  return JSON.parse(new TextDecoder().decode(bytes));
}

/** Kinds of values: their name in a message, and their test. */
const KINDS = {
  text: ["a text", (value: unknown) => typeof value === "string"],
  texts: ["a list of texts", isListOf((value) => typeof value === "string")],
  number: ["a number", (value: unknown) => typeof value === "number"],
  whole: ["a whole number", (value: unknown) => Number.isSafeInteger(value)],
  count: [
    "a non-negative integer",
    (value: unknown) => Number.isSafeInteger(value) && Number(value) >= 0,
  ],
  boolean: ["true or false", (value: unknown) => typeof value === "boolean"],
  list: ["a list", Array.isArray],
  objects: ["a list of objects", isListOf(isObject)],
  object: ["an object", isObject],
} as const;

function isListOf(isItem: (value: unknown) => boolean): (value: unknown) => boolean {
  return (value) => Array.isArray(value) && value.every(isItem);
}

/** Type of a field; with a question mark it may be null or absent. */
export type FieldKind = keyof typeof KINDS | `${keyof typeof KINDS}?`;

/** TypeScript's types of values, by kind. */
interface Values {
  text: string;
  texts: readonly string[];
  number: number;
  whole: number;
  count: number;
  boolean: boolean;
  list: readonly unknown[];
  objects: readonly JsonObject[];
  object: JsonObject;
}

/** An object whose fields have these kinds. */
export type Fields<Kinds> =
  & {
    readonly [Name in keyof Kinds as Kinds[Name] extends keyof Values ? Name : never]:
      Values[Kinds[Name] & keyof Values];
  }
  & {
    readonly [Name in keyof Kinds as Kinds[Name] extends `${string}?` ? Name : never]?:
      | (Kinds[Name] extends `${infer Kind extends keyof Values}?` ? Values[Kind] : never)
      | null;
  };

/**
 * Checks the types of fields; others may be anything.
 *
 * @param refuse makes the error of what must be, such as "model.merges must be a list", and what is there.
 */
export function checkFields(
  object: JsonObject,
  kinds: Readonly<Record<string, FieldKind>>,
  refuse: (requirement: string, value: unknown) => Error,
): void {
  for (const [name, kind] of Object.entries(kinds)) {
    const value = object[name];
    if (kind.endsWith("?") && (value === undefined || value === null)) continue;
    const [words, fits] = KINDS[kind.replace("?", "") as keyof typeof KINDS];
    if (!fits(value)) throw refuse(`${name} must be ${words}`, value);
  }
}
