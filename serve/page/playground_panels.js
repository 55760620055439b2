// @ts-check
/// <reference lib="dom" />
/// <reference lib="dom.iterable" />
import { create, scrolling, scrollingToSelected } from "./dom.js";
import { createAttention } from "./playground_attention.js";
import { inspect, Refusal } from "./playground_client.js";
import { barCell, barTable, percent, quoted } from "./playground_tokens.js";

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
      content.replaceChildren(create("p", { role: "alert" }, error.message));
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

/** @param {readonly number[]} values */
function sum(values) {
  return values.reduce((total, value) => total + value, 0);
}

/** @param {readonly Token[]} tokens */
function idsOf(tokens) {
  return tokens.map(({ id }) => id);
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
