// @ts-check
/// <reference lib="dom" />
import { create, nameOf, scrolling, swatch, table } from "./dom.js";
import { byteCount, duration, figure, inShort, UNKNOWN, when } from "./format.js";
import { stepsOf } from "./run_list.js";

/**
 * The facts of the selected runs: a card for one run, a table for several.
 *
 * @module
 */

/**
 * A selected run.
 * @typedef {object} SelectedRun
 * @property {number} color
 * @property {import("./source.js").RunRow} row
 * @property {import("./source.js").RunCurves | undefined} curves
 */

/** The facts of runs. */
export class FactsView {
  /** @type {HTMLElement} */
  #element;
  #shown = "";

  /** @param {HTMLElement} element */
  constructor(element) {
    this.#element = element;
  }

  /** @param {readonly SelectedRun[]} runs */
  update(runs) {
    const facts = runs.map((run) => factsOf(run));
    const text = JSON.stringify([
      facts,
      runs.map(({ row, color }) => [row.name, row.state, color]),
    ]);
    if (text === this.#shown) return; // a selection of text stays
    this.#shown = text;
    const [run] = runs, [first] = facts;
    if (!run || !first) return this.#element.replaceChildren();
    this.#element.replaceChildren(runs.length === 1 ? cardOf(run, first) : tableOf(runs, facts));
  }
}

/**
 * @param {SelectedRun} run
 * @returns {[name: string, value: string][]}
 */
function factsOf({ row, curves }) {
  const best = curves?.best, scale = curves?.curves["step.lossScale"]?.value.at(-1);
  return [
    ["steps", stepsOf(row)],
    ["training loss", figure(row.loss)],
    ["validation loss", figure(row.validation?.loss)],
    ["best loss", best ? `${figure(best.loss)} at ${figure(best.step)}` : UNKNOWN],
    ["entropy of the text", figure(curves?.entropyPerToken)],
    ["warnings", figure(curves?.warnings.length || null)],
    ["tokens/s", figure(row.tokensPerSecond)],
    ["time left", timeLeft(row, curves)],
    ["memory", byteCount(row.memoryBytes)],
    ["skipped steps", figure(curves?.curves["step.skipped"]?.value.at(-1))],
    ["loss scale", scale === 1 ? UNKNOWN : figure(scale)], // f32 has none
    ["parameters", inShort(row.parameters)],
    ["device", row.device ?? UNKNOWN],
    ["written", when(row.time)],
  ];
}

/**
 * The time that the steps that are left take at the last speed of a training.
 *
 * @param {SelectedRun["row"]} row
 * @param {SelectedRun["curves"]} curves
 */
function timeLeft({ state, step, steps, tokensPerSecond }, curves) {
  if (state !== "training" || !steps || !tokensPerSecond || !curves?.tokensPerStep) return UNKNOWN;
  return duration((steps - step) * curves.tokensPerStep / tokensPerSecond);
}

/**
 * @param {SelectedRun} run
 * @param {readonly [name: string, value: string][]} facts
 */
function cardOf({ row, color }, facts) {
  const { name, state, step, steps } = row;
  return create(
    "article",
    { class: "card" },
    create(
      "h3",
      {},
      swatch(color),
      nameOf(name),
      create("span", { class: `state ${state}` }, state),
    ),
    create(
      "dl",
      {},
      ...facts.filter(([, value]) => value !== UNKNOWN).map(([name, value]) =>
        create("div", {}, create("dt", {}, name), create("dd", { class: classOf(name) }, value))
      ),
    ),
    ...(steps === null || steps <= 0 ? [] : [
      create("progress", {
        max: steps,
        value: Math.min(step, steps),
        "aria-label": `Steps of ${name}`,
      }),
    ]),
  );
}

/**
 * @param {readonly SelectedRun[]} runs
 * @param {readonly (readonly [name: string, value: string][])[]} facts those of each run, in the same order
 */
function tableOf(runs, facts) {
  const names = (facts[0] ?? []).map(([name]) => name)
    .filter((_, i) => facts.some((values) => values[i]?.[1] !== UNKNOWN));
  const rows = runs.map(({ row, color }, i) => [
    create("span", { class: "named" }, swatch(color), nameOf(row.name)),
    create("span", { class: `state ${row.state}` }, row.state),
    ...names.map((name) => {
      const [, value] = facts[i]?.find((fact) => fact[0] === name) ?? [name, UNKNOWN];
      return create("span", { class: value === UNKNOWN ? "" : classOf(name) }, value);
    }),
  ]);
  const content = table("Selected runs", ["run", "state", ...names], rows);
  return create("div", { class: "card" }, scrolling("Selected runs", content));
}

/**
 * The class of a fact's value.
 *
 * @param {string} name
 */
function classOf(name) {
  return name === "warnings" ? "bad" : "";
}
