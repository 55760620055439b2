import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { join } from "node:path";
import timers from "node:timers/promises";
import type { HubOptions } from "../../../data/hub/hub.ts";
import { Random } from "../../../data/random.ts";
import { freshSeed } from "../../seeds.ts";

/** A request that the server has had. */
export interface Seen {
  /** `hub`, or the host that it sends on to for large files. */
  host: "hub" | "cdn";
  method: string;
  /** Path and query. */
  path: string;
  headers: Headers;
}

/** What a test wants in place of the right answer: a whole one, or a cut of the right one. */
export type Fault = Response | { cutAfter: number } | { stallAfter: number } | undefined;

interface StoredFile {
  bytes: Uint8Array<ArrayBuffer>;
  /** Whether it is in the large file storage. */
  large: boolean;
  sha256: string;
  /** git's hash of the bytes. */
  oid: string;
  /** What the CDN calls it; a fresh one each time a file is published. */
  etag: string;
}

const sha1 = (...parts: (string | Uint8Array)[]) => {
  const hash = createHash("sha1");
  for (const part of parts) hash.update(part);
  return hash.digest("hex");
};

/**
 * Plays the Hugging Face hub on two local ports, the second for what its CDN does: one repository,
 * whose `main` is the commit of the last `publish()`.
 *
 * Answers as the hub does (https://huggingface.co/docs/hub/api), unless `fault` wants another.
 */
export class HubServer implements AsyncDisposable {
  /** Every request so far. */
  readonly seen: Seen[] = [];
  /** Asked at each request, after it was noted. */
  fault: (seen: Seen) => Fault = () => undefined;
  /** The waits of the client so far, in milliseconds. */
  readonly waits: number[] = [];
  /** Replaces a wait of the client; by default it ends at once. */
  wait: (ms: number) => Promise<void> = () => Promise.resolve();
  /** Is called for every piece of a file that is sent. */
  onPiece: (bytes: number) => void | Promise<void> = () => {};
  /** The token that is wanted, if any. */
  token: string | undefined;
  /** `datasets/OWNER/NAME` or, for models, `OWNER/NAME`. */
  readonly #repo: string;
  readonly #commits = new Map<string, Map<string, StoredFile>>();
  readonly #end = new AbortController();
  readonly #hub: Deno.HttpServer<Deno.NetAddr>;
  readonly #cdn: Deno.HttpServer<Deno.NetAddr>;
  readonly #setTimeout = timers.setTimeout;
  #main = "";

