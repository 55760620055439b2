import { differences, type Ingredients } from "../train/record/compare.ts";
import { ASSETS, PAGE } from "./assets.ts";
import type { RunFolders } from "./run_folders.ts";
import type { RunDetails, RunRow } from "./run_view.ts";
import type { RunCurves } from "./watched_run.ts";

/**
 * The page with the data of runs as one file, which needs no server and loads nothing.
 *
 * @module
 */

/** Data of runs, which the page has in a separate element. */
export interface SavedRuns {
  readonly rows: readonly RunRow[];
  readonly details: readonly RunDetails[];
  readonly curves: readonly RunCurves[];
  /** Options in which the runs differ, with one value per row. */
  readonly differences: readonly (readonly [flag: string, values: readonly string[]])[];
}

/** Reads all that the page shows of runs. */
export async function readAll(folders: RunFolders): Promise<SavedRuns> {
  const rows = folders.rows();
  const runs = rows.flatMap(({ name }) => folders.run(name) ?? []);
  const details: RunDetails[] = [], curves: RunCurves[] = [], ingredients: Ingredients[] = [];
  for (const run of runs) {
    await run.readWhole();
    details.push(await run.details());
    curves.push(await run.curves());
    ingredients.push(await run.ingredients());
    run.forget();
  }
  return { rows, details, curves, differences: differences(ingredients) };
}

/** What the page may load: only what is in it. */
const POLICY =
  "default-src 'none'; script-src 'unsafe-inline' data:; style-src 'unsafe-inline'; img-src data:";

/** By which a saved page is recognized. */
export const SAVED_MARK = '<meta name="generator" content="toy-transformer dashboard">';

/** The page as one file. */
export function savedPage(data: SavedRuns): string {
  const modules = Object.fromEntries(
    [...ASSETS].filter(([name, text]) => isModule(name, text)).map(([name, text]) => [
      `page/${name}`,
      `data:text/javascript;charset=utf-8,${
        encodeURIComponent(text.replaceAll(/(from |import\()"\.\//g, '$1"page/'))
      }`,
    ]),
  );
  const json = (value: unknown) => JSON.stringify(value).replaceAll("<", "\\u003c"); // no markup in a script
  return PAGE
    .replace(
      '<meta charset="utf-8">',
      (tag) =>
        `${tag}\n    ${SAVED_MARK}\n    <meta http-equiv="content-security-policy" content="${POLICY}">`,
    )
    .replaceAll(
      /<link rel="stylesheet" href="\/assets\/([\w.]+)">/g,
      (_, name) => `<style>${ASSETS.get(name)}</style>`,
    )
    .replace(
      /<script src="\/assets\/(uplot.js)" defer><\/script>/,
      (_, name) => `<script>${ASSETS.get(name)!.replaceAll("</script", "<\\/script")}</script>`,
    )
    .replace(
      /<script src="\/assets\/main.js" type="module"><\/script>/,
      () =>
        `<script type="importmap">${json({ imports: modules })}</script>\n` +
        `    <script type="application/json" id="saved-runs">${json(data)}</script>\n` +
        `    <script type="module">import "page/main.js";</script>`,
    );
}

/** Whether an asset is a module of the page: `uplot.js` is not. */
function isModule(name: string, text: string): boolean {
  return name.endsWith(".js") && /^(import|export) /m.test(text);
}
