// @ts-check
/// <reference lib="dom" />
/// <reference lib="dom.iterable" />
import { create } from "./dom.js";

/**
 * The form of the playground: prompt, checkpoint, and the numbers of a request.
 *
 * @module
 */

/**
 * A checkpoint of a run.
 * @typedef {{ step: number, isBest: boolean, isLatest: boolean }} Checkpoint
 */

/**
 * The numbers of a request: name, label, step, and the value unless it is that of `deno task generate`.
 *
 * @type {readonly (readonly [name: string, label: string, step: number, value?: number])[]}
 */
const SETTINGS = [
  ["n", "completions", 1, 2],
  ["max_tokens", "tokens at most", 10, 100],
  ["temperature", "temperature", 0.1],
  ["top_k", "top-k", 1],
  ["top_p", "top-p", 0.05],
  ["min_p", "min-p", 0.01],
  ["repetition_penalty", "repetition penalty", 0.1],
  ["repetition_window", "repetition window", 1],
  ["seed", "seed", 1, 1],
];

/** What the text of a request may be: its label, and an example. */
const KINDS = /** @type {const} */ ({
  prompt: ["Prompt", "Once upon a time"],
  message: ["Message", "Tell me a story."],
});

/** Names of the numbers that are options of the sampler. */
export const SAMPLER = SETTINGS.map(([name]) => name)
  .filter((name) => !["n", "max_tokens", "seed"].includes(name));

/**
 * Creates the form.
 *
 * @param {string} prefix of ids, unique on the page
 */
export function createForm(prefix) {
  /** @type {readonly Checkpoint[]} */
  let checkpoints = [];
  const prompt = create("textarea", { id: `${prefix}-prompt`, rows: 2, spellcheck: "false" });
  const promptLabel = create("label", { for: prompt.id });
  const inputs = new Map(
    SETTINGS.map(([name, , step, value = ""]) => [name, numberInput(prefix, name, step, value)]),
  );
  const slider = create("input", { id: `${prefix}-checkpoint`, type: "range", min: 0, step: 1 });
  const step = create("output", { for: slider.id });
  const start = create("button", { type: "submit", class: "button" }, "Generate");
  const stop = create("button", { type: "button", class: "button", disabled: true }, "Stop");
  const element = create(
    "form",
    { novalidate: true, "aria-label": "Playground" },
    promptLabel,
    prompt,
    create(
      "div",
      { class: "checkpoint" },
      create("label", { for: slider.id }, "Checkpoint"),
      slider,
      step,
    ),
    create(
      "fieldset",
      {},
      create("legend", {}, "Sampling"),
      ...SETTINGS.map(([name, label]) => {
        const input = /** @type {HTMLInputElement} */ (inputs.get(name));
        return create("div", {}, create("label", { for: input.id }, label), input);
      }),
    ),
    create("div", { class: "buttons" }, start, stop),
  );

  const checkpoint = () => checkpoints[Number(slider.value)];
  const showCheckpoint = () => {
    const { step: steps, isBest, isLatest } = checkpoint() ?? {};
    const text = steps === undefined
      ? "none yet"
      : `step ${steps.toLocaleString("en")}${isLatest ? ", newest" : ""}${isBest ? ", best" : ""}`;
    step.textContent = text;
    slider.setAttribute("aria-valuetext", text);
  };
  slider.addEventListener("input", showCheckpoint);

  return {
    element,
    prompt,
    /** Shows whether the text is a message or is continued. @param {boolean} isMessage */
    showKind(isMessage) {
      const [label, example] = isMessage ? KINDS.message : KINDS.prompt;
      promptLabel.textContent = label;
      const isExample = Object.values(KINDS).some(([, text]) => text === prompt.value);
      if (prompt.value === "" || isExample) prompt.value = example;
    },
    slider,
    stop,
    checkpoint,
    /**
     * Offers checkpoints, and chooses the newest unless another is kept.
     *
     * @param {readonly Checkpoint[]} next in ascending order
     * @param {number | undefined} kept step of the checkpoint that stays chosen if it is there
     */
    showCheckpoints(next, kept) {
      checkpoints = next;
      const place = checkpoints.findIndex(({ step }) => step === kept);
      slider.max = `${Math.max(0, checkpoints.length - 1)}`;
      slider.value = `${place >= 0 ? place : checkpoints.length - 1}`;
      slider.disabled = checkpoints.length < 2;
      start.disabled = checkpoints.length === 0;
      showCheckpoint();
    },
    /** The numbers that are given. */
    settings(names = SETTINGS.map(([name]) => name)) {
      return Object.fromEntries(names.flatMap((name) => {
        const { value } = /** @type {HTMLInputElement} */ (inputs.get(name));
        return value === "" ? [] : [[name, Number(value)]];
      }));
    },
    /**
     * Fills in the numbers that are not given.
     *
     * @param {Record<string, { value: number }>} usual
     */
    fill(usual) {
      for (const [name, input] of inputs) {
        if (input.value === "" && usual[name]) input.value = `${usual[name].value}`;
      }
    },
    /** Shows which field is wrong, if one is. @param {string | null} field */
    blame(field) {
      for (const [name, input] of inputs) {
        if (name === field) input.setAttribute("aria-invalid", "true");
        else input.removeAttribute("aria-invalid");
      }
    },
  };
}

/**
 * The input of a number. Any number is valid, and the arrow keys change it by useful steps.
 *
 * @param {string} prefix
 * @param {string} name
 * @param {number} step
 * @param {number | string} value
 */
function numberInput(prefix, name, step, value) {
  const input = create("input", {
    id: `${prefix}-${name}`,
    name,
    type: "number",
    min: 0,
    step: "any",
    inputmode: "decimal",
    value,
  });
  input.addEventListener("keydown", (event) => {
    const sign = { ArrowUp: 1, ArrowDown: -1 }[event.key];
    if (sign === undefined) return;
    event.preventDefault();
    input.value = `${Math.max(0, Number((Number(input.value) + sign * step).toFixed(6)))}`;
    input.dispatchEvent(new Event("input", { bubbles: true }));
  });
  return input;
}
