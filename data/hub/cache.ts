import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { basename, dirname, join, relative } from "node:path";
import { makeWhole } from "../../files/disk.ts";
import { fetchBlob, type RemoteFile } from "./blob.ts";
import { type HubSession, isCommit, isSha256, wait } from "./request.ts";

/**
 * The hub's standard cache, which Python's libraries share
 * (https://huggingface.co/docs/huggingface_hub/guides/manage-cache):
 *
 *     datasets--OWNER--NAME/refs/main                  the commit of main when the hub was last asked
 *     datasets--OWNER--NAME/snapshots/<commit>/<file>  a relative link to
 *     datasets--OWNER--NAME/blobs/<etag>               the bytes
 *     .locks/datasets--OWNER--NAME/<etag>.lock         locked by the process that downloads them
 *
 * Names become paths; a session has checked them.
 *
 * @module
 */

/** A file in the cache. */
export interface CachedFile {
  /** Its path in the cache. */
  path: string;
  /** The commit that it belongs to. */
  commit: string;
  /** SHA-256 in hexadecimal, if the file is in the hub's large file storage. */
  sha256?: string;
}

/** A repository's part of the cache. */
type InCache = Pick<HubSession, "cache" | "type" | "repo">;

function folderOf({ type, repo }: InCache): string {
  return [`${type}s`, ...repo.split("/")].join("--");
}

function referenceTo(session: InCache, revision: string): string {
  return join(session.cache, folderOf(session), "refs", ...revision.split("/"));
}

function pointerTo(session: InCache, commit: string, path: string): string {
  return join(session.cache, folderOf(session), "snapshots", commit, ...path.split("/"));
}

/** The commit of a revision when the hub was last asked. */
export function cachedCommit(session: InCache, revision: string): string | undefined {
  if (isCommit(revision)) return revision;
  try {
    const commit = readFileSync(referenceTo(session, revision), "utf8").trim();
    return isCommit(commit) ? commit : undefined;
  } catch {
    return undefined;
  }
}

/** Notes the commit of a revision, by which its files are found offline. */
export function rememberCommit(session: InCache, revision: string, commit: string): void {
  if (cachedCommit(session, revision) === commit) return;
  const path = referenceTo(session, revision);
  mkdirSync(dirname(path), { recursive: true });
  makeWhole(path, (temporary) => writeFileSync(temporary, commit));
}

/** Finds a file of a revision. */
export function findCached(
  session: InCache,
  revision: string,
  path: string,
): CachedFile | undefined {
  const commit = cachedCommit(session, revision);
  const pointer = commit && pointerTo(session, commit, path);
  if (!pointer || !existsSync(pointer)) return undefined;
  let etag = "";
  try {
    etag = basename(readlinkSync(pointer));
  } catch {
    // it is the file itself, as links were refused
  }
  return { path: pointer, commit, ...(isSha256(etag) ? { sha256: etag } : {}) };
}

/** Lists the files of a revision that the cache has. */
export function listCached(session: InCache, revision: string): { path: string; bytes: number }[] {
  const commit = cachedCommit(session, revision);
  const root = commit && pointerTo(session, commit, "");
  if (!root || !existsSync(root)) return [];
  return readdirSync(root, { recursive: true, encoding: "utf8" }).flatMap((path) => {
    const file = statSync(join(root, path), { throwIfNoEntry: false });
    return file?.isFile() ? [{ path: path.replaceAll("\\", "/"), bytes: file.size }] : [];
  });
}

/** Pause between two attempts to take a lock that another process holds. */
const LOCK_POLL_MS = 500;

/**
 * Adds a file, and notes its commit as that of the session's revision. Its bytes are downloaded unless another revision
 * has the same, and under a lock that Python's library takes too.
 */
export async function addToCache(
  session: HubSession,
  file: RemoteFile,
  onProgress: (doneBytes: number) => void,
): Promise<CachedFile> {
  const { cache, revision, task, onNotice } = session, { commit, path, etag } = file;
  const pointer = pointerTo(session, commit, path), folder = folderOf(session);
  if (!existsSync(pointer)) {
    const blob = join(cache, folder, "blobs", etag);
    const lockPath = join(cache, ".locks", folder, `${etag}.lock`);
    for (const path of [pointer, blob, lockPath]) mkdirSync(dirname(path), { recursive: true });
    using lock = Deno.openSync(lockPath, { create: true, write: true });
    if (!lock.tryLockSync(true)) {
      onNotice(`waiting for another process that is to ${task}`);
      do await wait(session, LOCK_POLL_MS); while (!lock.tryLockSync(true));
    }
    if (!existsSync(pointer)) {
      const isNew = !existsSync(blob);
      if (isNew) await fetchBlob(session, blob, file, onProgress);
      linkTo(blob, pointer, { isNew });
    }
  }
  try {
    rememberCommit(session, revision, commit);
  } catch {
    // a cache that may only be read is good enough
  }
  return { ...findCached(session, commit, path)!, ...(isSha256(etag) ? { sha256: etag } : {}) };
}

/** Links a file's name to its blob. If links are refused, it renames a new blob and copies an old one, as Python does. */
function linkTo(blob: string, pointer: string, { isNew }: { isNew: boolean }): void {
  rmSync(pointer, { force: true }); // it may be a link whose blob is gone
  try {
    symlinkSync(relative(dirname(pointer), blob), pointer);
  } catch {
    if (isNew) renameSync(blob, pointer);
    else copyFileSync(blob, pointer);
  }
}
