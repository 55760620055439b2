// @ts-check
/// <reference lib="dom" />
/// <reference lib="dom.iterable" />
import { create, scrolling } from "./dom.js";
import { inspect, Refusal } from "./playground_client.js";
import { barCell, percent, quoted, visible } from "./playground_tokens.js";

/**
 * What a model does inside at a token of a text: the sampler's stages, the logit lens, attention, neighbours. Each has
 * a panel, which asks the server when it is opened.
 *
 * @module
 */

/** @import { Prediction, Token } from "./playground_client.js" */

/**
 * A token that was selected.
 * @typedef {object} Selected
 * @property {string} model
 * @property {readonly Token[]} tokens of prompt and completion
 * @property {Token} token
 * @property {number} index where it is among them
 * @property {() => Record<string, number>} settings those of the sampler now
 * @property {(index: number) => void} onSelect selects another token
 */

/**
 * Answers with the content of a panel.
 * @typedef {(selected: Selected, signal: AbortSignal) => Promise<(Node | string)[]>} Load
 */

/** Candidates of the sampler, and neighbours, that are shown. */
const SHOWN = 12;

/** Names of the sampler's stages. */
const STAGES = /** @type {Record<string, string>} */ ({
  logits: "model",
  repetitionPenalty: "repetition penalty",
  temperature: "temperature",
  topK: "top-k",
  topP: "top-p",
  minP: "min-p",
});

/** The panels below a text. */
export function panels() {
  const sampler = panel("How the token was drawn: the distribution after each filter", loadSampler);
  const lens = panel("Logit lens: what each layer would say", loadLens);
  const attention = panel("Attention of every layer and head", createAttention());
  const neighbours = panel("Nearest neighbours of the token's embedding", loadNeighbours);
  const all = [sampler, lens, attention, neighbours];
  const heading = create("h3", {}, "Look inside");
  const hint = create("p", { class: "note" });
  const element = create(
    "section",
    { class: "panels", "aria-label": "Look inside", hidden: true },
    heading,
    hint,
    ...all.map(({ details }) => details),
  );
  return {
    element,
    /** @param {Selected | undefined} selected */
    update(selected) {
      element.hidden = !selected;
      if (!selected) return;
      const { tokens, token, index, model } = selected;
      hint.textContent = `Token ${index + 1} of ${tokens.length}, ${
        quoted(token)
      }, in ${model}. Select another token of a completion with a click or with Enter.`;
      for (const { update } of all) update(selected);
    },
    /** Asks again with other settings of the sampler. */
    refreshSampler: () => sampler.refresh(),
    /** Draws again, in other colours. */
    redraw: () => attention.refresh(),
    close() {
      for (const { close } of all) close();
    },
  };
}

/**
 * @param {string} title
 * @param {Load} load
 */
function panel(title, load) {
  const content = create("div", { class: "panel-content" });
  const details = create("details", {}, create("summary", {}, title), content);
  /** @type {Selected | undefined} */
  let selected;
  let asked = new AbortController();
  const refresh = async () => {
    asked.abort();
    asked = new AbortController();
    const { signal } = asked;
    if (!selected || !details.open) return;
    content.setAttribute("aria-busy", "true");
    try {
      const nodes = await load(selected, signal);
      if (!signal.aborted) content.replaceChildren(...nodes);
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof Refusal)) throw error;
      content.replaceChildren(refusalOf(error));
    } finally {
      if (!signal.aborted) content.removeAttribute("aria-busy");
    }
  };
  details.addEventListener("toggle", refresh);
  return {
    details,
    refresh,
    /** @param {Selected} next */
    update(next) {
      selected = next;
      refresh();
    },
    close: () => asked.abort(),
  };
}

/** @param {Refusal} refusal */
function refusalOf({ message }) {
  return create("p", { role: "alert" }, message);
}

/** @param {readonly number[]} values */
function sum(values) {
  return values.reduce((total, value) => total + value, 0);
}

/** @param {readonly Token[]} tokens */
function idsOf(tokens) {
  return tokens.map(({ id }) => id);
}

/**
 * A part of the page that scrolls, with the selected token in its middle.
 *
 * @param {string} label
 * @param {HTMLElement | SVGElement} content
 */
