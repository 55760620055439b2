import assert from "node:assert/strict";
import { kernelSources } from "../../bench/kernel_sources.ts";

/** Every op has what "How to add an op" in docs/kernels.md asks for, and the list has these items. */

const ROOT = new URL("../../", import.meta.url);

const read = (path: string) => Deno.readTextFileSync(new URL(path, ROOT));

/** Paths of the files of a folder and of those below it, from the root. */
function filesOf(folder: string): string[] {
  return [...Deno.readDirSync(new URL(folder, ROOT))].flatMap(({ name, isDirectory }) =>
    isDirectory ? filesOf(`${folder}${name}/`) : [`${folder}${name}`]
  );
}

const OPS = [...Deno.readDirSync(new URL("kernels/", ROOT))]
  .flatMap(({ name, isDirectory }) => isDirectory ? [name] : []).toSorted();

/** Paths of the modules of these folders that import a file. */
function importersOf(path: string, ...folders: string[]): string[] {
  return folders.flatMap(filesOf).filter((file) =>
    file.endsWith(".ts") &&
    [...read(file).matchAll(/ from "(\.[^"]+)"/g)].some(([, specifier]) =>
      new URL(specifier!, new URL(file, ROOT)).href === new URL(path, ROOT).href
    )
  );
}

const printed = new Set(kernelSources().map(({ op }) => op));

/** Whether an op has an item of the list. */
const ITEMS: Readonly<Record<string, (op: string) => boolean>> = {
  Reference: (op) => /^export function /m.test(read(`kernels/${op}/reference.ts`)),
  Shaders: (op) => {
    const kernels = filesOf(`kernels/${op}/`).filter((path) =>
      path.endsWith(".wgsl") && read(path).includes("fn main(")
    );
    return kernels.length > 0 && kernels.every((path) => {
      const [header] = /^(\/\/.*\n)+/.exec(read(path)) ?? [""];
      return /\w: \[\S+\]/.test(header);
    });
  },
  Contract: (op) =>
    /^export function /m.test(read(`kernels/${op}/${op}.ts`)) &&
    filesOf(`kernels/${op}/`).every((path) =>
      !path.endsWith(".wgsl") || importersOf(path, `kernels/${op}/`).length > 0
    ),
  Test: (op) => {
    const tests = importersOf(`kernels/${op}/reference.ts`, "tests/kernels/");
    return tests.some((test) =>
      importersOf(`kernels/${op}/${op}.ts`, "tests/kernels/").includes(test)
    );
  },
  Benchmark: (op) => importersOf(`kernels/${op}/${op}.ts`, "bench/").length > 0,
  "Printed kernel": (op) => printed.has(op),
  Use: (op) =>
    importersOf(`kernels/${op}/${op}.ts`, "model/", "train/", "generate/", "kernels/").some((
      path,
    ) => !path.startsWith(`kernels/${op}/`)),
};

/** Ops that lack an item for a reason, which the page gives. */
const WITHOUT: Readonly<Record<string, readonly string[]>> = {
  Benchmark: ["normal", "prepare_step", "sum"],
  Use: ["swiglu"],
};

for (const [item, has] of Object.entries(ITEMS)) {
  Deno.test(`every op has the item "${item}" of docs/kernels.md`, () => {
    assert.ok(OPS.length > 10);
    assert.deepEqual(OPS.filter((op) => !has(op)), WITHOUT[item] ?? []);
  });
}

Deno.test("docs/kernels.md lists the items that every op has, and no others", () => {
  const [, list] = read("docs/kernels.md").split("## How to add an op\n");
  const items = [...list!.matchAll(/^\d+\. \*\*([^*]+)\.\*\*/gm)].map(([, item]) => item);
  assert.deepEqual(items, Object.keys(ITEMS));
  for (const op of Object.values(WITHOUT).flat()) {
    assert.ok(list!.includes(`\`${op}\``), `${op} is no exception of the page`);
  }
});
