import { createHash, type Hash } from "node:crypto";
import { renameSync, rmSync, statSync } from "node:fs";
import { dirname } from "node:path";
import { shortageAt, SPARE_BYTES } from "../../files/disk.ts";
import { printable } from "../../files/printable.ts";
import { byteCount, byteCounts } from "../../files/units.ts";
import { ATTEMPTS, backOffMs, HubError, type HubSession, request, within } from "./request.ts";

/**
 * The bytes of one file: resumed where they broke off, hashed as they arrive, and given their name only
 * when they are complete.
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

/** Where a file of a repository is downloaded from. */
function addressOf({ page }: HubSession, { path, commit }: RemoteFile): string {
  return [page, "resolve", commit, ...path.split("/").map(encodeURIComponent)].join("/");
}

/** A download's callback. */
export interface BlobOptions {
  /** Is called with the bytes that have arrived and all bytes. */
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void;
}

/** Thrown if the bytes are not those that the hub described, which is then asked once more. */
export class ChangedError extends HubError {}

/**
 * Fetches a file to `path`, by way of `path.incomplete`, which stays if the work breaks off: the next call
 * resumes at its end.
 *
 * @throws {ChangedError} if size or hash are not as described; nothing is kept then.
 * @throws {HubError} if there is no room, or the hub or the network refuses.
 */
export async function fetchBlob(
  session: HubSession,
  path: string,
  file: RemoteFile,
  { onProgress = () => {} }: BlobOptions,
): Promise<void> {
  const incomplete = `${path}.incomplete`;
  const { bytes } = file;
  const there = statSync(incomplete, { throwIfNoEntry: false })?.size ?? 0;
  const shortage = shortageAt(dirname(path), bytes - there + SPARE_BYTES);
  if (shortage !== undefined) {
    throw new HubError(
      `Cannot ${session.task} as ${shortage}; ` +
        `make room, or set HF_HUB_CACHE to a directory elsewhere`,
    );
  }
  session.onNotice(
    `${session.task}: ${byteCount(bytes)}${
      there > 0 ? `, ${byteCount(there)} of it came before` : ""
    }`,
  );
  try {
    using part = new Part(incomplete, file);
    await part.readThere((done) => onProgress(done, bytes));
    await complete(session, part, file, (done) => onProgress(done, bytes));
    part.finish(session);
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
  onDone: (doneBytes: number) => void,
): Promise<void> {
  const { bytes } = file, address = addressOf(session, file);
  let etag: string | null = null; // of the server that has the bytes; the hub's is another
  let furthest = 0;
  for (let failures = 0; part.done < bytes;) {
    const headers = new Headers(part.done === 0 ? {} : { Range: `bytes=${part.done}-` });
    if (part.done > 0 && etag?.startsWith('"')) headers.set("If-Range", etag);
    try {
      const response = await request(session, address, { headers });
      if (response.status !== 206) part.restart(); // it is another file, or the server knows no ranges
      else checkRange(session, response, { from: part.done, bytes, etag });
      etag = response.headers.get("ETag");
      for await (const chunk of chunksOf(session, response)) {
        if (part.done + chunk.length > bytes) {
          throw new ChangedError(`Cannot ${session.task} as more comes than ${bytes} bytes`);
        }
        part.write(chunk);
        onDone(part.done);
        if (part.done <= furthest) continue; // after a restart this is no progress yet
        furthest = part.done;
        failures = 0;
      }
      if (part.done < bytes) throw lost(session, "it ends early");
    } catch (error) {
      if (!(error instanceof HubError)) throw error;
      if (error.status === 416) {
        throw new ChangedError(`Cannot ${session.task} as it is shorter than ${bytes} bytes`);
      }
      if (error.status !== 0) throw error;
      const [done, all] = byteCounts(part.done, bytes);
      const come = `${done} of ${all} are here`;
      if (++failures === ATTEMPTS) {
        throw new HubError(`${error.message}; ${come}, and the same command resumes there`, 0);
      }
      session.onNotice(`the connection is lost, ${come}: resuming`);
      await session.sleep(backOffMs(failures));
    }
  }
}

/** Makes sure that a partial response is the part that was requested, of the same file. */
function checkRange(
  session: HubSession,
  { headers }: Response,
  { from, bytes, etag }: { from: number; bytes: number; etag: string | null },
): void {
  const range = headers.get("Content-Range") ?? "none";
  const [, start, total] = /^bytes (\d+)-\d+\/(\d+|\*)$/.exec(range) ?? [];
  const isSame = etag === null || headers.get("ETag") === etag;
  if (Number(start) === from && (total === "*" || Number(total) === bytes) && isSame) return;
  throw new ChangedError(
    `Cannot ${session.task} as its bytes from ${from} of ${bytes} are wanted: current range is ${
      printable(range)
    }` +
      (isSame ? "" : " of another file"),
  );
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
  return new HubError(`Cannot ${session.task} as the connection is lost (${reason})`, 0);
}

/** The beginning of a file and its hash, which grow together. */
class Part implements Disposable {
  /** Bytes that have arrived. */
  done = 0;
  readonly #file: Deno.FsFile;
  readonly #described: RemoteFile;
  #hash: Hash;

  /** Opens a file that may hold a beginning already; `readThere()` hashes it. */
  constructor(path: string, described: RemoteFile) {
    this.#described = described;
    this.#hash = this.#newHash();
    this.#file = Deno.openSync(path, { create: true, read: true, write: true });
  }

  /** Hashes the bytes that an earlier download left; more bytes than the file has cannot be its beginning. */
  async readThere(onDone: (doneBytes: number) => void): Promise<void> {
    const buffer = new Uint8Array(2 ** 20);
    for (let read; (read = await this.#file.read(buffer)) !== null;) {
      this.#hash.update(buffer.subarray(0, read));
      this.done += read;
      if (this.done > this.#described.bytes) return this.restart();
      onDone(this.done);
    }
  }

  /** Forgets everything. */
  restart(): void {
    this.#file.truncateSync(0);
    this.#file.seekSync(0, Deno.SeekMode.Start);
    this.#hash = this.#newHash();
    this.done = 0;
  }

  /** Appends a chunk. A write may take a part of it only, and nothing on a full disk. */
  write(chunk: Uint8Array): void {
    for (let written = 0; written < chunk.length;) {
      const taken = this.#file.writeSync(chunk.subarray(written));
      if (taken === 0) throw Object.assign(new Error("nothing was written"), { code: "ENOSPC" });
      written += taken;
    }
    this.#hash.update(chunk);
    this.done += chunk.length;
  }

  /**
   * Makes the whole file survive a power cut.
   *
   * @throws {ChangedError} if its hash is not the hub's.
   */
  finish({ task }: HubSession): void {
    const digest = this.#hash.digest("hex");
    if (digest !== this.#described.etag) {
      throw new ChangedError(
        `Cannot ${task} as its hash must be ${this.#described.etag}: current hash is ${digest}`,
      );
    }
    this.#file.syncSync();
  }

  [Symbol.dispose](): void {
    this.#file.close();
  }

  #newHash(): Hash {
    const { etag, bytes } = this.#described;
    return etag.length === 64 ? createHash("sha256") : createHash("sha1").update(`blob ${bytes}\0`); // as git does
  }
}