function scrollingToSelected(label, content) {
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

/** @type {Load} */
async function loadSampler({ model, tokens, token: drawn, index, settings }, signal) {
  if (index === 0) return ["The first token of a text is given: nothing is drawn."];
  const answer = await inspect("sampler", {
    model,
    ids: idsOf(tokens.slice(0, index)),
    ...settings(),
    top: SHOWN,
    include: drawn.id,
  }, signal);
  const { stages } = answer;
  /** @type {(Token & { probabilities: number[] })[]} */
  const candidates = answer.candidates;
  const head = create(
    "tr",
    {},
    create("th", { scope: "col" }, "token"),
    ...stages.map((/** @type {{ stage: string, tokens: number }} */ { stage, tokens }) =>
      create(
        "th",
        { scope: "col" },
        STAGES[stage] ?? stage,
        create("small", {}, `${tokens.toLocaleString("en")} token${tokens === 1 ? "" : "s"}`),
      )
    ),
  );
  const others = /** @type {number[]} */ (stages.map((
    /** @type {unknown} */ _,
    /** @type {number} */ i,
  ) => Math.max(0, 1 - sum(candidates.map(({ probabilities }) => probabilities[i] ?? 0)))));
  const most = Math.max(...others, ...candidates.flatMap(({ probabilities }) => probabilities));
  /** @param {number} probability */
  const cell = (probability) =>
    // a sum that should be 0 has rounding errors
    probability < 1e-9 ? barCell(0, "—") : barCell(probability / most, percent(probability));
  const rows = candidates.map(({ probabilities, ...token }) => {
    const isDrawn = token.id === drawn.id;
    return create(
      "tr",
      isDrawn ? { class: "drawn" } : {},
      create("th", { scope: "row" }, quoted(token), isDrawn ? " (this token)" : ""),
      ...probabilities.map(cell),
    );
  });
  rows.push(create("tr", {}, create("th", { scope: "row" }, "all others"), ...others.map(cell)));
  return [
    create("p", { class: "note" }, "The settings above apply; change them to see what they do."),
    scrolling(
      "Distribution after each filter",
      create("table", {}, create("thead", {}, head), create("tbody", {}, ...rows)),
    ),
  ];
}

/** Tokens beside the selected one in the table of the logit lens, on each side. */
const LENS_BESIDE = 24;

/** @type {Load} */
async function loadLens({ model, tokens, index }, signal) {
  // no later token changes what is said before it
  const end = Math.min(tokens.length, index + 1 + LENS_BESIDE);
  const { first, layers } = await inspect("lens", {
    model,
    ids: idsOf(tokens.slice(0, end)),
    top: 1,
  }, signal);
  const from = Math.max(first, index - LENS_BESIDE);
  const columns = tokens.slice(from, end);
  const head = create(
    "tr",
    {},
    create("th", { scope: "col" }, "after"),
    ...columns.map((token, i) =>
      create("th", { scope: "col", ...mark(from + i === index) }, quoted(token))
    ),
  );
  const rows = layers.map((/** @type {Prediction[]} */ predictions, /** @type {number} */ blocks) =>
    create(
      "tr",
      {},
      create(
        "th",
        { scope: "row" },
        blocks === 0
          ? "embedding"
          : blocks === layers.length - 1
          ? `layer ${blocks - 1}, output`
          : `layer ${blocks - 1}`,
      ),
      ...columns.map((_, i) => {
        const { next, top } = predictions[from - first + i] ?? { top: [] }, [likeliest] = top;
        const cell = create("td", mark(from + i === index));
        if (!likeliest) return cell;
        cell.append(
          create(likeliest.id === next?.id ? "strong" : "span", {}, quoted(likeliest)),
          create("small", {}, percent(likeliest.probability)),
        );
        cell.style.setProperty("--share", `${likeliest.probability}`);
        return cell;
      }),
    )
  );
  return [
    create(
      "p",
      { class: "note" },
      "Columns are the tokens that were read. A cell has the likeliest next token if the layers " +
        "below it in this table did nothing; bold if it is the one that follows.",
    ),
    scrollingToSelected(
      "Logit lens",
      create("table", { class: "lens" }, create("thead", {}, head), create("tbody", {}, ...rows)),
    ),
  ];
}

/**
 * The attributes of the cells of a column.
 *
 * @param {boolean} isSelected
 */
function mark(isSelected) {
  return isSelected ? { class: "selected" } : {};
}

/** @type {Load} */
async function loadNeighbours({ model, token }, signal) {
  const { neighbours: [nearest] } = await inspect("neighbours", {
    model,
    ids: [token.id],
    top: SHOWN,
  }, signal);
  return [
    barTable(
      "Nearest neighbours",
      [`near ${quoted(token)}`, "cosine"],
      nearest.map((/** @type {Token & { cosine: number }} */ { cosine, ...token }) => ({
        heading: [quoted(token)],
        share: cosine,
        figure: cosine.toFixed(3),
      })),
    ),
  ];
}

/**
 * A table of two columns: headings, and figures with bars.
 *
 * @param {string} label
 * @param {readonly [string, string]} columns
 * @param {readonly { heading: (Node | string)[], share: number, figure: string }[]} rows
 */
function barTable(label, columns, rows) {
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

/** The panel of attention, which remembers the head that was chosen. */
function createAttention() {
  let chosen = { layer: 0, head: 0 };
  /** @type {Load} */
  return async (selected, signal) => {
    const { model, tokens, index } = selected, ids = idsOf(tokens);
    const all = await inspect("attention", { model, ids }, signal);
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
          query: Math.max(0, index - first),
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
              view.replaceChildren(refusalOf(error));
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
      ...(first > 0
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
