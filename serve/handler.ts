import { quoted } from "../files/printable.ts";
import { ASSETS, PAGE } from "./assets.ts";
import { createPlayground } from "./playground.ts";
import { RunFolder } from "./run_folder.ts";

/**
 * The handler of the dashboard's HTTP requests. It reads the files of runs, writes nothing, and answers only to the
 * page that it serves.
 *
 * @module
 */

/** What a handler needs. */
export interface HandlerOptions {
  /** The folder whose runs are shown; it need not exist yet. */
  readonly folder: string;
  /** Ends streams and frees models when it aborts. */
  readonly signal?: AbortSignal;
}

/** Creates a handler for `Deno.serve()`. */
export function createHandler(
  { folder, signal }: HandlerOptions,
): (request: Request) => Promise<Response> {
  const runs = new RunFolder(folder);
  const playground = createPlayground({ findRun: (name) => runs.findRun(name) });
  signal?.addEventListener("abort", () => playground.close());

  /** Answers by route; undefined for an unknown one. */
  async function route(request: Request): Promise<Response | undefined> {
    const { pathname, searchParams } = new URL(request.url);
    if (/^\/(v1|api\/inspect)\//.test(pathname)) return await playground.handle(request);
    if (request.method !== "GET" && request.method !== "HEAD") {
      return refusal(405, `Cannot answer ${quoted(request.method)} as ${pathname} is only read`);
    }
    if (pathname === "/") return text(PAGE, "index.html");
    const [, asset] = /^\/assets\/([\w.-]+)$/.exec(pathname) ?? [];
    const content = asset === undefined ? undefined : ASSETS.get(asset);
    if (content !== undefined) return text(content, asset!);
    if (pathname === "/api/runs") return Response.json(runs.rows());
    if (pathname === "/api/events") return events();
    const names = searchParams.getAll("run"), name = names[0] ?? "";
    if (pathname === "/api/run") return found(name, await runs.details(name));
    if (pathname === "/api/curves") {
      const generation = searchParams.get("generation") ?? "";
      const [step, evaluation] = ["step", "evaluation"].map((kind) => searchParams.get(kind));
      const known = { generation, step: Number(step), evaluation: Number(evaluation) };
      return found(name, await runs.curves(name, known));
    }
    if (pathname === "/api/differences") return Response.json(await runs.differences(names));
    return undefined;
  }

  /** A stream of server-sent events: the runs that change. */
  function events(): Response {
    const encoder = new TextEncoder();
    let stop = () => {};
    const stream = new ReadableStream<Uint8Array>({
      start(controller) {
        const send = (text: string) => controller.enqueue(encoder.encode(text));
        const unwatch = runs.watch((changes) => send(`data: ${JSON.stringify(changes)}\n\n`));
        const beat = setInterval(() => send(":\n\n"), BEAT_MS); // so that a closed connection is noticed
        stop = () => {
          unwatch();
          clearInterval(beat);
        };
        const end = () => {
          stop();
          controller.close();
        };
        send("retry: 1000\n\n");
        signal?.addEventListener("abort", end, { once: true });
      },
      cancel: () => stop(),
    });
    return new Response(stream, { headers: { "content-type": "text/event-stream" } });
  }

  return async (request) => {
    const response = refuseForeign(request) ?? await route(request) ??
      refusal(404, `Cannot find ${quoted(new URL(request.url).pathname)}`);
    for (const [name, value] of Object.entries(HEADERS)) response.headers.set(name, value);
    return response;
  };
}

/** Milliseconds between two comments in a stream of events. */
const BEAT_MS = 15_000;

/** Names by which a browser of this machine reaches the server. */
const OWN_HOSTS = ["127.0.0.1", "localhost", "[::1]"];

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

/**
 * Refuses requests that the served page did not make. The name of the host is checked since a foreign page can make
 * its own name resolve to 127.0.0.1 (DNS rebinding). The port is free, as a tunnel may have another one.
 */
function refuseForeign(request: Request): Response | undefined {
  const host = request.headers.get("host") ?? "", origin = request.headers.get("origin");
  const name = host.replace(/:\d+$/, "").toLowerCase();
  if (!OWN_HOSTS.includes(name)) {
    return refusal(
      403,
      `Cannot answer as the host must be one of ${OWN_HOSTS.join(", ")}: current host is ${
        quoted(host)
      }`,
    );
  }
  if (origin !== null && origin !== `http://${host}`) {
    return refusal(
      403,
      `Cannot answer as the page must be that of http://${host}: current origin is ${
        quoted(origin)
      }`,
    );
  }
  const site = request.headers.get("sec-fetch-site") ?? "none";
  if (site === "same-origin" || site === "none") return undefined;
  // a link on another page may open the page, and reads nothing of it
  if (
    request.headers.get("sec-fetch-mode") === "navigate" && new URL(request.url).pathname === "/"
  ) {
    return undefined;
  }
  return refusal(
    403,
    `Cannot answer as another page asks: current sec-fetch-site is ${quoted(site)}`,
  );
}

/** A result as JSON; an error if there is no such run. */
function found(name: string, result: unknown): Response {
  return result === undefined
    ? refusal(404, `Cannot find run ${quoted(name)} below the folder`)
    : Response.json(result);
}

/** An error as JSON. */
function refusal(status: number, message: string): Response {
  return Response.json({ error: { message } }, { status });
}

const TYPES: Readonly<Record<string, string>> = {
  html: "text/html; charset=utf-8",
  css: "text/css; charset=utf-8",
  js: "text/javascript; charset=utf-8",
};

function text(content: string, name: string): Response {
  const type = TYPES[name.split(".").at(-1)!]!;
  return new Response(content, { headers: { "content-type": type } });
}
