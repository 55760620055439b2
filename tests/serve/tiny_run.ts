import { join } from "node:path";
import { train } from "../../train/train.ts";
import { directory } from "../checkpoints.ts";
import { device } from "../kernels/harness.ts";
import { once } from "../once.ts";

/** Positions of the model of `tinyRun()`. */
export const CONTEXT = 16;

/** The directory of a run of six steps with checkpoints after 2, 4 and 6, made when it is first needed. */
export const tinyRun: () => Promise<string> = once(async () => {
  const out = join(directory, "tiny");
  const texts = Array.from({ length: 40 }, (_, i) => `One cat and ${i} dogs met in the park.`);
  const options = {
    preset: "nano",
    width: 16,
    contextLength: CONTEXT,
    batchSize: 2,
    steps: 6,
    warmupSteps: 1,
    saveEvery: 2,
    sampleEvery: 0,
    learningRate: 0.01,
    vocabulary: "compact",
    tune: "off",
    precision: "f32",
  } as const;
  for await (const _ of train({ ...options, device, texts, out }));
  return out;
});
