import { join } from "node:path";
import timers from "node:timers/promises";
import { environmentVariable } from "../../files/environment.ts";
import { printable } from "../../files/printable.ts";
import { UserError } from "../../files/user_error.ts";

/**
 * Access to the hub: the settings in the environment, and requests that outlast short failures, send the token to
 * the hub alone, and report a refusal in one sentence.
 *
 * Deno's `fetch()` itself reads the proxies of the process: HTTPS_PROXY, HTTP_PROXY and NO_PROXY.
 *
 * @module
 */

/** Thrown if the hub refuses a request or cannot be reached; the message says what to do. */
export class HubError extends UserError {
  /** Distinguishes this error from others without `instanceof`. */
  override name = "HubError";
  /**
   * HTTP status of the refusal; 0 if no server was reached, 404 also if the cache lacks a file and the hub may not be
   * asked, undefined if this machine is the reason.
   */
  readonly status: number | undefined;

  /** An error with one sentence, and a `status` if a request failed. */
  constructor(message: string, status?: number) {
    super(message);
    this.status = status;
  }

  /** Whether the same request may succeed later. */
  get passing(): boolean {
    return this.status === 0 || isPassing(this.status ?? 200);
  }
}

const isPassing = (status: number) => status === 429 || status >= 500;

/** Whether a revision is a full commit hash. */
export const isCommit = (revision: string): boolean => /^[0-9a-f]{40}$/.test(revision);

/** Whether an etag is a SHA-256. */
export const isSha256 = (etag: string): boolean => /^[0-9a-f]{64}$/.test(etag);

/** The environment variables that are read, as Python's `huggingface_hub` reads them. */
export const HUB_VARIABLES = [
  "HF_HOME",
  "HF_HUB_CACHE",
  "HUGGINGFACE_HUB_CACHE",
  "HF_ENDPOINT",
  "HF_TOKEN",
  "HF_TOKEN_PATH",
  "HF_HUB_OFFLINE",
  "XDG_CACHE_HOME",
  "HOME",
  "USERPROFILE",
] as const;

/** Environment variables by name. */
export type Environment = Readonly<Record<string, string | undefined>>;

/** Reads the settings from environment variables. */
export function hubSettings(environment: Environment = processEnvironment()) {
  const value = (name: typeof HUB_VARIABLES[number]) => environment[name] || undefined;
  const expand = (path: string) =>
    path.replace(/^~(?=$|[/\\])/, () => {
      const home = value("HOME") ?? value("USERPROFILE");
      if (home) return home;
      throw new HubError("Cannot find the hub's cache as HOME is not known: set HF_HOME");
    });
  const within = (name: string) =>
    join(value("HF_HOME") ?? join(value("XDG_CACHE_HOME") ?? "~/.cache", "huggingface"), name);
  const endpoint = (value("HF_ENDPOINT") ?? "https://huggingface.co").replace(/\/+$/, "");
  if (!isWebAddress(URL.parse(endpoint))) {
    throw new HubError(
      `Cannot reach the hub as HF_ENDPOINT must be an address like https://huggingface.co: ` +
        `current value is ${endpoint}`,
    );
  }
  return {
    /** Address of the hub, without a slash at its end. */
    endpoint,
    cache: expand(value("HF_HUB_CACHE") ?? value("HUGGINGFACE_HUB_CACHE") ?? within("hub")),
    token: value("HF_TOKEN")?.trim() ||
      savedToken(() => expand(value("HF_TOKEN_PATH") ?? within("token"))),
    /** Whether only the cache may be used. */
    offline: /^(1|on|yes|true)$/i.test(value("HF_HUB_OFFLINE") ?? ""),
  };
}

/** The variables of the process, as far as they may be read. */
export function processEnvironment(): Environment {
  return Object.fromEntries(HUB_VARIABLES.map((name) => [name, environmentVariable(name)]));
}

