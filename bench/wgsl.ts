import { output, runCommand, status } from "../commands/command.ts";
import { load } from "../files/packages.ts";
import { MATRIX_FEATURE } from "../kernels/matrices.ts";
import { specialize, unroll } from "../kernels/shader.ts";
import { kernelSources } from "./kernel_sources.ts";
import { wgslFiles } from "./wgsl_files.ts";

/** The features that kernels use, each of which some kernel needs. */
const FEATURES = ["shader-f16", "subgroups", MATRIX_FEATURE];

/**
 * `wgsl`: compiles every file of kernels/ and every variant of every op as Chrome does, with Dawn's null
 * backend, which needs no GPU. Unlike Deno, Chrome refuses barriers in non-uniform control flow.
 */
async function main(): Promise<number> {
  const { create } = await load("webgpu");
  const dawn = create(["backend=null", "enable-dawn-features=allow_unsafe_apis"]);
  const adapter = await dawn.requestAdapter();
  const requiredFeatures = FEATURES as GPUFeatureName[];
  const device = await adapter!.requestDevice({ requiredFeatures });
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
    if (errors.length > 0) failed++;
    const lines = code.split("\n");
    for (const { lineNum, message } of errors) {
      status(`${name}: ${message}: ${lines[lineNum - 1]?.trim()}`);
    }
  }
  await device.popErrorScope();
  output(`wgsl: ${sources.length - failed} passed, ${failed} failed\n`);
  return failed > 0 ? 1 : 0;
}

await runCommand(main);
