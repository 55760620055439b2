import { setTimeout as sleep } from "node:timers/promises";
import { load, type Package } from "../../files/packages.ts";
import { printable, quoted } from "../../files/printable.ts";
import { UserError } from "../../files/user_error.ts";
import { ChangedError, chunksOf, fetchBlob, type RemoteFile } from "./blob.ts";
import { type CachedFile, isCommit, isSha256, RepositoryCache } from "./cache.ts";
import { type Environment, HubError, type HubSession, hubSettings, request } from "./request.ts";

export type { CachedFile } from "./cache.ts";
export { type Environment, HubError } from "./request.ts";

/**
 * Files from the Hugging Face hub, in its standard cache.
 *
 * The package `@huggingface/hub` knows the hub's interface: which commit a revision is, which files it has, how
 * large they are, and which hashes they have. The bytes are fetched (blob.ts) and kept (cache.ts) here, because
 * the package's downloads check no hash, cannot be resumed safely (they neither ask whether a file is still the
 * same nor notice if a whole file comes in place of a part), and are filed under the last commit of the file
 * rather than of the repository, without the reference by which they are found offline. Its requests are made by
 * `request()` (request.ts), which retries, redirects, and keeps the token.
 *
 * @module
 */

/** A repository of the hub, at a revision. */
export interface HubRepo {
  /** Whether it holds data or a model. */
  readonly type: "dataset" | "model";
  /** `OWNER/NAME`, or `NAME` for the hub's oldest ones. */
  readonly repo: string;
  /** Branch, tag or commit; `main` by default. */
  readonly revision?: string;
}

/** A file of a repository. */
export interface HubFile extends HubRepo {
  /** Path within the repository, with `/` between folders. */
  readonly path: string;
}

/** How to reach the hub, and callbacks during the work. */
export interface HubOptions {
  /**
   * Environment variables in place of the process's own: HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN,
   * HF_TOKEN_PATH and HF_HUB_OFFLINE, with the meaning that they have for Python's `huggingface_hub`.
   * Proxies are those of the process, whatever stands here: Deno itself reads HTTPS_PROXY and NO_PROXY.
   */
  readonly environment?: Environment;
  /** Is called with the bytes that have arrived and all bytes; those of an earlier download count as well. */
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void;
  /** Is called with sentences for the user: what is downloaded and its size before it begins, and delays. */
  readonly onNotice?: (sentence: string) => void;
  /** Ends the work; what has arrived stays, and the next download resumes there. */
  readonly signal?: AbortSignal;
  /** How long a connection may be silent before it counts as lost; 30,000 by default. */
  readonly silenceMs?: number;
  /** Waits for a number of milliseconds; tests need not wait. */
  readonly sleep?: (milliseconds: number) => Promise<void>;
  /** Largest file that is downloaded; of any size by default. */
  readonly mostBytes?: number;
}

/** What `hf:…` names; whether that is a dataset or a model depends on the option. */
export interface HubSpec {
  /** `OWNER/NAME` or `NAME`. */
  repo: string;
  /** Path within the repository. */
  path?: string;
  /** Branch, tag or commit. */
  revision?: string;
}

/**
 * Reads `hf:OWNER/NAME`, `hf:OWNER/NAME/FILE` or `hf:NAME`, each with `@REVISION` or without.
 *
 * @throws {UserError} if it is nothing of the kind, or if a name is none of the hub's.
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

/** Thrown for a name that the hub cannot have. */
class BadName extends UserError {}

/**
 * Names become paths and addresses: none may lead out of its folder.
 *
 * @throws {UserError} naming it.
 */
