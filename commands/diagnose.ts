import { parseDataSpec } from "../data/text/dataset.ts";
import { UserError } from "../files/user_error.ts";
import { diagnoseSource } from "../inspect/diagnose_run.ts";
import { diagnosisTable } from "../inspect/diagnosis_table.ts";
import { command, endHelp, output, outputColumns, runCommand, status } from "./command.ts";
import { openGpu } from "./gpu.ts";
import { findNamedModel, withModelOptions } from "./named_model.ts";
import { giveBack, namesHub } from "./permissions.ts";
import { ProgressDisplay } from "./progress.ts";

/** Exit status if a check finds something; 1 is that of a user's mistake. */
const SICK = 2;

/** `diagnose`: what is wrong with a model. */
const program = withModelOptions(
  command("diagnose", "Say what is wrong with a trained model, why, and what to do about it."),
)
  .argument("[run]", "the run, as --run names it")
  .optionsGroup("Diagnosis:")
  .option("--data <what...>", "text to read, named as for train (default: that of the training)")
  .option("--json", "print a JSON object instead of a table");
endHelp(
  program,
  `Exit status: 0 if no check finds anything, ${SICK} if one does, 1 after an error.`,
);

/** The options that were typed, and defaults. */
type DiagnoseOptions = ReturnType<typeof program.opts>;

async function main(name: string | undefined, options: DiagnoseOptions): Promise<number> {
  const isRunTyped = program.getOptionValueSource("run") === "cli";
  const other = options.model ?? (isRunTyped ? options.run : undefined);
  if (name !== undefined && other !== undefined) {
    throw new UserError(
      `Cannot diagnose ${name} and ${other} as only one must be given: both are given`,
    );
  }
  const source = await findNamedModel({ ...options, run: name ?? options.run });
  if (!namesHub(...options.data ?? [])) giveBack("net");
  giveBack("write");
  const model = source.checkpoint ?? source.spec;
  status(`diagnosing ${model}`);
  using display = new ProgressDisplay();
  const diagnosis = await diagnoseSource(await openGpu(options), source, {
    data: options.data && parseDataSpec(options.data),
    ...display.callbacks,
    onChecked: (doneBytes, totalBytes) =>
      display.show({ stage: "checking", name: model, counted: "checks", doneBytes, totalBytes }),
  });
  display.close();
  const { checks } = diagnosis;
  const count = (verdict: string) => checks.filter((check) => check.verdict === verdict).length;
  if (options.json) output(`${JSON.stringify(diagnosis, null, 2)}\n`);
  else output(diagnosisTable(checks, outputColumns()));
  status(
    `${checks.length} checks: ${count("sick")} sick, ${count("unknown")} unknown, ` +
      `${count("ok")} ok`,
  );
  return count("sick") > 0 ? SICK : 0;
}

program.action((name, options) => runCommand(() => main(name, options)));
await program.parseAsync();
