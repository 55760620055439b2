import { quoted } from "../files/printable.ts";
import { ApiError } from "./api_error.ts";

/**
 * Which requests a server answers: those to one of its names, from no page or from a page that may use it.
 *
 * @module
 */

/** Names by which a browser of this machine reaches a server. */
export const OWN_HOSTS: readonly string[] = ["127.0.0.1", "localhost", "[::1]"];

/** Who may send requests. */
export interface AllowedRequests {
  /** Names of the server in lower case, without a port, which is free, as a tunnel may have another one. */
  readonly hosts: readonly string[];
  /** Whether an IP address is a name of the server, too. */
  readonly allowsAddresses?: boolean;
  /** Origins of other pages, or `*`. */
  readonly origins?: readonly string[];
  /** Whether a link on any page may open a path. */
  readonly isPage?: (pathname: string) => boolean;
}

/**
 * Refuses requests that name another host or come from a page that may not send them. The name of the host is checked
 * since a foreign page can make its own name resolve to this machine (DNS rebinding); it cannot do that to an address.
 *
 * @throws {ApiError} that names the host or the page that was refused.
 */
export function refuseForeign(
  { headers, url }: Request,
  { hosts, allowsAddresses = false, origins = [], isPage = () => false }: AllowedRequests,
): void {
  const host = headers.get("host") ?? "", origin = headers.get("origin");
  const refuse = (requirement: string, name: string, value: string) =>
    new ApiError(403, `Cannot answer as ${requirement}: current ${name} is ${quoted(value)}`);
  const name = host.replace(/:\d+$/, "").toLowerCase();
  const isName = hosts.includes(name) || allowsAddresses && isAddress(name);
  if (!isName || !URL.canParse(url)) { // the URL has the host with its port, which may be none
    throw refuse(`the host must be one of ${hosts.join(", ")}`, "host", host);
  }
  if (origin !== null) {
    if (origin === `http://${host}` || isAllowed(origin, origins)) return;
    throw refuse(`the page must be that of http://${host}`, "origin", origin);
  }
  const site = headers.get("sec-fetch-site") ?? "none";
  if (site === "same-origin" || site === "none") return;
  // a link on another page may open a page, of which that page reads nothing
  const isLink = headers.get("sec-fetch-mode") === "navigate" && isPage(new URL(url).pathname);
  if (!isLink) throw refuse(`the page must be that of http://${host}`, "sec-fetch-site", site);
}

/** Whether the name of a host is an IP address. */
function isAddress(host: string): boolean {
  return /^\d+(\.\d+){3}$|^\[[\da-f:.]+\]$/.test(host);
}

/** Whether an origin is among others. */
function isAllowed(origin: string, origins: readonly string[]): boolean {
  return origins.includes("*") || origins.includes(origin);
}

/** The headers that let a page of another origin read the response, if it may. */
export function corsHeaders(
  { headers }: Request,
  origins: readonly string[],
): Record<string, string> {
  const origin = headers.get("origin");
  if (origins.length === 0) return {};
  if (origin === null || !isAllowed(origin, origins)) return { vary: "origin" };
  return {
    vary: "origin",
    "access-control-allow-origin": origin,
    "access-control-expose-headers": "retry-after, x-request-id",
  };
}

/** The answer to a browser that asks whether a page may send a request. */
export function preflight({ headers }: Request): Response {
  return new Response(null, {
    status: 204,
    headers: {
      "access-control-allow-methods": "GET, POST",
      // no header changes what the server does but those that it knows
      "access-control-allow-headers": headers.get("access-control-request-headers") ?? "",
      "access-control-max-age": "600",
    },
  });
}