/** The token that `hf auth login` saved. */
function savedToken(path: () => string): string | undefined {
  try {
    return Deno.readTextFileSync(path()).trim() || undefined;
  } catch {
    return undefined; // there is no saved token
  }
}

function isWebAddress(url: URL | null): url is URL {
  return url?.protocol === "https:" || url?.protocol === "http:";
}

/** The address that an answer of a server refers to; undefined if it is no web address, or if it leaves HTTPS. */
export function addressIn(reference: string, from: URL): URL | undefined {
  const url = URL.parse(reference, from);
  const leavesHttps = from.protocol === "https:" && url?.protocol !== "https:";
  return isWebAddress(url) && !leavesHttps ? url : undefined;
}

/** A repository of the hub, at a revision. */
export interface HubRepo {
  /** Whether it holds data or a model. */
  readonly type: "dataset" | "model";
  /** `OWNER/NAME`, or `NAME` for the hub's oldest ones. */
  readonly repo: string;
  /** Branch, tag or commit; `main` by default. */
  readonly revision?: string | undefined;
}

/** One task in one repository of the hub. */
export interface HubSession extends HubRepo, ReturnType<typeof hubSettings> {
  readonly revision: string;
  /** The task, to follow "Cannot" in a sentence: `download OWNER/NAME/FILE`. */
  readonly task: string;
  /** Address of the repository's page. */
  readonly page: string;
  /** Is called with a sentence about a delay. */
  readonly onNotice: (sentence: string) => void;
  /** Cancels the task. */
  readonly signal: AbortSignal | undefined;
}

/** The error of a task, which completes the sentence "Cannot … as". */
export function failure({ task }: HubSession, reason: string, status?: number): HubError {
  return new HubError(`Cannot ${task} as ${reason}`, status);
}

/** Failures in a row after which a request, or a download that makes no progress, is given up. */
export const ATTEMPTS = 5;

/** Pause after a number of failures in a row: 1, 2, 4, 8 seconds. */
export const backOffMs = (failures: number): number => 1000 * 2 ** (failures - 1);

/** Waits, until the signal aborts: by an object in which tests can replace the timer. */
export async function wait({ signal }: Pick<HubSession, "signal">, ms: number): Promise<void> {
  await timers.setTimeout(ms, undefined, signal && { signal });
}

/** The longest pause that a server may ask for. */
const LONGEST_WAIT_MS = 5 * 60_000;

/** Most redirects in a row. */
const REDIRECTS = 10;

/**
 * Requests an address, as `fetch()` does, and returns only a response that grants it.
 *
 * If a server is busy or fails (429, 5xx), the request is repeated after the pause that the server names, or after
 * a growing one.
 *
 * @throws {HubError} in one sentence if the request is refused or no server is reached.
 */
export async function request(
  session: HubSession,
  address: string,
  init: RequestInit = {},
): Promise<Response> {
  for (let failures = 1;; failures++) {
    const { response, at } = await follow(session, new URL(address), init);
    if (response.status < 400) return response;
    await response.body?.cancel();
    const { status } = response;
    const waitMs = retryAfterMs(response) ?? backOffMs(failures);
    if (!isPassing(status) || failures === ATTEMPTS || waitMs > LONGEST_WAIT_MS) {
      throw failure(session, refusal(session, response, at), status);
    }
    session.onNotice(`${at.host} answers ${status}: asking again in ${seconds(waitMs)}`);
    await wait(session, waitMs);
  }
}

/**
 * Follows redirects. `fetch()` would send the token to subdomains of the hub too, and would follow a redirect from
 * https to http.
 */
