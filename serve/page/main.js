// @ts-check
/// <reference lib="dom" />
/// <reference lib="dom.iterable" />
import { ChartView } from "./chart.js";
import { DetailsView } from "./details.js";
import { byId, create, scrolling, table } from "./dom.js";
import { FactsView } from "./facts.js";
import { CHARTS, curveName } from "./figures.js";
import { figure, visible } from "./format.js";
import { RunList, stepsOf } from "./run_list.js";
import { fragmentOf, parseSelection } from "./selection.js";
import { openSource } from "./source.js";

/**
 * The page: the list of runs, curves and details of the selected ones, and the playground, which is loaded when it is
 * opened.
 *
 * @module
 */

/**
 * @typedef {import("./source.js").RunRow} RunRow
 * @typedef {import("./source.js").RunCurves} RunCurves
 * @typedef {import("./source.js").RunDetails} RunDetails
 * @typedef {import("./source.js").Changes} Changes
 */

/** Runs that are selected, at most. */
const MOST_SELECTED = 20;

/** Milliseconds between two drawings while curves are read. */
const DRAW_MS = 400;

/** Colours of runs in the style sheet. */
const COLORS = 10;

/** Points of a curve from which all of it is read again, thinned. */
const MOST_POINTS = 4000;

/** Milliseconds between two requests while a record is read, and between two of details while a run trains. */
const READING_MS = 500, DETAILS_MS = 3000;

/** Milliseconds between two announcements to a screen reader. */
const ANNOUNCE_MS = 20_000;

const source = openSource();
/** @type {Map<string, RunRow>} */
let rows = new Map();
let selection = parseSelection(location.hash);
/** Curves of the selected runs.
 * @type {Map<string, RunCurves>} */
const curves = new Map();
/** Details of selected runs that were chosen.
 * @type {Map<string, RunDetails>} */
const details = new Map();
/** Colours of the selected runs.
 * @type {Map<string, number>} */
let colors = new Map();
/** Runs whose curves are being read, and whether they changed meanwhile.
 * @type {Map<string, boolean>} */
const reading = new Map();

/** When details were read last, and whether they will be read again. */
let detailsReadMs = -Infinity, isDetailsDue = false;
/** Whether the charts are drawn with the next frame. */
let isDrawing = false;
/** When a change was announced last. */
let announcedMs = -Infinity;
/** @type {ReturnType<typeof import("./playground.js").mountPlayground> | undefined} */
let playground;

const runList = new RunList((name, isSelected) =>
  select(isSelected ? [...selection.runs, name] : selection.runs.filter((run) => run !== name))
);
const charts = CHARTS.map((chart) => new ChartView(chart));
byId("chart-list", HTMLElement).append(...charts.map(({ element }) => element));
const factsView = new FactsView(byId("facts", HTMLElement));
const detailsView = new DetailsView(byId("details-body", HTMLElement));
const detailsRun = byId("details-run", HTMLSelectElement);
const problem = byId("problem", HTMLElement);

async function start() {
  rows = new Map((await source.rows()).map((row) => [row.name, row]));
  const known = selection.runs.filter((name) => rows.has(name)), all = [...rows.values()];
  const newest = all.find(({ state }) => state !== "broken") ?? all[0];
  if (known.length > 0) selection.runs = known;
  else if (source.isSaved) selection.runs = all.slice(0, MOST_SELECTED).map(({ name }) => name);
  else selection.runs = newest ? [newest.name] : [];
  let connections = 0;
  source.watch(applyChanges, async (isConnected) => {
    const connection = byId("connection", HTMLElement);
    connection.hidden = isConnected;
    connection.textContent = "The dashboard was ended: the page shows what it knew last.";
    if (!isConnected || connections++ === 0) return;
    const now = await source.rows(), names = new Set(now.map(({ name }) => name));
    applyChanges({ rows: now, gone: [...rows.keys()].filter((name) => !names.has(name)) });
  });
  select(selection.runs);
}

/**
 * Selects runs, and shows them.
 *
 * @param {string[]} names
 */
