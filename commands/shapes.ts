import { Option } from "@commander-js/extra-typings";
import { SHAPE_OPTIONS, trainingShapes } from "../train/shapes.ts";
import { drawShapes, shapesTable } from "../train/shapes_report.ts";
import { command, output, outputColumns, runCommand } from "./command.ts";
import { giveBack } from "./permissions.ts";
import { checkPlot, writePlot } from "./plot.ts";
import { TrainDisplay } from "./train_display.ts";
import { addTrainOptions, givenOptions } from "./train_options.ts";

/** `shapes`: the tensors of a training. */
const program = command(
  "shapes",
  "List the tensors of a training, with shapes, bytes, and the launches of a step that need them. " +
    "Nothing is computed, and nothing is downloaded.",
).optionsGroup("Output:")
  .option("--json", "print a JSON object instead of tables")
  .option("--svg <file>", "draw the memory over the launches of a step in this file instead")
  .optionsGroup("Run:")
  .addOption(
    new Option("--run <directory>", "the training of this run, instead of a new one")
      .conflicts(SHAPE_OPTIONS.filter((name) => name !== "base" && name !== "gpu")),
  );
addTrainOptions(program, SHAPE_OPTIONS);
program.action((options) => runCommand(() => main(options)));

async function main(
  { json, svg, run }: { json?: true; svg?: string; run?: string },
): Promise<void> {
  if (svg === undefined) giveBack("write");
  else checkPlot(svg);
  giveBack("net");
  using display = new TrainDisplay();
  const onEvent = display.show.bind(display);
  const shapes = await trainingShapes({
    ...givenOptions(program),
    ...(run ? { run } : {}),
    onEvent,
  });
  display.close();
  if (json) output(`${JSON.stringify(shapes)}\n`);
  if (svg === undefined) {
    if (!json) output(shapesTable(shapes, outputColumns()));
    return;
  }
  const title = `Memory of a training step on ${shapes.device}`;
  writePlot(svg, await drawShapes(shapes, { title }));
}

await program.parseAsync();
