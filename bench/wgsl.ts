import { load } from "../files/packages.ts";
import { specialize, unroll } from "../kernels/shader.ts";
import { kernelSources } from "./kernel_sources.ts";
import { wgslFiles } from "./wgsl_files.ts";

/**
 * `wgsl`: compiles every file of kernels/ and every variant of every op as Chrome does, with Dawn's null
 * backend, which needs no GPU. Unlike Deno, Chrome refuses barriers in non-uniform control flow.
 */
const { create } = await load("webgpu");
const dawn = create(["backend=null", "enable-dawn-features=allow_unsafe_apis"]);
const adapter = await dawn.requestAdapter();
const device = await adapter!.requestDevice({
  requiredFeatures: [
    "shader-f16",
    "subgroups",
    "chromium-experimental-subgroup-matrix",
  ] as GPUFeatureName[],
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
  const module = device.createShaderModule({ code });
  const { messages } = await module.getCompilationInfo();
  const errors = messages.filter(({ type }) => type === "error");
  if (errors.length === 0) continue;
  failed++;
  const lines = code.split("\n");
  for (const { lineNum, message } of errors) {
    console.error(`${name}: ${message}: ${lines[lineNum - 1]?.trim()}`);
  }
}
await device.popErrorScope();
console.log(`wgsl: ${sources.length - failed} passed, ${failed} failed`);
Deno.exit(failed > 0 ? 1 : 0); // Dawn keeps the process alive
