import { quoted } from "./printable.ts";

/**
 * Makes sure that a function is given no option that it does not have: Deno runs a program without looking at its types.
 *
 * @param action what the function does, to follow "Cannot": `train a tokenizer`.
 * @param called the function, such as `generate()`.
 * @param others the options that are left once those of the function are taken out.
 * @throws {TypeError} naming the first of them.
 */
export function refuseOthers(action: string, called: string, others: object): void {
  const [name] = Object.keys(others);
  if (name === undefined) return;
  throw new TypeError(
    `Cannot ${action} as every option must be one of ${called}: ${quoted(name)} is none`,
  );
}
