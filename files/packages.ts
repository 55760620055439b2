import dawn from "../dawn/deno.json" with { type: "json" };
import { taskCommand } from "./command_line.ts";
import { UserError } from "./user_error.ts";

/**
 * The npm packages that the library loads when it first needs them, so that unused packages are never
 * downloaded. Deno downloads the package of a literal `import("npm:…")` together with the module that holds
 * it, even if the statement never runs, but it downloads nothing for a type or for a specifier in a variable.
 * (A deno.lock makes Deno download all packages that it lists.)
 *
 * @module
 */

/** The specifier of a package, which carries the type of its exports. */
type Specifier<Exports> = string & { readonly exports?: Exports };

function at<Exports>(specifier: string): Specifier<Exports> {
  return specifier;
}

/** What the package `webgpu` exports. Its own types would make Deno download it to check types. */
interface Dawn {
  /** Creates an instance of Dawn, which must stay referenced as long as its devices are used. */
  create(flags: readonly string[]): GPU;
}

/** The packages and their versions. Each row repeats its specifier, because a type cannot be a value. */
const PACKAGES = {
  "@huggingface/jinja": at<typeof import("npm:@huggingface/jinja@0.5.11")>(
    "npm:@huggingface/jinja@0.5.11",
  ),
  "@huggingface/tokenizers": at<typeof import("npm:@huggingface/tokenizers@0.2.0")>(
    "npm:@huggingface/tokenizers@0.2.0",
  ),
  "@observablehq/plot": at<typeof import("npm:@observablehq/plot@0.6.17")>(
    "npm:@observablehq/plot@0.6.17",
  ),
  "csv-parse": at<typeof import("npm:csv-parse@7.0.3")>("npm:csv-parse@7.0.3"),
  "gpt-tokenizer/bpeRanks/r50k_base": at<
    typeof import("npm:gpt-tokenizer@4.0.0/bpeRanks/r50k_base")
  >("npm:gpt-tokenizer@4.0.0/bpeRanks/r50k_base"),
  "hyparquet": at<typeof import("npm:hyparquet@1.33.0")>("npm:hyparquet@1.33.0"),
  "hyparquet-compressors": at<typeof import("npm:hyparquet-compressors@1.1.2")>(
    "npm:hyparquet-compressors@1.1.2",
  ),
  "linkedom": at<typeof import("npm:linkedom@0.18.15")>("npm:linkedom@0.18.15"),
  "simple-ascii-chart": at<typeof import("npm:simple-ascii-chart@5.4.0")>(
    "npm:simple-ascii-chart@5.4.0",
  ),
  "picomatch": at<typeof import("npm:picomatch@4.0.7")>("npm:picomatch@4.0.7"),
  "webgpu": at<Dawn>(dawn.imports.webgpu),
};

/** Name of a package, or of a module in one. */
export type PackageName = keyof typeof PACKAGES;

/** What a package exports. */
export type Package<Name extends PackageName> = typeof PACKAGES[Name] extends
  Specifier<infer Exports> ? Exports : never;

/** Megabytes of the package `webgpu`, which has native code for all platforms: of the download, and on the disk. */
export const DAWN_MEGABYTES = { download: 51, disk: 132 } as const;

/**
 * The main module of the package `webgpu` in a checkout of this repository; undefined if mod.ts was imported over
 * the network. A checkout downloads the package only if a user installs it.
 */
function dawnModule(): URL | undefined {
  const url = new URL("../dawn/node_modules/webgpu/index.js", import.meta.url);
  return url.protocol === "file:" ? url : undefined;
}

/** Whether a checkout of this repository has the package `webgpu` in the version that it needs. */
export function isDawnInstalled(): boolean {
  const url = dawnModule();
  if (url === undefined) return false;
  try {
    const { version } = JSON.parse(Deno.readTextFileSync(new URL("package.json", url)));
    return PACKAGES.webgpu === `npm:webgpu@${version}` && Deno.statSync(url).isFile;
  } catch {
    return false;
  }
}

/**
 * Loads a package, which Deno downloads if its cache does not hold it. `webgpu` is not downloaded by a checkout of this
 * repository, but must have been installed.
 *
 * @throws {UserError} if that fails; {Deno.errors.NotCapable} if a permission to load native code is missing.
 */
export async function load<Name extends PackageName>(name: Name): Promise<Package<Name>> {
  let specifier: string = PACKAGES[name];
  if (name === "webgpu") {
    if (dawnModule() && !isDawnInstalled()) {
      throw new UserError(`Cannot load Dawn as ${specifier} is not installed`, {
        hint: `Install it: ${taskCommand("dawn:install")}`,
      });
    }
    specifier = dawnModule()?.href ?? specifier;
  }
  try {
    const loaded = await import(specifier);
    if (name === "webgpu" && typeof loaded.create !== "function") {
      throw new TypeError("index.js is damaged");
    }
    return loaded;
  } catch (error) {
    if (error instanceof Deno.errors.NotCapable) throw error;
    const reason = (error as Error).message.split("\n")[0];
    if (name === "webgpu") {
      throw new UserError(`Cannot load Dawn: ${reason}`, {
        hint: "--gpu native needs no Dawn" +
          (dawnModule()
            ? `; to install it anew, delete dawn/node_modules, then ${taskCommand("dawn:install")}`
            : ""),
      });
    }
    throw new UserError(`Cannot load ${specifier} (${reason}): check the network`);
  }
}