function select(names) {
  const chosen = names.slice(0, MOST_SELECTED), before = colors;
  const used = new Set(chosen.flatMap((name) => before.get(name) ?? []));
  const free = Array.from({ length: COLORS }, (_, i) => i).filter((color) => !used.has(color));
  colors = new Map(chosen.map((name, i) => [name, before.get(name) ?? free.shift() ?? i % COLORS]));
  selection = { ...selection, runs: chosen };
  for (const name of chosen) {
    if (!before.has(name)) readCurves(name);
  }
  for (const name of [...before.keys()].filter((name) => !colors.has(name))) {
    curves.delete(name);
    details.delete(name);
  }
  const limit = byId("limit", HTMLElement);
  limit.hidden = names.length <= MOST_SELECTED;
  limit.textContent = `At most ${MOST_SELECTED} runs are drawn: the others are not selected.`;
  remember();
  const detailed = detailsRun.value;
  detailsRun.replaceChildren(
    ...chosen.map((name) => create("option", { value: name }, visible(name))),
  );
  if (chosen.includes(detailed)) detailsRun.value = detailed;
  byId("details-choice", HTMLElement).hidden = chosen.length < 2;
  showRuns();
  draw();
  readDetails();
  readDifferences();
}

/** Writes the selection into the address. */
function remember() {
  history.replaceState(null, "", fragmentOf(selection));
}

/** @param {Changes} changes */
function applyChanges(changes) {
  for (const name of changes.gone) rows.delete(name);
  const isNew = changes.rows.filter(({ name }) => !rows.has(name));
  for (const row of changes.rows) {
    const before = rows.get(row.name);
    if (before) rows.set(row.name, row);
    if (before && colors.has(row.name)) announce(before, row);
  }
  rows = new Map([...isNew.map((row) => /** @type {const} */ ([row.name, row])), ...rows]);
  const left = selection.runs.filter((name) => rows.has(name)), [first] = isNew;
  if (left.length === 0 && first) return select([first.name]);
  if (left.length < selection.runs.length) return select(left);
  showRuns();
  for (const { name } of changes.rows) {
    if (colors.has(name)) readCurves(name);
  }
}

/**
 * Reads the curves of a run, or the points that are new, and draws them.
 *
 * @param {string} name
 */
async function readCurves(name) {
  if (reading.has(name)) {
    reading.set(name, true);
    return;
  }
  reading.set(name, false);
  try {
    const known = curves.get(name);
    const read = await source.curves(name, known && lastSteps(known));
    if (colors.has(name)) curves.set(name, known && read.isAppended ? appended(known, read) : read);
    if (known?.isComplete && read.warnings.length > known.warnings.length) {
      say(`${name}: a warning`);
    }
    problem.hidden = true;
  } catch (error) {
    if (source.isSaved || rows.has(name)) showProblem(error);
  }
  const hasChanged = reading.get(name);
  reading.delete(name);
  if (curves.get(name)?.isComplete === false) setTimeout(() => readCurves(name), READING_MS);
  else if (hasChanged) readCurves(name);
  if (colors.has(name)) draw();
  if (name === detailsRun.value) readDetails();
}

/**
 * What the page has of the curves of a run; undefined if it should be read anew.
 *
 * @param {RunCurves} known
 */
function lastSteps({ generation, curves }) {
  if (Object.values(curves).some(({ step }) => step.length > MOST_POINTS)) return undefined;
  /** @param {string} kind */
  const last = (kind) =>
    Math.max(
      -1,
      ...CHARTS.flatMap(({ figures }) => figures).filter((figure) => figure.kind === kind)
        .map((figure) => curves[curveName(figure)]?.step.at(-1) ?? -1),
    );
  return { generation, step: last("step"), evaluation: last("evaluation") };
}

/**
 * @param {RunCurves} known
 * @param {RunCurves} read
 * @returns {RunCurves}
 */
