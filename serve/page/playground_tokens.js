// @ts-check
/// <reference lib="dom" />
/// <reference lib="dom.iterable" />
import { create, scrolling } from "./dom.js";
import { visible as visibleText } from "./format.js";

/**
 * A text as tokens, coloured by their probability, with the alternatives of each.
 *
 * @module
 */

/** @import { Prediction, Token } from "./playground_client.js" */

/** Least probabilities of the colours, from likely to unlikely. */
const LEVELS = [0.9, 0.5, 0.2, 0.05, 0];

/** Alternatives in a tooltip. */
const ALTERNATIVES = 8;

/**
 * A probability as people read it.
 *
 * @param {number} probability
 * @returns {string}
 */
export function percent(probability) {
  const value = 100 * probability;
  if (value > 0 && value < 0.01) return "< 0.01 %";
  return `${value >= 99.95 ? Math.round(value) : value.toFixed(value < 1 ? 2 : 1)} %`;
}

/**
 * The text of a token, with line feeds as arrows and other characters that cannot be seen as their numbers.
 *
 * @param {Token} token
 * @returns {string}
 */
export function visible({ text }) {
  return visibleText(text.replaceAll("\n", "↵"));
}

/**
 * What a token adds to a text: two dots if it only begins a character.
 *
 * @param {Token} token
 * @returns {string}
 */
function shown({ id, text, piece }) {
  if (!piece && text.startsWith("\\x")) return "‥";
  return visible({ id, text: piece || text }).replaceAll("↵", "↵\n") || "∅";
}

/**
 * The text of a token between quotation marks.
 *
 * @param {Token} token
 * @returns {string}
 */
export function quoted(token) {
  return `“${visible(token)}”`;
}

/** What the colours mean. */
export function legend() {
  return create(
    "p",
    { class: "token-legend" },
    "Probability of a token: ",
    ...LEVELS.flatMap((least, level) => [
      create(
        "span",
        { class: `token p${level}` },
        least === 0 ? `less than ${100 * (LEVELS[level - 1] ?? 0)} %` : `${100 * least} % or more`,
      ),
      " ",
    ]),
  );
}

let lists = 0; // for ids that are unique on the page

/**
 * A list of the tokens of a text. Arrow keys move between them; Enter or a click selects one.
 *
 * @param {object} options
 * @param {string} options.label
 * @param {readonly Token[]} options.tokens
 * @param {readonly Prediction[]} options.predictions after each of them
 * @param {number} options.promptLength tokens that were given
 * @param {(index: number) => void} options.onSelect
 */
