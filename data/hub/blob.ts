import { createHash, type Hash } from "node:crypto";
import {
  closeSync,
  fsyncSync,
  ftruncateSync,
  openSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
} from "node:fs";
import { dirname } from "node:path";
import { shortageAt, SPARE_BYTES, writeAll } from "../../files/disk.ts";
import { printable } from "../../files/printable.ts";
import { byteCount, byteCounts } from "../../files/units.ts";
import {
  ATTEMPTS,
  backOffMs,
  failure,
  HubError,
  type HubSession,
  isSha256,
  request,
  wait,
  within,
} from "./request.ts";

/**
 * Downloads of single files: a download resumes where the last one ended, and the file gets its name only if its
 * hash is the one that the hub names.
 *
 * @module
 */

/** A file as the hub describes it. */
export interface RemoteFile {
  /** Path within the repository. */
  readonly path: string;
  /** The commit that it belongs to. */
  readonly commit: string;
  readonly bytes: number;
  /** SHA-256 in hexadecimal of files in the hub's large file storage, SHA-1 as git forms it of others. */
  readonly etag: string;
}

/** Address of a file of a repository. */
export function addressOf({ page }: HubSession, revision: string, path: string): string {
  return [page, "resolve", ...[revision, ...path.split("/")].map(encodeURIComponent)].join("/");
}

/** Thrown if the bytes are not those that the hub described: the file may have changed meanwhile. */
export class ChangedError extends HubError {
  constructor({ task }: HubSession, reason: string) {
    super(`Cannot ${task} as ${reason}`);
  }
}

/**
 * Downloads a file to `path`. Until it is complete it lies at `path.incomplete`, where the next call resumes.
 *
 * @param onProgress is called with the bytes that are here.
 * @throws {ChangedError} if size or hash are not as described; nothing is kept then.
 * @throws {HubError} if the disk has no room, or the hub or the network fails.
 */
export async function fetchBlob(
  session: HubSession,
  path: string,
  file: RemoteFile,
  onProgress: (doneBytes: number) => void,
): Promise<void> {
  const incomplete = `${path}.incomplete`, { bytes, etag } = file;
  const there = statSync(incomplete, { throwIfNoEntry: false })?.size ?? 0;
  const shortage = shortageAt(dirname(path), bytes - there + SPARE_BYTES);
  if (shortage !== undefined) {
    const advice = "make room, or set HF_HUB_CACHE to a directory elsewhere";
    throw failure(session, `${shortage}; ${advice}`);
  }
  const before = there > 0 ? `, of which ${byteCount(there)} are here` : "";
  session.onNotice(`${session.task}: ${byteCount(bytes)}${before}`);
  try {
    using part = new Part(incomplete, file);
    part.readRest(onProgress);
    await complete(session, part, file, onProgress);
    const hash = part.finish();
    if (hash !== etag) {
      throw new ChangedError(session, `its hash must be ${etag}: current hash is ${hash}`);
    }
  } catch (error) {
    if (error instanceof ChangedError) rmSync(incomplete);
    throw error;
  }
  renameSync(incomplete, path);
}

/** Requests the missing bytes until the file is complete, or several requests in a row bring none. */
async function complete(
  session: HubSession,
  part: Part,
  file: RemoteFile,
  onProgress: (doneBytes: number) => void,
): Promise<void> {
  let furthest = 0; // after a restart there is no progress up to here
  for (let failures = 0; part.done < file.bytes;) {
    try {
      for await (const chunk of missingBytes(session, part, file)) {
        part.append(chunk);
        onProgress(part.done);
        if (part.done > furthest) failures = 0;
        furthest = Math.max(furthest, part.done);
      }
      if (part.done < file.bytes) throw lost(session, "it ends early");
    } catch (error) {
      if (!(error instanceof HubError) || error.status !== 0) throw error;
      const [done, all] = byteCounts(part.done, file.bytes);
      const here = `${done} of ${all} are here`;
      if (++failures === ATTEMPTS) {
        throw new HubError(`${error.message}; ${here}, and the same command resumes there`, 0);
      }
      session.onNotice(`the connection is lost, ${here}: resuming`);
      await wait(session, backOffMs(failures));
    }
  }
}

/** Requests the bytes that a part lacks. That they are those of the same file is known by its hash in the end. */
async function* missingBytes(
  session: HubSession,
  part: Part,
  { path, commit, bytes }: RemoteFile,
): AsyncGenerator<Uint8Array> {
  const { done } = part, headers = new Headers(done === 0 ? {} : { Range: `bytes=${done}-` });
  const response = await request(session, addressOf(session, commit, path), { headers })
    .catch((error) => {
      if (!(error instanceof HubError) || error.status !== 416) throw error;
      throw new ChangedError(session, `it is shorter than ${bytes} bytes`);
    });
  const range = response.headers.get("Content-Range") ?? "none";
  if (response.status !== 206) part.restart(); // the server knows no ranges
  else if (!range.startsWith(`bytes ${done}-`)) {
    throw new ChangedError(
      session,
      `its bytes from ${done} of ${bytes} were requested: current range is ${printable(range)}`,
    );
  }
  for await (const chunk of chunksOf(session, response)) {
    if (part.done + chunk.length > bytes) {
      throw new ChangedError(session, `it is longer than ${bytes} bytes`);
    }
    yield chunk;
  }
}

/** The chunks of a body; a connection that dies or falls silent is an error of status 0. */
export async function* chunksOf(
  session: HubSession,
  { body }: Response,
): AsyncGenerator<Uint8Array> {
  if (!body) return;
  const reader = body.getReader();
  try {
    for (;;) {
      const { done, value } = await within(session.silenceMs, reader.read());
      if (done) return;
      yield value;
    }
  } catch (error) {
    session.signal?.throwIfAborted();
    throw lost(session, (error as Error).message);
  } finally {
    await reader.cancel().catch(() => {}); // the connection may be lost already
  }
}

function lost(session: HubSession, reason: string): HubError {
  return failure(session, `the connection is lost (${reason})`, 0);
}

/** The beginning of a file on the disk, and its hash. */
class Part implements Disposable {
  /** Bytes that are here. */
  done = 0;
  readonly #file: number;
  readonly #described: RemoteFile;
  #hash: Hash;

  constructor(path: string, described: RemoteFile) {
    this.#described = described;
    this.#hash = this.#newHash();
    this.#file = openSync(path, "a+");
  }

  /** Reads what an earlier download left; what is longer than the file cannot be its beginning. */
  readRest(onProgress: (doneBytes: number) => void): void {
    const chunk = new Uint8Array(2 ** 24);
    for (let length; (length = readSync(this.#file, chunk, 0, chunk.length, this.done)) > 0;) {
      this.#hash.update(chunk.subarray(0, length));
      this.done += length;
      if (this.done > this.#described.bytes) return this.restart();
      onProgress(this.done);
    }
  }

  /** Forgets everything. */
  restart(): void {
    ftruncateSync(this.#file, 0);
    this.#hash = this.#newHash();
    this.done = 0;
  }

  append(chunk: Uint8Array): void {
    writeAll(this.#file, chunk);
    this.#hash.update(chunk);
    this.done += chunk.length;
  }

  /** Makes the whole file survive a power cut, and returns its hash. */
  finish(): string {
    fsyncSync(this.#file);
    return this.#hash.digest("hex");
  }

  [Symbol.dispose](): void {
    closeSync(this.#file);
  }

  #newHash(): Hash {
    const { etag, bytes } = this.#described;
    return isSha256(etag) ? createHash("sha256") : createHash("sha1").update(`blob ${bytes}\0`); // as git does
  }
}
