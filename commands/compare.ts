import { command, output, run, status } from "./command.ts";
import { checkFilePath, replaceText } from "../files/disk.ts";
import { caveats, compareTable, drawComparison, readRun } from "../train/compare.ts";

/** `compare`: validation losses of several trainings, and their cost. */
const program = command(
  "compare",
  "Compare trainings: validation loss and bits per byte over tokens, time and FLOPs.",
)
  .argument("<run...>", "run directories")
  .option("--svg <file>", "file for the plot", "compare.svg")
  .action((paths, { svg }) =>
    run(async () => {
      checkFilePath(svg, "--svg");
      const warn = (sentence: string) => status(`Warning: ${sentence}`);
      const runs = [...new Set(paths)].map((path) => readRun(path, warn));
      for (const sentence of caveats(runs)) warn(sentence);
      output(compareTable(runs));
      const plot = await drawComparison(runs);
      replaceText(svg, plot);
      status(`drawn in ${svg}`);
    })
  );

await program.parseAsync();
