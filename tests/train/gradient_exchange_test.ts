import assert from "node:assert/strict";
import { sampleBatch } from "../../bench/text.ts";
import { download, size } from "../../kernels/tensor.ts";
import { createGpt } from "../../model/gpt.ts";
import { initializeParameters } from "../../model/weights.ts";
import { finalGradients } from "../../train/gradient_exchange.ts";
import { createTrainStep } from "../../train/step.ts";
import { device } from "../kernels/harness.ts";

Deno.test("finalGradients() names the launch after which the gradients of each group no longer change", async () => {
  const vocabularySize = 61, sizes = { batchSize: 2, sequenceLength: 16 };
  const config = { vocabularySize, contextLength: 16, width: 16, layers: 3, heads: 2 };
  const gpt = createGpt(device, config, { precision: "f32" });
  initializeParameters(gpt, { seed: 1 });
  using step = createTrainStep(gpt, { ...sizes, gradientAccumulation: 2 });
  const { program, gradients, parts: { others: from, update: to } } = step;
  const batches = [1, 2].map(() => sampleBatch({ ...sizes, vocabularySize }));
  await step.submit(0, batches, { learningRate: 0 });

  // at most four: groups end with a launch, so that these are larger than a quarter
  const groups = finalGradients(program, gradients, { from, to, groups: 4 });
  assert.equal(groups.length, 3);
  assert.equal(groups.at(-1)!.to, to);
  const all = groups.flatMap(({ parts }) => parts).sort((a, b) => a.offsetBytes - b.offsetBytes);
  let end = 0;
  for (const part of all) { // each gradient is in one group
    assert.equal(part.offsetBytes, end);
    end += 4 * size(part.shape);
  }
  assert.equal(end, gradients.flat.buffer.size);

  const before: Float32Array[][] = [], after: Float32Array[][] = [];
  let start = from;
  for (const { to, parts } of groups) {
    program.run({ from: start, to: to - 1 });
    before.push(await download(device, ...parts) as Float32Array[]);
    program.run({ from: to - 1, to });
    after.push(await download(device, ...parts) as Float32Array[]);
    start = to;
  }
  for (const [i, { parts }] of groups.entries()) {
    const final = await download(device, ...parts);
    assert.deepEqual(after[i], final, `group ${i}`);
    // the last launch of a step stores the loss
    if (i < groups.length - 1) {
      assert.notDeepEqual(before[i], final, `group ${i} was final earlier`);
    }
  }
  gpt.destroy();
});
