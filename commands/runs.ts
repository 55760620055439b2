import { taskCommand } from "../files/command_line.ts";
import { listRuns, runsTable } from "../train/record/runs.ts";
import { command, output, outputColumns, runCommand, status, warn } from "./command.ts";

/** `runs`: what was trained, how far, how well. */
const program = command("runs", "List trainings: how far, how good and how large each is.")
  .argument("[folder]", "folder that holds runs, or a run", "runs")
  .option("--json", "print JSON instead of a table")
  .action((folder, { json }) => runCommand(() => main(folder, json)));

function main(folder: string, json = false): void {
  const runs = listRuns(folder, warn);
  if (json) output(`${JSON.stringify(runs, null, 2)}\n`);
  else if (runs.length > 0) output(runsTable(runs, outputColumns()));
  else status(`no runs in ${folder}; to make one: ${taskCommand("train")}`);
}

await program.parseAsync();
