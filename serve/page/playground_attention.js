// @ts-check
/// <reference lib="dom" />
/// <reference lib="dom.iterable" />
import { create, scrollingToSelected } from "./dom.js";
import { inspect, Refusal } from "./playground_client.js";
import { barTable, percent, quoted, visible } from "./playground_tokens.js";

/**
 * The attention of a text: a small matrix of every head, and of one of them a matrix, lines and figures.
 *
 * @module
 */

/** @import { Token } from "./playground_client.js" */
/** @import { Load } from "./playground_panels.js" */

/** The panel of attention, which remembers the head that was chosen. */
export function createAttention() {
  let chosen = { layer: 0, head: 0 };
  /** @type {Load} */
  return async (selected, signal) => {
    const { model, index } = selected;
    let { tokens } = selected, ids = tokens.map(({ id }) => id);
    let all = await inspect("attention", { model, ids }, signal);
    const isBehind = all.first > index; // the window of the whole text has left the token behind
    if (isBehind) {
      tokens = tokens.slice(0, index + 1);
      ids = ids.slice(0, index + 1);
      all = await inspect("attention", { model, ids }, signal);
    }
    const { layers, heads, first, cells } = all, T = tokens.length - first;
    const bytes = bytesOf(all.weights);
    if (chosen.layer >= layers || chosen.head >= heads) chosen = { layer: 0, head: 0 };
    const view = create("div", { class: "attention-view" });
    const showHead = async () => {
      const { layer, head } = chosen, start = (layer * heads + head) * cells * cells;
      const weights = cells === T
        ? bytes.subarray(start, start + T * T)
        : bytesOf((await inspect("attention", { model, ids, layer, head }, signal)).weights);
      if (layer !== chosen.layer || head !== chosen.head) return; // another was chosen meanwhile
      view.replaceChildren(
        ...attentionOfHead(tokens.slice(first), weights, {
          name: `${layer}.${head}`,
          query: index - first,
          onSelect: (query) => selected.onSelect(first + query),
        }),
      );
    };
    const buttons = Array.from({ length: layers * heads }, (_, i) => {
      const layer = Math.floor(i / heads), head = i % heads;
      const canvas = create("canvas", { "aria-hidden": "true", width: cells, height: cells });
      const isChosen = layer === chosen.layer && head === chosen.head;
      const button = create(
        "button",
        {
          type: "button",
          "aria-pressed": `${isChosen}`,
          click: () => {
            chosen = { layer, head };
            for (const other of buttons) other.ariaPressed = `${other === button}`;
            showHead().catch((error) => {
              if (signal.aborted) return;
              if (!(error instanceof Refusal)) throw error;
              view.replaceChildren(create("p", { role: "alert" }, error.message));
            });
          },
        },
        canvas,
        `${layer}.${head}`,
      );
      button.setAttribute("aria-label", `Layer and head ${layer}.${head}`);
      return button;
    });
    const grid = create("div", {
      class: "heads",
      role: "group",
      "aria-label": "Layers and heads",
    }, ...buttons);
    grid.style.setProperty("--heads", `${heads}`);
    await showHead();
    requestAnimationFrame(() => { // the colours of a canvas are known once it is on the page
      buttons.forEach(({ firstElementChild }, i) => {
        drawMatrix(
          /** @type {HTMLCanvasElement} */ (firstElementChild),
          bytes.subarray(i * cells * cells, (i + 1) * cells * cells),
          cells,
        );
      });
    });
    return [
      ...(isBehind
        ? [
          create(
            "p",
            { class: "note" },
            `The ${T} tokens that the model sees up to the selected one.`,
          ),
        ]
        : first > 0
        ? [create("p", { class: "note" }, `The model sees the last ${T} tokens.`)]
        : []),
      grid,
      view,
    ];
  };
}

/** @param {string} base64 */
function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

/**
 * The weights of a head: a matrix, lines between tokens, and in words those of one token.
 *
 * @param {readonly Token[]} tokens [T]
 * @param {Uint8Array} weights [T,T], 255 for 1
 * @param {{ name: string, query: number, onSelect: (query: number) => void }} options
 */
