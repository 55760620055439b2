import { printable, quoted } from "../files/printable.ts";
import type { Device } from "../kernels/device.ts";
import { differences } from "../train/record/compare.ts";
import { ApiError, errorResponse, toApiError } from "./api_error.ts";
import { ASSETS, PAGE } from "./assets.ts";
import { OWN_HOSTS, refuseForeign } from "./origin.ts";
import { createPlayground } from "./playground.ts";
import { RunFolders } from "./run_folders.ts";
import { pushedStream } from "./text_stream.ts";
import type { WatchedRun } from "./watched_run.ts";

/**
 * The handler of the dashboard's HTTP requests. It reads the files of runs, writes nothing, and answers only to the
 * page that it serves.
 *
 * @module
 */

/** What a handler needs. */
export interface HandlerOptions {
  /** The folders whose runs are shown; they need not exist yet. */
  readonly folders: readonly string[];
  /** Opens the device that computes models; by default that of the runtime. */
  readonly open?: () => Promise<Device>;
  /** Ends streams and frees models when it aborts. */
  readonly signal?: AbortSignal;
}

/** Milliseconds between two comments in a stream of events, which show that its reader is gone. */
const BEAT_MS = 15_000;

/** Headers of every response: nothing is loaded from elsewhere, and no other page may use it. */
const HEADERS = {
  "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; " +
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; " +
    "frame-ancestors 'none'",
  "cross-origin-opener-policy": "same-origin",
  "cross-origin-resource-policy": "same-origin",
  "referrer-policy": "no-referrer",
  "x-content-type-options": "nosniff",
  "cache-control": "no-store",
};

/** Types of the page's files by the ends of their names. */
const TYPES: Readonly<Record<string, string>> = {
  html: "text/html; charset=utf-8",
  css: "text/css; charset=utf-8",
  js: "text/javascript; charset=utf-8",
};

/** Creates a handler for `Deno.serve()`. */
export function createHandler(
  { folders, open, signal }: HandlerOptions,
): (request: Request) => Promise<Response> {
  const runs = new RunFolders(folders);
  const playground = createPlayground({
    findRun: (name) => runs.run(name)?.path,
    ...open ? { open } : {},
  });
  signal?.addEventListener("abort", () => playground.close());

  /** Answers by route; undefined for an unknown one. */
  async function route(request: Request): Promise<Response | undefined> {
    const { pathname, searchParams } = new URL(request.url);
    if (/^\/(v1|api\/inspect)\//.test(pathname)) return await playground.handle(request);
    if (request.method !== "GET" && request.method !== "HEAD") {
      throw new ApiError(
        405,
        `Cannot answer ${quoted(request.method)} as ${printable(pathname)} is only read`,
      );
    }
    if (pathname === "/") return fileResponse(PAGE, "index.html");
    const [, asset] = /^\/assets\/([\w.-]+)$/.exec(pathname) ?? [];
    const content = asset === undefined ? undefined : ASSETS.get(asset);
    if (content !== undefined) return fileResponse(content, asset!);
    if (pathname === "/api/runs") return Response.json(runs.rows());
    if (pathname === "/api/events") return events();
    const names = searchParams.getAll("run"), name = names[0] ?? "";
    if (pathname === "/api/run") return Response.json(await found(name).details());
    if (pathname === "/api/curves") {
      const generation = searchParams.get("generation") ?? "";
      const [step, evaluation] = ["step", "evaluation"].map((kind) => searchParams.get(kind));
      const known = { generation, step: Number(step), evaluation: Number(evaluation) };
      return Response.json(await found(name).curves(known));
    }
    if (pathname === "/api/differences") {
      const ingredients = names.map((name) => found(name).ingredients());
      return Response.json(differences(await Promise.all(ingredients)));
    }
    return undefined;
  }

  /** The run with a name. */
  function found(name: string): WatchedRun {
    const run = runs.run(name);
    if (run) return run;
    throw new ApiError(404, `Cannot find run ${quoted(name)} below the folder`, { param: "run" });
  }

  /**
   * A stream of server-sent events: the runs that change. It ends if its reader takes nothing; a page that is still there
   * connects again.
   */
  function events(): Response {
    const stream = pushedStream((send, end) => {
      const unwatch = runs.watch((changes) => send(`data: ${JSON.stringify(changes)}\n\n`));
      const beat = setInterval(() => send(":\n\n"), BEAT_MS);
      signal?.addEventListener("abort", end);
      send("retry: 1000\n\n");
      return () => {
        unwatch();
        clearInterval(beat);
        signal?.removeEventListener("abort", end);
      };
    });
    return new Response(stream, { headers: { "content-type": "text/event-stream" } });
  }

  /** Answers a request, or says why not. */
  async function answer(request: Request): Promise<Response> {
    try {
      refuseForeign(request, { hosts: OWN_HOSTS, isPage: (path) => path === "/" });
      const response = await route(request);
      if (response) return response;
      throw new ApiError(404, `Cannot find ${quoted(new URL(request.url).pathname)}`);
    } catch (error) {
      return errorResponse(toApiError(error, 400));
    }
  }

  return async (request) => {
    const response = await answer(request);
    for (const [name, value] of Object.entries(HEADERS)) response.headers.set(name, value);
    return response;
  };
}

/** A file of the page. */
function fileResponse(content: string, name: string): Response {
  const type = TYPES[name.split(".").at(-1)!]!;
  return new Response(content, { headers: { "content-type": type } });
}
