import assert from "node:assert/strict";
import { join } from "node:path";
import { dirname, fromFileUrl } from "./paths.ts";

const root = dirname(dirname(fromFileUrl(import.meta.url)));
const directory = Deno.makeTempDirSync();
globalThis.addEventListener("unload", () => Deno.removeSync(directory, { recursive: true }));

/** Programs that ./toy calls beside deno, npx and apt-get. */
const TOOLS = ["sh", "dirname", "sed", "uname", "id", "mktemp", "tail", "rm"];

/** Runs ./toy with nothing on the PATH but the usual tools and these scripts. */
async function toy(
  name: string,
  scripts: Record<string, string>,
  env: Record<string, string> = {},
) {
  const bin = join(directory, name);
  Deno.mkdirSync(bin);
  for (const tool of TOOLS) {
    const folder = ["/usr/bin", "/bin"].find((path) => exists(join(path, tool)));
    if (folder) Deno.symlinkSync(join(folder, tool), join(bin, tool));
  }
  for (const [script, body] of Object.entries(scripts)) {
    Deno.writeTextFileSync(join(bin, script), `#!/bin/sh\n${body}\n`, { mode: 0o755 });
  }
  const { code, stdout, stderr } = await new Deno.Command("/bin/sh", {
    args: [join(root, "toy"), "train", "--steps", "3", "two words"],
    clearEnv: true,
    // a driver that is named counts as one, so that nothing is installed
    env: { PATH: bin, HOME: directory, VK_DRIVER_FILES: "/some/driver.json", ...env },
  }).output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  return { code, stdout: text(stdout), stderr: text(stderr) };
}

function exists(path: string): boolean {
  try {
    Deno.statSync(path);
    return true;
  } catch {
    return false;
  }
}

const deno = (version: string) =>
  `[ "$1" = --version ] && echo "deno ${version} (stable)" || printf 'deno:%s\\n' "$@"`;
const npx = `printf 'npx:%s\\n' "$@"`;
const ARGUMENTS = ["task", "train", "--steps", "3", "two words"];
const CASES: [name: string, scripts: Record<string, string>, expected: string[]][] = [
  ["deno 2.9", { deno: deno("2.9.0"), npx }, ARGUMENTS.map((word) => `deno:${word}`)],
  ["deno 3", { deno: deno("3.0.1"), npx }, ARGUMENTS.map((word) => `deno:${word}`)],
  [
    "deno 2.8",
    { deno: deno("2.8.5"), npx },
    ["--yes", "--loglevel=error", "deno@2.9", ...ARGUMENTS].map((word) => `npx:${word}`),
  ],
  [
    "no deno",
    { npx },
    ["--yes", "--loglevel=error", "deno@2.9", ...ARGUMENTS].map((word) => `npx:${word}`),
  ],
];

const ignore = Deno.build.os === "windows";

for (const [name, scripts, expected] of CASES) {
  Deno.test({
    name: `toy takes deno from the PATH or npx: ${name}`,
    ignore,
    async fn() {
      const { code, stdout } = await toy(name, scripts);
      assert.equal(code, 0);
      assert.deepEqual(stdout.trim().split("\n"), expected);
    },
  });
}

Deno.test({
  name: "toy says what is missing when there is neither deno nor npx",
  ignore,
  async fn() {
    const { code, stderr } = await toy("nothing", {});
    assert.equal(code, 1);
    assert.match(stderr, /^toy: Deno 2\.9 or Node with npx is needed/);
  },
});