function checkNames({ repo, path, revision }: HubSpec): void {
  const check = (what: string, name: string, ok: boolean) => {
    if (ok) return;
    throw new BadName(
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

/** A session and the part of the cache that belongs to its repository. */
interface Repository {
  readonly session: HubSession;
  readonly files: RepositoryCache;
}

function openRepository(
  { type, repo, path, revision = "main" }: HubRepo & { path?: string },
  { environment, onNotice = () => {}, signal, silenceMs = 30_000, ...options }: HubOptions,
): Repository {
  checkNames({ repo, revision, ...(path === undefined ? {} : { path }) });
  const settings = hubSettings(environment);
  const session = {
    ...settings,
    type,
    repo,
    revision,
    task: path === undefined ? `list ${repo}` : `download ${repo}/${path}`,
    page: `${settings.endpoint}/${type === "dataset" ? "datasets/" : ""}${repo}`,
    onNotice,
    signal,
    silenceMs,
    sleep: options.sleep ?? ((ms: number) => sleep(ms, undefined, signal && { signal })),
  };
  return { session, files: new RepositoryCache(settings.cache, { type, repo }) };
}

/**
 * Returns a file's path in the hub's cache, and downloads the file first if it is not there.
 *
 * The hub is asked which commit the revision is now, unless it is a commit itself and the file is there;
 * if the hub is out of reach, the commit that it named last is taken. A download that was cut off resumes
 * at its last byte, and is accepted only with the hash that the hub names.
 *
 * @throws {HubError} in one sentence with what to do, if the file cannot be had.
 * @throws {UserError} if a name is none of the hub's.
 * @throws the signal's reason, if it aborts.
 */
export async function hubFile(file: HubFile, options: HubOptions = {}): Promise<CachedFile> {
  const repository = openRepository(file, options), { session, files } = repository;
  const { task, revision, cache, offline, onNotice } = session;
  const cached = files.find(revision, file.path);
  if (cached && (offline || isCommit(revision))) return cached;
  if (offline) throw new HubError(`Cannot ${task} as ${absent(cache)}`);
  for (let again = false;; again = true) {
    let remote: RemoteFile;
    try {
      remote = await locate(session, file.path);
    } catch (error) {
      if (!cached || !isPassing(error)) throw error;
      onNotice(`${error.message}; taking what is in the cache, of commit ${cached.commit}`);
      return cached;
    }
    const { mostBytes = Infinity } = options;
    if (remote.bytes > mostBytes) {
      throw new HubError(
        `Cannot ${task} as it must have at most ${mostBytes} bytes: current size is ${remote.bytes}`,
      );
    }
    try {
      return await addToCache(repository, remote, options);
    } catch (error) {
      if (!(error instanceof ChangedError) || again) throw asSentence(session, error);
      onNotice(`${error.message}; starting over`);
    }
  }
}

/**
 * Lists a repository's files, in all its folders; if the hub is out of reach, the files in the cache.
 *
 * @returns paths with `/` between folders, in order, and sizes.
 * @throws as `hubFile()` does.
 */
export async function listHubFiles(
  repo: HubRepo,
  options: HubOptions = {},
): Promise<{ path: string; bytes: number }[]> {
  const { session, files } = openRepository(repo, options);
  const { task, cache, offline, onNotice } = session;
  const inOrder = (list: { path: string; bytes: number }[]) =>
    list.sort((a, b) => a.path < b.path ? -1 : 1);
  const cached = inOrder(files.list(session.revision));
  if (offline && cached.length === 0) throw new HubError(`Cannot ${task} as ${absent(cache)}`);
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

function absent(cache: string): string {
  return `HF_HUB_OFFLINE is set and it is not in ${cache}: unset it, to download once`;
}

/** Downloads a file into the cache, and notes which commit the revision is. */
async function addToCache(
  { session, files }: Repository,
  remote: RemoteFile,
  options: HubOptions,
): Promise<CachedFile> {
  const { revision, task, onNotice, sleep } = session, { path, commit, etag } = remote;
  await files.add(remote, {
    fetchBlob: (blob) => fetchBlob(session, blob, remote, options),
    onLocked: () => onNotice(`another process is about to ${task}: waiting for it`),
    wait: sleep,
  });
  try {
    files.remember(revision, commit);
  } catch {
    // a cache that may only be read is good enough
  }
  return { ...files.find(commit, path)!, ...(isSha256(etag) ? { sha256: etag } : {}) };
}

/** Why the system refuses to write the cache, in one sentence. */
function asSentence({ task, cache }: HubSession, error: unknown): unknown {
  const { code } = error as NodeJS.ErrnoException;
  if (code === "ENOSPC" || code === "EDQUOT") {
    return new HubError(
      `Cannot ${task} as the disk of ${cache} is full: make room, and the same command resumes`,
    );
  }
  const isRefused = ["EACCES", "EPERM", "EROFS", "ENOTDIR", "EEXIST"].includes(code ?? "");
  if (isRefused || error instanceof Deno.errors.NotCapable) {
    return new HubError(
      `Cannot ${task} as ${cache} may not be written: set HF_HUB_CACHE to a directory of yours`,
    );
  }
  return error;
}

/** What functions of `@huggingface/hub` are called with: a repository, and our `fetch()`. */
interface Access {
  repo: { type: HubRepo["type"]; name: string };
  hubUrl: string;
  fetch: typeof fetch;
}

/** Most requests per question, and bytes per answer; a page of a listing has some 500 kB. */
const MOST_REQUESTS = 1000, MOST_ANSWER_BYTES = 2 ** 25;

/** Most files of a repository. */
const MOST_FILES = 200_000;

/** Thrown if an answer is JSON, but not the hub's; the message says why. */
class OddAnswer extends Error {}

/** Asks the hub through `@huggingface/hub`. */
async function ask<T>(
  session: HubSession,
  question: (hub: Package<"@huggingface/hub">, access: Access) => Promise<T>,
): Promise<T> {
  const { type, repo: name, endpoint, task, signal } = session;
  const hub = await load("@huggingface/hub").catch(({ message }: Error) => {
    throw new HubError(message, 0);
  });
  let requests = 0;
  try {
    return await question(hub, {
      repo: { type, name },
      hubUrl: endpoint,
      fetch: async (address, init) => {
        if (++requests > MOST_REQUESTS) throw new OddAnswer("it has too many pages");
        const response = await request(session, address as string, init);
        return new Response(await wholeAnswer(session, response), response);
      },
    });
  } catch (error) {
    if (error instanceof HubError) throw error;
    signal?.throwIfAborted();
    const reason = error instanceof OddAnswer || error instanceof BadName
      ? error.message
      : error instanceof SyntaxError
      ? "it is no JSON"
      : "a part of it is missing or of another kind";
    throw new HubError(
      `Cannot ${task} as what ${endpoint} answers is not the hub's (${printable(reason)}): ` +
        `check HF_ENDPOINT`,
      0,
    );
  }
}

/** The bytes of an answer, unless they are too many. */
async function wholeAnswer(
  session: HubSession,
  response: Response,
): Promise<Uint8Array<ArrayBuffer>> {
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of chunksOf(session, response)) {
    if ((bytes += chunk.length) > MOST_ANSWER_BYTES) {
      throw new OddAnswer(`it has more than ${MOST_ANSWER_BYTES} bytes`);
    }
    chunks.push(chunk);
  }
  const whole = new Uint8Array(bytes);
  let at = 0;
  for (const chunk of chunks) {
    whole.set(chunk, at);
    at += chunk.length;
  }
  return whole;
}

/** The commit that the revision is now. */
async function commitOf(session: HubSession): Promise<string> {
  const { revision } = session;
  if (isCommit(revision)) return revision;
  return await ask(session, async (hub, { repo: { type, name }, ...access }) => {
    const query = { ...access, name, revision, additionalFields: ["sha" as const] };
    const { sha } = await (type === "model" ? hub.modelInfo(query) : hub.datasetInfo(query));
    if (typeof sha !== "string" || !isCommit(sha)) {
      throw new OddAnswer(`its commit is ${quoted(sha)}`);
    }
    return sha;
  });
}

/** Asks what a file is now. */
async function locate(session: HubSession, path: string): Promise<RemoteFile> {
  const commit = await commitOf(session);
  return await ask(session, async (hub, access) => {
    const [info] = await hub.pathsInfo({ ...access, paths: [path], revision: commit });
    if (info?.type !== "file") {
      const { task, page, revision } = session;
      throw new HubError(`Cannot ${task} as ${page} has no such file at ${revision}`, 404);
    }
    const { lfs, oid, size: bytes } = info;
    const etag: unknown = lfs?.oid ?? oid ?? "";
    if (
      typeof etag !== "string" || !(lfs ? isSha256(etag) : isCommit(etag)) ||
      !Number.isSafeInteger(bytes) || bytes < 0
    ) {
      throw new OddAnswer(`size and hash are ${quoted(bytes)} and ${quoted(etag)}`);
    }
    return { path, commit, bytes, etag };
  });
}

async function listRemote(session: HubSession): Promise<{ path: string; bytes: number }[]> {
  const revision = await commitOf(session);
  return await ask(session, async (hub, access) => {
    const files: { path: string; bytes: number }[] = [];
    const query = { ...access, revision, recursive: true };
    for await (const { type, path, size } of hub.listFiles(query)) {
      if (type !== "file") continue;
      if (typeof path !== "string" || !Number.isSafeInteger(size) || size < 0) {
        throw new OddAnswer(`path and size of a file are ${quoted(path)} and ${quoted(size)}`);
      }
      checkNames({ repo: session.repo, path });
      if (files.push({ path, bytes: size }) > MOST_FILES) {
        throw new OddAnswer(`it lists more than ${MOST_FILES} files`);
      }
    }
    return files;
  });
}
