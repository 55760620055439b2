import assert from "node:assert/strict";
import { kernelSources, MACHINES } from "../../bench/kernel_sources.ts";
import { wgslFiles } from "../../bench/wgsl_files.ts";
import { TILES } from "../../kernels/matmul/variants.ts";
import { labelOf, specialize, unroll } from "../../kernels/shader.ts";

const SOURCES = kernelSources();

Deno.test("kernelSources() returns every op with shaders, and all variants of the tuner", () => {
  const used = new Set(SOURCES.flatMap(({ shader }) => Object.keys(shader)));
  const unused = wgslFiles().map(({ path }) => path).filter((path) => !used.has(path));
  assert.deepEqual(unused, ["kernels/subgroups.wgsl"]); // it tests a device
  for (const tile of Object.keys(TILES)) {
    for (const type of ["f16", "f32"]) {
      const found = SOURCES.filter(({ op, variant, dtype }) =>
        op === "matmul" && variant === `${tile}/1` && dtype === type
      );
      assert.ok(found.length > 0, `${tile} ${type}`);
    }
  }
});

Deno.test("kernelSources() has nothing in f16 for a device without it", () => {
  const sources = kernelSources(MACHINES.filter(({ hasF16 }) => !hasF16));
  assert.ok(sources.some(({ op }) => op === "muon"));
  const names = sources.filter(({ dtype }) => dtype === "f16").map(({ shader }) => labelOf(shader));
  assert.deepEqual(names, []);
});

Deno.test("shaders name the files from which they are joined", () => {
  for (const { shader } of SOURCES) {
    for (const [path, text] of Object.entries(shader)) {
      assert.equal(text, Deno.readTextFileSync(new URL(`../../${path}`, import.meta.url)), path);
    }
  }
});

Deno.test("every line of a specialised kernel names its file and line", () => {
  const { shader, constants } = SOURCES.find(({ op }) => op === "layernorm")!;
  for (const line of unroll(specialize(shader, constants)).split("\n").slice(0, -1)) {
    if (/^enable |^diagnostic\(/.test(line)) continue;
    const [, path, number] = / \/\/ (\S+\.wgsl):(\d+)$/.exec(line)!;
    assert.ok(shader[path!]!.split("\n")[Number(number) - 1]!.length > 0);
  }
});
