import assert from "node:assert/strict";

/**
 * The files in a directory that this process has open. Deno's own check of what a test leaves open does not see what
 * `node:fs` opens.
 *
 * @returns their paths; none on systems that do not list them.
 */
export function leftOpen(directory: string): string[] {
  if (Deno.build.os !== "linux") return [];
  // a child, as Deno may not read /proc
  const { stdout } = new Deno.Command("ls", { args: ["-l", `/proc/${Deno.pid}/fd`] }).outputSync();
  const within = `${Deno.realPathSync(directory)}/`;
  const links = new TextDecoder().decode(stdout).matchAll(/-> (.*)$/gm);
  const paths = Array.from(links, ([, path]) => path!);
  assert.ok(paths.length > 0, "ls lists no open file, not even stdin");
  return paths.filter((path) => path.startsWith(within));
}
