import { existsSync } from "node:fs";
import { dirname } from "node:path";
import { commandLine, taskCommand } from "../files/command_line.ts";
import { placeAt } from "../generate/place.ts";
import { CheckpointError } from "../model/files/trainer_state.ts";
import { caveats, compareTable, drawComparison } from "../train/record/compare.ts";
import { type ComparedRun, readRun } from "../train/record/compared_run.ts";
import { placeInRun } from "../train/directory/run_place.ts";
import { command, output, outputColumns, runCommand, status, warn } from "./command.ts";
import { checkPlot, writePlot } from "./plot.ts";

/** `compare`: validation losses of several trainings, and their cost. */
const program = command(
  "compare",
  "Compare trainings: validation loss and bits per byte over tokens, time and FLOPs.",
)
  .argument("<run...>", "run directories")
  .option("--svg <file>", "file for the plot (default: compare.svg, if there are several runs)")
  .action((paths, options) =>
    runCommand(async () => {
      const { svg = paths.length > 1 ? "compare.svg" : undefined } = options;
      if (svg !== undefined) checkPlot(svg);
      const runs = readRuns(directoriesOf(paths));
      for (const sentence of caveats(runs)) warn(sentence);
      output(compareTable(runs, { columns: outputColumns() }));
      if (options.svg === undefined && runs.length === 1 || svg === undefined) return;
      writePlot(svg, await drawComparison(runs));
    })
  );

/** The directories of runs that paths name, each once; a checkpoint stands for its run. */
function directoriesOf(paths: readonly string[]): string[] {
  const directories = new Map<string, string>();
  for (const path of paths) {
    const { run = path } = placeInRun(path) ?? {};
    if (run !== path) status(`${path} is in ${run}, which is compared`);
    const real = existsSync(run) ? Deno.realPathSync(run) : run;
    if (!directories.has(real)) directories.set(real, run);
  }
  return [...directories.values()];
}

/**
 * Reads the runs among paths, which may be all that a folder holds.
 *
 * @throws {CheckpointError} if none can be compared, or if a path does not exist.
 */
function readRuns(paths: readonly string[]): ComparedRun[] {
  const runs = paths.flatMap((path) => {
    try {
      return [readRun(path, warn)];
    } catch (error) {
      if (!(error instanceof CheckpointError)) throw error;
      if (!existsSync(path) || paths.length === 1) {
        const run = runAt(path) ?? runAt(dirname(path));
        if (run !== undefined && run !== path) {
          const folder = dirname(run),
            all = taskCommand("runs", ...folder === "runs" ? [] : [folder]);
          error.hint ??= `A run is at ${commandLine([run])}; to list all: ${all}`;
        }
        throw error;
      }
      status(error.sentence.replace(/^Cannot compare/, "skipping"));
      return [];
    }
  });
  if (runs.length > 0) return runs;
  throw new CheckpointError("Cannot compare as a path must be a run with an evaluation: none is");
}

/** The run that a path holds, or in whose checkpoints it is. */
function runAt(path: string): string | undefined {
  const [flag, run] = placeAt(path)?.load ?? [];
  return flag === "--run" ? run : undefined;
}

await program.parseAsync();