function appended(known, read) {
  const names = new Set([...Object.keys(known.curves), ...Object.keys(read.curves)]);
  return {
    ...read,
    curves: Object.fromEntries([...names].map((name) => {
      const a = known.curves[name], b = read.curves[name];
      if (!a || !b) return [name, /** @type {typeof b & {}} */ (a ?? b)];
      return [name, {
        step: [...a.step, ...b.step],
        seconds: [...a.seconds, ...b.seconds],
        tokens: [...a.tokens, ...b.tokens],
        value: [...a.value, ...b.value],
        mean: [...a.mean, ...b.mean],
      }];
    })),
  };
}

/** Reads the details of the run that is chosen, not too often. */
async function readDetails() {
  const name = detailsRun.value;
  if (name === "") return detailsView.clear();
  const known = details.get(name);
  if (known) showDetails(known);
  const waitMs = detailsReadMs + DETAILS_MS - performance.now();
  if (known && waitMs > 0) {
    if (isDetailsDue) return;
    isDetailsDue = true;
    setTimeout(() => {
      isDetailsDue = false;
      readDetails();
    }, waitMs);
    return;
  }
  detailsReadMs = performance.now();
  try {
    const read = await source.details(name);
    if (name !== detailsRun.value) return;
    details.set(name, read);
    showDetails(read);
  } catch (error) {
    showProblem(error);
  }
}

/** @param {RunDetails} read */
function showDetails(read) {
  detailsView.update(read);
  showFacts();
  updatePlayground();
}

async function readDifferences() {
  const section = byId("differences", HTMLElement), names = selection.runs;
  const different = names.length < 2 ? [] : await source.differences(names).catch(() => []);
  if (names !== selection.runs) return;
  section.hidden = names.length < 2;
  byId("differences-body", HTMLElement).replaceChildren(
    different.length === 0 ? create("p", { class: "note" }, "No option differs.") : scrolling(
      "What differs",
      table(
        "Options that differ",
        ["option", ...names.map(visible)],
        different.map(([flag, values]) => [flag, ...values]),
      ),
    ),
  );
}

/** Shows the list of runs and the facts of those that are selected. */
function showRuns() {
  runList.update([...rows.values()], colors);
  const empty = byId("empty", HTMLElement);
  empty.hidden = selection.runs.length > 0;
  empty.textContent = rows.size === 0
    ? "There are no runs yet. The first one appears here when its training begins."
    : "No run is selected.";
  showFacts();
  const [row] = selection.runs.flatMap((name) => rows.get(name) ?? []);
  document.title = `${row ? `${row.name} ${stepsOf(row)} · ` : ""}toy-transformer`;
}

/** Shows the facts of the selected runs. */
function showFacts() {
  factsView.update(selection.runs.flatMap((name) => {
    const row = rows.get(name), color = colors.get(name) ?? 0;
    return row ? [{ row, color, curves: curves.get(name) }] : [];
  }));
}

/** Draws the charts with the next frame; while curves are read, not with every one of them. */
function draw() {
  if (isDrawing) return;
  isDrawing = true;
  setTimeout(() =>
    requestAnimationFrame(() => {
      isDrawing = false;
      drawNow();
    }), reading.size > 0 && charts.some(({ element }) => !element.hidden) ? DRAW_MS : 0);
}

function drawNow() {
  const drawn = selection.runs.flatMap((name) => {
    const read = curves.get(name);
    return read ? [{ name, color: colors.get(name) ?? 0, curves: read }] : [];
  });
  for (const chart of charts) chart.update(drawn, selection);
  const shares = drawn.flatMap(({ curves }) => curves.isComplete ? [] : [curves.share]);
  byId("reading", HTMLElement).textContent = shares.length === 0
    ? ""
    : `reading the record: ${
      Math.floor(100 * Math.min(...shares))
    } %; until then a sample of it is drawn`;
  byId("charts", HTMLElement).hidden = drawn.length === 0;
  byId("details", HTMLElement).hidden = selection.runs.length === 0;
  showFacts();
}

/**
 * Says what changed of a selected run to a screen reader: a state at once, an evaluation now and then.
 *
 * @param {RunRow} before
 * @param {RunRow} row
 */
