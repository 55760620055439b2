import assert from "node:assert/strict";
import { join } from "node:path";
import { train } from "../../train/train.ts";
import { device } from "../kernels/harness.ts";
import { directory } from "../checkpoints.ts";

const OPTIONS = {
  device,
  preset: "nano",
  contextLength: 8,
  batchSize: 2,
  tune: "off",
  vocabulary: "compact",
  precision: "f32",
  sampleEvery: 0,
} as const;

const TEXTS = Array.from({ length: 40 }, (_, i) => `One cat and ${i} dogs met in the park.`);

async function* streamed(texts: readonly string[]) {
  yield* texts;
}

async function trained(options: Parameters<typeof train>[0]): Promise<number[]> {
  const losses: number[] = [];
  for await (const event of train({ ...OPTIONS, ...options })) {
    if (event.kind === "step") losses.push(event.loss!);
  }
  return losses;
}

Deno.test("train() reads the texts that it is given, as an array or a stream, and resumes with the same", async () => {
  const whole = await trained({ texts: TEXTS, steps: 4, out: join(directory, "array") });
  assert.equal(whole.length, 4);
  const out = join(directory, "stream"), warmupSteps = 1, learningRate = 1e-3;
  const schedule = { warmupSteps, learningRate, minLearningRate: learningRate };
  const first = await trained({ texts: streamed(TEXTS), steps: 2, out, ...schedule });
  const rest = await trained({ texts: new Set(TEXTS), steps: 4, out, ...schedule });
  const once = join(directory, "once");
  const all = await trained({ texts: TEXTS, steps: 4, out: once, ...schedule });
  assert.deepEqual([...first, ...rest], all);
});

Deno.test("train() refuses to resume with other texts, and texts beside data", async () => {
  const out = join(directory, "others");
  await trained({ texts: TEXTS, steps: 1, out });
  await assert.rejects(() => trained({ texts: TEXTS.slice(1), steps: 2, out }), {
    name: "UserError",
    message: /its data must be unchanged: the given text has changed since$/,
  });
  await assert.rejects(() => trained({ texts: TEXTS, data: "sample", steps: 2, out }), {
    name: "UserError",
    message: /^Cannot train on texts and data/,
  });
  await assert.rejects(() => trained({ steps: 2, out }), {
    name: "UserError",
    message: /its data must be readable/,
  });
});
