// @ts-check
/// <reference lib="dom" />
/// <reference lib="dom.iterable" />

/**
 * The page: the runs of the folder, and the playground, which is loaded when it is opened.
 *
 * @module
 */

/** @typedef {{ name: string }} ListedRun */

/** @type {ListedRun[]} */
const runs = await (await fetch("/api/runs")).json();

const list = element("run-list");
for (const { name } of runs) {
  const item = document.createElement("li");
  item.textContent = name;
  list.append(item);
}

const panel = element("playground-panel");
panel.addEventListener("toggle", async () => {
  const [run] = runs;
  if (!run) return;
  const { mountPlayground } = await import("./playground.js");
  mountPlayground(element("playground"), { run: run.name, checkpoints: [] });
}, { once: true });

/**
 * @param {string} id
 * @returns {HTMLElement}
 */
function element(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`Cannot find #${id}`);
  return found;
}
