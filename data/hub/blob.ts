import { createHash } from "node:crypto";
import { fstatSync, fsyncSync, renameSync, rmSync, statSync, truncateSync } from "node:fs";
import { dirname } from "node:path";
import { openFile, readChunks, shortageAt, SPARE_BYTES, writeAll } from "../../files/disk.ts";
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
    await complete(session, incomplete, file, onProgress);
    const hash = hashOf(incomplete, file);
    if (hash !== etag) {
      throw new ChangedError(session, `its hash must be ${etag}: current hash is ${hash}`);
    }
  } catch (error) {
    if (error instanceof ChangedError) rmSync(incomplete);
    throw error;
  }
  renameSync(incomplete, path);
}

/** Appends the missing bytes to a file until it is whole, or several requests in a row bring none. */
async function complete(
  session: HubSession,
  path: string,
  file: RemoteFile,
  onProgress: (doneBytes: number) => void,
): Promise<void> {
  using opened = openFile(path, "a");
  const { handle } = opened, { bytes } = file;
  let done = fstatSync(handle).size, furthest = done; // after a restart there is no progress up to here
  if (done > 0) onProgress(done);
  for (let failures = 0; done < bytes;) {
    try {
      const response = await requestFrom(session, file, done);
      if (response.status !== 206) { // the server knows no ranges
        truncateSync(path); // by its name: on Windows a handle for appending cannot do it
        done = 0;
      }
      for await (const chunk of chunksOf(session, response)) {
        if (done + chunk.length > bytes) {
          throw new ChangedError(session, `it is longer than ${bytes} bytes`);
        }
        writeAll(handle, chunk);
        done += chunk.length;
        onProgress(done);
        if (done > furthest) failures = 0;
        furthest = Math.max(furthest, done);
      }
      if (done < bytes) throw lost(session, "it ends early");
    } catch (error) {
      if (!(error instanceof HubError) || error.status !== 0) throw error;
      const here = `${byteCounts(done, bytes).join(" of ")} are here`;
      if (++failures === ATTEMPTS) {
        throw new HubError(`${error.message}; ${here}, and the same command resumes there`, 0);
      }
      session.onNotice(`the connection is lost, ${here}: resuming`);
      await wait(session, backOffMs(failures));
    }
  }
  fsyncSync(handle);
}

/** Requests the bytes of a file from a place. Whether they are those of the same file, its hash says in the end. */
async function requestFrom(
  session: HubSession,
  { path, commit, bytes }: RemoteFile,
  from: number,
): Promise<Response> {
  const headers = new Headers(from === 0 ? {} : { Range: `bytes=${from}-` });
  const response = await request(session, addressOf(session, commit, path), { headers })
    .catch((error) => {
      if (!(error instanceof HubError) || error.status !== 416) throw error;
      throw new ChangedError(session, `it is shorter than ${bytes} bytes`);
    });
  const range = response.headers.get("Content-Range") ?? "none";
  if (response.status !== 206 || range.startsWith(`bytes ${from}-`)) return response;
  throw new ChangedError(
    session,
    `its bytes from ${from} of ${bytes} were requested: current range is ${printable(range)}`,
  );
}

/** The hash of a file that is named by an etag. */
function hashOf(path: string, { etag, bytes }: RemoteFile): string {
  const hash = isSha256(etag) ? createHash("sha256") : createHash("sha1").update(`blob ${bytes}\0`); // as git does
  for (const chunk of readChunks(path)) hash.update(chunk);
  return hash.digest("hex");
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
      const { done, value } = await within(reader.read());
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