export function tokenList({ label, tokens, predictions, promptLength, onSelect }) {
  const id = `tokens-${++lists}`;
  const tooltip = create("div", { id: `${id}-tooltip`, role: "tooltip", hidden: true });
  const options = tokens.map((token, index) => {
    const next = predictions[index - 1]?.next;
    const level = next && LEVELS.findIndex((least) => next.probability >= least);
    const place = index < promptLength ? ", of the prompt" : "";
    return create("span", {
      role: "option",
      "aria-label": next
        ? `${quoted(token)}, ${percent(next.probability)}, rank ${next.rank}${place}`
        : `${quoted(token)}${place}`,
      "aria-selected": "false",
      class: `token${level === undefined ? "" : ` p${level}`}${place ? " given" : ""}`,
      tabindex: index === promptLength || tokens.length <= promptLength && index === 0 ? "0" : "-1",
    }, shown(token));
  });
  const list = create(
    "div",
    { id, role: "listbox", "aria-label": label, class: "tokens", "aria-orientation": "horizontal" },
    ...options,
  );
  const element = create("div", { class: "token-list" }, list, tooltip);

  /** @param {EventTarget | null} target */
  const indexOf = (target) =>
    options.findIndex((option) => target instanceof Node && option.contains(target));

  const hide = () => {
    tooltip.hidden = true;
    for (const option of options) option.removeAttribute("aria-describedby");
  };
  /** @param {number} index */
  const show = (index) => {
    hide();
    const option = options[index], token = tokens[index], before = predictions[index - 1];
    if (!option || !token || !before) return;
    tooltip.replaceChildren(...alternatives(token, before));
    tooltip.hidden = false;
    option.setAttribute("aria-describedby", tooltip.id);
    const at = option.getClientRects()[0] ?? new DOMRect(),
      within = element.getBoundingClientRect();
    const most = Math.max(0, within.width - tooltip.offsetWidth);
    tooltip.style.left = `${Math.max(0, Math.min(at.left - within.left, most))}px`;
    tooltip.style.top = `${at.bottom - within.top}px`;
  };
  /** @param {number} index */
  const focus = (index) => {
    const option = options[Math.max(0, Math.min(index, options.length - 1))];
    for (const other of options) other.tabIndex = other === option ? 0 : -1;
    option?.focus();
  };
  /** @param {number} index */
  const select = (index) => {
    options.forEach((option, i) => option.setAttribute("aria-selected", `${i === index}`));
  };

  list.addEventListener("mouseover", ({ target }) => {
    const index = indexOf(target);
    if (index >= 0) show(index);
  });
  element.addEventListener("mouseleave", hide);
  list.addEventListener("focusin", ({ target }) => show(indexOf(target)));
  list.addEventListener("focusout", hide);
  list.addEventListener("click", ({ target }) => {
    const index = indexOf(target);
    if (index < 0) return;
    focus(index);
    onSelect(index);
  });
  list.addEventListener("keydown", (event) => {
    const index = indexOf(event.target), last = options.length - 1;
    const moves = {
      ArrowRight: index + 1,
      ArrowDown: index + 1,
      ArrowLeft: index - 1,
      ArrowUp: index - 1,
      Home: 0,
      End: last,
    };
    if (event.key === "Escape") hide();
    else if (event.key === "Enter" || event.key === " ") onSelect(index);
    else if (Object.hasOwn(moves, event.key)) {
      focus(moves[/** @type {keyof typeof moves} */ (event.key)]);
    } else return;
    event.preventDefault();
  });
  return { element, select };
}

/**
 * What a tooltip says about a token: its probability, and the likeliest tokens in its place.
 *
 * @param {Token} token
 * @param {Prediction} before
 */
function alternatives(token, { top, next }) {
  const heading = next
    ? `${quoted(token)}: ${percent(next.probability)}, rank ${next.rank}`
    : quoted(token);
  const likeliest = top[0]?.probability ?? 1;
  return [
    create("p", {}, heading),
    create(
      "table",
      {},
      create(
        "tbody",
        {},
        ...top.slice(0, ALTERNATIVES).map((other) =>
          create(
            "tr",
            other.id === token.id ? { class: "drawn" } : {},
            create("td", {}, quoted(other)),
            barCell(other.probability / likeliest, percent(other.probability)),
          )
        ),
      ),
    ),
  ];
}

/**
 * The cell of a table with a bar and its figure.
 *
 * @param {number} share from 0 to 1
 * @param {string} text
 */
export function barCell(share, text) {
  const filled = create("span", { class: "bar-filled" });
  filled.style.width = `${100 * Math.max(0, Math.min(share, 1))}%`;
  return create(
    "td",
    { class: "figure" },
    create("span", { class: "bar", "aria-hidden": "true" }, filled),
    create("span", { class: "number" }, text),
  );
}

/**
 * A table of two columns: headings, and figures with bars.
 *
 * @param {string} label
 * @param {readonly [string, string]} columns
 * @param {readonly { heading: (Node | string)[], share: number, figure: string }[]} rows
 */
export function barTable(label, columns, rows) {
  const head = create(
    "tr",
    {},
    ...columns.map((column) => create("th", { scope: "col" }, column)),
  );
  const body = rows.map(({ heading, share, figure }) =>
    create("tr", {}, create("th", { scope: "row" }, ...heading), barCell(share, figure))
  );
  return scrolling(
    label,
    create("table", {}, create("thead", {}, head), create("tbody", {}, ...body)),
  );
}
