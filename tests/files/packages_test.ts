import assert from "node:assert/strict";
import { loadPackage } from "../../files/packages.ts";
import { fromFileUrl } from "../paths.ts";

const path = fromFileUrl(new URL("../../files/packages.ts", import.meta.url));

Deno.test("loadPackage() loads what its type says, and nothing is fetched before", async () => {
  const source = await Deno.readTextFile(path);
  const find = (pattern: RegExp) =>
    Array.from(source.matchAll(pattern), ([, name, specifier]) => [name, specifier]);
  const types = find(/"(\S+)": typeof import\("(npm:\S+)"\)/g);
  const values = find(/"(\S+)": "(npm:\S+)"/g);
  assert.ok(types.length > 3);
  assert.deepEqual(values, types);
  for (const [name] of values) await loadPackage(name as Parameters<typeof loadPackage>[0]);

  const { stdout } = await new Deno.Command(Deno.execPath(), { args: ["info", "--json", path] })
    .output();
  const { modules } = JSON.parse(new TextDecoder().decode(stdout)) as {
    modules: { specifier: string; dependencies?: { code?: object }[] }[];
  };
  const { dependencies = [] } = modules.find(({ specifier }) =>
    specifier.endsWith("/packages.ts")
  )!;
  assert.deepEqual(dependencies.filter(({ code }) => code), []);
});
