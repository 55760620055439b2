/**
 * Packages that few need, each loaded when it is first used: whoever imports `mod.ts` would fetch a literal
 * `import("npm:…")` ahead, used or not, but does not fetch a type, nor what a variable names. (Where there is
 * a deno.lock, Deno fetches what it lists.)
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
 * Loads a package, which the first time may mean to download it.
 *
 * @throws {Error} in one sentence if it cannot be had.
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
