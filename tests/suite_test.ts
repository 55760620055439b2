import assert from "node:assert/strict";
import { join } from "node:path";
import { dirname, fromFileUrl } from "./paths.ts";

/** The tests themselves: how they are run, and what each of them must have. */

const folder = dirname(fromFileUrl(import.meta.url));

/** Text of every module of the tests by its path, but of this one. */
const sources = new Map(
  filesBelow(folder).filter((path) => path.endsWith(".ts") && path !== fromFileUrl(import.meta.url))
    .map((path) => [path.slice(folder.length + 1), Deno.readTextFileSync(path)]),
);

function filesBelow(folder: string): string[] {
  return [...Deno.readDirSync(folder)].flatMap(({ name, isDirectory }) =>
    isDirectory ? filesBelow(join(folder, name)) : [join(folder, name)]
  );
}

/** Pieces of a module that begin with a line that matches, up to the line that closes it. */
function blocks(text: string, beginning: RegExp): string[] {
  const lines = text.split("\n");
  return lines.flatMap((line, i) => {
    if (!beginning.test(line)) return [];
    const indent = /^ */.exec(line)![0];
    const last = new RegExp(`^${indent}[})\\]]+;?$`);
    const length = lines.slice(i + 1).findIndex((next) => last.test(next));
    return [lines.slice(i, i + 2 + Math.max(length, 0)).join("\n")];
  });
}

Deno.test("deno task test runs the files and names that are given, and no others", async () => {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["task", "test", "tests/train/cost_test.ts", "--filter", "PaLM", "--", "7"],
    cwd: dirname(folder),
    env: { NO_COLOR: "1" },
  }).output();
  const said = new TextDecoder().decode(stdout);
  assert.equal(code, 0, new TextDecoder().decode(stderr));
  assert.deepEqual(said.match(/^running .*$/gm), [
    "running 1 test from ./tests/train/cost_test.ts",
  ]);
});

Deno.test("every test asserts something", () => {
  const asserting = [...sources.values()]
    .flatMap((text) => blocks(text, /^(export )?(async )?function \w+/))
    .filter((block) => /\bassert/.test(block))
    .map((block) => /function (\w+)/.exec(block)![1]!);
  const asserts = new RegExp(`\\bassert|\\b(${asserting.join("|")})\\(`);
  let tests = 0;
  for (const [path, text] of sources) {
    for (const block of blocks(text, /^ *(Deno\.test|dawnTest|withRanks)\(/)) {
      if (/\bfn( }|,$)/m.test(block.split("\n\n")[0]!)) continue; // it hands on the function of such a call
      tests++;
      const hint = "asserts nothing; what must not throw is wrapped in assert.doesNotThrow()";
      assert.match(block, asserts, `${path} ${hint}:\n${block}`);
    }
  }
  assert.ok(tests > 300, `only ${tests} tests were found`);
});

Deno.test("every test that draws at random names its seed", () => {
  let drawing = 0;
  for (const [path, text] of sources) {
    assert.doesNotMatch(text, /Math\.random/, path);
    for (const block of blocks(text, /^( *Deno\.test\(|(async )?function )/)) {
      if (!/\bfreshSeed\(\)/.test(block)) continue;
      drawing++;
      assert.match(block, /seed \$\{/, path);
    }
  }
  assert.ok(drawing > 40, `only ${drawing} tests draw`);
});
