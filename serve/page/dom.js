// @ts-check
/// <reference lib="dom" />
/// <reference lib="dom.iterable" />
import { visible } from "./format.js";

/**
 * Elements. Foreign text becomes text nodes and attributes, and never markup.
 *
 * @module
 */

/**
 * Creates an element.
 *
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Readonly<Record<string, string | number | boolean | EventListener>>} attributes functions listen to events;
 * true is an empty attribute, false none
 * @param {...(Node | string)} children
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function create(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== false) element.setAttribute(name, value === true ? "" : `${value}`);
  }
  element.append(...children);
  return element;
}

/**
 * The element of the page with an id.
 *
 * @template {HTMLElement} Type
 * @param {string} id
 * @param {new () => Type} type
 * @returns {Type}
 */
export function byId(id, type) {
  const element = document.getElementById(id);
  if (!(element instanceof type)) throw new TypeError(`Cannot find #${id} as a ${type.name}`);
  return element;
}

/**
 * A table with a row of headings.
 *
 * @param {string} caption
 * @param {readonly string[]} headings
 * @param {readonly (readonly (Node | string)[])[]} rows the first cell of each is its heading
 * @returns {HTMLTableElement}
 */
export function table(caption, headings, rows) {
  return create(
    "table",
    {},
    create("caption", { class: "visually-hidden" }, caption),
    create(
      "thead",
      {},
      create("tr", {}, ...headings.map((heading) => create("th", { scope: "col" }, heading))),
    ),
    create(
      "tbody",
      {},
      ...rows.map(([first = "", ...cells]) =>
        create(
          "tr",
          {},
          create("th", { scope: "row" }, first),
          ...cells.map((cell) => create("td", {}, cell)),
        )
      ),
    ),
  );
}

/**
 * A table that may be wider than the page.
 *
 * @param {string} label
 * @param {Element} content
 */
export function scrolling(label, content) {
  const attributes = { class: "scrolling", tabindex: 0, role: "region", "aria-label": label };
  return create("div", attributes, content);
}

/**
 * A part of the page that scrolls, with its element of the class `selected` in the middle.
 *
 * @param {string} label
 * @param {HTMLElement | SVGElement} content
 */
export function scrollingToSelected(label, content) {
  const element = scrolling(label, content);
  requestAnimationFrame(() => { // it is on the page then
    const selected = element.querySelector(".selected");
    if (!selected) return;
    const at = selected.getBoundingClientRect(), within = element.getBoundingClientRect();
    element.scrollBy(
      at.left + at.width / 2 - within.left - within.width / 2,
      at.top + at.height / 2 - within.top - within.height / 2,
    );
  });
  return element;
}

/**
 * A dot in the colour of a run.
 *
 * @param {number} color its number among the colours of runs
 */
export function swatch(color) {
  const dot = create("span", { class: "swatch" });
  dot.style.setProperty("--color", `var(--run-${color})`);
  return dot;
}

/**
 * The name of a run, which may be cut where it has no room.
 *
 * @param {string} name
 */
export function nameOf(name) {
  return create("bdi", { class: "name", title: visible(name) }, visible(name));
}
