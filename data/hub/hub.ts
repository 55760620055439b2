import { Buffer } from "node:buffer";
import { isSystemError, reasonOf } from "../../files/disk.ts";
import { fromJsonBytes, isObject, MOST_JSON_BYTES } from "../../files/json.ts";
import { quoted } from "../../files/printable.ts";
import { UserError } from "../../files/user_error.ts";
import { addressOf, ChangedError, chunksOf, type RemoteFile } from "./blob.ts";
import { addToCache, type CachedFile, findCached, listCached } from "./cache.ts";
import {
  addressIn,
  type Environment,
  failure,
  HubError,
  type HubRepo,
  type HubSession,
  hubSettings,
  isCommit,
  isSha256,
  request,
} from "./request.ts";

export type { CachedFile } from "./cache.ts";
export { type Environment, HubError, type HubRepo } from "./request.ts";

/**
 * Files of the Hugging Face hub, in its standard cache.
 *
 * As in Python's library, a HEAD request for a file asks for its commit, size and hash (request.ts), its bytes are
 * downloaded (blob.ts), and the cache (cache.ts) is the one that both share. The package `@huggingface/hub` would
 * check no hash, could not resume a download safely, and would file it where Python does not find it offline.
 *
 * @module
 */

/** A file of a repository. */
export interface HubFile extends HubRepo {
  /** Path within the repository, with `/` between folders. */
  readonly path: string;
}

/** How to reach the hub, and callbacks. */
export interface HubOptions {
  /**
   * Environment variables in place of the process's: HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN, HF_TOKEN_PATH
   * and HF_HUB_OFFLINE, as Python's `huggingface_hub` reads them. Proxies are always those of the process: Deno
   * itself reads HTTPS_PROXY and NO_PROXY.
   */
  readonly environment?: Environment | undefined;
  /** Is called with the bytes that are here, those of an earlier download among them, and with all bytes. */
  readonly onProgress?: ((doneBytes: number, totalBytes: number) => void) | undefined;
  /** Is called with sentences for the user: what is downloaded and how large it is, and delays. */
  readonly onNotice?: ((sentence: string) => void) | undefined;
  /** Cancels the work; the next download resumes where this one ended. */
  readonly signal?: AbortSignal | undefined;
  /** Largest file that is downloaded; of any size by default. */
  readonly mostBytes?: number | undefined;
}

/** The parts of `hf:…`; whether it names a dataset or a model depends on the option. */
export interface HubSpec extends Omit<HubRepo, "type"> {
  /** Path within the repository. */
  readonly path?: string | undefined;
}

/**
 * Reads `hf:OWNER/NAME`, `hf:OWNER/NAME/FILE` or `hf:NAME`, each with `@REVISION` or without.
 *
 * @throws {UserError} if it has another form, or if the hub cannot have such a name.
 */
export function parseHubSpec(spec: string): HubSpec {
  const match = /^hf:([^/@]+(?:\/[^/@]+)?)(?:\/([^@]+))?(?:@(.+))?$/.exec(spec);
  if (!match) {
    throw new UserError(
      `Cannot read ${quoted(spec)} as it must be hf:OWNER/NAME or hf:OWNER/NAME/FILE, ` +
        `with @REVISION or without`,
    );
  }
  const [, repo, path, revision] = match;
  const names = { repo: repo!, ...(path && { path }), ...(revision && { revision }) };
  checkNames(names);
  return names;
}

/** Checks names, which become paths and addresses: none may lead out of its folder. */
function checkNames({ repo, path, revision }: HubSpec): void {
  const check = (what: string, name: string, ok: boolean) => {
    if (ok) return;
    throw new UserError(
      `Cannot take ${what} from the hub as its name must not have "..", "\\" or other parts that ` +
        `lead elsewhere: current value is ${quoted(name)}`,
    );
  };
  // the hub's own rule: letters, digits, "-", "_" and ".", the last two in no pairs
  const isRepo = /^(\w[\w.-]{0,95}\/)?\w[\w.-]{0,95}$/.test(repo) && !/\.\.|--/.test(repo);
  check("a repository", repo, isRepo);
  for (const [what, name] of [["a file", path], ["a revision", revision]] as const) {
    if (name === undefined) continue;
    // deno-lint-ignore no-control-regex
    const ok = !/[\\\x00-\x1f\x7f]|^[a-z]:/i.test(name) && name.length <= 1024 &&
      name.split("/").every((segment) => !["", ".", ".."].includes(segment));
    check(what, name, ok);
  }
}

function openSession(
  { type, repo, path, revision = "main" }: HubRepo & { path?: string },
  { environment, onNotice = () => {}, signal }: HubOptions,
): HubSession {
  checkNames({ repo, path, revision });
  const settings = hubSettings(environment);
  return {
    ...settings,
    type,
    repo,
    revision,
    task: path === undefined ? `load ${repo}` : `download ${repo}/${path}`,
    page: `${settings.endpoint}/${type === "dataset" ? "datasets/" : ""}${repo}`,
    onNotice,
    signal,
  };
}

/**
 * Returns a file's path in the hub's cache; a file that is not there is downloaded first.
 *
 * The hub is asked which commit the revision is now, unless the revision is a commit and the cache has the file; if the
 * hub cannot be reached, the commit is the one that the hub named last. A download that was cut off resumes at its
 * last byte, and is accepted only with the hash that the hub names.
 *
 * @throws {HubError} in one sentence with what to do, if the file cannot be had.
 * @throws {UserError} if the hub cannot have such a name.
 * @throws the signal's reason, if it aborts.
 */
