// @ts-check
/// <reference lib="dom" />
/// <reference lib="dom.iterable" />
import { create } from "./dom.js";
import { complete, inspect, NO_SERVER, Refusal, usualSettings } from "./playground_client.js";
import { createForm, SAMPLER } from "./playground_form.js";
import { panels } from "./playground_panels.js";
import { legend, tokenList } from "./playground_tokens.js";

/**
 * The playground of a run: a prompt is continued by one of its checkpoints, and what the model did is shown.
 *
 * @module
 */

/** @import { Prediction, Token } from "./playground_client.js" */
/** @import { Checkpoint } from "./playground_form.js" */

/**
 * What the playground works with: the run that is selected on the page, its checkpoints in ascending order, and whether
 * its models were trained on conversations. These are asked in their chat format.
 * @typedef {{ run: string, checkpoints: readonly Checkpoint[], hasChatTemplate: boolean }} Selected
 */

/** Completions of one request side by side, at most. */
const MOST_COMPLETIONS = 8;

/** Tokens of a text whose probabilities the server computes, at most. */
const MOST_IDS = 4096;

/** Tokens of the answers that are remembered, at most, so that the slider moves back at once. */
const MOST_REMEMBERED = 50_000;

/** Milliseconds without a change after which a request is made. */
const CALM_MS = 150;

/** What is said of a run that has saved nothing. */
const NO_CHECKPOINT = "This run has no checkpoint yet.";

/**
 * A completion that ended.
 * @typedef {object} Completed
 * @property {string} model
 * @property {string} text
 * @property {string} reason why it ended
 * @property {number} drawn number of tokens
 * @property {number} promptLength number of tokens
 * @property {readonly Token[]} tokens of prompt and completion; none if these are too many
 * @property {readonly Prediction[]} predictions after each of them
 */

let mounted = 0; // for ids that are unique on the page

/**
 * Fills the element of the playground.
 *
 * @param {HTMLElement} element
 * @param {Selected} selected
 * @returns {{ update(selected: Selected): void, close(): void }}
 */
export function mountPlayground(element, selected) {
  const prefix = `playground-${++mounted}`;
  /** @type {Map<string, Completed[]>} */
  const remembered = new Map();
  let { run, checkpoints, hasChatTemplate } = selected;
  let asked = new AbortController();
  /** The token that is looked at: its completion, and its index. @type {{ card: number, index: number } | undefined} */
  let lookedAt;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let calm;
  const whenCalm = (/** @type {() => void} */ action) => {
    clearTimeout(calm);
    calm = setTimeout(action, CALM_MS);
  };

  const form = createForm(prefix), { prompt, slider, stop, checkpoint, settings, blame } = form;
  const status = create("p", { role: "status" });
  const cards = create("div", { class: "completions" });
  const colours = legend();
  colours.hidden = true;
  const inside = panels();

  element.replaceChildren(form.element, status, colours, cards, inside.element);
  element.classList.add("playground");

  const say = (/** @type {string} */ text) => status.textContent = text;

  /** Aborts the request that is being answered, if there is one. */
  const giveUp = () => {
    asked.abort();
    asked = new AbortController();
    stop.disabled = true;
  };

  /** Offers the checkpoints of the run. */
  const showCheckpoints = (/** @type {number | undefined} */ kept) => {
    form.showCheckpoints(checkpoints, kept);
    if (checkpoints.length === 0) say(NO_CHECKPOINT);
    else if (status.textContent === NO_CHECKPOINT) say("");
  };

  /**
   * Selects a token of a completion, and looks inside the model there.
   *
   * @param {readonly Completed[]} completions
   * @param {readonly ReturnType<typeof tokenList>[]} lists
   */
  const look = (completions, lists) => {
    const { card, index } = lookedAt ?? { card: -1, index: -1 };
    lists.forEach((list, i) => list.select(i === card ? index : -1));
    const completion = completions[card], token = completion?.tokens[index];
    if (!completion || !token) return inside.update(undefined);
    inside.update({
      ...completion,
      token,
      index,
      settings: () => settings(SAMPLER),
      onSelect: (index) => {
        lookedAt = { card, index };
        look(completions, lists);
      },
    });
  };

  /** Shows completions that ended. @param {readonly Completed[]} completions */
  const show = (completions) => {
    const lists = completions.map((completion, i) =>
      tokenList({
        ...completion,
        label: `Tokens of completion ${i + 1}`,
        onSelect: (index) => {
          lookedAt = { card: i, index };
          look(completions, lists);
        },
      })
    );
    cards.replaceChildren(
      ...completions.map(({ reason, text, tokens }, i) => {
        const prose = tokens.map(({ text, piece }) => piece ?? text).join("");
        return tokens.length === 0
          ? card(i, reason, create("p", { class: "streaming" }, text))
          : card(
            i,
            reason,
            create("p", { class: "visually-hidden" }, prose),
            lists[i]?.element ?? "",
          );
      }),
    );
    colours.hidden = false;
    lookedAt ??= { card: 0, index: firstChoice(completions[0]) };
    look(completions, lists);
  };

  const generate = async () => {
    giveUp();
    const { signal } = asked, { step } = checkpoint() ?? {};
    if (step === undefined) return;
    const model = `${run}@${step}`, text = prompt.value;
    const body = hasChatTemplate
      ? { model, messages: [{ role: "user", content: text }], ...settings() }
      : { model, prompt: text, ...settings() };
    blame(null);
    const key = JSON.stringify(body), known = remembered.get(key);
    if (known) {
      say(`${body.model}: as before.`);
      return show(known);
    }
    const since = performance.now();
    stop.disabled = false;
    say(`${body.model} is asked…`);
    try {
      if (/** @type {any} */ (body).n > MOST_COMPLETIONS) {
        throw new Refusal(`Cannot show more than ${MOST_COMPLETIONS} completions at once`, "n");
      }
      const completions = await generated(body, hasChatTemplate ? `${text}\n` : text, signal, {
        cards,
        say,
      });
      remembered.set(key, completions);
      forget(remembered);
      const seconds = ((performance.now() - since) / 1000).toFixed(1);
      say(
        `${body.model}: ${
          completions.reduce((sum, { drawn }) => sum + drawn, 0)
        } tokens in ${seconds} s, their probabilities included.`,
      );
      show(completions);
    } catch (error) {
      if (signal.aborted) {
        if (signal === asked.signal) say("Stopped.");
        return;
      }
      if (!(error instanceof Refusal)) throw error;
      say(error.message);
      blame(error.field);
    } finally {
      if (signal === asked.signal) stop.disabled = true;
    }
  };

  stop.addEventListener("click", () => asked.abort());
  form.element.addEventListener("submit", (event) => {
    event.preventDefault();
    generate();
  });
  prompt.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) generate();
  });
  slider.addEventListener("input", () => {
    if (cards.childElementCount > 0) whenCalm(generate);
  });
  form.element.addEventListener("input", ({ target }) => {
    const { name } = /** @type {HTMLInputElement} */ (target);
    if (SAMPLER.includes(name)) whenCalm(() => inside.refreshSampler());
  });
  const scheme = matchMedia("(prefers-color-scheme: dark)"), redraw = () => inside.redraw();
  scheme.addEventListener("change", redraw);
  const theme = new MutationObserver(redraw); // the reader can choose one
  theme.observe(document.documentElement, { attributeFilter: ["style"] });

  form.showKind(hasChatTemplate);
  showCheckpoints(undefined);
  usualSettings().then(form.fill, () => say(NO_SERVER));

  return {
    update(next) {
      const before = next.run === run && checkpoint() !== checkpoints.at(-1)
        ? checkpoint()?.step
        : undefined;
      const isOther = next.run !== run;
      ({ run, checkpoints, hasChatTemplate } = next);
      form.showKind(hasChatTemplate);
      if (isOther) {
        giveUp();
        remembered.clear();
        cards.replaceChildren();
        colours.hidden = true;
        lookedAt = undefined;
        inside.update(undefined);
        say("");
      }
      showCheckpoints(before);
    },
    close() {
      asked.abort();
      clearTimeout(calm);
      inside.close();
      scheme.removeEventListener("change", redraw);
      theme.disconnect();
      element.replaceChildren();
    },
  };
}

