/**
 * Files from the Hugging Face hub, in its standard cache.
 *
 * @module
 */

/** A repository of the hub, at a revision. */
export interface HubRepo {
  /** Whether it holds data or a model. */
  readonly type: "dataset" | "model";
  /** `OWNER/NAME`, or `NAME` for the hub's oldest models. */
  readonly repo: string;
  /** Branch, tag or commit; `main` unless said otherwise. */
  readonly revision?: string;
}

/** A file of a repository. */
export interface HubFile extends HubRepo {
  /** Path within the repository, with `/` between folders. */
  readonly path: string;
}

/** How to reach the hub, and who hears what happens. */
export interface HubOptions {
  /**
   * Environment variables in place of the process's own: HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN,
   * HF_HUB_OFFLINE and others, with the meaning that they have for Python's `huggingface_hub`.
   */
  readonly environment?: Readonly<Record<string, string | undefined>>;
  /** Hears how many bytes of how many there are: first those of an earlier attempt. */
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void;
  /** Hears sentences for the user, such as what is downloaded and its size before it begins. */
  readonly onNotice?: (sentence: string) => void;
  /** Ends a download; what has come stays, and the next one goes on from there. */
  readonly signal?: AbortSignal;
}

/** Thrown when the hub cannot or will not give what was asked for; the message says what to do. */
export class HubError extends Error {
  /** Tells this error from others without `instanceof`. */
  override name = "HubError";
}

/** What `hf:…` says; whether it is a dataset or a model depends on where it stands. */
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
 * @throws {SyntaxError} if it is nothing of the kind, or a name tries to leave its folder.
 */
export function parseHubSpec(spec: string): HubSpec {
  const match = /^hf:([^/@]+(?:\/[^/@]+)?)(?:\/([^@]+))?(?:@(.+))?$/.exec(spec);
  if (!match) {
    throw new SyntaxError(
      `Cannot read ${JSON.stringify(spec)} as it must be hf:OWNER/NAME, hf:OWNER/NAME/FILE or ` +
        `either with @REVISION`,
    );
  }
  const [, repo, path, revision] = match;
  return {
    repo: repo!,
    ...(path === undefined ? {} : { path }),
    ...(revision === undefined ? {} : { revision }),
  };
}

/**
 * Gives a file's path in the hub's cache, downloading it first if it is not there.
 *
 * @returns the path, the commit it belongs to, and its SHA-256 where the hub names it.
 * @throws {HubError} if it cannot be had, {RangeError} if a name is none.
 */
export function hubFile(
  _file: HubFile,
  _options: HubOptions = {},
): Promise<{ path: string; commit: string; sha256?: string }> {
  throw new HubError("not written yet");
}

/**
 * Lists a repository's files, in all folders.
 *
 * @throws {HubError} if it cannot be had, {RangeError} if a name is none.
 */
export function listHubFiles(
  _repo: HubRepo,
  _options: HubOptions = {},
): Promise<{ path: string; bytes: number }[]> {
  throw new HubError("not written yet");
}
