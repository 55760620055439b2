/**
 * Packages that few need, each loaded when it is first used. Deno fetches a literal `import("npm:…")` as soon
 * as `mod.ts` is imported, used or not, but neither a type nor a specifier in a variable. (If there is a
 * deno.lock, Deno fetches all that it lists.)
 *
 * @module
 */

/** The packages, and what they export. */
interface Packages {
  "csv-parse": typeof import("npm:csv-parse@7.0.3");
  "hyparquet": typeof import("npm:hyparquet@1.33.0");
  "hyparquet/src/column.js": typeof import("npm:hyparquet@1.33.0/src/column.js");
  "hyparquet/src/convert.js": typeof import("npm:hyparquet@1.33.0/src/convert.js");
  "hyparquet-compressors": typeof import("npm:hyparquet-compressors@1.1.2");
  "picomatch": typeof import("npm:picomatch@4.0.7");
}

const SPECIFIERS: Readonly<Record<keyof Packages, string>> = {
  "csv-parse": "npm:csv-parse@7.0.3",
  "hyparquet": "npm:hyparquet@1.33.0",
  "hyparquet/src/column.js": "npm:hyparquet@1.33.0/src/column.js",
  "hyparquet/src/convert.js": "npm:hyparquet@1.33.0/src/convert.js",
  "hyparquet-compressors": "npm:hyparquet-compressors@1.1.2",
  "picomatch": "npm:picomatch@4.0.7",
};

/**
 * Loads a package, and downloads it first if it is not in Deno's cache.
 *
 * @throws {Error} in one sentence if that fails.
 */
export async function loadPackage<Name extends keyof Packages>(
  name: Name,
): Promise<Packages[Name]> {
  const specifier = SPECIFIERS[name];
  try {
    return await import(specifier);
  } catch (error) {
    const reason = (error as Error).message.split("\n")[0];
    throw new Error(`Cannot load ${specifier} (${reason}): check the network`);
  }
}
