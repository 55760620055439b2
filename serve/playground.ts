/**
 * The playground: continues texts with the models of the runs, and looks inside them.
 *
 * @module
 */

/** Answers the requests of the playground. */
export interface Playground {
  /** Answers a request to `/v1/*` or `/api/inspect/*`; undefined for a path that it does not know. */
  handle(request: Request): Promise<Response | undefined>;
  /** Frees the model. */
  close(): void;
}

/**
 * A playground that has loaded no model yet.
 *
 * @param _options.findRun the directory of a run as the page names it; undefined for an unknown one.
 */
export function createPlayground(
  _options: { findRun: (name: string) => string | undefined },
): Playground {
  return { handle: () => Promise.resolve(undefined), close: () => {} };
}
