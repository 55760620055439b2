import { closeSync, mkdirSync, openSync } from "node:fs";
import { join } from "node:path";
import { command, runCommand } from "../commands/command.ts";
import { writeAll } from "../files/disk.ts";
import { metricLine } from "../train/record/metrics.ts";
import { createHandler } from "../serve/handler.ts";
import { hasCurve, openBrowser } from "./browser.ts";

/**
 * `bench:dashboard`: the time from the address of the page to the first curve in a browser, for a run whose record has
 * a million lines, and for a thousand runs. A record is read from its ends and at a thousand places between (1,000
 * reads of 4 kB, some 20 ms), so that its length does not matter; of a thousand runs, 32 kB each are read, and about 100
 * lines parsed (0.5 ms).
 */

/** The case, its runs, and the steps of each. */
const CASES = [
  ["one run of a million lines", 1, 1_000_000],
  ["a thousand runs of a thousand lines", 1000, 1000],
] as const;

/** Milliseconds within which the first curve must appear. */
const LIMIT_MS = 2000;

/** Writes the record of a run whose loss falls, with ten evaluations. */
export function writeRun(run: string, steps: number): void {
  mkdirSync(run, { recursive: true });
  const file = openSync(join(run, "metrics.jsonl"), "w"), encoder = new TextEncoder();
  const time = new Date(0).toISOString();
  const options = { steps, batchSize: 16, contextLength: 64, gradientAccumulation: 1 };
  const lines = [metricLine({ kind: "start", time, step: 0, options })];
  for (let step = 1; step <= steps; step++) {
    const loss = 1 + 6 * Math.exp(-8 * step / steps) + Math.sin(step) / 10;
    const figures = { learningRate: 0.001, gradientNorm: loss / 5, lossScale: 1, skipped: 0 };
    const speeds = { tokensPerSecond: 18000, dataMs: 0.25 };
    lines.push(metricLine({ kind: "step", time, step, loss, ...figures, ...speeds }));
    if (step % (steps / 10) === 0) {
      lines.push(metricLine({ kind: "evaluation", time, step, loss, bitsPerByte: loss / 3 }));
    }
    if (lines.length >= 5000 || step === steps) {
      writeAll(file, encoder.encode(`${lines.splice(0).join("\n")}\n`));
    }
  }
  closeSync(file);
}

/** Milliseconds from the address of the page of a folder to the first curve. */
async function firstCurveMs(folder: string): Promise<number> {
  const abort = new AbortController();
  const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen: () => {} }, (request) => {
    handler ??= createHandler({ folders: [folder], signal: abort.signal }); // its first look at the folder counts, too
    return handler(request);
  });
  let handler: ReturnType<typeof createHandler> | undefined;
  const browser = await openBrowser();
  try {
    const page = await browser.newPage();
    const begin = performance.now();
    await page.goto(`http://127.0.0.1:${server.addr.port}/`);
    await page.waitForFunction(hasCurve);
    return performance.now() - begin;
  } finally {
    await browser.close();
    abort.abort();
    await server.shutdown();
  }
}

/** Measures all cases; returns the status of the process. */
async function main(): Promise<number> {
  const directory = Deno.makeTempDirSync(), results: Record<string, number> = {};
  try {
    for (const [name, runs, steps] of CASES) {
      const folder = join(directory, `${runs}`);
      for (let i = 0; i < runs; i++) writeRun(join(folder, `run-${i}`), steps);
      results[name] = Math.round(await firstCurveMs(folder));
      console.log(`${name}: first curve after ${results[name]} ms`);
    }
  } finally {
    Deno.removeSync(directory, { recursive: true });
  }
  console.log(JSON.stringify({ firstCurveMs: results, limitMs: LIMIT_MS }));
  return Object.values(results).every((ms) => ms < LIMIT_MS) ? 0 : 1;
}

if (import.meta.main) {
  const what = "Measure how soon the dashboard shows a curve of many or long runs.";
  await command("bench:dashboard", what).action(() => runCommand(main)).parseAsync();
}
