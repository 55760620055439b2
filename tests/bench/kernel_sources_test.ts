import assert from "node:assert/strict";
import { kernelSources, MACHINES } from "../../bench/kernel_sources.ts";
import { wgslFiles } from "../../bench/wgsl_files.ts";
import { TILES } from "../../kernels/matmul/variants.ts";
import { type Dispatch, Program } from "../../kernels/program.ts";
import { labelOf, specialize, unroll } from "../../kernels/shader.ts";
import { workgroupBytesOf } from "../kernels/wgsl_sizes.ts";

/** Launches that were recorded for the sources: one for each shader, constants and bytes. */
const LAUNCHES = new Map<string, Dispatch>();
const SOURCES = (() => {
  const { dispatch } = Program.prototype;
  Program.prototype.dispatch = function (launch) {
    const { shader, constants, workgroupBytes } = launch;
    LAUNCHES.set(JSON.stringify([labelOf(shader), constants, workgroupBytes]), launch);
    return dispatch.call(this, launch);
  };
  const sources = kernelSources();
  Program.prototype.dispatch = dispatch;
  return sources;
})();

/** Bytes that a launch may count beyond those of its shader, as it counts those of other constants. */
const SPARE_BYTES = 1024;

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

Deno.test("every launch counts the workgroup memory that its shader declares", () => {
  for (const { shader, constants = {}, workgroupBytes = 0 } of LAUNCHES.values()) {
    const bytes = workgroupBytesOf(specialize(shader, constants));
    const counted = `${labelOf(shader)} counts ${workgroupBytes} bytes of ${bytes}`;
    assert.ok(workgroupBytes >= bytes && workgroupBytes < bytes + SPARE_BYTES, counted);
  }
});
