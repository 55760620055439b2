import { mkdirSync } from "node:fs";
import { dirname, join } from "node:path";

/** Lines of a record as a training writes them, and runs that have only a record. */

/** The line of a start. */
export function start(steps = 100, options: object = {}): string {
  return JSON.stringify({
    kind: "start",
    time: "2026-01-01T10:00:00.000Z",
    step: 0,
    parameters: 1000,
    device: "a device",
    memoryBytes: 2e6,
    options: {
      preset: "nano",
      batchSize: 2,
      contextLength: 8,
      gradientAccumulation: 1,
      steps,
      ...options,
    },
  });
}

/** The line of a step. */
export function step(step: number, loss: number | null = 1 / step, fields: object = {}): string {
  return JSON.stringify({
    kind: "step",
    time: "2026-01-01T10:00:01.000Z",
    step,
    loss,
    learningRate: 0.001,
    gradientNorm: 1,
    lossScale: 1,
    skipped: 0,
    tokensPerSecond: 160,
    dataMs: 0.5,
    ...fields,
  });
}

/** The line of an evaluation. */
export function evaluation(step: number, loss: number | null = 2 / step): string {
  const time = "2026-01-01T10:00:02.000Z";
  return JSON.stringify({
    kind: "evaluation",
    time,
    step,
    loss,
    bitsPerByte: 0.25,
    entropyPerToken: 0.1,
  });
}

/** Lines of so many steps. */
export function steps(count: number): string[] {
  return Array.from({ length: count }, (_, i) => step(i + 1));
}

/** Writes the record of a run, and returns its path. */
export function writeRecord(run: string, lines: readonly string[], end = "\n"): string {
  const path = join(run, "metrics.jsonl");
  mkdirSync(dirname(path), { recursive: true });
  Deno.writeTextFileSync(path, lines.join("\n") + end);
  return path;
}
