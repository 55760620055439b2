import { statSync } from "node:fs";
import { beginningOf, checkReplaceable, replaceText } from "../files/disk.ts";
import { UserError } from "../files/user_error.ts";
import { status } from "./command.ts";

/**
 * Makes sure that a plot can be written at a path.
 *
 * @throws {UserError} if the file exists and is no SVG, or if its name does not end in `.svg`.
 */
export function checkPlot(path: string): void {
  const flag = "--svg";
  checkReplaceable(path, { flag, kind: "an SVG file", isOfKind: isSvg });
  const isDevice = statSync(path, { throwIfNoEntry: false })?.isFile() === false;
  if (isDevice || /\.svg$/i.test(path)) return;
  throw new UserError(`Cannot write ${path} as ${flag} must name a file that ends in .svg`);
}

/** Writes a plot, and says where it is. */
export function writePlot(path: string, svg: string): void {
  replaceText(path, svg);
  status(`drawn in ${path}`);
}

/** Whether a file begins as an SVG does: perhaps with declarations and comments, then with its element. */
function isSvg(path: string): boolean {
  return /^\s*(<\?xml[^>]*>\s*|<!--.*?-->\s*|<!DOCTYPE svg[^>]*>\s*)*<svg[\s>]/s.test(
    beginningOf(path, 4096),
  );
}