function announce(before, row) {
  const isState = before.state !== row.state;
  const isEvaluation = before.validation?.step !== row.validation?.step &&
    performance.now() - announcedMs > ANNOUNCE_MS;
  if (isState) say(`${row.name}: ${row.state}`);
  else if (isEvaluation) {
    const { step, loss } = row.validation ?? {};
    say(`${row.name}, step ${figure(step)}: validation loss ${figure(loss)}`);
  }
}

/**
 * Says a sentence to a screen reader.
 *
 * @param {string} sentence
 */
function say(sentence) {
  announcedMs = performance.now();
  byId("announcer", HTMLElement).textContent = sentence;
}

/** @param {unknown} error */
function showProblem(error) {
  problem.textContent = error instanceof Error ? error.message : `${error}`;
  problem.hidden = false;
}

function listenToControls() {
  byId("select-shown", HTMLButtonElement).addEventListener(
    "click",
    () => select([...new Set([...selection.runs, ...runList.shown])]),
  );
  byId("select-none", HTMLButtonElement).addEventListener("click", () => select([]));
  detailsRun.addEventListener("change", () => readDetails());
  const smoothing = byId("smoothing", HTMLInputElement), log = byId("log", HTMLInputElement);
  const radios = [...byId("axis", HTMLFieldSetElement).querySelectorAll("input")];
  const show = () => {
    smoothing.value = `${selection.smoothing}`;
    byId("smoothing-value", HTMLOutputElement).textContent = selection.smoothing.toFixed(2);
    log.checked = selection.log;
    for (const radio of radios) radio.checked = radio.value === selection.axis;
  };
  const change = () => {
    const axis = radios.find(({ checked }) => checked)?.value ?? "step";
    selection = {
      ...selection,
      axis: /** @type {typeof selection.axis} */ (axis),
      smoothing: Number(smoothing.value),
      log: log.checked,
    };
    show();
    remember();
    draw();
  };
  for (const control of [smoothing, log, ...radios]) control.addEventListener("input", change);
  show();
  addEventListener("hashchange", () => {
    if (location.hash === "#charts") return remember(); // the link that skips the list
    selection = parseSelection(location.hash);
    show();
    select(selection.runs.filter((name) => rows.has(name)));
  });
  listenToTheme();
  byId("runs-panel", HTMLDetailsElement).open = innerWidth >= 800;
  const panel = byId("playground-panel", HTMLDetailsElement);
  panel.hidden = source.isSaved;
  panel.addEventListener("toggle", () => panel.open ? openPlayground() : closePlayground());
}

/** The theme is that of the system, or what the reader chose the last time. */
function listenToTheme() {
  const theme = byId("theme", HTMLSelectElement), root = document.documentElement;
  const apply = () => {
    root.style.colorScheme = theme.value;
    for (const chart of charts) chart.redraw();
  };
  try {
    theme.value = localStorage.getItem("theme") ?? theme.value;
  } catch {
    // a page in a file may not store anything
  }
  if (theme.selectedIndex < 0) theme.selectedIndex = 0;
  theme.addEventListener("change", () => {
    apply();
    try {
      localStorage.setItem("theme", theme.value);
    } catch {
      // as above
    }
  });
  apply();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", apply);
}

/** The run of the playground, its checkpoints, and whether it is asked in a chat format. */
function playgroundRun() {
  const run = detailsRun.value,
    { checkpoints = [], hasChatTemplate = false } = details.get(run) ?? {};
  return { run, checkpoints, hasChatTemplate };
}

async function openPlayground() {
  if (playground || detailsRun.value === "") return;
  const { mountPlayground } = await import("./playground.js");
  if (playground || !byId("playground-panel", HTMLDetailsElement).open) return;
  playground = mountPlayground(byId("playground", HTMLElement), playgroundRun());
}

function updatePlayground() {
  if (playground) playground.update(playgroundRun());
  else if (byId("playground-panel", HTMLDetailsElement).open) openPlayground();
}

function closePlayground() {
  playground?.close();
  playground = undefined;
}

listenToControls();
start().catch(showProblem);
