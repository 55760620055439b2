import assert from "node:assert/strict";
import { batchOf } from "../../data/tokens/batch.ts";
import { download, size } from "../../kernels/tensor.ts";
import { RECOMPUTE_MODES, type RecomputeMode } from "../../model/activations.ts";
import type { GptConfig } from "../../model/config.ts";
import { createGpt } from "../../model/gpt.ts";
import { isAdapter } from "../../model/files/lora.ts";
import type { Precision } from "../../model/precision.ts";
import { initializeParameters, setElements } from "../../model/weights.ts";
import { createTrainStep, type StepOptions } from "../../train/step.ts";
import { device, randomValues, REAL_TYPES, testRandom } from "../kernels/harness.ts";

const CONFIG: GptConfig = { vocabularySize: 67, contextLength: 12, width: 24, layers: 4, heads: 2 };

/** A training whose gradients are compared. */
interface Case {
  isCpu?: boolean;
  config?: Partial<GptConfig>;
  freeze?: string;
  precision?: Precision;
  options?: Partial<StepOptions>;
}

const CASES: Readonly<Record<string, Case>> = {
  "GPT-2": {},
  "dropout, in f16": { precision: REAL_TYPES.at(-1) as Precision, options: { dropout: 0.3 } },
  "a GPU's kernels": { isCpu: false, options: { dropout: 0.2 } },
  "several batches and dropout": { options: { gradientAccumulation: 3, dropout: 0.2 } },
  "frozen parts": { freeze: "embeddings,0", options: { dropout: 0.2 } },
  "adapters": { config: { lora: { rank: 3, alpha: 6, targets: ["c_attn", "c_fc", "c_proj"] } } },
  "GPT-Neo": { config: { family: "gpt_neo", attentionWindows: [0, 3, 0, 3], ownHead: true } },
  "the Llama family, documents apart": {
    config: { family: "llama", keyHeads: 1, qkNorm: true },
    options: { dropout: 0.2, documents: "apart" },
  },
};

/** The gradients of a step, and the bytes of its activations. */
async function gradientsWith(
  recompute: RecomputeMode,
  { isCpu = device.isCpu, config, freeze = "", precision = "f32", options }: Case,
) {
  const on = isCpu === device.isCpu
    ? device
    : { ...device, isCpu, subgroupSize: undefined, choices: new Map() };
  using gpt = createGpt(on, { ...CONFIG, ...config }, { precision, freeze });
  initializeParameters(gpt, { seed: 5 });
  const random = testRandom(7);
  for (const { name, shape } of gpt.table.filter(({ name }) => isAdapter(name))) {
    setElements(gpt, name, 0, randomValues(random, size(shape), { scale: 0.3 }));
  }
  const T = CONFIG.contextLength;
  using step = createTrainStep(gpt, { batchSize: 3, sequenceLength: T, ...options, recompute });
  const rows = (i: number) =>
    Array.from(
      { length: 3 },
      (_, b) => Array.from({ length: T + 1 }, (_, t) => (5 * b + 3 * t * t + i) % 67),
    );
  const count = options?.gradientAccumulation ?? 1;
  const isApart = options?.documents === "apart";
  const positions = Uint32Array.from({ length: 3 * T }, (_, m) => m % T % 5);
  const batches = Array.from({ length: count }, (_, i) => ({
    ...batchOf(rows(i), { contextLength: T, padding: 0 }),
    ...(isApart ? { positions } : {}),
  }));
  await step.submit(3, batches, { learningRate: 1e-3 });
  const [gradients, parameters] = await download(device, step.gradients.flat, gpt.parameters.flat);
  const [report] = await step.reports(1);
  return {
    gradients,
    parameters,
    report: report!,
    bytes: step.activations.bytes,
    launches: step.program.length,
  };
}

for (const [name, example] of Object.entries(CASES)) {
  Deno.test(`backward() computes the same gradients to the bit whatever it recomputes, with ${name}`, async () => {
    const kept = await gradientsWith("none", example);
    assert.ok(kept.report.gradientNorm > 0 && !kept.report.skipped);
    let { bytes, launches } = kept;
    for (const recompute of RECOMPUTE_MODES.slice(1)) {
      const again = await gradientsWith(recompute, example);
      assert.deepEqual(again.gradients, kept.gradients, recompute);
      assert.deepEqual(again.parameters, kept.parameters, recompute);
      assert.deepEqual(again.report, kept.report);
      assert.ok(again.bytes < bytes && again.launches > launches, `${recompute}: ${again.bytes}`);
      ({ bytes, launches } = again);
    }
  });
}
