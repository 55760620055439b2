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

/**
 * A repository in the hub's standard cache, which Python's libraries share
 * (https://huggingface.co/docs/huggingface_hub/guides/manage-cache):
 *
 *     datasets--OWNER--NAME/refs/main                  the commit of main when the hub was last asked
 *     datasets--OWNER--NAME/snapshots/<commit>/<file>  a relative link to
 *     datasets--OWNER--NAME/blobs/<etag>               the bytes
 *     .locks/datasets--OWNER--NAME/<etag>.lock         locked by the process that downloads them
 *
 * The etag of a file in the hub's large file storage is its SHA-256; that of any other file is git's SHA-1.
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

/** Whether a revision is a full commit hash. */
export function isCommit(revision: string): boolean {
  return /^[0-9a-f]{40}$/.test(revision);
}

/** Whether an etag is a SHA-256. */
export function isSha256(etag: string): boolean {
  return /^[0-9a-f]{64}$/.test(etag);
}

/** Pause between two attempts to take a lock that another process holds. */
const LOCK_POLL_MS = 500;

/** One repository's part of the cache. Names become paths; the caller must have checked them. */
export class RepositoryCache {
  readonly #root: string;
  readonly #folder: string;
  readonly #directory: string;

  /** The part of `type` (`dataset` or `model`) and `repo` (`OWNER/NAME`) in the cache at `root`. */
  constructor(root: string, { type, repo }: { type: string; repo: string }) {
    this.#root = root;
    this.#folder = [`${type}s`, ...repo.split("/")].join("--");
    this.#directory = join(root, this.#folder);
  }

  /** The commit of a revision when the hub was last asked. */
  commitOf(revision: string): string | undefined {
    if (isCommit(revision)) return revision;
    try {
      const commit = readFileSync(this.#reference(revision), "utf8").trim();
      return isCommit(commit) ? commit : undefined;
    } catch {
      return undefined;
    }
  }

  /** Finds a file of a revision. */
  find(revision: string, path: string): CachedFile | undefined {
    const commit = this.commitOf(revision);
    if (!commit) return undefined;
    const pointer = this.#pointer(commit, path);
    if (!existsSync(pointer)) return undefined;
    let etag = "";
    try {
      etag = basename(readlinkSync(pointer));
    } catch {
      // it is the file itself, as links were refused
    }
    return { path: pointer, commit, ...(isSha256(etag) ? { sha256: etag } : {}) };
  }

  /** Lists the files of a revision that the cache has. */
  list(revision: string): { path: string; bytes: number }[] {
    const commit = this.commitOf(revision);
    const root = commit && this.#pointer(commit, "");
    if (!root || !existsSync(root)) return [];
    return readdirSync(root, { recursive: true, encoding: "utf8" }).flatMap((path) => {
      const file = statSync(join(root, path), { throwIfNoEntry: false });
      return file?.isFile() ? [{ path: path.replaceAll("\\", "/"), bytes: file.size }] : [];
    });
  }

  /**
   * Adds a file that the cache does not have.
   *
   * @param fetchBlob downloads its bytes to a path. It is called if no other revision has the same bytes, and under a
   * lock that Python's library takes too.
   * @param onLocked is called if another process holds the lock.
   * @param wait is called until that process releases it.
   */
  async add(
    { commit, path, etag }: { commit: string; path: string; etag: string },
    { fetchBlob, onLocked, wait }: {
      fetchBlob: (path: string) => Promise<void>;
      onLocked: () => void;
      wait: (milliseconds: number) => Promise<void>;
    },
  ): Promise<void> {
    const pointer = this.#pointer(commit, path);
    if (existsSync(pointer)) return;
    const blob = join(this.#directory, "blobs", etag);
    const lockPath = join(this.#root, ".locks", this.#folder, `${etag}.lock`);
    for (const file of [pointer, blob, lockPath]) mkdirSync(dirname(file), { recursive: true });
    using lock = Deno.openSync(lockPath, { create: true, write: true });
    if (!lock.tryLockSync(true)) {
      onLocked();
      do await wait(LOCK_POLL_MS); while (!lock.tryLockSync(true));
    }
    if (existsSync(pointer)) return;
    const isNew = !existsSync(blob);
    if (isNew) await fetchBlob(blob);
    linkTo(blob, pointer, { isNew });
  }

  /** Notes the commit of a revision, by which its files are found offline. */
  remember(revision: string, commit: string): void {
    if (this.commitOf(revision) === commit) return;
    const path = this.#reference(revision);
    mkdirSync(dirname(path), { recursive: true });
    makeWhole(path, (temporary) => writeFileSync(temporary, commit));
  }

  #reference(revision: string): string {
    return join(this.#directory, "refs", ...revision.split("/"));
  }

  #pointer(commit: string, path: string): string {
    return join(this.#directory, "snapshots", commit, ...path.split("/"));
  }
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
