import { isUsersError } from "../files/disk.ts";
import { printable } from "../files/printable.ts";
import { FLAG, sentenceOf, UserError, type UserErrorOptions } from "../files/user_error.ts";
import { MOST_ERROR_UNITS } from "./limits.ts";

/**
 * Errors of the API, in the shape of OpenAI's (https://platform.openai.com/docs/guides/error-codes).
 *
 * @module
 */

/**
 * Statuses of an error: the request is wrong, has no key, comes from another page, names what is absent, has the wrong
 * method, arrives too slowly, is too large, or is one too many; the server has a mistake, or cannot answer now.
 */
export type ErrorStatus = 400 | 401 | 403 | 404 | 405 | 408 | 413 | 429 | 500 | 503;

/** What an `ApiError` has beside its status and its sentence. */
export interface ApiErrorOptions extends UserErrorOptions {
  /** The field of the request that is wrong. */
  readonly param?: string;
  /** OpenAI's name for the kind of error, which programs compare. */
  readonly code?: string;
  /** Seconds after which the same request may succeed. */
  readonly retryAfterSeconds?: number;
}

/** A request that is not answered: what is wrong, in one sentence, and with which field. */
export class ApiError extends UserError {
  /** Distinguishes this error from others without `instanceof`. */
  override name = "ApiError";
  /** Status of the response. */
  readonly status: ErrorStatus;
  /** The field of the request that is wrong. */
  readonly param: string | undefined;
  /** OpenAI's name for the kind of error. */
  readonly code: string | undefined;
  /** Seconds after which the same request may succeed. */
  readonly retryAfterSeconds: number | undefined;

  /** Creates the error from its sentence, which names fields as requests do, `max_tokens`. */
  constructor(
    status: ErrorStatus,
    sentence: string,
    { param, code, retryAfterSeconds, ...options }: ApiErrorOptions = {},
  ) {
    super(sentence, options);
    this.status = status;
    this.param = param;
    this.code = code;
    this.retryAfterSeconds = retryAfterSeconds;
  }
}

/** Flags of commands whose field in a request has another name. */
const FIELD_OF_FLAG: Readonly<Record<string, string>> = { "--max-new-tokens": "max_tokens" };

/** The field of a request that stands for a flag of `generate`: `top_k` for `--top-k`. */
export function fieldOf(flag: string): string {
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
    printable(sentence.replace(FLAG, fieldOf), MOST_ERROR_UNITS),
    { cause: error, ...(flag !== undefined && status === 400 ? { param: fieldOf(flag) } : {}) },
  );
}

/** What went wrong, as an `ApiError`: 500 for a programmer's mistake, which is the cause. */
export function apiErrorOf(error: unknown, status: ErrorStatus): ApiError {
  try {
    return toApiError(error, status);
  } catch (cause) {
    return new ApiError(500, "Cannot answer because of a mistake in toy-transformer", { cause });
  }
}

/** OpenAI's type of an error by its status; others are `invalid_request_error`. */
const TYPES: Partial<Record<ErrorStatus, string>> = {
  429: "rate_limit_error",
  500: "server_error",
  503: "server_error",
};

/** The body of an error's response. */
export function errorBody({ status, message, param, code }: ApiError): { error: object } {
  return {
    error: {
      message,
      type: TYPES[status] ?? "invalid_request_error",
      param: param ?? null,
      code: code ?? null,
    },
  };
}

/** The response to a request that failed. */
export function errorResponse(error: ApiError): Response {
  const { status, retryAfterSeconds } = error;
  return Response.json(errorBody(error), {
    status,
    headers: retryAfterSeconds === undefined ? {} : { "retry-after": `${retryAfterSeconds}` },
  });
}
