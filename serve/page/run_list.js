// @ts-check
/// <reference lib="dom" />
/// <reference lib="dom.iterable" />
import { byId, create, nameOf } from "./dom.js";
import { figure, UNKNOWN } from "./format.js";

/**
 * The list of all runs, from which some are selected.
 *
 * @module
 */

/** @typedef {import("./source.js").RunRow} RunRow */

/** Runs that the list shows, at most; a filter finds the others. */
const MOST_SHOWN = 200;

/** The list of runs. */
export class RunList {
  #list = byId("run-list", HTMLUListElement);
  #filter = byId("filter", HTMLInputElement);
  #more = byId("run-more", HTMLElement);
  #count = byId("runs-count", HTMLElement);
  /** @type {RunRow[]} */
  #rows = [];
  /** @type {Map<string, Item>} */
  #items = new Map();
  /** @type {(name: string, isSelected: boolean) => void} */
  #onSelect;
  /** @type {ReadonlyMap<string, number>} */
  #colors = new Map();

  /** @param {(name: string, isSelected: boolean) => void} onSelect is called when a run is selected or no longer */
  constructor(onSelect) {
    this.#onSelect = onSelect;
    this.#filter.addEventListener("input", () => this.#show());
  }

  /** Names of the runs that the list shows. */
  get shown() {
    return this.#matching().slice(0, MOST_SHOWN).map(({ name }) => name);
  }

  /**
   * Shows runs.
   *
   * @param {RunRow[]} rows
   * @param {ReadonlyMap<string, number>} colors those of the selected runs
   */
  update(rows, colors) {
    this.#rows = rows;
    this.#colors = colors;
    this.#show();
  }

  #matching() {
    const words = this.#filter.value.toLowerCase().split(/\s+/);
    return this.#rows.filter(({ name, state }) =>
      words.every((word) => `${name} ${state}`.toLowerCase().includes(word))
    );
  }

  #show() {
    const matching = this.#matching(), shown = matching.slice(0, MOST_SHOWN);
    this.#count.textContent = `${this.#rows.length}`;
    this.#more.hidden = shown.length === matching.length && shown.length > 0;
    this.#more.textContent = shown.length === 0
      ? "No run matches."
      : `${matching.length - shown.length} more: a filter finds them.`;
    const elements = shown.map((row) => {
      let item = this.#items.get(row.name);
      if (!item) this.#items.set(row.name, item = new Item(row.name, this.#onSelect));
      item.update(row, this.#colors.get(row.name));
      return item.element;
    });
    const isSame = elements.length === this.#list.children.length &&
      elements.every((element, i) => element === this.#list.children[i]);
    if (!isSame) this.#list.replaceChildren(...elements);
  }
}

/** A run in the list. */
class Item {
  /** @type {HTMLLIElement} */
  element;
  #checkbox = create("input", { type: "checkbox" });
  #swatch = create("span", { class: "swatch" });
  #state = create("span", {});
  #progress = create("span", { class: "progress" });
  /** @type {RunRow | undefined} */
  #row;
  /** @type {number | undefined} */
  #color;

  /**
   * @param {string} name
   * @param {(name: string, isSelected: boolean) => void} onSelect
   */
  constructor(name, onSelect) {
    this.#checkbox.addEventListener("change", () => onSelect(name, this.#checkbox.checked));
    this.element = create(
      "li",
      {},
      create(
        "label",
        { class: "run" },
        this.#checkbox,
        this.#swatch,
        nameOf(name),
        this.#state,
        this.#progress,
      ),
    );
  }

  /**
   * @param {RunRow} row
   * @param {number | undefined} color undefined if the run is not selected
   */
  update(row, color) {
    this.#checkbox.checked = color !== undefined;
    if (row === this.#row && color === this.#color) return;
    this.#row = row;
    this.#color = color;
    this.#swatch.style.setProperty(
      "--color",
      color === undefined ? "transparent" : `var(--run-${color})`,
    );
    this.#state.className = `state ${row.state}`;
    this.#state.textContent = row.state;
    const loss = row.validation?.loss ?? row.loss;
    this.#progress.textContent = `${stepsOf(row)} · loss ${
      loss === null ? UNKNOWN : figure(Number(loss.toPrecision(4)))
    }`;
  }
}

/**
 * The steps of a run: 1,200/2,000.
 *
 * @param {RunRow} row
 */
export function stepsOf({ step, steps }) {
  return `${figure(step)}${steps === null ? "" : `/${figure(steps)}`}`;
}
