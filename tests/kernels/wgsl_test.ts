import assert from "node:assert/strict";
import { wgslFiles } from "../../bench/wgsl_files.ts";
import { splitWorkgroups } from "../../kernels/program.ts";
import { compilable } from "../../kernels/shader.ts";
import { device } from "./harness.ts";
import { emulateMatrices } from "./matrix_emulation.ts";

const FILES = wgslFiles();

/**
 * Most fragments: files without `main` that need other files. A kernel that needs functions of another file is read
 * from its top like a module with imports; a fragment is read only beside the kernel that it belongs to.
 */
const MOST_FRAGMENTS = 15;

const read = (path: string) => Deno.readTextFileSync(new URL(`../../${path}`, import.meta.url));

/** Whether this adapter has the subgroups that code needs. */
function hasSubgroups(code: string): boolean {
  return device.subgroupSize !== undefined || !/\bsubgroup\w+\(/.test(code);
}

/** The compiler's error, if any; on an adapter without f16 the code is compiled in f32. */
async function errorOf(path: string, code: string): Promise<string | undefined> {
  const emulated = device.matrixShapes.length > 0 ? code : emulateMatrices(code);
  const text = device.features.has("shader-f16")
    ? emulated
    : emulated.replace("enable f16;", "").replaceAll(/\bf16\b/g, "f32");
  device.gpu.pushErrorScope("validation");
  device.gpu.createShaderModule({ label: path, code: compilable(text, device.features) });
  return (await device.gpu.popErrorScope())?.message;
}

Deno.test("every WGSL file compiles as it stands, or with the files that its line 2 names", async () => {
  for (const { path, code } of FILES.filter(({ code }) => hasSubgroups(code))) {
    assert.equal(await errorOf(path, code), undefined, path);
  }
  const fragments = FILES.filter(({ path, needsOthers }) =>
    needsOthers && !/^@compute/m.test(read(path))
  );
  assert.ok(fragments.length <= MOST_FRAGMENTS);
});

Deno.test("no WGSL file says that it needs others although it compiles without them", async () => {
  for (const { path, needsOthers, code } of FILES) {
    if (!needsOthers || !hasSubgroups(code)) continue;
    assert.notEqual(await errorOf(path, read(path)), undefined, path);
  }
});

/** Patterns of the line that begins a part of a shader, in the order of the parts. */
const PARTS = [
  /^(enable |diagnostic\()/,
  /^struct Sizes \{/,
  /^@group\(0\) @binding\(\d+\) var<storage, read>/,
  /^@group\(0\) @binding\(\d+\) var<storage, read_write>/,
  /^@group\(0\) @binding\(\d+\) var<uniform>/,
  /^var<(workgroup|private)>/,
  /^fn (?!main\b)/,
  /^@compute/,
];

Deno.test("every WGSL file has its parts in the order that kernels/shader.ts gives", () => {
  for (const { path } of FILES) {
    const lines = read(path).split("\n");
    assert.match(lines[0]!, /^\/\/ /, path);
    const parts = lines.map((line) => PARTS.findIndex((part) => part.test(line)))
      .filter((part) => part >= 0);
    assert.deepEqual(parts, parts.toSorted((a, b) => a - b), path);
    const bindings = lines.flatMap((line) => / @binding\((\d+)\)/.exec(line)?.[1] ?? []).map(
      Number,
    );
    assert.deepEqual(bindings, bindings.toSorted((a, b) => a - b), path);
  }
});

Deno.test("invocations write whole vectors to workgroup memory", () => {
  // a write of a component may touch the others of its vector, https://github.com/gpuweb/gpuweb/issues/2112
  for (const { path, code } of FILES) {
    for (const [, name] of code.matchAll(/^var<workgroup> (\w+): array<vec[^,]*, [^<>]*>;/gm)) {
      const component = new RegExp(
        `^.*\\b${name}\\[[^=]*\\](\\[[^=\\]]*\\]|\\.[xyzwrgba])\\s*([-+*/]?=[^=]|\\+\\+|--).*$`,
        "m",
      );
      assert.equal(component.exec(code)?.[0], undefined, path);
    }
  }
});

/** The names of `main`'s arguments. */
const MAIN_ARGUMENTS: Readonly<Record<string, string>> = {
  workgroup_id: "group",
  num_workgroups: "groups",
  local_invocation_id: "local",
  local_invocation_index: "index",
  subgroup_size: "size",
  subgroup_invocation_id: "lane",
};

Deno.test("arguments of main and the uniform have the same names everywhere", () => {
  for (const { path } of FILES) {
    const text = read(path);
    for (const [, builtin, name] of text.matchAll(/@builtin\((\w+)\) (\w+): /g)) {
      const expected = MAIN_ARGUMENTS[builtin!];
      assert.equal(name, expected, `${builtin} in ${path}`);
    }
    const uniforms = [...text.matchAll(/var<uniform> (\w+): (\w+);/g)];
    for (const [, name, type] of uniforms) {
      assert.equal(type, name![0]!.toUpperCase() + name!.slice(1), path);
    }
    // random.wgsl adds its uniform to those of another file
    if (uniforms.length === 0 || path === "kernels/random.wgsl") continue;
    assert.equal(uniforms[0]![1], "sizes", path);
  }
});

Deno.test("every WGSL file has as many workgroups per row as splitWorkgroups()", () => {
  const [perRow] = splitWorkgroups(2 ** 24);
  const declaration = `\nconst WORKGROUPS_PER_ROW: u32 = ${perRow}; //`;
  for (const { path } of [...FILES, ...wgslFiles("bench/")]) {
    const text = read(path), flattened = /\bgroup\.y \* (\w+) \+ group\.x\b/.exec(text);
    assert.equal(text.includes(declaration), flattened !== null, path);
    assert.equal(flattened?.[1] ?? "WORKGROUPS_PER_ROW", "WORKGROUPS_PER_ROW", path);
  }
});

/** A reason to return from `main`: nothing is in range, a text has ended, or another invocation does the rest. */
const NO_WORK = String
  .raw`(next >= cursor\.w|\w+ >= sizes\.\w+( \* \w+)?|!inside|(local\.[xy]|lane) != 0|update\.skipped != 0|longRow == 0)`;
const GUARD = new RegExp(String.raw`^  if \(${NO_WORK}( \|\| ${NO_WORK})*\) \{ return; \}$`);

Deno.test("every WGSL file spells the guard of out-of-range invocations as kernels/shader.ts gives it", () => {
  for (const { path } of FILES) {
    const [, main] = read(path).split(/^fn main\(/m);
    const lines = main?.split("\n").map((line) => line.replace(/ *\/\/.*/, "")) ?? [];
    for (const [i, line] of lines.entries()) {
      const where = `${path}: ${line}`;
      if (line.includes("return;")) assert.match(line, GUARD, where);
      if (line.includes("let inside ")) assert.match(line, /let inside = \w+ <=? \w+/, where);
      // a block that depends on the range is a guard unless it has an alternative
      if (!/^ {2}if \(\w+ < sizes\.\w+\) \{/.test(line)) continue;
      assert.match(lines.slice(i + 1).find((line) => line.startsWith("  }"))!, /else/, where);
    }
  }
});