export async function hubFile(file: HubFile, options: HubOptions = {}): Promise<CachedFile> {
  const { mostBytes = Infinity, onProgress = () => {} } = options;
  const session = openSession(file, options), { revision, cache, offline, onNotice } = session;
  const cached = findCached(session, revision, file.path);
  if (cached && (offline || isCommit(revision))) return cached;
  if (offline) throw absent(session);
  for (let again = false;; again = true) {
    let remote: RemoteFile;
    try {
      remote = await describe(session, file.path);
    } catch (error) {
      if (!cached || !isPassing(error)) throw error;
      onNotice(`${error.message}; taking what is in the cache, of commit ${cached.commit}`);
      return cached;
    }
    const { bytes } = remote;
    if (bytes > mostBytes) {
      throw failure(session, `it must have at most ${mostBytes} bytes: current size is ${bytes}`);
    }
    try {
      return await addToCache(session, remote, (doneBytes) => onProgress(doneBytes, bytes));
    } catch (error) {
      if (isSystemError(error)) {
        throw new HubError(
          `Cannot ${session.task} into ${cache} as ${reasonOf(error)}: ` +
            `change that, or set HF_HUB_CACHE to another directory`,
        );
      }
      if (!(error instanceof ChangedError) || again) throw error;
      onNotice(`${error.message}; starting over`);
    }
  }
}

/**
 * Lists a repository's files, in all its folders; if the hub cannot be reached, the files in the cache.
 *
 * @returns paths with `/` between folders, in order, and sizes.
 * @throws as `hubFile()` does.
 */
export async function listHubFiles(
  repo: HubRepo,
  options: HubOptions = {},
): Promise<{ path: string; bytes: number }[]> {
  const session = openSession(repo, options), { revision, offline, onNotice } = session;
  const inOrder = (list: { path: string; bytes: number }[]) =>
    list.sort((a, b) => a.path < b.path ? -1 : 1);
  const cached = inOrder(listCached(session, revision));
  if (offline && cached.length === 0) throw absent(session);
  if (offline) return cached;
  try {
    return inOrder(await listRemote(session));
  } catch (error) {
    if (cached.length === 0 || !isPassing(error)) throw error;
    onNotice(`${error.message}; taking what is in the cache`);
    return cached;
  }
}

const isPassing = (error: unknown): error is HubError => error instanceof HubError && error.passing;

function absent(session: HubSession): HubError {
  const where = `it is not in ${session.cache}`;
  return failure(session, `HF_HUB_OFFLINE is set and ${where}: unset it, to download once`, 404);
}

/** An answer that the hub would not give: `HF_ENDPOINT` may be the address of something else. */
function oddAnswer(session: HubSession, reason: string): HubError {
  const what = `what ${session.endpoint} answers is not the hub's`;
  return failure(session, `${what} (${reason}): check HF_ENDPOINT`, 0);
}

/** Asks the hub for the commit, size and hash of a file. */
async function describe(session: HubSession, path: string): Promise<RemoteFile> {
  const address = addressOf(session, session.revision, path);
  const { headers } = await request(session, address, { method: "HEAD" });
  const header = (...names: string[]) => names.map((name) => headers.get(name)).find(Boolean) ?? "";
  const commit = header("X-Repo-Commit");
  const etag = header("X-Linked-Etag", "ETag").replace(/^(?:W\/)?"(.*)"$/, "$1");
  const size = header("X-Linked-Size", "Content-Length"), bytes = Number(size);
  if (/^\d+$/.test(size) && isCommit(commit) && (isSha256(etag) || isCommit(etag))) {
    return { path, commit, bytes, etag };
  }
  throw oddAnswer(
    session,
    `commit, size and hash are ${[commit, size, etag].map((value) => quoted(value)).join(", ")}`,
  );
}

/** Most files of a repository that are listed, and pages of the list. */
const MOST_FILES = 200_000, MOST_PAGES = 1000;

async function listRemote(session: HubSession): Promise<{ path: string; bytes: number }[]> {
  const { endpoint, type, repo, revision } = session;
  const files: { path: string; bytes: number }[] = [];
  const api = `${endpoint}/api/${type}s/${repo}/tree/${encodeURIComponent(revision)}`;
  let next: string | undefined = `${api}?recursive=true`;
  for (let page = 0; next !== undefined; page++) {
    const response: Response = await request(session, next);
    const entries = await jsonOf(session, response);
    if (!Array.isArray(entries) || !entries.every(isObject)) {
      throw oddAnswer(session, "it must be a list of objects");
    }
    for (const { type, path, size } of entries) {
      if (type !== "file") continue;
      if (typeof path !== "string" || !Number.isSafeInteger(size) || size as number < 0) {
        throw oddAnswer(session, `path and size of a file are ${quoted(path)} and ${quoted(size)}`);
      }
      checkNames({ repo, path });
      files.push({ path, bytes: size as number });
    }
    if (files.length > MOST_FILES || page === MOST_PAGES) {
      throw oddAnswer(session, `it lists more than ${MOST_FILES} files`);
    }
    const link = /<([^>]+)>; *rel="next"/.exec(response.headers.get("Link") ?? "")?.[1];
    const address: URL | undefined = link === undefined
      ? undefined
      : addressIn(link, new URL(next));
    if (link !== undefined && !address) {
      throw oddAnswer(session, `its next page is ${quoted(link)}`);
    }
    next = address?.href;
  }
  return files;
}

async function jsonOf(session: HubSession, response: Response): Promise<unknown> {
  const parts: Uint8Array[] = [];
  let bytes = 0;
  for await (const part of chunksOf(session, response)) {
    if ((bytes += part.length) > MOST_JSON_BYTES) {
      throw oddAnswer(session, `it has more than ${MOST_JSON_BYTES} bytes`);
    }
    parts.push(part);
  }
  try {
    return fromJsonBytes(Buffer.concat(parts));
  } catch {
    throw oddAnswer(session, "it is not JSON");
  }
}
