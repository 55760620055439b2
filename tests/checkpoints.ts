import type { JsonObject } from "../files/json.ts";
import { join } from "node:path";
import { STATE_FILE } from "../model/files/checkpoint.ts";
import {
  CHECKPOINT_FORMAT,
  serializeState,
  type TrainerState,
} from "../model/files/trainer_state.ts";
import { openRunDirectory } from "../train/directory/run_directory.ts";
import type { FileContent } from "../train/directory/run_files.ts";

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
    options: { preset: "nano" },
    typed: ["preset"],
    tokenizerHash: "x",
    data: { name: "sample", hash: "y" },
    tuning: { adapter: "a GPU", choices: { "some work": "one kernel" } },
  };
}

/** Small files by the names that a checkpoint must hold, one of which holds `text`. */
export function exampleFiles(text: string): Map<string, FileContent> {
  const contents = {
    "model.safetensors": text,
    "config.json": "beta",
    "tokenizer.json": "gamma",
    "tokenizer_config.json": '{"chat_template":"delta"}',
    "generation_config.json": "epsilon",
    "optimizer.safetensors": "zeta",
  };
  return new Map(
    Object.entries(contents).map(([name, text]) => [name, [new TextEncoder().encode(text)]]),
  );
}

/** The fields of a checkpoint's state, without the hash at their end. */
export function readFields(checkpoint: string): JsonObject {
  const { sha256: _, ...fields } = JSON.parse(Deno.readTextFileSync(join(checkpoint, STATE_FILE)));
  return fields;
}

/** Changes fields of a checkpoint's state, as somebody would who also writes the hash at its end anew. */
export function changeFields(checkpoint: string, change: JsonObject): void {
  const state = { ...readFields(checkpoint), ...change } as unknown as TrainerState;
  Deno.writeTextFileSync(join(checkpoint, STATE_FILE), serializeState(state));
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
