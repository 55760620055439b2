// @ts-check
/// <reference lib="dom" />

/**
 * What is selected on the page, which the fragment of its address holds, so that a link leads to the same view.
 *
 * @module
 */

/** The horizontal axes of the charts, and their labels. */
export const AXES = /** @type {const} */ ({
  step: "step",
  tokens: "tokens",
  time: "training time",
});

/**
 * @typedef {object} Selection
 * @property {string[]} runs names of runs in the order in which they were chosen
 * @property {keyof typeof AXES} axis
 * @property {number} smoothing weight of the past in the moving average, from 0 up to 0.99
 * @property {boolean} log whether axes of values are logarithmic
 */

/**
 * The selection in a fragment; what is missing or not possible has its default.
 *
 * @param {string} fragment
 * @returns {Selection}
 */
export function parseSelection(fragment) {
  const parameters = new URLSearchParams(fragment.replace(/^#/, ""));
  const axis = parameters.get("x") ?? "", smoothing = Number(parameters.get("smoothing"));
  return {
    runs: [...new Set(parameters.getAll("run"))],
    axis: Object.hasOwn(AXES, axis) ? /** @type {keyof typeof AXES} */ (axis) : "step",
    smoothing: smoothing >= 0 && smoothing < 1 ? smoothing : 0,
    log: parameters.get("log") !== "0",
  };
}

/**
 * A selection as a fragment.
 *
 * @param {Selection} selection
 * @returns {string}
 */
export function fragmentOf({ runs, axis, smoothing, log }) {
  const parameters = new URLSearchParams(runs.map((run) => ["run", run]));
  if (axis !== "step") parameters.set("x", axis);
  if (smoothing > 0) parameters.set("smoothing", `${smoothing}`);
  if (!log) parameters.set("log", "0");
  return `#${parameters}`;
}
