import assert from "node:assert/strict";
import { join } from "node:path";
import { type PresetName, PRESETS } from "../model/config.ts";
import { planForDepth } from "../train/plan/plan.ts";
import { presetDefaults } from "../train/resolve.ts";
import { dirname, fromFileUrl } from "./paths.ts";

/** The pages for people: what they name exists. */

const root = dirname(dirname(fromFileUrl(import.meta.url)));
const pages = ["README.md", "CHANGELOG.md", "bench/NOTES.md"].concat(
  [...Deno.readDirSync(join(root, "docs"))].map(({ name }) => `docs/${name}`)
    .filter((path) => path.endsWith(".md")),
);

/** The anchor of a heading, as GitHub makes it. */
function anchorOf(heading: string): string {
  return heading.toLowerCase().replaceAll(/[^\p{L}\p{N} _-]/gu, "").replaceAll(" ", "-");
}

for (const page of pages) {
  const text = Deno.readTextFileSync(join(root, page));

  Deno.test(`links of ${page} lead to files and headings that exist`, () => {
    for (const [, target] of text.matchAll(/\]\((?!https?:)([^)]+)\)/g)) {
      const [path, anchor] = target!.split("#");
      const file = path === "" ? join(root, page) : join(root, dirname(page), path!);
      assert.doesNotThrow(() => Deno.statSync(file), `${target} in ${page}`);
      if (anchor === undefined) continue;
      const headings = Deno.readTextFileSync(file).matchAll(/^#+ (.*)$/gm);
      assert.ok([...headings].some(([, heading]) => anchorOf(heading!) === anchor), target);
    }
  });

  Deno.test(`paths in ${page} exist`, () => {
    if (page === "bench/NOTES.md") return assert.ok(text.length > 0); // also names what was removed
    const path =
      /`((?:files|kernels|data|model|generate|train|inspect|commands|bench|tests)\/[\w./-]+)`/g;
    for (const [, name] of text.matchAll(path)) {
      if (name!.includes("NAME")) continue; // a pattern of paths
      assert.doesNotThrow(() => Deno.statSync(join(root, name!)), `${name} in ${page}`);
    }
  });
}

Deno.test("docs/models.md lists the presets with their defaults", () => {
  const rows = Deno.readTextFileSync(join(root, "docs/models.md")).split("\n")
    .map((line) => line.split("|").map((cell) => cell.trim()));
  for (const name of Object.keys(PRESETS) as PresetName[]) {
    const { width, layers, heads, contextLength, batchSize, steps, learningRate } = presetDefaults(
      name,
    );
    const figures = [width, layers, heads, contextLength, batchSize, steps, learningRate];
    const row = rows.find(([, cell]) => cell === `\`${name}\``);
    assert.deepEqual(row?.slice(2, 2 + figures.length), figures.map(String), name);
  }
});

Deno.test("docs/size.md lists the sizes of depths", () => {
  const rows = Deno.readTextFileSync(join(root, "docs/size.md")).split("\n")
    .map((line) => line.split("|").map((cell) => cell.trim()))
    .filter(([, depth]) => /^\d+$/.test(depth ?? ""));
  assert.ok(rows.length > 5);
  for (const [, depth, ...cells] of rows) {
    const tokens = { blockParametersOf: () => 1e5, trainingTokens: 1e6 };
    const { options } = planForDepth(Number(depth), tokens);
    const { width, heads, contextLength, learningRate } = options;
    assert.deepEqual(
      cells.slice(0, 4),
      [width, heads, contextLength, learningRate].map(String),
      depth,
    );
  }
});

Deno.test("the server of docs/library.md sends modules as TypeScript", async () => {
  const page = Deno.readTextFileSync(join(root, "docs/library.md"));
  const [code] = / {4}Deno\.serve\([^]*?\n {4}\}\);\n/.exec(page) ?? [];
  const script = await Deno.makeTempFile({ suffix: ".ts" });
  Deno.writeTextFileSync(script, code!.replace("8000", "0"));
  const server = new Deno.Command(Deno.execPath(), {
    args: ["run", "--no-config", "--no-prompt", "--allow-read=.", "--allow-net=127.0.0.1", script],
    cwd: root,
    env: { NO_COLOR: "1" },
    stdout: "null",
    stderr: "piped",
  }).spawn();
  try {
    let said = "";
    for await (const text of server.stderr.pipeThrough(new TextDecoderStream())) {
      said += text;
      if (/:\d+\//.test(said)) break;
    }
    const response = await fetch(`${/http:\S+\//.exec(said)![0]}mod.ts`);
    assert.equal(response.headers.get("content-type"), "application/typescript");
    assert.equal(await response.text(), Deno.readTextFileSync(join(root, "mod.ts")));
  } finally {
    server.kill();
    await server.status;
    Deno.removeSync(script);
  }
});

Deno.test("README.md is a page that one reads to its end", () => {
  const lines = Deno.readTextFileSync(join(root, "README.md")).trimEnd().split("\n").length;
  assert.ok(lines <= 200, `${lines} lines`);
});

Deno.test("every task of README.md and docs/ is in deno.json", () => {
  const { tasks } = JSON.parse(Deno.readTextFileSync(join(root, "deno.json")));
  let named = 0;
  for (const page of pages) {
    const text = Deno.readTextFileSync(join(root, page));
    for (const [, name] of text.matchAll(/(?:deno task|\.\/toy) ([a-z][\w:]*)/g)) {
      named++;
      assert.ok(name! in tasks, `${name} in ${page}`);
    }
  }
  assert.ok(named > 30, `only ${named} tasks were found`);
});

Deno.test("docs/development.md says what every package is for", () => {
  const read = (path: string) => Deno.readTextFileSync(join(root, path));
  const { imports } = JSON.parse(read("deno.json"));
  const loaded = [...read("files/packages.ts").matchAll(/^ {2}"(@\w+\/[\w-]+|[\w-]+)[^"]*": at</gm)]
    .map(([, name]) => name!);
  const names = [...Object.keys(imports), ...loaded];
  assert.ok(names.length > 8, `only ${names} were found`);
  for (const name of names) assert.ok(read("docs/development.md").includes(`\`${name}\``), name);
});
