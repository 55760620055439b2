import { createHash, timingSafeEqual } from "node:crypto";
import { quoted } from "../files/printable.ts";
import type { LoadedModel } from "../generate/load.ts";
import { LinkedAbort } from "./abort.ts";
import { ApiError, apiErrorOf, errorResponse } from "./api_error.ts";
import { chat } from "./chat_completions.ts";
import { complete } from "./completions.ts";
import { REQUEST_SECONDS, RESTART_SECONDS } from "./limits.ts";
import { Metrics } from "./metrics.ts";
import { LoadedModels } from "./models.ts";
import { corsHeaders, OWN_HOSTS, preflight, refuseForeign } from "./origin.ts";
import { readBody } from "./request.ts";
import { CLIENT_LEFT, RequestRecord } from "./request_record.ts";
import { ServedModel, type ServedModelOptions } from "./served_model.ts";

export type { RequestRecord };

/**
 * An HTTP API in the shape of OpenAI's.
 *
 *     Request → fields (request.ts) → Answer (completions.ts, chat_completions.ts) → engine → Response (answer.ts)
 *
 * @module
 */

/** How models are served. */
export interface ApiOptions extends ServedModelOptions {
  /** The models by the names that requests use; they remain the caller's. */
  readonly models: Readonly<Record<string, LoadedModel>>;
  /** Requests must have this key, as `Authorization: Bearer KEY`; without one all are answered. */
  readonly apiKey?: string | undefined;
  /** Names of the server beside localhost and IP addresses. */
  readonly hosts?: readonly string[] | undefined;
  /** Origins of other pages that may use the API, or `*`; none by default. */
  readonly origins?: readonly string[] | undefined;
  /** Seconds that an answer may take, with its time in the queue; 600 by default. */
  readonly requestSeconds?: number | undefined;
  /** Is called when a request has ended. */
  readonly onEnd?: ((record: RequestRecord) => void) | undefined;
  /** Whether the records of requests have the texts of completions. */
  readonly keepsTexts?: boolean | undefined;
}

/** An API that answers requests. */
export interface Api extends AsyncDisposable {
  /** Answers a request; it never throws. */
  handle(request: Request): Promise<Response>;
  /** Refuses new requests; resolves once those before are answered. */
  drain(): Promise<void>;
  /** Ends what is being answered, and frees all but the models. */
  close(): Promise<void>;
}

/** Paths that are answered, and their methods. */
const METHODS: Readonly<Record<string, "GET" | "POST">> = {
  "/health": "GET",
  "/metrics": "GET",
  "/v1/models": "GET",
  "/v1/completions": "POST",
  "/v1/chat/completions": "POST",
};

/** Headers of every response. */
const HEADERS = { "x-content-type-options": "nosniff", "cache-control": "no-store" };

/**
 * Creates an HTTP API in the shape of OpenAI's: `/v1/chat/completions`, `/v1/completions`, `/v1/models`, `/health` and
 * `/metrics`. Requests for a model join its running batch.
 *
 * @throws {RangeError} if an option of the engines is out of range; {LimitError} if the device cannot hold them.
 *
 * @example Serve a run on this machine
 * ```ts
 * import { createApi, loadModel, openDevice } from "../mod.ts";
 *
 * const model = await loadModel(await openDevice(), { run: "runs/default" });
 * await using api = createApi({ models: { default: model } });
 * const server = Deno.serve({ hostname: "127.0.0.1", port: 0 }, api.handle);
 *
 * const response = await fetch(`http://127.0.0.1:${server.addr.port}/v1/completions`, {
 *   method: "POST",
 *   headers: { "content-type": "application/json" },
 *   body: JSON.stringify({ model: "default", prompt: "Once upon a time", max_tokens: 20 }),
 * });
 * console.log((await response.json()).choices[0].text);
 * await server.shutdown();
 * ```
 */
