// @ts-check
/// <reference lib="dom" />
/// <reference lib="dom.iterable" />

/**
 * Where the page has its data from: the server that serves it, or the page itself if it was saved as a file.
 *
 * @module
 */

/**
 * @typedef {import("../run_view.ts").RunRow} RunRow
 * @typedef {import("../run_view.ts").RunDetails} RunDetails
 * @typedef {import("../watched_run.ts").RunCurves} RunCurves
 * @typedef {import("../run_folders.ts").Changes} Changes
 * @typedef {import("../run_index.ts").LastSteps} LastSteps
 * @typedef {readonly (readonly [flag: string, values: readonly string[]])[]} Differences
 * @typedef {import("../saved_page.ts").SavedRuns} SavedRuns
 */

/**
 * @typedef {object} Source
 * @property {boolean} isSaved whether the data never changes
 * @property {() => Promise<RunRow[]>} rows
 * @property {(name: string) => Promise<RunDetails>} details
 * @property {(name: string, known?: { generation: string } & LastSteps) => Promise<RunCurves>} curves
 * @property {(names: readonly string[]) => Promise<Differences>} differences
 * @property {(onChange: (changes: Changes) => void, onState: (isConnected: boolean) => void) => void} watch
 */

/**
 * The data in the page, if it has some, or that of the server.
 *
 * @returns {Source}
 */
export function openSource() {
  const data = document.getElementById("saved-runs");
  return data ? savedSource(JSON.parse(data.textContent ?? "")) : serverSource();
}

/**
 * @returns {Source}
 */
function serverSource() {
  return {
    isSaved: false,
    rows: () => get("/api/runs"),
    details: (name) => get("/api/run", [["run", name]]),
    curves: (name, known) => get("/api/curves", [["run", name], ...Object.entries(known ?? {})]),
    differences: (names) => get("/api/differences", names.map((name) => ["run", name])),
    watch(onChange, onState) {
      /** @type {EventSource} */
      let events;
      const listen = () => {
        events = new EventSource("/api/events");
        events.addEventListener("message", ({ data }) => onChange(JSON.parse(data)));
        events.addEventListener("open", () => onState(true));
        events.addEventListener("error", () => onState(false)); // it connects again by itself
      };
      // nothing is looked at for a page that nobody sees; a browser has six connections to a server
      document.addEventListener(
        "visibilitychange",
        () => document.hidden ? events.close() : listen(),
      );
      listen();
    },
  };
}

/**
 * @param {string} path
 * @param {readonly (readonly [string, unknown])[]} parameters
 */
async function get(path, parameters = []) {
  const query = new URLSearchParams(parameters.map(([name, value]) => [name, `${value}`]));
  const response = await fetch(`${path}?${query}`), result = await response.json();
  if (!response.ok) throw new Error(result.error.message);
  return result;
}

/**
 * @param {SavedRuns} saved
 * @returns {Source}
 */
function savedSource({ rows, details, curves, differences }) {
  /**
   * @template {{ readonly name: string }} Item
   * @param {readonly Item[]} items
   * @param {string} name
   */
  const named = (items, name) => {
    const item = items.find((item) => item.name === name);
    return item ? Promise.resolve(item) : Promise.reject(new Error(`Cannot find run ${name}`));
  };
  return {
    isSaved: true,
    rows: () => Promise.resolve([...rows]),
    details: (name) => named(details, name),
    curves: (name) => named(curves, name),
    differences(names) {
      const columns = names.map((name) => rows.findIndex((row) => row.name === name));
      /** @type {[string, string[]][]} */
      const chosen = differences.map(([flag, values]) => [
        flag,
        columns.map((column) => values[column] ?? ""),
      ]);
      return Promise.resolve(chosen.filter(([, values]) => new Set(values).size > 1));
    },
    watch() {},
  };
}