  constructor(repo = "datasets/tiny/stories") {
    this.#repo = repo;
    const serve = (host: Seen["host"]) =>
      Deno.serve(
        { hostname: "127.0.0.1", port: 0, onListen: () => {}, signal: this.#end.signal },
        (request) => this.#answer(host, request),
      );
    this.#hub = serve("hub");
    this.#cdn = serve("cdn");
    timers.setTimeout = (async (ms: number) => {
      this.waits.push(ms);
      await this.wait(ms);
    }) as typeof timers.setTimeout;
  }

  /** Address of the hub. */
  get endpoint(): string {
    return `http://127.0.0.1:${this.#hub.addr.port}`;
  }

  /** The commit that `main` is. */
  get main(): string {
    return this.#main;
  }

  /** Adds or replaces a file; returns the commit. */
  publish(path: string, bytes: Uint8Array<ArrayBuffer>, { large = true } = {}): string {
    const files = new Map(this.#commits.get(this.#main));
    const etag = crypto.randomUUID();
    const sha256 = createHash("sha256").update(bytes).digest("hex");
    files.set(path, { bytes, large, sha256, oid: sha1(`blob ${bytes.length}\0`, bytes), etag });
    this.#main = sha1(this.#main, path, etag);
    this.#commits.set(this.#main, files);
    return this.#main;
  }

  /** Puts other bytes where those of a commit were, and says nothing. */
  corrupt(path: string, change: (file: StoredFile) => Partial<StoredFile>): void {
    const file = this.#commits.get(this.#main)!.get(path)!;
    Object.assign(file, change(file));
  }

  /** The requests to a host, as `METHOD /path range`. */
  log(host: Seen["host"]): string[] {
    return this.seen.filter((seen) => seen.host === host).map(({ method, path, headers }) =>
      [method, path, headers.get("range")].filter(Boolean).join(" ")
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    timers.setTimeout = this.#setTimeout;
    this.#end.abort();
    await Promise.all([this.#hub.finished, this.#cdn.finished]);
  }

  #answer(host: Seen["host"], request: Request): Response {
    const { pathname, search } = new URL(request.url);
    const { method } = request, headers = new Headers(request.headers); // which tests may change
    const seen: Seen = { host, method, path: pathname + search, headers };
    this.seen.push(seen);
    const fault = this.fault(seen);
    if (fault instanceof Response) return fault;
    const cut = fault;
    if (host === "cdn") {
      const sha256 = pathname.slice(1);
      const file = [...this.#commits.values()].flatMap((files) => [...files.values()])
        .findLast((file) => file.sha256 === sha256)!;
      return this.#send(file.bytes, `"${file.etag}"`, headers, cut);
    }
    if (this.token !== undefined && headers.get("authorization") !== `Bearer ${this.token}`) {
      return refuse(401, "RepoNotFound");
    }
    const [, kind, name] = /^(datasets\/)?(.*)$/.exec(this.#repo)!;
    const api = `/api/${kind ?? "models/"}${name}/`;
    const cached = `/api/resolve-cache/${this.#repo}/`;
    if (pathname.startsWith(api)) return this.#api(pathname.slice(api.length), search);
    for (const [isCached, start] of [[false, `/${this.#repo}/resolve/`], [true, cached]] as const) {
      if (!pathname.startsWith(start)) continue;
      const [revision, ...path] = pathname.slice(start.length).split("/").map(decodeURIComponent);
      return this.#resolve(revision!, path.join("/"), { headers, cut, isCached });
    }
    return refuse(404, "RepoNotFound");
  }

  #at(revision: string): [commit: string, files: Map<string, StoredFile>] | undefined {
    const commit = revision === "main" ? this.#main : revision;
    const files = this.#commits.get(commit);
    return files && [commit, files];
  }

  #api(call: string, search: string): Response {
    const [verb, encoded, ...folder] = call.split("/");
    const kind = this.#repo.startsWith("datasets/") ? "" : "models/";
    const at = this.#at(decodeURIComponent(encoded!));
    if (!at) return refuse(404, "RevisionNotFound");
    const [commit, files] = at;
    if (verb === "tree") { // in pages of two
      assert.deepEqual(folder, []);
      const from = Number(new URLSearchParams(search).get("cursor") ?? 0), next = from + 2;
      const page = [...files].slice(from, next).map(([path, { bytes, large, sha256, oid }]) => ({
        type: "file",
        path,
        size: bytes.length,
        oid: large ? sha1(sha256) : oid, // of a large file's pointer
        ...(large ? { lfs: { oid: sha256, size: bytes.length, pointerSize: 130 } } : {}),
      }));
      const link =
        `<${this.endpoint}/api/${kind}${this.#repo}/tree/${commit}?recursive=true&cursor=${next}>; rel="next"`;
      return Response.json([{ type: "directory", path: "data", size: 0 }, ...page], {
        headers: next < files.size ? { Link: link } : {},
      });
    }
    return refuse(404, "RepoNotFound");
  }

  #resolve(
    revision: string,
    path: string,
    { headers, cut, isCached }: {
      headers: Headers;
      cut: Exclude<Fault, Response>;
      isCached: boolean;
    },
  ): Response {
    const at = this.#at(revision);
    if (!at) return refuse(404, "RevisionNotFound");
    const [commit, files] = at;
    const file = files.get(path);
    if (!file) return refuse(404, "EntryNotFound");
    const { large, bytes, oid, sha256 } = file;
    if (!large && !isCached) { // to an address that is the same for all names of the commit
      const Location = `/api/resolve-cache/${this.#repo}/${commit}/${encodeURIComponent(path)}`;
      return new Response(null, { status: 307, headers: { Location, "X-Linked-Etag": '"no"' } });
    }
    if (!large) return this.#send(bytes, `"${oid}"`, headers, cut, { "X-Repo-Commit": commit });
    return new Response(null, {
      status: 302,
      headers: {
        Location: `http://127.0.0.1:${this.#cdn.addr.port}/${sha256}?signature=x`,
        "X-Repo-Commit": commit,
        "X-Linked-Etag": `"${sha256}"`,
        "X-Linked-Size": `${bytes.length}`,
      },
    });
  }

  /** Bytes, or the part of them that is asked for, cut off as the test wants. */
  #send(
    bytes: Uint8Array<ArrayBuffer>,
    etag: string,
    asked: Headers,
    cut: Exclude<Fault, Response>,
    more: Record<string, string> = {},
  ): Response {
    const range = /^bytes=(\d+)-(\d*)$/.exec(asked.get("range") ?? "");
    const from = range ? Number(range[1]) : 0;
    if (from >= bytes.length && bytes.length > 0) {
      return new Response(null, {
        status: 416,
        headers: { "Content-Range": `bytes */${bytes.length}` },
      });
    }
    const part = bytes.subarray(from, Number(range?.[2] || bytes.length));
    const headers = new Headers({ ...more, ETag: etag, "Content-Length": `${part.length}` });
    if (range) {
      headers.set("Content-Range", `bytes ${from}-${from + part.length - 1}/${bytes.length}`);
    }
    const { onPiece } = this, { signal } = this.#end;
    async function* pieces() {
      const end = cut && "cutAfter" in cut ? cut.cutAfter : cut?.stallAfter ?? Infinity;
      for (let at = 0; at < part.length; at += PIECE) {
        const piece = part.subarray(at, Math.min(at + PIECE, end));
        await onPiece(piece.length);
        if (piece.length > 0) yield piece;
        if (at + PIECE < end) continue;
        if (cut && "stallAfter" in cut) {
          await new Promise((resolve) => signal.addEventListener("abort", resolve));
        }
        return; // before the length that was announced
      }
    }
    return new Response(ReadableStream.from(pieces()), { status: range ? 206 : 200, headers });
  }
}

/** Bytes that go out together. */
const PIECE = 16 * 1024;

/** A refusal as the hub words it. */
export function refuse(status: number, code?: string, headers: HeadersInit = {}): Response {
  const response = Response.json({ error: "no" }, { status, headers });
  if (code) response.headers.set("X-Error-Code", code);
  return response;
}

/** The hub's description of a file, with other headers. */
export function described(headers: Record<string, string>): Response {
  const etag = `"${"ab".repeat(20)}"`, commit = "cd".repeat(20);
  return new Response(null, {
    headers: { "X-Repo-Commit": commit, "X-Linked-Size": "5", "X-Linked-Etag": etag, ...headers },
  });
}

/** The file that `hubCase()` publishes. */
export const STORIES = { type: "dataset", repo: "tiny/stories", path: "data/train.txt" } as const;

/** Random bytes. */
export function randomBytes(random: Random, length: number): Uint8Array<ArrayBuffer> {
  return Uint8Array.from({ length }, () => random.next());
}

/** Fails unless a file holds some bytes; does not list the differences, which takes minutes. */
export function assertHolds(path: string, bytes: Uint8Array, message?: string): void {
  const hash = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");
  assert.equal(hash(Deno.readFileSync(path)), hash(bytes), message);
}

/** A hub with one file of random bytes, an empty cache, and what `hubFile()` says; nothing waits. */
export function hubCase(
  directory: string,
  { bytes = 100_000, large = true, seed = freshSeed() } = {},
) {
  const server = new HubServer();
  const random = new Random(seed);
  const content = randomBytes(random, bytes);
  server.publish(STORIES.path, content, { large });
  const home = Deno.makeTempDirSync({ dir: directory });
  const environment: Record<string, string> = { HF_HOME: home, HF_ENDPOINT: server.endpoint };
  const notices: string[] = [], progress: number[] = [];
  const options: HubOptions = {
    environment,
    onNotice: (sentence) => notices.push(sentence),
    onProgress: (done) => progress.push(done),
  };
  const repository = join(home, "hub", "datasets--tiny--stories");
  const blobs = () => [...Deno.readDirSync(join(repository, "blobs"))].map(({ name }) => name);
  return {
    server,
    random,
    seed,
    content,
    environment,
    options,
    notices,
    waits: server.waits,
    progress,
    repository,
    blobs,
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  };
}
