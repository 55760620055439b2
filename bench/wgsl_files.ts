import { type Constants, type Shader, specialize, unroll } from "../kernels/shader.ts";

/** A WGSL file of kernels/. */
export interface WgslFile {
  /** From the root of the repository. */
  readonly path: string;
  /** Whether it is valid WGSL only together with others. */
  readonly needsOthers: boolean;
  /**
   * Its text with loops unrolled; if it needs others, together with the files that its line 2 names.
   */
  readonly code: string;
}

const ROOT = new URL("../", import.meta.url);

/**
 * Every WGSL file of kernels/. Line 2 of a file that needs others says `Needs what() from ../path.wgsl`, followed by
 * `with value = f32` if constants of that file must differ.
 */
export function wgslFiles(folder = "kernels/"): WgslFile[] {
  return [...Deno.readDirSync(new URL(folder, ROOT))].flatMap(({ name, isDirectory }) => {
    const path = `${folder}${name}`;
    if (isDirectory) return wgslFiles(`${path}/`);
    if (!name.endsWith(".wgsl")) return [];
    const text = readText(path), line = text.split("\n")[1]!;
    // unrolled, because Naga requires the lane of a subgroupBroadcast() to be a constant
    if (needsOf(path).length === 0) return [{ path, needsOthers: false, code: unroll(text) }];
    const constants = [...line.matchAll(/(\w+) = ([\w<>]+)/g)].map((
      [, name, value],
    ) => [name, value]);
    const code = unroll(specialize(withNeeds(path), Object.fromEntries(constants) as Constants));
    return [{ path, needsOthers: true, code }];
  });
}

/** Paths of the files that line 2 of a file names. */
function needsOf(path: string): string[] {
  const line = readText(path).split("\n")[1]!;
  if (!line.startsWith("// Needs ")) return [];
  return [...line.matchAll(/ from ([./\w]+\.wgsl)/g)].map(([, relative]) =>
    new URL(relative!, new URL(path, ROOT)).href.slice(ROOT.href.length)
  );
}

function withNeeds(path: string, shader: Record<string, string> = {}): Shader {
  if (path in shader) return shader;
  shader[path] = readText(path);
  for (const needed of needsOf(path)) withNeeds(needed, shader);
  return shader;
}

function readText(path: string): string {
  return Deno.readTextFileSync(new URL(path, ROOT));
}
