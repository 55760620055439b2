import { chat } from "./chat_completions.ts";
import type { JsonObject } from "../files/json.ts";
import { ApiError, errorResponse, toApiError } from "./api_error.ts";
import type { RequestContext } from "./answer.ts";
import { complete } from "./completions.ts";
import { INSPECTIONS } from "./inspect.ts";
import { CurrentModel, type CurrentModelOptions } from "./current_model.ts";
import { readBody } from "./request.ts";
import { CLIENT_LEFT, RequestRecord } from "./request_record.ts";
import { samplerDefaults } from "./sampler_fields.ts";

/**
 * The playground: continues texts with the models of the runs, and looks inside them.
 *
 * @module
 */

/** Answers the requests of the playground. */
export interface Playground {
  /** Answers a request to `/v1/*` or `/api/inspect/*`; undefined for a path that it does not know. */
  handle(request: Request): Promise<Response | undefined>;
  /** Stops what is generated and frees the model. */
  close(): Promise<void>;
}

/** What a path answers to the body of a request. */
type Route = (
  current: CurrentModel,
  body: JsonObject,
  context: RequestContext,
) => Promise<Response>;

const ROUTES: ReadonlyMap<string, Route> = new Map<string, Route>([
  ["/v1/completions", complete],
  ["/v1/chat/completions", chat],
  ...Object.entries(INSPECTIONS),
]);

/** The path of the sampler's settings, which need no model. */
const SETTINGS = "/api/inspect/settings";

/** A playground that has loaded no model yet. */
export function createPlayground(options: CurrentModelOptions): Playground {
  const current = new CurrentModel(options);
  return {
    async handle(request) {
      const { method, url, signal } = request, { pathname } = new URL(url);
      const route = ROUTES.get(pathname), isSettings = pathname === SETTINGS;
      if (!route && !isSettings) return undefined;
      try {
        const methods = isSettings ? ["GET", "HEAD"] : ["POST"];
        if (!methods.includes(method)) {
          throw new ApiError(
            405,
            `Cannot answer as the method of ${pathname} must be ${methods[0]}`,
          );
        }
        if (!route) return Response.json(samplerDefaults());
        const context = { signal, record: new RequestRecord(request) };
        return await route(current, await readBody(request), context);
      } catch (error) {
        if (signal.aborted) return new Response(null, { status: CLIENT_LEFT });
        return errorResponse(toApiError(error, 503));
      }
    },
    close: () => current.close(),
  };
}