/**
 * Streams completions onto the page, then asks for the probabilities of their tokens.
 *
 * @param {Parameters<typeof complete>[0]} body
 * @param {string} prompt the text that the completions begin with on the page
 * @param {AbortSignal} signal
 * @param {{ cards: HTMLElement, say: (text: string) => void }} page the completions, and what shows the status
 * @returns {Promise<Completed[]>}
 */
async function generated(body, prompt, signal, { cards, say }) {
  /** @type {{ model: string, text: string, reason: string, given: number[], drawn: number[], shown: HTMLElement }[]} */
  const streams = [];
  for await (const piece of complete(body, signal)) {
    const { index, model, text, token_ids, prompt_token_ids, finish_reason } = piece;
    const stream = streams[index] ??= {
      model,
      text: "",
      reason: "",
      given: prompt_token_ids ?? [],
      drawn: [],
      shown: create(
        "p",
        { class: "streaming" },
        create("span", { class: "given" }, prompt),
      ),
    };
    if (stream.text === "" && stream.drawn.length === 0) {
      cards.replaceChildren(...streams.map(({ shown }, i) => card(i, "generating…", shown)));
    }
    stream.text += text;
    stream.drawn.push(...token_ids);
    stream.reason = finish_reason === "length" ? "cut after its last token" : "ended by itself";
    stream.shown.append(text);
  }
  const completions = [];
  say(`${body.model} computes the probabilities of the tokens…`);
  for (const { model, text, reason, given, drawn } of streams) {
    const stream = { model, text, reason, drawn: drawn.length, promptLength: given.length };
    if (given.length + drawn.length > MOST_IDS) {
      const reason = `${stream.reason}; too long for probabilities`;
      completions.push({ ...stream, reason, tokens: [], predictions: [] });
      continue;
    }
    const { tokens, predictions } = await inspect("predictions", {
      model,
      ids: [...given, ...drawn],
      top: 10,
    }, signal);
    completions.push({ ...stream, tokens, predictions });
  }
  return completions;
}

/**
 * Removes the oldest answers if all together have too many tokens.
 *
 * @param {Map<string, readonly Completed[]>} remembered
 */
function forget(remembered) {
  let tokens = 0;
  for (const [key, completions] of [...remembered].reverse()) {
    tokens += completions.reduce((sum, completion) => sum + completion.tokens.length, 0);
    if (tokens > MOST_REMEMBERED) remembered.delete(key);
  }
}

/**
 * Where a model was first unsure in a completion, or else its first token.
 *
 * @param {Completed | undefined} completion
 */
function firstChoice(completion) {
  const { predictions, promptLength } = completion ?? { predictions: [], promptLength: 0 };
  const unsure = predictions.findIndex(({ next }, i) =>
    i + 1 >= promptLength && next && next.probability < 0.5
  );
  return unsure < 0 ? promptLength : unsure + 1;
}

/**
 * A completion among others.
 *
 * @param {number} index
 * @param {string} reason
 * @param {...(Node | string)} content
 */
function card(index, reason, ...content) {
  return create(
    "article",
    { class: "card" },
    create("h3", {}, `Completion ${index + 1}`, create("small", {}, reason)),
    ...content,
  );
}
