import { join } from "node:path";
import { CHECKPOINT_FORMAT, type TrainerState } from "../model/checkpoint.ts";
import { type FileContent, openRunDirectory } from "../train/checkpoint.ts";

/** A directory that is removed when the tests of a file have ended. */
export const directory = Deno.makeTempDirSync();
globalThis.addEventListener("unload", () => Deno.removeSync(directory, { recursive: true }));

/** Where a training stands after `step` steps. */
export function exampleState(step: number): Omit<TrainerState, "files"> {
  return {
    formatVersion: CHECKPOINT_FORMAT,
    step,
    epoch: 0,
    batchIndex: step,
    seed: 1,
    lossScale: 65536,
    growthTracker: 3,
    optimizerSteps: step,
    skippedSteps: 0,
    consecutiveSkips: 0,
    bestValidationLoss: null,
    schedule: { learningRate: 1, minLearningRate: 0, warmupSteps: 1, steps: 9 },
    options: { preset: "nano" },
    tokenizerHash: "x",
    data: { name: "sample", hash: "y" },
    tuning: { adapter: "a GPU", choices: { "some work": "one kernel" } },
  };
}

/** Two small files, one of which holds `text`. */
export function exampleFiles(text: string): Map<string, FileContent> {
  const content = (text: string) => [new TextEncoder().encode(text)];
  return new Map([["a.bin", content(text)], ["b.txt", content("beta")]]);
}

/** A run with checkpoints of steps 1 to `count`, the first of them the best. */
export function makeRun(
  name: string,
  { count, keep = 9 }: { count: number; keep?: number },
): string {
  const path = join(directory, name);
  const run = openRunDirectory(path);
  for (let step = 1; step <= count; step++) {
    run.save(exampleFiles(`step ${step}`), exampleState(step), { keep, best: step === 1 });
  }
  run.close();
  return path;
}