async function follow(
  session: HubSession,
  address: URL,
  init: RequestInit,
): Promise<{ response: Response; at: URL }> {
  const { origin } = new URL(session.endpoint);
  let at = address;
  for (let redirects = 0; redirects <= REDIRECTS; redirects++) {
    const headers = new Headers(init.headers);
    headers.set("Accept-Encoding", "identity"); // ranges count the file's own bytes
    if (session.token && at.origin === origin) {
      headers.set("Authorization", `Bearer ${session.token}`);
    }
    const response = await connect(session, at, { ...init, headers, redirect: "manual" });
    const location = response.headers.get("Location");
    const isRedirect = response.status >= 300 && response.status < 400;
    if (!isRedirect || location === null) return { response, at };
    // the hub describes a large file in the headers of the redirect to its bytes, whose address is absolute
    const isDescription = response.headers.has("X-Linked-Etag") && URL.canParse(location);
    if (init.method === "HEAD" && isDescription) return { response, at };
    await response.body?.cancel();
    const next = addressIn(location, at);
    if (!next) throw failure(session, `${at.host} redirects to ${printable(location)}`);
    at = next;
  }
  throw failure(session, `${at.host} redirects without end`);
}

/** Calls `fetch()`. */
async function connect(session: HubSession, at: URL, init: RequestInit): Promise<Response> {
  const giveUp = new AbortController();
  const signal = AbortSignal.any([giveUp.signal, ...(session.signal ? [session.signal] : [])]);
  try {
    return await within(fetch(at, { ...init, signal }));
  } catch (error) {
    giveUp.abort();
    session.signal?.throwIfAborted();
    const { message, cause } = error as Error;
    if (error instanceof Deno.errors.NotCapable) {
      throw failure(session, "the network may not be used: add --allow-net");
    }
    const reason = cause instanceof Error ? cause.message.split(": ").at(-1) : message;
    const advice = "check the network, HTTPS_PROXY and HF_ENDPOINT";
    throw failure(session, `${at.origin} is not reached (${reason}): ${advice}`, 0);
  }
}

/** How long a connection may be silent before it counts as lost. */
const SILENCE_MS = 30_000;

/** Waits for the next part of what a connection delivers, which must not be silent for too long. */
export async function within<T>(work: Promise<T>, silenceMs: number = SILENCE_MS): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const silence = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`silent for ${seconds(silenceMs)}`)), silenceMs);
  });
  try {
    return await Promise.race([work, silence]);
  } finally {
    clearTimeout(timer);
  }
}

/** The pause that a server asks for, in seconds or by a date. */
function retryAfterMs({ headers }: Response): number | undefined {
  const text = headers.get("Retry-After");
  if (!text) return undefined;
  const ms = /^\d+$/.test(text) ? Number(text) * 1000 : Date.parse(text) - Date.now();
  return Number.isNaN(ms) ? undefined : Math.max(0, ms);
}

/** Completes the sentence "Cannot … as …" with the reason of a refusal and what to do. */
function refusal({ endpoint, token, page, revision }: HubSession, response: Response, at: URL) {
  const { status, headers } = response;
  if (status === 429) {
    const waitMs = retryAfterMs(response);
    const when = waitMs === undefined ? "later" : `in ${seconds(waitMs)}`;
    return `${at.host} has had too many requests (429): try again ${when}, or set HF_TOKEN`;
  }
  if (at.origin !== new URL(endpoint).origin || isPassing(status)) {
    return `${at.host} answers ${status}: try again later`;
  }
  const code = headers.get("X-Error-Code");
  if (code === "GatedRepo") {
    const advice = token ? ", with the account of your token" : ", then set HF_TOKEN";
    return `access is granted on request: ask at ${page}${advice}`;
  }
  if (code === "RevisionNotFound") return `${page} has no revision ${revision}`;
  if (code === "EntryNotFound") return `${page} has no such file at ${revision}`;
  if (status === 403) {
    return `your token may not read ${page}: give it that right, or take another`;
  }
  // with 401 the hub also refuses to say whether a private repository exists
  if (status !== 401 && status !== 404) return `${at.host} answers ${status}`;
  return `${page} does not exist or is private: check the name, ` +
    (token ? "and whether your token is valid and may read it" : "or set HF_TOKEN");
}

function seconds(ms: number): string {
  return `${Math.ceil(ms / 1000)} s`;
}
