import { createContext, Script } from "node:vm";

/** Thrown by the function of `createTimeLimit()` if the time is over. */
export class TimeLimitError extends Error {
  /** Tells this error from others without `instanceof`. */
  override name = "TimeLimitError";
}

/**
 * Makes a function that calls another one for a limited time. JavaScript's matcher of regular expressions
 * backtracks: on `(a+)+$` a text of forty letters takes hours, and only a script of `node:vm` can be interrupted.
 */
export function createTimeLimit(): <T>(call: () => T, timeoutMs: number) => T {
  const script = new Script("call()"), context = createContext({});
  return (call, timeout) => {
    for (let again = false;; again = true) {
      try {
        return script.runInContext(Object.assign(context, { call }), { timeout });
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== "ERR_SCRIPT_EXECUTION_TIMEOUT") throw error;
        if (again) throw new TimeLimitError(`it takes more than ${timeout} ms`);
        // the process may have been stopped meanwhile
      }
    }
  };
}
