import { specialize, unroll } from "../kernels/shader.ts";
import { kernelSources } from "./kernel_sources.ts";
import { wgslFiles } from "./wgsl_files.ts";

/**
 * `wgsl`: compiles every file of kernels/ and every variant of every op as Chrome does, with Dawn's null
 * backend, which needs no GPU. Unlike Deno, Chrome refuses barriers in non-uniform control flow and
 * subgroups without `enable subgroups;`. The directive is added here because Deno refuses it. So is the
 * directive that turns off the uniformity analysis of subgroups, which does not see that attention's loops
 * over rows end at the same iteration in a whole subgroup.
 */
const specifier: string = "npm:webgpu@0.6.2"; // with a literal specifier, type checking would download its 132 MB
const dawn: { create(flags: string[]): GPU } = await import(specifier);
const gpu = dawn.create(["backend=null", "enable-dawn-features=allow_unsafe_apis"]);
const adapter = await gpu.requestAdapter();
const device = await adapter!.requestDevice({
  requiredFeatures: ["shader-f16", "subgroups"] as GPUFeatureName[],
});
const sources = [
  ...wgslFiles().map(({ path, code }) => ({ name: path, code })),
  ...kernelSources().map(({ op, variant, dtype, shader, constants }) => ({
    name: `${op} "${variant}" ${dtype}`,
    code: unroll(specialize(shader, constants)),
  })),
];
let failed = 0;
device.pushErrorScope("validation");
for (const { name, code } of sources) {
  const loops = name.includes("attention") ? "diagnostic(off, subgroup_uniformity); " : "";
  const header = `enable subgroups; ${loops}`;
  const module = device.createShaderModule({ code: `${header}\n${code}` });
  const { messages } = await module.getCompilationInfo();
  const errors = messages.filter(({ type }) => type === "error");
  if (errors.length === 0) continue;
  failed++;
  const lines = code.split("\n");
  for (const { lineNum, message } of errors) {
    console.error(`${name}: ${message}: ${lines[lineNum - 2]?.trim()}`);
  }
}
await device.popErrorScope();
console.log(`wgsl: ${sources.length - failed} passed, ${failed} failed`);
Deno.exit(failed > 0 ? 1 : 0); // Dawn keeps the process alive
