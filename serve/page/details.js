// @ts-check
/// <reference lib="dom" />
/// <reference lib="dom.iterable" />
import { create, scrolling, table } from "./dom.js";
import { byteCount, figure, when } from "./format.js";

/**
 * The details of a run: warnings, samples, checkpoints, options.
 *
 * @module
 */

/** @typedef {import("./source.js").RunDetails} RunDetails */

/** The details of one run after another. */
export class DetailsView {
  /** @type {HTMLElement} */
  #element;
  #problems = create("div", {});
  #samples = new SamplesView();
  #checkpoints = create("div", {});
  #options = create("div", {});
  #shown = "";

  /** @param {HTMLElement} element */
  constructor(element) {
    this.#element = element;
  }

  /** @param {RunDetails} details */
  update(details) {
    const text = JSON.stringify(details);
    if (text === this.#shown) return;
    this.#shown = text;
    this.#problems.replaceChildren(...problemsOf(details));
    this.#samples.update(details);
    this.#checkpoints.replaceChildren(...checkpointsOf(details));
    this.#options.replaceChildren(...optionsOf(details));
    if (this.#element.children.length === 0) {
      this.#element.append(this.#problems, this.#samples.element, this.#checkpoints, this.#options);
    }
  }

  /** Shows nothing. */
  clear() {
    this.#shown = "";
    this.#element.replaceChildren();
  }
}

/** @param {RunDetails} details */
function problemsOf({ warnings, problems, damaged, reason, state }) {
  const items = [
    ...(reason === null
      ? []
      : [create("li", { class: state === "broken" ? "bad" : "" }, `${state}: ${reason}`)]),
    ...(damaged === 0
      ? []
      : [create("li", {}, `${figure(damaged)} lines of the record cannot be read.`)]),
    ...problems.map((problem) => create("li", {}, problem)),
    ...warnings.map(({ step, name, message }) =>
      create(
        "li",
        { class: "bad" },
        create("strong", {}, name),
        ` at step ${figure(step)}: ${message}`,
      )
    ),
  ];
  return items.length === 0
    ? []
    : [create("h3", {}, "Warnings"), create("ul", { class: "warnings" }, ...items)];
}

/** The samples along the steps, one at a time. */
class SamplesView {
  /** @type {HTMLElement} */
  element;
  #slider = create("input", { type: "range", min: 0, id: "sample-step" });
  #place = create("output", { for: "sample-step" });
  #story = create("blockquote", { class: "story" });
  /** @type {RunDetails["samples"]} */
  #samples = [];
  #run = "";

  constructor() {
    this.#slider.addEventListener("input", () => this.#show());
    this.element = create(
      "div",
      { hidden: true },
      create("h3", {}, "Samples"),
      create("label", { class: "field wide" }, "Step", this.#slider, this.#place),
      this.#story,
    );
  }

  /** @param {RunDetails} details */
  update({ name, samples }) {
    const isNew = name !== this.#run,
      wasLast = Number(this.#slider.value) >= this.#samples.length - 1;
    const step = this.#samples[Number(this.#slider.value)]?.step;
    this.#run = name;
    this.#samples = samples;
    this.element.hidden = samples.length === 0;
    this.#slider.max = `${samples.length - 1}`;
    const index = isNew || wasLast ? -1 : samples.findIndex((sample) => sample.step === step);
    this.#slider.value = `${index < 0 ? samples.length - 1 : index}`;
    this.#show();
  }

  #show() {
    const index = Number(this.#slider.value), sample = this.#samples[index];
    if (!sample) return;
    const place = `step ${figure(sample.step)}, ${index + 1} of ${this.#samples.length}`;
    this.#place.textContent = place;
    this.#slider.setAttribute("aria-valuetext", place);
    this.#story.replaceChildren(create("strong", {}, sample.prompt), sample.text);
  }
}

/** @param {RunDetails} details */
function checkpointsOf({ name, checkpoints }) {
  if (checkpoints.length === 0) return [];
  const rows = checkpoints.map(({ step, bytes, time, isBest, isLatest, isWeightsOnly }) => [
    figure(step),
    byteCount(bytes),
    when(time),
    [isBest && "best", isLatest && "latest", isWeightsOnly && "weights only"].filter(Boolean).join(
      ", ",
    ),
  ]).reverse();
  return [
    create("h3", {}, "Checkpoints"),
    scrolling(
      `Checkpoints of ${name}`,
      table(`Checkpoints of ${name}`, ["step", "size", "saved", ""], rows),
    ),
  ];
}

/** @param {RunDetails} details */
function optionsOf({ name, options }) {
  if (options.length === 0) return [];
  return [
    create("h3", {}, "Options"),
    create(
      "dl",
      { class: "options", "aria-label": `Options of ${name}` },
      ...options.map(([flag, value]) =>
        create(
          "div",
          {},
          create("dt", {}, flag),
          create("dd", {}, create("bdi", {}, optionText(value))),
        )
      ),
    ),
  ];
}

/** @param {unknown} value */
function optionText(value) {
  return typeof value === "string" ? value : JSON.stringify(value) ?? "";
}
