import { load, type Package } from "../files/packages.ts";

/**
 * Charts as SVG.
 *
 * @module
 */

/** Observable Plot, and a document in which it creates its elements, as Deno has no DOM. */
export interface PlotDocument {
  readonly Plot: Package<"@observablehq/plot">;
  // deno-lint-ignore no-explicit-any
  readonly document: any;
}

/** Loads Observable Plot. */
export async function openPlot(): Promise<PlotDocument> {
  const [Plot, { parseHTML }] = await Promise.all([load("@observablehq/plot"), load("linkedom")]);
  const { document } = parseHTML("<html><body></body></html>") as unknown as Omit<
    PlotDocument,
    "Plot"
  >;
  return { Plot, document };
}

/**
 * An SVG image of several parts on a white background.
 *
 * @param parts SVG elements as text.
 */
export function svgPage(
  { width, height }: { width: number; height: number },
  parts: readonly string[],
): string {
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" ` +
    `viewBox="0 0 ${width} ${height}" font-family="system-ui, sans-serif" font-size="12" fill="#222">`,
    `<rect width="${width}" height="${height}" fill="white"/>`,
    ...parts,
    "</svg>\n",
  ].join("\n");
}
