import { printable, quoted } from "../files/printable.ts";
import { isObject, type JsonObject } from "../files/json.ts";
import { LinkedAbort, unlessAborted } from "./abort.ts";
import { ApiError } from "./api_error.ts";
import { MOST_BODY_BYTES, MOST_BODY_MS } from "./limits.ts";

/**
 * Requests: JSON objects of bounded size, whose fields a table describes.
 *
 * @module
 */

/** A field of a request. */
export interface Field<Value> {
  /** The end of "NAME must be …". */
  readonly must: string;
  /** Whether a value of JSON is allowed. */
  readonly holds: (value: unknown) => boolean;
  /** The value of an absent field; without it the field is required. */
  readonly fallback?: Value;
}

/** The fields of a request by name. */
export type FieldTable<Values> = { readonly [Name in keyof Values]: Field<Values[Name]> };

/** A text, which the size of the body bounds. */
export const TEXT = {
  must: "a text",
  holds: (value: unknown) => typeof value === "string",
};

/** True or false, by default false. */
export const BOOLEAN = {
  must: "true or false",
  holds: (value: unknown) => typeof value === "boolean",
  fallback: false,
};

/** A field of OpenAI's that has no effect here and must have one of these values, of which the first is the default. */
export function only<Value>(...values: readonly [Value, ...Value[]]): Field<Value> {
  const texts = values.map((value) => JSON.stringify(value));
  return {
    must: `${texts.join(" or ")}, as others are not supported`,
    holds: (value) => texts.includes(JSON.stringify(value)),
    fallback: values[0],
  };
}

/** A field of OpenAI's that must be absent, or an empty list. */
export function unsupported(what: string): Field<undefined> {
  return {
    must: `absent, as ${what} are not supported`,
    holds: (value) => Array.isArray(value) && value.length === 0,
    fallback: undefined,
  };
}

/** A whole number of at least `least`, and at most `most` if it is given. */
export function whole(
  least: number,
  most: number = Number.MAX_SAFE_INTEGER,
): Omit<Field<number>, "fallback"> {
  return {
    must: most === Number.MAX_SAFE_INTEGER
      ? `a whole number of at least ${least}`
      : `a whole number from ${least} to ${most}`,
    holds: (value) =>
      Number.isSafeInteger(value) && least <= (value as number) && (value as number) <= most,
  };
}

/**
 * Reads the body of a request.
 *
 * @throws {ApiError} if it is no JSON object, is too large, arrives too slowly, or ends early.
 */
export async function readBody(
  request: Request,
  { mostMs = MOST_BODY_MS }: { mostMs?: number } = {},
): Promise<JsonObject> {
  const type = request.headers.get("content-type") ?? "";
  // a browser sends this type for another page only with the consent of the server (CORS)
  if (!/^application\/json\s*(;|$)/i.test(type)) {
    throw new ApiError(
      400,
      `Cannot read the request as its content-type must be application/json: current value is ${
        quoted(type)
      }`,
    );
  }
  const bytes = await readBytes(request, mostMs);
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch {
    throw new ApiError(400, "Cannot read the request as its body must be JSON in UTF-8");
  }
  if (isObject(value)) return value;
  throw new ApiError(400, "Cannot read the request as its body must be a JSON object");
}

/** The bytes of a request's body. */
async function readBytes({ body }: Request, mostMs: number): Promise<Uint8Array> {
  const reader = body?.getReader();
  using late = new LinkedAbort();
  late.after(mostMs, () =>
    new ApiError(
      408,
      `Cannot read the request as its body must arrive within ${mostMs / 1000} s`,
    ));
  let bytes = new Uint8Array(2 ** 12), length = 0; // one buffer, as a chunk may have one byte
  try {
    while (reader) {
      const { value, done } = await unlessAborted(reader.read(), late.signal);
      if (done) break;
      if (length + value.length > MOST_BODY_BYTES) {
        throw new ApiError(
          413,
          `Cannot read the request as its body must have at most ${MOST_BODY_BYTES} bytes`,
        );
      }
      if (length + value.length > bytes.length) {
        const larger = new Uint8Array(2 * (length + value.length));
        larger.set(bytes.subarray(0, length));
        bytes = larger;
      }
      bytes.set(value, length);
      length += value.length;
    }
  } catch (cause) {
    reader?.cancel().catch(() => {});
    if (cause instanceof ApiError) throw cause;
    // the client went away, or its chunks are not those of HTTP
    throw new ApiError(400, "Cannot read the request as its body ends early", { cause });
  }
  return bytes.subarray(0, length);
}

/**
 * Checks the fields of a request; one that is null counts as absent.
 *
 * @param verb what the request asks for, such as `complete`.
 * @throws {ApiError} naming the first field that is unknown, missing or wrong.
 */
export function checkRequest<Values>(
  body: JsonObject,
  table: FieldTable<Values>,
  verb: string,
): Values {
  const refuse = (param: string, requirement: string) => {
    throw new ApiError(400, `Cannot ${verb} as ${requirement}`, { param });
  };
  for (const name of Object.keys(body)) {
    if (Object.hasOwn(table, name)) continue;
    refuse(printable(name), `a field is unknown: ${quoted(name)}`);
  }
  const values: JsonObject = {};
  for (const [name, field] of Object.entries<Field<unknown>>(table)) {
    const value = Object.hasOwn(body, name) ? body[name] ?? undefined : undefined;
    if (value === undefined) {
      if (!Object.hasOwn(field, "fallback")) refuse(name, `${name} must be ${field.must}`);
      values[name] = field.fallback;
    } else {
      if (!field.holds(value)) {
        refuse(name, `${name} must be ${field.must}: current value is ${quoted(value)}`);
      }
      values[name] = value;
    }
  }
  return values as Values;
}
