// @ts-check
/// <reference lib="dom" />

/**
 * The playground of a run.
 *
 * @module
 */

/**
 * What the playground works with: the run that is selected on the page, and the steps of its checkpoints, ascending.
 * @typedef {{ run: string, checkpoints: readonly number[] }} Selected
 */

/**
 * Fills the element of the playground.
 *
 * @param {HTMLElement} element
 * @param {Selected} selected
 * @returns {{ update(selected: Selected): void, close(): void }}
 */
export function mountPlayground(element, { run }) {
  element.textContent = `The playground of ${run} is not built yet.`;
  return { update() {}, close: () => element.replaceChildren() };
}