function attentionOfHead(tokens, weights, { name, query, onSelect }) {
  const T = tokens.length;
  const canvas = create("canvas", {
    width: T,
    height: T,
    role: "img",
    "aria-label": `Matrix of the weights of head ${name}: rows attend to columns`,
  });
  const under = create("p", { class: "note" }, "Rows attend to columns.");
  canvas.addEventListener("mousemove", ({ offsetX, offsetY }) => {
    const t = Math.min(T - 1, Math.floor(offsetY / canvas.clientHeight * T));
    const s = Math.min(T - 1, Math.floor(offsetX / canvas.clientWidth * T));
    const query = tokens[t], key = tokens[s], weight = weights[t * T + s];
    if (!query || !key || weight === undefined) return;
    under.textContent = `${quoted(query)} → ${quoted(key)}: ${percent(weight / 255)}`;
  });
  requestAnimationFrame(() => drawMatrix(canvas, weights, T));
  const strongest = tokens
    .map((token, s) => ({ token, s, weight: (weights[query * T + s] ?? 0) / 255 }))
    .filter(({ weight }) => weight > 0).sort((a, b) => b.weight - a.weight).slice(0, 8);
  return [
    create("h4", {}, `Layer and head ${name}`),
    create(
      "div",
      { class: "attention-head" },
      create("div", { class: "matrix" }, canvas, under),
      scrollingToSelected(
        "Lines between tokens",
        lines(tokens, weights, { name, query, onSelect }),
      ),
      barTable(
        "Weights of the token",
        [`${quoted(tokens[query] ?? { id: 0, text: "" })} attends to`, "weight"],
        strongest.map(({ token, s, weight }) => ({
          heading: [
            quoted(token),
            create("small", {}, s === query ? "itself" : `${query - s} before`),
          ],
          share: weight,
          figure: percent(weight),
        })),
      ),
    ),
  ];
}

/**
 * Draws a matrix, one pixel per weight, in the colour of the canvas.
 *
 * @param {HTMLCanvasElement} canvas
 * @param {Uint8Array} weights
 * @param {number} size
 */
function drawMatrix(canvas, weights, size) {
  const context = canvas.getContext("2d");
  if (!context) return;
  const [red = 0, green = 0, blue = 0] = getComputedStyle(canvas).color.match(/\d+/g) ?? [];
  const image = context.createImageData(size, size);
  weights.forEach((weight, i) => {
    // small weights remain visible
    image.data.set(
      [Number(red), Number(green), Number(blue), Math.sqrt(weight / 255) * 255],
      4 * i,
    );
  });
  context.putImageData(image, 0, 0);
}

/** Pixels per token of the lines, their length, and the room for a token's text. */
const ROW = 18, SPAN = 120, ROOM = 110;

/** Weights below get no line, of 255; of the selected token those that are this much less than its highest. */
const FAINT = 13, FAINT_SHARE = 0.2;

/**
 * Tokens twice, one below the other, and lines from each token to those that it attends to.
 *
 * @param {readonly Token[]} tokens
 * @param {Uint8Array} weights
 * @param {{ name: string, query: number, onSelect: (query: number) => void }} options
 */
function lines(tokens, weights, { name, query, onSelect }) {
  const T = tokens.length, width = 2 * ROOM + SPAN;
  const svg = shape("svg", {
    viewBox: `0 0 ${width} ${T * ROW}`,
    width,
    height: T * ROW,
    role: "img",
    "aria-label":
      `Lines of head ${name}, from each token on the left to those on the right that it attends to`,
  });
  const middle = (/** @type {number} */ t) => (t + 0.5) * ROW;
  for (let t = 0; t < T; t++) {
    const row = weights.subarray(t * T, t * T + t + 1);
    const least = t === query ? Math.max(1, FAINT_SHARE * Math.max(...row)) : FAINT;
    for (const [s, weight] of row.entries()) {
      if (weight < least) continue;
      svg.append(shape("line", {
        x1: ROOM,
        y1: middle(t),
        x2: ROOM + SPAN,
        y2: middle(s),
        class: t === query ? "of-query" : "of-others",
        "stroke-opacity": (t === query ? 0.2 + 0.8 * weight / 255 : 0.35 * weight / 255).toFixed(3),
      }));
    }
  }
  tokens.forEach((token, t) => {
    for (const isKey of [false, true]) {
      const text = shape("text", {
        x: isKey ? ROOM + SPAN + 5 : ROOM - 5,
        y: middle(t) + 4,
        "text-anchor": isKey ? "start" : "end",
        class: !isKey && t === query ? "selected" : "",
      });
      text.textContent = shortened(token);
      if (!isKey) text.addEventListener("click", () => onSelect(t));
      svg.append(text);
    }
  });
  return svg;
}

/** @param {Token} token */
function shortened(token) {
  const text = visible(token), shown = text.trim() || text.replaceAll(" ", "␣");
  return shown.length > 14 ? `${shown.slice(0, 13)}…` : shown;
}

/**
 * An element of SVG.
 *
 * @param {string} name
 * @param {Readonly<Record<string, string | number>>} attributes
 */
function shape(name, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [attribute, value] of Object.entries(attributes)) {
    element.setAttribute(attribute, `${value}`);
  }
  return element;
}
