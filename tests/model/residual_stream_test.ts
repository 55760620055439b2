import assert from "node:assert/strict";
import { createDecoder } from "../../generate/decoder.ts";
import { DEFAULT_SAMPLER } from "../../generate/request.ts";
import { dryDevice } from "../../kernels/dry_device.ts";
import type { GptConfig } from "../../model/config.ts";
import { createGpt } from "../../model/gpt.ts";
import { device, REAL_TYPES } from "../kernels/harness.ts";
import { withEmulatedMatrices } from "../kernels/matrix_emulation.ts";

const CONFIG = { vocabularySize: 64, contextLength: 8, width: 32, layers: 1, heads: 2 };

Deno.test({
  name: "ResidualStream fuses tens of rows on tensor cores, if all products of a block can",
  ignore: !REAL_TYPES.includes("f16"),
  fn() {
    const emulated = withEmulatedMatrices(device);
    const limits = new Proxy(device.gpu.limits, {
      get: (limits, name) =>
        name === "maxComputeWorkgroupStorageSize" ? 2 ** 15 : Reflect.get(limits, name, limits),
    });
    const on = { ...emulated, gpu: { limits } as GPUDevice };
    /** Whether the pass that draws a token of so many texts is fused. */
    const isFused = (
      texts: number,
      config: Partial<GptConfig> = {},
      options: Partial<Parameters<typeof createGpt>[2]> = {},
      of = on,
    ) => {
      const gpt = createGpt(dryDevice(of), { ...CONFIG, ...config }, {
        precision: "f16",
        ...options,
      });
      const prompts = Array.from({ length: texts }, () => [1]), seeds = prompts.map(() => 0);
      const { labels } = createDecoder(gpt, {
        ...{ prompts, seeds, maxNewTokens: 2, sampler: DEFAULT_SAMPLER },
      }).pass;
      const rows = labels.filter((label) => label === "kernels/matmul/matrix_rows.wgsl").length;
      const norms = labels.filter((label) => /norm\/forward/.test(label)).length;
      assert.deepEqual([rows, norms], rows > 0 ? [3, 1] : [0, 3]); // the head's norm is apart, and the product before it
      return rows > 0;
    };
    assert.deepEqual([8, 9].map((texts) => isFused(texts)), [false, true]);
    assert.deepEqual([80, 81].map((texts) => isFused(texts, { width: 256 })), [true, false]);
    assert.ok(!isFused(9, {}, { precision: "f32" }));
    assert.ok(!isFused(9, {}, { quantize: "int8" }));
    assert.ok(!isFused(9, { lora: { rank: 4, alpha: 8, targets: ["attn.c_attn"] } }));
    const ofWidths = (widths: number[]) => widths.map((innerWidth) => isFused(9, { innerWidth }));
    assert.deepEqual(ofWidths([2048, 2052, 8192]), [true, false, false]); // rows of 8192 do not fit
    assert.ok(!isFused(9, { width: 512 })); // nor those of 512 that are normalised
    assert.ok(!isFused(9, {}, {}, { ...on, matrixShapes: [] }));
  },
});