export function createApi(
  {
    models: loaded,
    apiKey,
    hosts = [],
    origins = [],
    requestSeconds = REQUEST_SECONDS,
    onEnd = () => {},
    keepsTexts = false,
    ...options
  }: ApiOptions,
): Api {
  const models = new LoadedModels(servedModels(loaded, options));
  const metrics = new Metrics(), open = new Set<RequestRecord>();
  const names = new Set([...OWN_HOSTS, ...hosts.map((name) => name.toLowerCase())]);
  const allowed = { hosts: [...names], allowsAddresses: true, origins };
  const drained = Promise.withResolvers<void>();
  let isDraining = false;

  /** Answers by route. */
  async function route(request: Request, record: RequestRecord, signal: AbortSignal) {
    const { path, method } = record;
    if (path === "/health") return health();
    if (apiKey !== undefined) checkKey(request, apiKey);
    const [, name] = /^\/v1\/models\/(.+)$/s.exec(path) ?? [];
    const known = name === undefined ? path : "/v1/models", expected = METHODS[known];
    if (expected === undefined) {
      throw new ApiError(
        404,
        `Cannot find ${quoted(path)} as the path must be one of ${Object.keys(METHODS).join(", ")}`,
      );
    }
    if (method !== expected && !(method === "HEAD" && expected === "GET")) {
      throw new ApiError(
        405,
        `Cannot answer as the method of ${known} must be ${expected}: current method is ${
          quoted(method)
        }`,
      );
    }
    if (path === "/metrics") {
      const headers = { "content-type": "text/plain; version=0.0.4; charset=utf-8" };
      return new Response(metrics.text(models.all), { headers });
    }
    if (name !== undefined) return Response.json(rowOf(models.find(decoded(name))));
    if (path === "/v1/models") {
      return Response.json({ object: "list", data: models.all.map(rowOf) });
    }
    if (isDraining) {
      throw new ApiError(503, "Cannot answer as the server is about to end", {
        retryAfterSeconds: RESTART_SECONDS,
      });
    }
    const body = await readBody(request), context = { signal, record };
    return await (path === "/v1/completions" ? complete : chat)(models, body, context);
  }

  /** Whether requests are answered. */
  function health(): Response {
    for (const { gpt: { device } } of models.all) device.check({ keep: true }); // the engine has to see it
    return Response.json({ status: isDraining ? "draining" : "ok" }, {
      status: isDraining ? 503 : 200,
    });
  }

  /** Answers a request, or says why not. */
  async function answer(request: Request, record: RequestRecord, signal: AbortSignal) {
    try {
      refuseForeign(request, allowed);
      if (isPreflight(request)) return preflight(request);
      return await route(request, record, signal);
    } catch (error) {
      record.fail(error);
      if (record.status === CLIENT_LEFT) return new Response(null, { status: CLIENT_LEFT });
      return errorResponse(apiErrorOf(error, 503));
    }
  }

  return {
    async handle(request) {
      const stop = new LinkedAbort(request.signal);
      stop.after(1000 * requestSeconds, () =>
        new ApiError(
          503,
          `Cannot answer as an answer must be complete after ${requestSeconds} s`,
        ));
      const record = new RequestRecord(request, {
        keepsTexts,
        onEnd: (record) => {
          stop[Symbol.dispose]();
          open.delete(record);
          if (isDraining && open.size === 0) drained.resolve();
          metrics.count(record, Object.hasOwn(METHODS, record.path) ? record.path : "other");
          onEnd(record);
        },
      });
      open.add(record);
      const response = await answer(request, record, stop.signal);
      const headers = { ...HEADERS, ...corsHeaders(request, origins), "x-request-id": record.id };
      for (const [name, value] of Object.entries(headers)) response.headers.set(name, value);
      record.answered(response.status);
      return response;
    },
    async drain() {
      isDraining = true;
      if (open.size > 0) await drained.promise;
    },
    async close() {
      isDraining = true;
      await models.close(new ApiError(503, "Cannot answer as the server is closed"));
    },
    [Symbol.asyncDispose]() {
      return this.close();
    },
  };
}

/** Models with their engines: all of them, or none if the device cannot hold all. */
function servedModels(
  models: ApiOptions["models"],
  options: ServedModelOptions,
): readonly ServedModel[] {
  const served: ServedModel[] = [];
  try {
    for (const [name, model] of Object.entries(models)) {
      served.push(new ServedModel(name, model, options));
    }
    return served;
  } catch (error) {
    for (const { engine } of served) void engine.close();
    throw error;
  }
}

/** Whether a browser asks if a page may send a request. */
function isPreflight({ method, headers }: Request): boolean {
  return method === "OPTIONS" && headers.has("access-control-request-method");
}

/**
 * Makes sure that a request has the key. The time of the comparison does not depend on the keys.
 *
 * @throws {ApiError} 401.
 */
function checkKey({ headers }: Request, apiKey: string): void {
  const [, key = ""] = /^Bearer +(.+)$/i.exec(headers.get("authorization") ?? "") ?? [];
  const digest = (text: string) => createHash("sha256").update(text).digest();
  if (timingSafeEqual(digest(key), digest(apiKey))) return;
  throw new ApiError(
    401,
    "Cannot answer as the request must have the server's key as Authorization: Bearer KEY",
    { code: "invalid_api_key" },
  );
}

/** The part of a path in plain text. */
function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part; // no name of a model
  }
}

/** A model in the list of models. */
function rowOf({ name, created, gpt }: ServedModel): object {
  return {
    id: name,
    object: "model",
    created,
    owned_by: "toy-transformer",
    max_model_len: gpt.config.contextLength, // as vLLM has it
  };
}
