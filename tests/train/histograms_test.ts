import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { batchOf } from "../../data/tokens/batch.ts";
import * as reference from "../../kernels/histogram/reference.ts";
import { type Arena, tensorNamed } from "../../kernels/arena.ts";
import { download } from "../../kernels/tensor.ts";
import { createGpt } from "../../model/gpt.ts";
import { initializeParameters } from "../../model/weights.ts";
import { createHistograms, type ParameterHistogram } from "../../train/histograms.ts";
import { readLines } from "../../train/record/metrics.ts";
import { createTrainStep } from "../../train/step.ts";
import { train, type TrainEvent } from "../../train/train.ts";
import { withLiveBuffers } from "../bench/live_buffers.ts";
import { directory } from "../checkpoints.ts";
import { device } from "../kernels/harness.ts";

const CONFIG = { vocabularySize: 33, contextLength: 8, width: 16, layers: 2, heads: 2 };

Deno.test("createHistograms() counts weights and gradients as the reference does, without the loss scale", async () => {
  const hasF16 = device.features.has("shader-f16");
  for (
    const [precision, freeze] of [["f32", ""], [hasF16 ? "f16" : "f32", "embeddings,0"]] as const
  ) {
    using gpt = createGpt(device, CONFIG, { precision, freeze });
    initializeParameters(gpt, { seed: 1 });
    using trainStep = createTrainStep(gpt, {
      batchSize: 2,
      sequenceLength: 8,
      gradientAccumulation: 2,
    });
    using histograms = createHistograms(gpt, trainStep);
    const batches = [0, 1, 2, 3].map((i) =>
      batchOf(
        [0, 1].map((b) => Array.from({ length: 9 }, (_, t) => (5 * i + 3 * b + t * t) % 33)),
        {
          contextLength: 8,
          padding: 0,
        },
      )
    );
    for (const step of [0, 1]) { // what was counted of the first step is not counted again
      const micro = batches.slice(2 * step, 2 * step + 2);
      const dataMs = await trainStep.submit(step, micro, { learningRate: 0.01 });
      assert.ok(dataMs > 0, "the batches were uploaded in no time");
      const [report] = await trainStep.reports(1), { lossScale } = report!;
      const found = await histograms.run(lossScale);
      const expected: ParameterHistogram[] = [];
      const count = async (
        of: "weight" | "gradient",
        name: string,
        arena: Arena,
        divisor: number,
      ) => {
        const [values] = await download(device, tensorNamed(arena, name));
        const x = (values as Float32Array).map((value) => value / divisor);
        expected.push({ name, of, ...reference.histogram({ x }) });
      };
      for (const { name, trained } of gpt.table) {
        await count("weight", name, gpt.parameters, 1);
        if (trained) await count("gradient", name, trainStep.gradients, lossScale);
      }
      assert.deepEqual(found, expected);
      assert.equal(lossScale, precision === "f16" ? 65536 : 1);
      assert.ok(
        found.some(({ of, positive }) => of === "gradient" && Object.keys(positive).length > 5),
      );
    }
  }
});

const OPTIONS = {
  ...{ device, preset: "nano", contextLength: 16, batchSize: 2, gradientAccumulation: 2 } as const,
  precision: device.features.has("shader-f16") ? "f16" as const : "f32" as const,
  ...{ steps: 5, evalEvery: 0, evalTokens: 32, sampleEvery: 0, saveEvery: 0, logEvery: 0 },
  texts: Array.from({ length: 60 }, (_, i) => `Story ${i} is about number ${i * i}.`),
};

async function run(name: string, histogramEvery: number): Promise<TrainEvent[]> {
  const events: TrainEvent[] = [];
  for await (const event of train({ ...OPTIONS, out: join(directory, name), histogramEvery })) {
    events.push(event);
  }
  return events;
}

Deno.test("train() with histogramEvery has a histogram of every parameter in these steps, and the same weights", async () => {
  const { result: events, left } = await withLiveBuffers(() => run("counted", 2));
  assert.deepEqual(left, []);
  const without = await run("not counted", 0);
  const histograms = events.filter((event) => event.kind === "histogram");
  const [first] = histograms, each = histograms.filter(({ step }) => step === first!.step);
  assert.deepEqual(histograms.map(({ step }) => step), [
    ...each.map(() => 2),
    ...each.map(() => 4),
  ]);
  assert.deepEqual(
    histograms.map(({ name, of }) => `${of} ${name}`),
    [...each, ...each].map(
      ({ name, of }) => `${of} ${name}`,
    ),
  );
  assert.equal(new Set(each.map(({ name, of }) => `${of} ${name}`)).size, each.length);
  const lines = [...readLines(join(directory, "counted", "metrics.jsonl"))];
  const recorded = lines.map(({ metric }) => metric!).filter(({ kind }) => kind === "histogram");
  assert.deepEqual(
    recorded.map(({ time: _, ...rest }) => rest),
    JSON.parse(JSON.stringify(histograms)),
  );
  // without the loss scale, which is 65,536 in f16, no gradient exceeds the norm
  const gradients = histograms.filter(({ of }) => of === "gradient");
  const norms = events.flatMap((event) => event.kind === "step" ? [event.gradientNorm] : []);
  for (const { step, max } of gradients) assert.ok(Math.abs(max!) <= 1.0001 * norms[step - 1]!);
  const losses = (events: TrainEvent[]) =>
    events.flatMap((event) => event.kind === "step" ? [[event.loss, event.gradientNorm]] : []);
  assert.deepEqual(losses(events), losses(without));
  const hashes = (name: string) => {
    const path = join(directory, name, "checkpoints", "000005");
    return readdirSync(path).filter((file) => file.endsWith(".safetensors")).map((file) =>
      createHash("sha256").update(Deno.readFileSync(join(path, file))).digest("hex")
    );
  };
  assert.deepEqual(hashes("counted"), hashes("not counted"));
  assert.equal(hashes("counted").length, 2);
});
