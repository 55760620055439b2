import { isUsersError } from "../files/disk.ts";
import { printable } from "../files/printable.ts";
import { FLAG, sentenceOf, UserError, type UserErrorOptions } from "../files/user_error.ts";

/**
 * Errors of the API, in the shape of OpenAI's (https://platform.openai.com/docs/guides/error-codes).
 *
 * @module
 */

/**
 * Statuses of an error: the request is wrong, comes from another page, names what is absent, has the wrong method, is
 * too large, or cannot be answered now.
 */
export type ErrorStatus = 400 | 403 | 404 | 405 | 413 | 503;

/** A request that is not answered: what is wrong, in one sentence, and with which field. */
export class ApiError extends UserError {
  /** Distinguishes this error from others without `instanceof`. */
  override name = "ApiError";
  /** Status of the response. */
  readonly status: ErrorStatus;
  /** The field of the request that is wrong. */
  readonly param: string | undefined;

  /** Creates the error from its sentence, which names fields as requests do, `max_tokens`. */
  constructor(
    status: ErrorStatus,
    sentence: string,
    { param, ...options }: UserErrorOptions & { param?: string } = {},
  ) {
    super(sentence, options);
    this.status = status;
    this.param = param;
  }
}

/** Flags of commands whose field in a request has another name. */
const FIELD_OF_FLAG: Readonly<Record<string, string>> = { "--max-new-tokens": "max_tokens" };

/** The field of a request that stands for a flag of `generate`: `top_k` for `--top-k`. */
function fieldOf(flag: string): string {
  return FIELD_OF_FLAG[flag] ?? flag.slice(2).replaceAll("-", "_");
}

/**
 * What went wrong, as an `ApiError`.
 *
 * @param status if the error is a user's mistake and does not say its status.
 * @throws the error itself if it is a programmer's mistake.
 */
export function toApiError(error: unknown, status: ErrorStatus): ApiError {
  if (error instanceof ApiError) return error;
  if (!isUsersError(error)) throw error;
  const sentence = sentenceOf(error), [flag] = sentence.match(FLAG) ?? [];
  return new ApiError(
    status,
    printable(sentence.replace(FLAG, fieldOf), MOST_CHARACTERS),
    { cause: error, ...(flag !== undefined && status === 400 ? { param: fieldOf(flag) } : {}) },
  );
}

/** Most characters of a sentence: errors of files quote what the files hold. */
const MOST_CHARACTERS = 1000;

/** The body of an error's response. */
export function errorBody({ status, message, param }: ApiError): { error: object } {
  return {
    error: {
      message,
      type: status < 500 ? "invalid_request_error" : "server_error",
      param: param ?? null,
      code: status === 404 && param === "model" ? "model_not_found" : null,
    },
  };
}

/** The response to a request that failed. */
export function errorResponse(error: ApiError): Response {
  return Response.json(errorBody(error), { status: error.status });
}
