import uplot from "npm:uplot@1.6.32/dist/uPlot.iife.min.js" with { type: "text" };
import uplotStyle from "npm:uplot@1.6.32/dist/uPlot.min.css" with { type: "text" };
import index from "./page/index.html" with { type: "text" };
import chart from "./page/chart.js" with { type: "text" };
import details from "./page/details.js" with { type: "text" };
import dom from "./page/dom.js" with { type: "text" };
import facts from "./page/facts.js" with { type: "text" };
import figures from "./page/figures.js" with { type: "text" };
import format from "./page/format.js" with { type: "text" };
import main from "./page/main.js" with { type: "text" };
import playground from "./page/playground.js" with { type: "text" };
import playgroundStyle from "./page/playground.css" with { type: "text" };
import playgroundAttention from "./page/playground_attention.js" with { type: "text" };
import playgroundClient from "./page/playground_client.js" with { type: "text" };
import playgroundForm from "./page/playground_form.js" with { type: "text" };
import playgroundPanels from "./page/playground_panels.js" with { type: "text" };
import playgroundTokens from "./page/playground_tokens.js" with { type: "text" };
import runList from "./page/run_list.js" with { type: "text" };
import selection from "./page/selection.js" with { type: "text" };
import source from "./page/source.js" with { type: "text" };
import style from "./page/style.css" with { type: "text" };

/**
 * The files of the page, as texts: a server needs no path and no permission to serve them.
 *
 * @module
 */

/** The page, which loads the others from `/assets/`. */
export const PAGE: string = index;

/** The other files by name. */
export const ASSETS: ReadonlyMap<string, string> = new Map([
  ["uplot.js", uplot],
  ["uplot.css", uplotStyle],
  ["style.css", style],
  ["chart.js", chart],
  ["details.js", details],
  ["dom.js", dom],
  ["facts.js", facts],
  ["figures.js", figures],
  ["format.js", format],
  ["main.js", main],
  ["playground.js", playground],
  ["playground.css", playgroundStyle],
  ["playground_attention.js", playgroundAttention],
  ["playground_client.js", playgroundClient],
  ["playground_form.js", playgroundForm],
  ["playground_panels.js", playgroundPanels],
  ["playground_tokens.js", playgroundTokens],
  ["run_list.js", runList],
  ["selection.js", selection],
  ["source.js", source],
]);
